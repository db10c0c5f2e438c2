"""``doctor`` says what this machine can enforce, and its exit status says whether tasks can run."""

import json
import os

import pytest

import sandbox
from hivemind.cli.main import run_main
from sandbox import Finding
from tests.cli.conftest import Shell

CGROUP = Finding(name="cgroup", ok=False, detail="no cgroup", remedy="run as root")
KERNEL = Finding(name="kernel", ok=False, detail="Linux 4.4", remedy="use another")
GOOD = Finding(name="kernel", ok=True, detail="Linux 6.1", remedy="")


def test_it_says_what_this_machine_can_enforce(shell: Shell) -> None:
    told = shell.run("doctor", "--json")
    document = json.loads(told.stdout)
    findings = {finding["name"]: finding for finding in document["findings"]}
    assert set(findings) >= {"kernel", "seccomp", "bubblewrap", "isolation", "cgroup"}
    assert findings["isolation"]["ok"]
    assert findings["cgroup"]["ok"] or os.geteuid() != 0
    assert document["can_run_tasks"] == (told.returncode == 0)
    for_people = shell.run("doctor")
    assert for_people.returncode == told.returncode
    assert all(f"{name}: " in for_people.stdout for name in findings)


@pytest.mark.parametrize(
    ("findings", "status", "last"),
    [
        ([GOOD], 0, "tasks can run here"),
        ([GOOD, CGROUP], 1, "tasks can run here with --limits best-effort alone"),
        ([KERNEL, CGROUP], 1, "no task can run here"),
    ],
)
def test_what_is_missing_comes_with_its_remedy_and_fails(
    findings: list[Finding],
    status: int,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def probe() -> list[Finding]:
        return findings

    monkeypatch.setattr(sandbox, "probe", probe)
    monkeypatch.setattr("hivemind.cli.own_cgroup.enter_own_cgroup", lambda: None)
    assert run_main(["doctor"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    for finding in findings:
        told = f"{'ok      ' if finding.ok else 'missing '}{finding.name}: {finding.detail}"
        assert told in lines
        assert (f"        to mend it: {finding.remedy}" in lines) == bool(finding.remedy)
    assert run_main(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["can_run_tasks"] == (status == 0)

"""Saying what a machine can enforce, and what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

import sandbox
from sandbox import bubblewrap, cgroups, link, machine
from sandbox.__main__ import main
from tests.sandbox.conftest import needs_cgroup


async def test_a_whole_machine_has_no_remedies() -> None:
    needs_cgroup()
    findings = await sandbox.probe()
    assert [finding.name for finding in findings] == [
        "kernel",
        "system call table",
        "seccomp",
        "openat2",
        "bubblewrap",
        "isolation",
        "cgroup",
    ]
    assert all(finding.ok and finding.detail and not finding.remedy for finding in findings)


async def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "read_layout", lambda: None)
    missing = [finding for finding in await sandbox.probe() if not finding.ok]
    assert [finding.name for finding in missing] == ["cgroup"]
    assert "Delegate=yes" in missing[0].remedy
    monkeypatch.setattr(bubblewrap, "_candidates", list)
    missing = [finding for finding in await sandbox.probe() if not finding.ok]
    assert [finding.name for finding in missing] == ["bubblewrap"]
    assert "apt install bubblewrap" in missing[0].remedy


def test_an_old_kernel_or_an_unknown_architecture_is_no_go(tmp_path: Path) -> None:
    assert not machine._check_kernel("5.4.0-100-generic").ok
    assert machine._check_kernel("5.10.0-rc1+").ok
    assert machine._check_kernel("6.18").ok
    assert not machine._check_architecture("riscv64").ok
    assert not machine._check_seccomp(tmp_path / "missing").ok
    actions = tmp_path / "actions"
    actions.write_text("kill_thread errno allow\n")
    assert machine._check_seccomp(actions).detail == "the kernel lacks kill_process"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("apparmor_restrict_unprivileged_userns", "1", "AppArmor profile"),
        ("max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("something_else", "0", "--privileged"),
    ],
)
def test_refused_namespaces_name_the_setting_that_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(
        link,
        "_SETTINGS",
        tuple((tmp_path / Path(path).name, bad, remedy) for path, bad, remedy in link._SETTINGS),
    )
    finding = link.explain_refusal("namespaces", "Operation not permitted")
    assert words in finding.remedy
    assert finding.detail == "Operation not permitted"


async def test_namespaces_that_are_refused_make_the_pool_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real refusal of the kernel: a spawner that asks for what it may not have."""
    monkeypatch.setattr("sandbox.ids._INSIDE", -1)
    monkeypatch.setattr("sandbox.ids._is_root", lambda: False)
    with pytest.raises(sandbox.Unavailable, match="no namespaces: "):
        await sandbox.run(
            sandbox.Spec(argv=("true",)), sandbox.PoolConfig(limits="best-effort", slots=1)
        )


def test_the_command_line_runs_and_reports(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ["run", "--limits", "best-effort"]
    assert main([*options, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]) == 7
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")
    assert main([*options, "--time", "0.2", "--", "sleep", "100"]) == 124
    assert capfdbinary.readouterr() == (b"", b"sandbox: ended: time limit\n")


def test_the_command_line_says_in_one_line_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bubblewrap, "_candidates", list)
    assert main(["run", "--", "true"]) == 125
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["doctor"]) == 1
    assert "missing bubblewrap: it is not installed: install it" in capsys.readouterr().out

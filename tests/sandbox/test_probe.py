"""Saying what a machine can enforce, and what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sandbox
from sandbox import Finding, bubblewrap, cgroups, machine, refusal
from sandbox.__main__ import main
from sandbox.hierarchy import Layout
from sandbox.probe import describe_layout, is_whole
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
        "user namespaces",
        "isolation",
        "python",
        "cells",
        "cgroup layout",
        "cgroup",
    ]
    assert all(finding.ok and finding.detail and not finding.remedy for finding in findings)
    (cells,) = (finding for finding in findings if finding.name == "cells")
    assert cells.detail == "runs of one tenant can start warm"


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


_SETTINGS = {
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "AppArmor profile"),
}


def _fake_proc(proc: Path, settings: dict[str, str]) -> Path:
    for name, value in {"../self/ns/user": "", **settings}.items():
        path = proc / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        path.resolve().write_text(f"{value}\n")
    return proc


@pytest.mark.parametrize("name", _SETTINGS)
def test_a_setting_that_forbids_user_namespaces_is_named_with_its_remedy(
    tmp_path: Path, name: str
) -> None:
    value, remedy = _SETTINGS[name]
    harmless = {"user/max_user_namespaces": "1000", "kernel/unprivileged_userns_clone": "1"}
    proc = _fake_proc(tmp_path, {**harmless, name: value})
    found = refusal.check_user_namespaces(refused=True, proc=proc)
    assert (found.name, found.ok) == ("user namespaces", False)
    assert found.detail == f"{name.replace('/', '.')} is {value}"
    assert remedy in found.remedy
    refused = refusal.explain_refusal("isolation", "bwrap: not permitted", proc)
    assert (refused.name, refused.ok, refused.detail) == (
        "isolation",
        False,
        "bwrap: not permitted",
    )
    assert refused.remedy == found.remedy
    # A profile may allow to bubblewrap what is forbidden to others: then nothing is missing.
    found = refusal.check_user_namespaces(refused=False, proc=proc)
    assert found.ok
    assert not found.remedy


def test_a_kernel_without_user_namespaces_is_told_from_one_that_forbids_them(
    tmp_path: Path,
) -> None:
    found = refusal.check_user_namespaces(refused=True, proc=tmp_path)
    assert (found.ok, found.detail) == (False, "the kernel has none")
    assert "CONFIG_USER_NS" in found.remedy
    found = refusal.check_user_namespaces(refused=True, proc=_fake_proc(tmp_path, {}))
    assert (found.ok, found.detail) == (True, "no setting forbids them")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("unshare: No space left on device", "max_user_namespaces=10000"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths"),
        ("unshare: Operation not permitted", "--privileged"),
    ],
)
def test_a_refusal_without_a_setting_is_explained_by_its_words(
    tmp_path: Path, error: str, words: str
) -> None:
    finding = refusal.explain_refusal("namespaces", error, _fake_proc(tmp_path, {}))
    assert (finding.name, finding.ok, finding.detail) == ("namespaces", False, error)
    assert words in finding.remedy


def test_this_machines_own_settings_forbid_nothing_where_a_sandbox_can_be_made() -> None:
    found = refusal.check_user_namespaces(refused=False)
    assert (found.ok, found.remedy) == (True, "")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("bubblewrap 0.6.2", "is 0.6.2, older than 0.8"),
        ("bubblewrap 0.11.0", ""),
        ("segmentation fault", "does not run"),
    ],
)
def test_a_bubblewrap_that_is_too_old_or_broken_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, words: str
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\necho {output}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "_candidates", lambda: [(fake, ())])
    found = bubblewrap.find_bubblewrap()
    if not words:
        assert isinstance(found, bubblewrap.Bubblewrap)
        return
    assert isinstance(found, Finding)
    assert words in found.detail
    assert "apt install bubblewrap" in found.remedy


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(v2=Path("/x"), v1={}), "cgroup v2"),
        (Layout(v2=None, v1={"memory": Path("/x")}), "cgroup v1"),
        (
            Layout(v2=Path("/x"), v1={"memory": Path("/y")}),
            "hybrid: cgroup v1 for limits, cgroup2 for killing",
        ),
    ],
)
def test_the_layout_of_cgroups_is_told(layout: Layout, words: str) -> None:
    assert describe_layout(layout) == Finding(name="cgroup layout", ok=True, detail=words)


async def test_a_sandbox_that_cannot_be_made_leaves_one_remedy_to_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel really refuses; the setting that explains it is a fake."""
    monkeypatch.setattr("sandbox.ids._INSIDE", -1)
    monkeypatch.setattr("sandbox.ids._is_root", lambda: False)
    proc = _fake_proc(tmp_path, {"user/max_user_namespaces": "0"})
    monkeypatch.setattr(refusal.check_user_namespaces, "__kwdefaults__", {"proc": proc})
    monkeypatch.setattr(refusal.explain_refusal, "__defaults__", (proc,))
    findings = {finding.name: finding for finding in await sandbox.probe()}
    assert not findings["user namespaces"].ok
    assert not findings["isolation"].ok
    assert findings["isolation"].detail.startswith("no namespaces: ")
    assert findings["isolation"].remedy == findings["user namespaces"].remedy
    assert not {"python", "cgroup"} & set(findings)
    assert not is_whole(tuple(findings.values()))


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


def test_the_probe_command_tells_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["probe"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(maxsplit=1)[1] for line in lines][:3] == [
        "kernel",
        "system call table",
        "seccomp",
    ]
    assert (status == 0) == any(line.startswith("ok      cgroup: ") for line in lines)
    assert main(["probe", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["whole"] == (status == 0)
    assert [finding["name"] for finding in told["findings"]] == [
        line.split(":")[0].split(maxsplit=1)[1] for line in lines
    ]
    assert set(told["findings"][0]) == {"name", "ok", "detail", "remedy"}
    monkeypatch.setattr(bubblewrap, "_candidates", list)
    assert main(["probe"]) == 1
    assert "missing bubblewrap: it is not installed: install it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "whole"), [("python", True), ("cgroup", False), ("isolation", False)]
)
def test_whole_are_isolation_and_limits_by_cgroup(missing: str, whole: bool) -> None:
    names = ("kernel", "isolation", "python", "cgroup")
    findings = [Finding(name=name, ok=name != missing, detail="") for name in names]
    assert is_whole(findings) is whole

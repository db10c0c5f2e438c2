"""Layouts of cgroup hierarchies, and what is written to the files of v2.

The hierarchies of this machine are driven for real by the tests of runs and pools; layouts that
it does not have are folders of plain files here.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import sandbox
from sandbox import cgroups
from sandbox.controllers import V2Controllers
from sandbox.hierarchy import Layout, find_layout
from tests.sandbox.conftest import limits

_V1_MOUNTS = """\
30 29 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
"""
_V1_OWN = "4:cpu,cpuacct:/a\n3:memory:/b/c\n2:pids:/\n1:name=systemd:/x\n"
_UNIFIED = "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_v1_is_found_controller_by_controller() -> None:
    top = Path("/sys/fs/cgroup")
    expected = {
        "cpu": top / "cpu,cpuacct/a",
        "cpuacct": top / "cpu,cpuacct/a",
        "memory": top / "memory/b/c",
        "pids": top / "pids",
    }
    assert find_layout(_V1_MOUNTS, _V1_OWN) == Layout(v2=None, v1=expected)
    hybrid = find_layout(_V1_MOUNTS + _UNIFIED, _V1_OWN + "0::/u\n")
    del expected["cpuacct"]
    assert hybrid == Layout(v2=top / "unified/u", v1=expected)


def test_a_hierarchy_without_a_controller_is_no_layout() -> None:
    without = "\n".join(line for line in _V1_MOUNTS.splitlines() if "pids" not in line)
    assert find_layout(without, _V1_OWN) is None
    assert find_layout("", "0::/\n") is None


def test_v2_is_chosen_where_it_has_the_controllers(tmp_path: Path) -> None:
    own = tmp_path / "user slice" / "mine"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    escaped = str(tmp_path).replace(" ", "\\040")
    mounts = f"31 30 0:27 / {escaped} rw - cgroup2 cgroup2 rw\n"
    assert find_layout(mounts, "0::/user slice/mine\n") == Layout(v2=own, v1={})
    (own / "cgroup.controllers").write_text("cpu pids\n")
    assert find_layout(mounts, "0::/user slice/mine\n") is None


def test_a_container_that_mounts_a_part_of_a_hierarchy_is_understood() -> None:
    mounts = _V1_MOUNTS.replace("0:28 / ", "0:28 /b ")
    layout = find_layout(mounts, _V1_OWN)
    assert layout is not None
    assert layout.v1["memory"] == Path("/sys/fs/cgroup/memory/c")
    outside = _V1_MOUNTS.replace("0:28 / ", "0:28 /elsewhere ")
    assert find_layout(outside, _V1_OWN) is None
    assert find_layout(_V1_MOUNTS, _V1_OWN.replace("/b/c", "/../b")) is None


def _v2_files(folder: Path) -> Path:
    folder.mkdir()
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"):
        (folder / name).write_text("")
    return folder


def test_the_limits_of_v2(tmp_path: Path) -> None:
    folder = _v2_files(tmp_path / "run")
    V2Controllers(folder).limit(limits(pids=20, cpus=0.5))
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": str((64 + 16 + 4 + 4) << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "22",
        "cpu.max": "50000 100000",
    }
    V2Controllers(folder).limit(limits(pids=20), overhead_pids=1)
    assert (folder / "pids.max").read_text() == "21"


def test_the_counters_of_v2(tmp_path: Path) -> None:
    folder = _v2_files(tmp_path / "run")
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (folder / "memory.current").write_text("500\n")
    control = V2Controllers(folder)
    assert not control.out_of_memory()
    assert control.cpu_s() == 1.5
    assert control.memory_peak_bytes() == 500
    (folder / "memory.current").write_text("400\n")
    assert control.memory_peak_bytes() == 500
    (folder / "memory.peak").write_text("900\n")
    assert control.memory_peak_bytes() == 900
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 4\n")
    assert control.out_of_memory()


def test_a_cgroup_that_may_not_be_written_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(v2=None, v1={"memory": tmp_path / "missing" / "folder"})
    monkeypatch.setattr(cgroups, "read_layout", lambda: layout)
    with pytest.raises(sandbox.Unavailable, match=r"No such file.*Delegate=yes"):
        cgroups.open_pool_cgroup("x")


def test_controllers_are_enabled_only_where_they_are_not(tmp_path: Path) -> None:
    control = tmp_path / "cgroup.subtree_control"
    control.write_text("cpu io memory pids\n")
    cgroups._enable(tmp_path)
    assert control.read_text() == "cpu io memory pids\n"
    control.write_text("")
    cgroups._enable(tmp_path)
    assert control.read_text() == "+memory +pids +cpu"


def test_the_next_pool_finds_the_cgroup_above_the_leaf(tmp_path: Path) -> None:
    leaf = tmp_path / "main"
    leaf.mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert cgroups._above_leaf(leaf) == tmp_path
    assert cgroups._above_leaf(tmp_path) == tmp_path
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    assert cgroups._above_leaf(leaf) == leaf


def test_a_delegated_cgroup_first_moves_its_processes_to_a_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.procs").write_text("17\n18\n")
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "cgroup.procs").write_text("")
    calls: list[Path] = []

    def enable(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise OSError(errno.EBUSY, "busy")

    moved: list[str] = []
    monkeypatch.setattr(cgroups, "_enable", enable)
    monkeypatch.setattr(
        cgroups, "write", lambda path, pid: moved.append(f"{path.parent.name} {pid}")
    )
    monkeypatch.setattr(cgroups, "_is_ours", lambda folder: False)
    with pytest.raises(OSError, match="busy"):
        cgroups._enable_controllers(tmp_path)
    calls.clear()
    monkeypatch.setattr(cgroups, "_is_ours", lambda folder: True)
    cgroups._enable_controllers(tmp_path)
    assert moved == ["main 17", "main 18"]
    assert len(calls) == 2

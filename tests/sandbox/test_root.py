"""Runs in a root file system that is not the host's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

import sandbox
from tests.sandbox.conftest import limits, shell

_PROGRAMS = ("sh", "cat", "ls", "env", "id")


def _copy_program(root: Path, name: str) -> None:
    """A program of the host with the libraries that it needs, where its loader looks for them."""
    source = Path(shutil.which(name, path="/usr/bin:/bin") or "")
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, root / "usr/bin" / name)
    listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        target = root / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(path, target)


@pytest.fixture
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="telling-root-") as name:
        Path(name).chmod(0o755)
        top = Path(name) / "customer"
        top.mkdir()
        for program in _PROGRAMS:
            _copy_program(top, program)
        (top / "bin").symlink_to("usr/bin")
        for folder in ("dev", "proc", "sys", "run", "opt"):
            (top / folder).mkdir()
            (top / folder / "of-the-root").write_text(folder)
        yield top


def _names(top: Path) -> list[str]:
    return sorted(str(path) for path in top.rglob("*"))


async def test_it_is_seen_in_place_of_the_hosts(any_pool: sandbox.Pool, root: Path) -> None:
    (root / "usr/share").mkdir()
    (root / "usr/share/mark").write_text("of the root\n")
    script = "cat /usr/share/mark /opt/of-the-root; echo; ls /usr/bin; id -u"
    done = await sandbox.run_in(any_pool, shell(script, root=root))
    assert done.stderr == b""
    names = "\n".join(sorted(_PROGRAMS))
    assert done.stdout.decode() == f"of the root\nopt\n{names}\n1000\n"


async def test_its_states_of_a_running_machine_are_not_used(
    any_pool: sandbox.Pool, root: Path
) -> None:
    script = "ls -d /dev/of-the-root /proc/of-the-root /sys /run; ls /dev/null /proc/self/status"
    done = await sandbox.run_in(any_pool, shell(script, root=root))
    assert done.stdout == b"/dev/null\n/proc/self/status\n"
    assert done.stderr.count(b"No such file or directory") == 4


async def test_without_an_etc_of_its_own_it_gets_ours(any_pool: sandbox.Pool, root: Path) -> None:
    done = await sandbox.run_in(any_pool, shell("cat /etc/passwd", root=root))
    assert done.stdout.startswith(b"task:x:1000:1000:")


async def test_its_own_etc_is_kept(any_pool: sandbox.Pool, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("own:x:1000:1000::/:/bin/sh\n")
    for network in ("loopback", "full"):
        done = await sandbox.run_in(
            any_pool, shell("cat /etc/passwd; ls /etc", root=root, network=network)
        )
        assert done.stdout.startswith(b"own:x:1000:1000::/:/bin/sh\n")
        assert (b"resolv.conf" in done.stdout) == (network == "full")


async def test_nothing_of_it_can_be_written(any_pool: sandbox.Pool, root: Path) -> None:
    (root / "opt").chmod(0o777)
    before = _names(root)
    script = (
        "for d in / /usr /opt /etc /dev /task /tmp /dev/shm; do echo x >$d/new && echo $d; done"
    )
    done = await sandbox.run_in(any_pool, shell(script, root=root))
    assert done.stdout == b"/task\n/tmp\n/dev/shm\n"
    assert _names(root) == before


async def test_it_does_not_tell_where_it_lies(any_pool: sandbox.Pool, root: Path) -> None:
    script = (
        "cat /proc/self/mountinfo /proc/1/mountinfo /proc/mounts /proc/self/maps; ls -l /proc/self"
    )
    done = await sandbox.run_in(any_pool, shell(script, root=root))
    assert done.stdout.count(b" / / ro,nosuid,nodev") == 2
    for word in (b"telling", b"customer"):
        assert word not in done.stdout


async def test_links_in_it_do_not_lead_to_the_host(any_pool: sandbox.Pool, root: Path) -> None:
    secret = root.parent / "secret"
    secret.write_text("swordfish")
    (root / "opt/absolute").symlink_to(secret)
    (root / "opt/relative").symlink_to("../../secret")
    (root / "opt/up").symlink_to("../../../../../../etc/hostname")
    done = await sandbox.run_in(
        any_pool, shell("cat /opt/absolute /opt/relative /opt/up", root=root)
    )
    assert done.stdout == b""
    assert done.stderr.count(b"No such file or directory") == 3


async def test_binds_and_devices_are_seen_in_it(any_pool: sandbox.Pool, root: Path) -> None:
    (root.parent / "data").mkdir()
    (root.parent / "data/file").write_text("of the bind\n")
    (root / "opt/covered").write_text("of the root\n")
    binds = (
        sandbox.ReadOnlyBind(source=root.parent / "data", target=PurePosixPath("/opt/covered")),
        sandbox.ReadOnlyBind(source=root.parent / "data", target=PurePosixPath("/new/place")),
    )
    script = "cat /opt/covered/file /new/place/file /opt/of-the-root; cat /proc/self/mountinfo"
    done = await sandbox.run_in(any_pool, shell(script, root=root, binds=binds))
    assert done.stdout.startswith(b"of the bind\nof the bind\nopt"), done.stderr
    assert b"telling" not in done.stdout


async def test_a_command_is_looked_up_in_it(any_pool: sandbox.Pool, root: Path) -> None:
    for command, code in (("cat", 0), ("python3", 127), ("/opt/of-the-root", 126)):
        spec = sandbox.Spec(argv=(command, "/dev/null"), root=root)
        assert (await sandbox.run_in(any_pool, spec)).result.exit_code == code


async def test_results_and_limits_are_the_same_in_it(any_pool: sandbox.Pool, root: Path) -> None:
    spec = shell(
        "echo x >output/file; cat /dev/zero >/task/big", root=root, limits=limits(wall_s=60)
    )
    async with any_pool.open_run(spec) as run:
        result = await run.wait()
        with (root.parent / "out.tar").open("wb") as file:
            collected = await run.collect(file, max_bytes=100, max_files=10)
    assert result.exit_code == 1
    assert (collected.files, collected.bytes) == (1, 2)


async def test_a_run_in_it_leaves_the_next_one_the_hosts(
    any_pool: sandbox.Pool, root: Path
) -> None:
    await sandbox.run_in(any_pool, shell("true", root=root))
    done = await sandbox.run_in(
        any_pool, shell("test -e /opt/of-the-root; echo $?; ls -d /usr/lib")
    )
    assert json.loads(done.stdout.split()[0]) == 1
    assert b"/usr/lib" in done.stdout

"""What is shown of the host does not tell where on the host it lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

import sandbox
from tests.sandbox.conftest import shell

_WORDS = ("telling", "secretive", "customer")

# A program run from the bind, which says all that the kernel tells it of where it is.
_LOOK = """
import json, os
def read(path):
    try:
        return open(path, errors="replace").read()
    except OSError as error:
        return error.strerror
print(json.dumps(dict(
    files={path: read(path) for path in (
        "/proc/self/mountinfo", "/proc/1/mountinfo", "/proc/mounts", "/proc/self/mountstats",
        "/proc/self/maps", "/proc/1/cmdline", "/proc/self/cmdline", "/proc/self/environ",
    )},
    exe=os.readlink("/proc/self/exe"),
    own=read("/data/text"), below=read("/data/below/text"),
    descriptor=os.readlink(f"/proc/self/fd/{os.open('/data/text', os.O_RDONLY)}"),
)))
"""


@pytest.fixture
def telling() -> Iterator[Path]:
    """A folder that a slot's uid can read, under names that nothing else has."""
    with TemporaryDirectory(prefix="telling-") as top:
        Path(top).chmod(0o755)
        folder = Path(top) / "secretive" / "customer"
        (folder / "below").mkdir(parents=True)
        (folder / "text").write_text("found\n")
        (folder / "below" / "text").write_text("found below\n")
        (folder / "look.py").write_text(_LOOK)
        python = Path("/usr/bin/python3").resolve()
        shutil.copy(python, folder / "program")
        yield folder


def _bind(source: Path, target: str = "/data") -> sandbox.ReadOnlyBind:
    return sandbox.ReadOnlyBind(source=source, target=PurePosixPath(target))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _mounted() -> str:
    return Path("/proc/self/mountinfo").read_text()


async def test_a_program_run_from_a_bind_cannot_tell_where_it_lies(
    any_pool: sandbox.Pool, telling: Path
) -> None:
    spec = sandbox.Spec(argv=("/data/program", "-I", "/data/look.py"), binds=(_bind(telling),))
    done = await sandbox.run_in(any_pool, spec)
    assert done.result.exit_code == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["exe"] == "/data/program"
    assert told["descriptor"] == "/data/text"
    assert (told["own"], told["below"]) == ("found\n", "found below\n")
    assert "/data" in told["files"]["/proc/self/mountinfo"]
    assert "/data/program" in told["files"]["/proc/self/maps"]
    assert not [word for word in _WORDS if word in done.stdout.decode()]


async def test_nothing_in_a_bind_can_be_written(any_pool: sandbox.Pool, telling: Path) -> None:
    for path in (telling, telling / "text"):
        path.chmod(0o777)
    names = _names(telling)
    script = "echo x >/data/text; echo x >/data/new; mkdir /data/new; rm /data/text; cat /data/text"
    done = await sandbox.run_in(any_pool, shell(script, binds=(_bind(telling),)))
    assert done.stdout == b"found\n"
    assert done.stderr.count(b"Read-only file system") == 4
    assert _names(telling) == names


async def test_permissions_of_a_bind_are_those_of_the_host(
    any_pool: sandbox.Pool, telling: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user owns what it binds")
    (telling / "text").chmod(0o600)
    done = await sandbox.run_in(any_pool, shell("cat /data/text", binds=(_bind(telling),)))
    assert done.stdout == b""
    assert b"Permission denied" in done.stderr


async def test_a_bound_file_tells_no_folder(any_pool: sandbox.Pool, telling: Path) -> None:
    script = "cat /opt/here/text /proc/self/mountinfo /proc/1/mountinfo; echo x >/opt/here/text"
    done = await sandbox.run_in(
        any_pool, shell(script, binds=(_bind(telling / "text", "/opt/here/text"),))
    )
    assert done.stdout.startswith(b"found\n")
    assert b"/opt/here/text" in done.stdout
    assert b"Read-only file system" in done.stderr
    assert not [word for word in _WORDS if word in done.stdout.decode()]


async def test_a_bind_inside_another_is_seen(any_pool: sandbox.Pool, telling: Path) -> None:
    (telling / "place").mkdir()
    binds = (_bind(telling / "below", "/data/place"), _bind(telling))
    script = "cat /data/text /data/place/text; cat /proc/self/mountinfo"
    done = await sandbox.run_in(any_pool, shell(script, binds=binds))
    assert done.stdout.startswith(b"found\nfound below\n")
    assert not [word for word in _WORDS if word in done.stdout.decode()]


async def test_what_is_mounted_in_a_bind_is_seen_too(any_pool: sandbox.Pool) -> None:
    # /dev/shm and /dev/pts are mounts inside /dev on any machine; nodes are of no use in a bind.
    marker = Path("/dev/shm") / f"telling-{os.getpid()}"
    if " /dev/shm " not in _mounted():
        pytest.skip("nothing is mounted at /dev/shm on this machine")
    marker.write_text("seen\n")
    try:
        script = f"cat /data/shm/{marker.name}; echo x >/data/shm/new; head -c 1 /data/zero"
        spec = shell(script, binds=(_bind(Path("/dev")),))
        if os.geteuid() != 0:
            # The kernel lets none but root look under a mount; it is refused, not shown in part.
            with pytest.raises(sandbox.SetupFailed, match="as an ordinary user, for something"):
                await sandbox.run_in(any_pool, spec)
            return
        done = await sandbox.run_in(any_pool, spec)
    finally:
        marker.unlink()
    assert done.stdout == b"seen\n"
    assert b"Read-only file system" in done.stderr
    assert b"Permission denied" in done.stderr


async def test_an_interpreter_in_a_folder_of_its_own_is_as_neutral(
    any_pool: sandbox.Pool, telling: Path
) -> None:
    (telling / "bin").mkdir()
    (telling / "program").rename(telling / "bin/python3")
    own = sandbox.Python(prefix=telling, env=(("PATH", "/opt/python/bin:/usr/bin:/bin"),))
    source = "import os; print(os.readlink('/proc/self/exe'), open('/proc/self/mountinfo').read())"
    spec = sandbox.Spec(argv=("python3", "-I", "-S", "-c", source), python=own)
    done = await sandbox.run_in(any_pool, spec)
    assert done.stdout.startswith(b"/opt/python/bin/python3 "), done.stderr
    assert not [word for word in _WORDS if word in done.stdout.decode()]

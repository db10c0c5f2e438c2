"""What is seen from outside: canaries that nothing may touch, and what must not be left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from sandbox.hierarchy import read_layout
from tests.abuse.modes import CGROUP_PARENT

_IN_ACCESS, _IN_MODIFY, _IN_ATTRIB, _IN_OPEN = 0x1, 0x2, 0x4, 0x20
_IN_MOVED_CREATED_DELETED = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_WATCHED = ("/", "/dev", "/dev/shm", "/etc", "/home", "/root", "/run", "/tmp", "/usr")
_WATCHED_TOO = ("/usr/bin", "/usr/local/bin", "/usr/local/lib", "/var/tmp", ".")


@attrs.frozen(kw_only=True)
class Canary:
    """A secret in a file, an environment and a command line of the host, and two listeners.

    Attributes:
        secret: a word that no task may ever show.
        file: holds the secret; anyone on the host may read it.
        port: of a TCP listener on the host's loopback.
        abstract: name of an abstract UNIX listener, without its leading NUL.
    """

    secret: str
    file: Path
    port: int
    abstract: str
    _tcp: socket.socket
    _unix: socket.socket
    _notify: int
    _holder: subprocess.Popen[bytes]

    def touched(self) -> list[str]:
        """What was done to it, one line each; empty as it should be."""
        found: list[str] = []
        for listener in (self._tcp, self._unix):
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(f"somebody connected to {listener.getsockname()!r}")
        with contextlib.suppress(BlockingIOError):
            os.read(self._notify, 4096)
            found.append(f"somebody opened or changed {self.file}, or its folder")
        if [path.name for path in self.file.parent.iterdir()] != [self.file.name]:
            found.append(f"{self.file.parent} has other files than before")
        if self._holder.poll() is not None:
            found.append("a process of the host was killed")
        # Whoever reads this file here is ourselves, and is not to be told of next time.
        if self.file.read_text() != self.secret:
            found.append(f"{self.file} has other content than before")
        with contextlib.suppress(BlockingIOError):
            os.read(self._notify, 4096)
        return found


@contextlib.contextmanager
def open_canary() -> Iterator[Canary]:
    secret = f"canary{secrets.token_hex(12)}"
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="abuse-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        file = folder / "secret"
        file.write_text(secret)
        file.chmod(0o644)
        abstract = f"abuse-{secrets.token_hex(4)}"
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"\0{abstract}")
        unix.listen()
        tcp.setblocking(False)
        unix.setblocking(False)
        # Its name and its environment are there for everyone who sees the host's /proc.
        holder = subprocess.Popen(
            [f"holds-{secret}", "1000"],
            executable=shutil.which("sleep"),
            env={"CANARY": secret},
            stdin=subprocess.DEVNULL,
        )
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        notify = _watch(file)
        stack.callback(os.close, notify)
        yield Canary(
            secret=secret,
            file=file,
            port=tcp.getsockname()[1],
            abstract=abstract,
            tcp=tcp,
            unix=unix,
            notify=notify,
            holder=holder,
        )


def _watch(file: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    notify: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    touching = _IN_OPEN | _IN_ACCESS | _IN_MODIFY | _IN_ATTRIB
    for path, events in ((file, touching), (file.parent, _IN_MOVED_CREATED_DELETED)):
        if notify < 0 or libc.inotify_add_watch(notify, os.fsencode(path), events) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
    return notify


def cgroup_folders(name: str = CGROUP_PARENT) -> list[Path]:
    """Folders of pools of that name in every hierarchy, without the one that they share."""
    return [path for top in _cgroup_parents(name) for path in top.rglob("*") if path.is_dir()]


def run_cgroups() -> list[Path]:
    """Folders of single runs: those below a pool's own."""
    return [path for path in cgroup_folders() if path.parent.name != CGROUP_PARENT]


def _cgroup_parents(name: str) -> list[Path]:
    layout = read_layout()
    if layout is None:
        return []
    own = [*([layout.v2] if layout.v2 else []), *layout.v1.values()]
    found = dict.fromkeys(path / name for path in (*own, *(path.parent for path in own)))
    return [path for path in found if path.is_dir()]


def processes_of_task(mark: str, uids: frozenset[int]) -> list[str]:
    """Processes of the whole machine that carry the mark, or stand under one of the uids."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "comm").read_bytes() + (entry / "cmdline").read_bytes()
            if entry.stat().st_uid in uids:
                found.append(f"{entry.name} under a slot's uid: {words[:60]!r}")
                continue
            with contextlib.suppress(PermissionError):
                words += (entry / "environ").read_bytes()
            if mark.encode() in words:
                found.append(f"{entry.name} with the mark: {words[:60]!r}")
    return found


def descendants(pid: int) -> frozenset[int]:
    """Every living process below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [pid]
    for known in tree:
        tree += children.get(known, ())
    return frozenset(tree[1:])


def files_left(mark: str, uids: frozenset[int]) -> list[str]:
    """What has the mark in its name or belongs to a slot's uid, in folders of the host."""
    found: list[str] = []
    for folder in (*_WATCHED, *_WATCHED_TOO):
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    if mark in entry.name or entry.stat(follow_symlinks=False).st_uid in uids:
                        found.append(entry.path)
    return found


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def system_v() -> list[str]:
    """The System V objects of the host."""
    return [
        line
        for kind in ("shm", "sem", "msg")
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    ]

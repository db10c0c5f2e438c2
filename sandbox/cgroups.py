"""Cgroups of a pool and of its runs, on v2, on v1, and on the hybrid of both.

A pool makes one folder for itself below its own cgroup in each hierarchy and holds a lock on the
first; a run gets a folder below it. Folders whose lock can be had belong to a pool that is dead:
whoever opens a pool of the same name next removes them.

On the hybrid layout the limits are v1's, and a folder of the same name in the cgroup2 hierarchy
without controllers brings what v1 lacks: being born in a cgroup, killing all of it at once, and
being told when it is empty.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

from sandbox.controllers import (
    OVERHEAD_PIDS,
    V1Controllers,
    V2Controllers,
    read,
    write,
    write_if_there,
)
from sandbox.errors import Finding, Unavailable
from sandbox.hierarchy import NEEDED, Layout, read_layout
from sandbox.spec import Limits

_EMPTY_S = 10.0
_EMPTY_CHECK_S = 0.002
_SWEEP_S = 2.0
_LEAF = "main"
_REMEDY = (
    "run as root, or under systemd with delegation: `Delegate=yes` in the unit, or "
    "`systemd-run --user --scope -p Delegate=yes COMMAND`"
)


class RunCgroup:
    """The cgroup of one run: a folder in each hierarchy."""

    def __init__(self, v2: Path | None, controllers: V1Controllers | V2Controllers) -> None:
        self._v2 = v2
        self._controllers = controllers
        self._folders = (*(() if v2 is None else (v2,)), *controllers.folders)
        self.wait_out_of_memory = controllers.wait_out_of_memory
        self.out_of_memory = controllers.out_of_memory
        self.cpu_s = controllers.cpu_s
        self.memory_peak_bytes = controllers.memory_peak_bytes

    def v1_files(self) -> dict[str, Path]:
        """The files of its v1 controllers, by use; none on v2."""
        return self._controllers.files() if isinstance(self._controllers, V1Controllers) else {}

    def clear_out_of_memory(self) -> None:
        """Wait for the next report of lacking memory, not for the one that came."""
        if isinstance(self._controllers, V1Controllers):
            self._controllers.clear_out_of_memory()

    def is_empty(self) -> bool:
        """Whether no process is in it; for v2."""
        return self._v2 is None or "populated 0" in read(self._v2 / "cgroup.events")

    def create(self, limits: Limits, overhead_pids: int = OVERHEAD_PIDS) -> None:
        """Make the folders and set the limits; on failure nothing is left.

        Args:
            limits: the task's.
            overhead_pids: processes of ours that will be there beside its own.

        Raises:
            OSError: a folder or a limit was refused.
        """
        try:
            for folder in self._folders:
                folder.mkdir()
            self._controllers.limit(limits, overhead_pids)
        except OSError:
            self.remove_nowait()
            raise

    @contextlib.contextmanager
    def entrance(self) -> Iterator[tuple[int | None, list[int]]]:
        """Descriptors for the spawner: a folder to be born in, and v1 files to write `0` to.

        Those are the lists of threads. A process of one thread enters by them as it does by
        cgroup.procs, and there the kernel waits until no process of the machine forks, which after
        some idle time takes 10 ms; a thread that moves itself is spared that (Linux 5.5).
        """
        with contextlib.ExitStack() as stack:
            into = None
            if self._v2 is not None:
                into = os.open(self._v2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, into)
            joins: list[int] = []
            for folder in self._controllers.folders:
                joins.append(os.open(folder / "tasks", os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, joins[-1])
            yield into, joins

    def kill(self) -> None:
        """Kill everything in it, where the kernel can do that at once (Linux 5.14, cgroup2)."""
        if self._v2 is not None:
            write_if_there(self._v2 / "cgroup.kill", 1)

    async def wait_empty(self) -> None:
        """Return once no process is left in it; at once where it could not be made.

        Raises:
            TimeoutError: after ten seconds.
        """
        try:
            with trio.fail_after(_EMPTY_S), contextlib.suppress(FileNotFoundError):
                await trio.lowlevel.checkpoint()
                if self._v2 is not None:
                    # Whatever is in the others was born in this one, and cannot leave it.
                    await _wait_unpopulated(self._v2)
                    return
                for folder in self._controllers.folders:
                    # v1 tells nobody when a cgroup becomes empty.
                    while read(folder / "cgroup.procs"):  # noqa: ASYNC110
                        await trio.sleep(_EMPTY_CHECK_S)
        except trio.TooSlowError:
            raise TimeoutError("processes were left ten seconds after a kill") from None

    async def remove(self) -> None:
        """Remove the folders.

        Raises:
            TimeoutError: the kernel keeps one busy for ten seconds.
        """
        try:
            with trio.fail_after(_EMPTY_S):
                await trio.lowlevel.checkpoint()
                # An exited process may hold its cgroup for a moment after it was reaped.
                while not self.remove_nowait():  # noqa: ASYNC110
                    await trio.sleep(_EMPTY_CHECK_S)
        except trio.TooSlowError:
            raise TimeoutError("a cgroup stayed busy for ten seconds") from None

    def remove_nowait(self) -> bool:
        """Remove what can be removed; say whether nothing is left."""
        self._controllers.close()
        left = [folder for folder in self._folders if not _rmdir(folder)]
        return not left


class PoolCgroup:
    """The folders of one pool, locked for as long as it lives."""

    def __init__(self, layout: Layout, name: str) -> None:
        v2, v1 = layout.v2, layout.v1
        self._parents = list(
            dict.fromkeys([*([v2 / name] if v2 else []), *(path / name for path in v1.values())])
        )
        self._v2_parent = v2 / name if v2 else None
        self._v1_parents = {controller: path / name for controller, path in v1.items()}
        self._own_v2 = v2
        self._token = ""
        self._lock = -1
        self._count = 0

    def open(self) -> None:
        """Make and lock the pool's folders.

        Raises:
            OSError: a folder or a controller was refused.
        """
        if not self._v1_parents and self._own_v2 is not None:
            _enable_controllers(self._own_v2)
        while True:
            self._token = f"pool-{secrets.token_hex(6)}"
            for parent in self._parents:
                parent.mkdir(exist_ok=True)
            first = self._parents[0] / self._token
            try:
                first.mkdir()
            except FileNotFoundError:
                continue  # another pool closed and took the empty parent with it
            lock = _try_lock(first)
            if lock is not None:
                self._lock = lock
                break
        try:
            for parent in self._parents[1:]:
                parent.mkdir(exist_ok=True)
                (parent / self._token).mkdir()
            if not self._v1_parents:
                _enable(self._parents[0])
                _enable(first)
        except OSError:
            self.close()
            raise

    async def sweep(self) -> None:
        """Remove what dead pools of this name left, killing whatever still runs in it.

        What cannot be removed within two seconds is left for the next pool.
        """
        for folder in list(self._parents[0].iterdir()):
            if not folder.is_dir() or folder.name == self._token:
                continue
            lock = _try_lock(folder)
            if lock is None:
                continue
            try:
                with trio.move_on_after(_SWEEP_S):
                    await trio.lowlevel.checkpoint()
                    # The killed need a moment to die.
                    while not self._remove(folder.name):  # noqa: ASYNC110
                        await trio.sleep(_EMPTY_CHECK_S)
            finally:
                os.close(lock)

    def _remove(self, token: str) -> bool:
        """Remove a pool's folders; the first, which says that there are others, goes last."""
        rest = [_remove_tree(parent / token) for parent in self._parents[1:]]
        return all(rest) and _remove_tree(self._parents[0] / token)

    def new_run(self) -> RunCgroup:
        """A cgroup for one run; it is not made yet."""
        self._count += 1
        name = f"{self._token}/{self._count}"
        v2 = None if self._v2_parent is None else self._v2_parent / name
        if v2 is not None and not self._v1_parents:
            return RunCgroup(v2, V2Controllers(v2))
        folders = {controller: path / name for controller, path in self._v1_parents.items()}
        return RunCgroup(v2, V1Controllers(folders, v2))

    @property
    def is_v2(self) -> bool:
        """Whether limits are those of v2, and v1 has no part in them."""
        return not self._v1_parents

    def new_folder(self) -> Path:
        """A folder of this pool's in the cgroup2 hierarchy; it is not made yet."""
        self._count += 1
        return self._parents[0] / self._token / str(self._count)

    def enable(self, folder: Path) -> None:
        """Let folders below this one have controllers.

        Raises:
            OSError: refused.
        """
        _enable(folder)

    def leaf(self, folder: Path) -> RunCgroup:
        """A v2 cgroup at this place below a folder of the pool's; it is not made yet."""
        return RunCgroup(folder, V2Controllers(folder))

    def close(self) -> None:
        """Kill what is left in the pool's folders and remove them; the first goes last."""
        self._remove(self._token)
        os.close(self._lock)
        for parent in self._parents:
            _rmdir(parent)  # stays while another pool uses it


def open_pool_cgroup(name: str) -> PoolCgroup:
    """Make the cgroup folders of a pool; to be closed by the caller.

    Args:
        name: the folder below our own cgroup that pools of one kind share.

    Raises:
        Unavailable: there is no cgroup to be had; the finding says why.
    """
    layout = read_layout()
    if layout is None:
        raise _unavailable("no hierarchy with the controllers memory, pids and cpu is mounted")
    if layout.v2 is not None and not layout.v1:
        layout = attrs.evolve(layout, v2=_above_leaf(layout.v2))
    cgroup = PoolCgroup(layout, name)
    try:
        cgroup.open()
    except OSError as error:
        raise _unavailable(f"{error.strerror}: {error.filename}") from error
    return cgroup


def _unavailable(detail: str) -> Unavailable:
    return Unavailable((Finding(name="cgroup", ok=False, detail=detail, remedy=_REMEDY),))


def _enable_controllers(own: Path) -> None:
    """Let folders below our own v2 cgroup have controllers.

    A cgroup with processes in it cannot hand controllers down (cgroups(7), "no internal
    processes"). Where the cgroup is delegated to us, its processes first move to a leaf.
    """
    try:
        _enable(own)
    except OSError as error:
        if error.errno != errno.EBUSY or not _is_ours(own):
            raise
        leaf = own / _LEAF
        leaf.mkdir(exist_ok=True)
        for pid in read(own / "cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                write(leaf / "cgroup.procs", pid)
        _enable(own)


def _above_leaf(own: Path) -> Path:
    """The cgroup that was given to us, where an earlier pool has moved us to a leaf of it."""
    if own.name == _LEAF and set(NEEDED) <= set(
        read(own.parent / "cgroup.subtree_control").split()
    ):
        return own.parent
    return own


def _is_ours(folder: Path) -> bool:
    """Whether systemd delegated this cgroup, or nobody but this process is in it."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return read(folder / "cgroup.procs").split() == [str(os.getpid())]


def _enable(folder: Path) -> None:
    control = folder / "cgroup.subtree_control"
    if not set(NEEDED) <= set(read(control).split()):
        write(control, " ".join(f"+{name}" for name in NEEDED))


def _try_lock(folder: Path) -> int | None:
    """Lock a folder if nobody holds it and it still is what its name leads to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove_tree(folder: Path) -> bool:
    """Kill everything in a folder and the folders below it, and remove them; say if all went."""
    if not folder.is_dir():
        return True
    for below in list(folder.iterdir()):
        if below.is_dir():
            _remove_tree(below)
    write_if_there(folder / "pids.max", 0)  # nothing outruns the loop by forking
    write_if_there(folder / "cgroup.kill", 1)
    for pid in read(folder / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return _rmdir(folder)


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


async def _wait_unpopulated(folder: Path) -> None:
    with (folder / "cgroup.events").open("rb", buffering=0) as events, select.epoll() as poll:
        poll.register(events.fileno(), select.EPOLLPRI)
        while b"populated 0" not in os.pread(events.fileno(), 4096, 0):
            await trio.lowlevel.wait_readable(poll.fileno())
            poll.poll(0)

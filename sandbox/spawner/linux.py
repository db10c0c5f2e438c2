"""System calls that Python's standard library lacks.

Each wrapper raises OSError with the kernel's errno. See the manual pages of section 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MS_RELATIME = 1 << 21
MNT_DETACH = 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_MAX_INOTIFY = "/proc/sys/user/max_inotify_instances"

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_MODE_FILTER = 2
_LAST_CAPABILITY = 63  # a set has 64 bits; the kernel refuses those that it does not know
_INSTRUCTION_BYTES = 8

# PyDLL keeps the GIL: a child that clone3 made must not wait for a lock that its parent held.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# All that clone3 needs is made ready once: whatever a new process touches costs it a page.
_CLONE_ARGS = struct.Struct("=11Q")
_clone_args = ctypes.create_string_buffer(_CLONE_ARGS.size)
_clone_pidfd = ctypes.c_int(-1)
_clone3 = ctypes.PyDLL(None, use_errno=True).syscall
_clone3.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)
_clone3.restype = ctypes.c_long
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_in_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_in_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _hook in (_before_fork, _after_fork_in_child, _after_fork_in_parent):
    _hook.argtypes = ()
    _hook.restype = None


def _check(value: int, what: str) -> int:
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return value


def _syscall(number: int, *args: object, what: str) -> int:
    return _check(int(_libc.syscall(ctypes.c_long(number), *args)), what)


def forget_errors() -> None:
    """Leave no trace of earlier errors in what ctypes keeps of errno."""
    ctypes.set_errno(0)


def unshare(flags: int) -> None:
    """Give the calling process new namespaces (unshare(2))."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int) -> None:
    """Move the calling process into the namespace that a descriptor stands for (setns(2))."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(0)), "setns")


def mount(source: str, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """Mount, bind or change a mount (mount(2)); targets are named in errors."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() if fstype else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, f"mount {target}")


def umount(target: str) -> None:
    """Take a mount out of sight at once; the kernel frees it when its last user is gone."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and hang the old one below it."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _syscall(number, os.fsencode(new_root), os.fsencode(put_old), what="pivot_root")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def no_new_privileges() -> None:
    """Forbid this process and its descendants to gain privileges through execve."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable capability sets of this process."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _syscall(_SYS_CAPSET[os.uname().machine], header, bytes(24), what="capset")


def limit_inotify(instances: int) -> None:
    """Bound what the calling user namespace and those below it hold of inotify (namespaces(7)).

    The kernel counts instances per user, by default 128: one task of an ordinary user could take
    all of them from its neighbours and from whoever started it. Where /proc/sys is read-only, as
    in a container, the container's own limit is all that there is.
    """
    with contextlib.suppress(OSError), open(_MAX_INOTIFY, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(str(instances))


def set_dumpable(dumpable: bool) -> None:
    """Say whether processes of the same user may look into this one (PR_SET_DUMPABLE, prctl(2)).

    One that may not be dumped has a /proc folder that belongs to root. Forks inherit it; execve
    makes a process dumpable again.
    """
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def empty_bounding_set() -> None:
    """Give up every capability that an execve could bring; needs CAP_SETPCAP."""
    for number in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            if ctypes.get_errno() != errno.EINVAL:
                _check(-1, "prctl(PR_CAPBSET_DROP)")
            return  # the first that this kernel does not know


class Filter:
    """A seccomp program in the form in which the kernel takes it."""

    def __init__(self, program: bytes) -> None:
        # Kept by this object: the kernel reads it where it lies.
        self._program = ctypes.create_string_buffer(program, len(program))
        self._fprog = struct.pack(
            "HxxxxxxQ", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(self._program)
        )

    def install(self) -> None:
        """Have every later system call of this process and its descendants judged by it."""
        _check(
            _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._fprog, 0, 0),
            "prctl(PR_SET_SECCOMP)",
        )


def close_from(first: int) -> None:
    """Close every descriptor from `first` on (close_range(2), Linux 5.9)."""
    _syscall(
        _SYS_CLOSE_RANGE,
        ctypes.c_uint(first),
        ctypes.c_uint(0xFFFFFFFF),
        ctypes.c_uint(0),
        what="close_range",
    )


def openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    """Open `path` below the folder descriptor under the given RESOLVE_ restrictions."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(
        _SYS_OPENAT2,
        ctypes.c_int(folder),
        os.fsencode(path),
        how,
        ctypes.c_size_t(len(how)),
        what="openat2",
    )


def clone(flags: int, cgroup: int | None = None) -> tuple[int, int]:
    """Fork through clone3, with new namespaces and born in a cgroup where those are asked for.

    Args:
        flags: CLONE_NEW* flags, or 0.
        cgroup: descriptor of a cgroup v2 folder, or None for the caller's own cgroups.

    Returns:
        (pid, pidfd) in the parent, (0, -1) in the child.
    """
    if cgroup is not None:
        flags |= CLONE_INTO_CGROUP
    _CLONE_ARGS.pack_into(
        _clone_args,
        0,
        flags | CLONE_PIDFD,
        ctypes.addressof(_clone_pidfd),
        0,
        0,
        17,  # SIGCHLD
        0,
        0,
        0,
        0,
        0,
        cgroup if cgroup is not None else 0,
    )
    _before_fork()
    pid = int(_clone3(_SYS_CLONE3, ctypes.addressof(_clone_args), _CLONE_ARGS.size))
    if pid == 0:
        _after_fork_in_child()
        return 0, -1
    number = ctypes.get_errno()
    _after_fork_in_parent()
    if pid < 0:
        raise OSError(number, f"clone3: {os.strerror(number)}")
    return pid, _clone_pidfd.value  # close-on-exec from birth

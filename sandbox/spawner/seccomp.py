"""The seccomp filter that every task runs under, assembled here into classic BPF.

What a program needs is allowed; what only reaches for the kernel's rarely used doors is refused
with EPERM, so that a program sees an ordinary error. Two system calls differ: clone3 answers
ENOSYS (its flags lie behind a pointer that a filter cannot read; the C library then falls back to
clone), and a call made under another architecture's numbering kills the process.

The tables are frozen here for the architectures that we know; any other is refused.
"""

from __future__ import annotations

import errno
import struct
from typing import Literal

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARG0, _OFFSET_ARG1 = 0, 4, 16, 24
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone knows no NEWTIME.
_CLONE_NEW_ANY = 0x7E020000
_SOCKET_FAMILIES = {"unix": (1,), "inet": (1, 2, 10)}  # AF_UNIX, AF_INET, AF_INET6

Mode = Literal["deny-list", "allow-list"]
Families = Literal["unix", "inet"]
_REFUSED_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: both put words in a terminal's mouth

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listmount": (458, 458),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_IOCTL = (16, 29)
_SOCKET = (41, 198)
_SOCKETPAIR = (53, 199)


class UnknownArchitecture(Exception):
    """There is no frozen table of system calls for this machine; no filter can be made."""


def supported(machine: str) -> bool:
    """Whether a filter can be made for this architecture (as `platform.machine` names it)."""
    return machine in _AUDIT_ARCH


def build_filter(machine: str, *, mode: Mode = "deny-list", families: Families = "inet") -> bytes:
    """Assemble the filter for one architecture, as bubblewrap's --seccomp reads it.

    Args:
        machine: the architecture.
        mode: whether what is listed is refused, or all else.
        families: the sockets that may be made: UNIX ones alone, or those of IP too.

    Raises:
        UnknownArchitecture: the tables do not know `machine`.
    """
    if mode != "deny-list":
        raise OSError(f"there is no filter of the kind {mode}")
    if not supported(machine):
        raise UnknownArchitecture(machine)
    column = 0 if machine == "x86_64" else 1
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_NR),
    ]
    if machine == "x86_64":
        code += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    refuse = _ERRNO | errno.EPERM
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    code += [(_JUMP_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _when(
        _CLONE[column],
        [
            (_LOAD, 0, 0, _OFFSET_ARG0),
            (_JUMP_SET, 0, 1, _CLONE_NEW_ANY),
            (_RETURN, 0, 0, refuse),
            (_RETURN, 0, 0, _ALLOW),
        ],
    )
    code += _when(
        _IOCTL[column],
        [
            (_LOAD, 0, 0, _OFFSET_ARG1),
            *(
                step
                for request in _REFUSED_IOCTLS
                for step in ((_JUMP_EQUAL, 0, 1, request), (_RETURN, 0, 0, refuse))
            ),
            (_RETURN, 0, 0, _ALLOW),
        ],
    )
    for number in (_SOCKET[column], _SOCKETPAIR[column]):
        code += _when(
            number,
            [
                (_LOAD, 0, 0, _OFFSET_ARG0),
                *(
                    step
                    for family in _SOCKET_FAMILIES[families]
                    for step in ((_JUMP_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW))
                ),
                (_RETURN, 0, 0, refuse),
            ],
        )
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _when(number: int, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The body for one system call. It changes the accumulator, so it must always return."""
    return [(_JUMP_EQUAL, 0, len(body), number), *body]

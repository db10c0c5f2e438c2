"""Namespaces made ahead, so that no run waits for them.

A new network namespace takes the kernel longer than all others together. As root the spawner
therefore makes one while it has nothing else to do, with an ipc and an uts namespace, for the next
run alone: nothing was ever in it before, and nothing comes into it after. An ordinary user could
not come back to the machine's own namespaces; there bubblewrap makes them all.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from sandbox.spawner import linux

KINDS = ("net", "ipc", "uts")
_FLAGS = linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
HOST_NAME = "sandbox"


class Spare:
    """At most one set of namespaces; each is used once."""

    def __init__(self) -> None:
        self._home = _open_own()
        self._ready: list[int] = []
        self.refill()

    def take(self) -> list[int]:
        """A set, one descriptor for each of `KINDS`, now the caller's; empty if there is none."""
        taken, self._ready = self._ready, []
        return taken

    def refill(self) -> None:
        """Make a set, unless there is one.

        Raises:
            OSError: the kernel refused; the caller is in its own namespaces all the same.
        """
        if self._ready:
            return
        linux.unshare(_FLAGS)
        try:
            socket.sethostname(HOST_NAME)
            _raise_loopback()
            self._ready = _open_own()
        finally:
            for descriptor in self._home:
                linux.setns(descriptor)


def open_spare() -> Spare | None:
    """A first set, or None where this process may not leave its namespaces and come back."""
    try:
        return Spare()
    except OSError:
        return None


def _open_own() -> list[int]:
    return [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in KINDS]


def _raise_loopback() -> None:
    # A struct ifreq: the kernel gives lo its addresses when it comes up.
    request = struct.pack("=16sh22x", b"lo", _IFF_UP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)

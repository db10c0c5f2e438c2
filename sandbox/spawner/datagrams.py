"""Datagrams with descriptors beside them."""

from __future__ import annotations

import array
import socket

_DESCRIPTOR_BYTES = array.array("i").itemsize


def receive(link: socket.socket, most_bytes: int, most_descriptors: int) -> tuple[bytes, list[int]]:
    """The next datagram and its descriptors, all of them closed by execve.

    `socket.recv_fds` would leave them open there: it does not pass its flags on (seen in Python
    3.11).
    """
    space = socket.CMSG_SPACE(most_descriptors * _DESCRIPTOR_BYTES)
    data, ancillary, _, _ = link.recvmsg(most_bytes, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % _DESCRIPTOR_BYTES
            descriptors.frombytes(content[:whole])
    return data, descriptors.tolist()

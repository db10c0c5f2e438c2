"""Datagrams with descriptors beside them."""

from __future__ import annotations

import _socket
import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTOR_BYTES = array.array("i").itemsize


def send(link: _socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send one datagram; the descriptors stay the sender's to close."""
    rights = array.array("i", descriptors)
    link.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else [])


def receive(
    link: _socket.socket, most_bytes: int, most_descriptors: int
) -> tuple[bytes, list[int]]:
    """The next datagram and its descriptors, all of them closed by execve.

    `socket.recv_fds` would leave them open there: it does not pass its flags on (seen in Python
    3.11).
    """
    space = _socket.CMSG_SPACE(most_descriptors * _DESCRIPTOR_BYTES)
    data, ancillary, _, _ = link.recvmsg(most_bytes, space, _socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(content) - len(content) % _DESCRIPTOR_BYTES
            descriptors.frombytes(content[:whole])
    return data, descriptors.tolist()

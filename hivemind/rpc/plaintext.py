"""Plain text stays on the machine: whoever speaks it beyond loopback must have said so."""

import ipaddress
import socket
from collections.abc import Sequence

import trio

from hivemind.rpc.errors import ConnectFailed, RpcError


class ListensInPlaintext(RpcError):
    """The address to listen on can be reached by others, and there is no certificate."""


class PlaintextRefused(ConnectFailed):
    """The peer is on another machine, and would be spoken to in plain text."""


def is_loopback(host: object) -> bool:
    """Whether an address, as the socket tells it, is one of this machine's loopback."""
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def leads_here(host: str) -> bool:
    """Whether an address is one of this machine's own. Nothing is sent to find that out."""
    if is_loopback(host):
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # The kernel chooses where the packets would come from, were there any (udp(7)).
            probe.connect((host, 9))
            return bool(probe.getsockname()[0] == probe.getpeername()[0])
        except OSError:
            return False


def check_listeners(listeners: Sequence[trio.SocketListener]) -> None:
    """Return where only this machine can reach the listeners.

    Raises:
        ListensInPlaintext: others can.
    """
    for listener in listeners:
        host = listener.socket.getsockname()[0]
        if not is_loopback(host):
            raise ListensInPlaintext(
                f"refusing to listen on {host} in plain text: anybody on the network could read "
                "passwords and tokens; give --tls-cert and --tls-key (`hivemind tls init` makes "
                "them), or say --allow-plaintext"
            )


def check_peer(stream: trio.SocketStream, where: str) -> None:
    """Return where what is sent on the connection stays on this machine.

    That is so for loopback, and for an address that is this machine's own.

    Raises:
        PlaintextRefused: it does not.
    """
    try:
        theirs, ours = stream.socket.getpeername()[0], stream.socket.getsockname()[0]
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {where}: the connection broke") from error
    if theirs != ours and not is_loopback(theirs):
        raise PlaintextRefused(
            f"refusing to speak to {where} in plain text: anybody on the way could read passwords "
            "and tokens"
        )

"""What the hostnames of pushed nodes stand for, asked so that a name which is never answered for
holds up its own account alone.
"""

import socket
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from hivemind.rpc.errors import ConnectFailed

MOST_OF_ONE = 4
"""Names of one account that are looked up at once."""
MOST = 64
"""Names that are looked up at once. Each takes a thread, for as long as the system's resolver takes
to give up, which is half a minute and more (resolv.conf(5), timeout and attempts).
"""
LOOKUP_S = 10.0

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of the host, in the order of preference; blocks. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@attrs.define(eq=False)
class Lookups:
    """Looks names up in threads of its own: those of everybody else stay free."""

    resolve: Resolve = resolve
    _of_owner: dict[str, trio.CapacityLimiter] = attrs.field(factory=dict)
    """No more of them than there are accounts."""

    async def addresses(self, host: str, port: int, *, owner: str) -> Sequence[str]:
        """Every address of the host. Cancelling leaves the thread to itself.

        Raises:
            ConnectFailed: there is none, none was told in time, or too many names are being asked
                for.
        """
        where = f"cannot connect to {host}:{port}"
        mine = self._of_owner.setdefault(owner, trio.CapacityLimiter(MOST_OF_ONE))
        if sum(held.borrowed_tokens for held in self._of_owner.values()) >= MOST:
            raise ConnectFailed(f"{where}: too many names are being looked up")
        with trio.move_on_after(LOOKUP_S):
            try:
                return await trio.to_thread.run_sync(
                    partial(self.resolve, host, port), limiter=mine, abandon_on_cancel=True
                )
            except OSError as error:
                raise ConnectFailed(f"{where}: {error.strerror or error}") from error
            except UnicodeError as error:
                raise ConnectFailed(f"{where}: it is no name of a host") from error
        raise ConnectFailed(f"{where}: the name was not answered for within {LOOKUP_S:g} s")

"""How a command talks to the pool: one client, for one piece of work."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import trio

from hivemind.client import Client, open_client

T = TypeVar("T")


def with_client(
    work: Callable[[Client], Awaitable[T]], manner: Mapping[str, Any] | None = None
) -> T:
    """What ``work`` returns. Raises ClientError, in a group where a nursery wraps it.

    Args:
        work: what to do.
        manner: how the master is spoken to, as ``open_client`` takes it; None is unsaid.
    """
    said = {key: value for key, value in (manner or {}).items() if value is not None}

    async def main() -> T:
        async with open_client(**said) as client:
            return await work(client)

    return trio.run(main)

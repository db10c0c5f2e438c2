"""How a command talks to the pool: one client, for one piece of work."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from hivemind.client import Client, open_client

T = TypeVar("T")


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """What ``work`` returns. Raises ClientError, in a group where a nursery wraps it."""

    async def main() -> T:
        async with open_client() as client:
            return await work(client)

    return trio.run(main)

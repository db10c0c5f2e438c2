"""The Python API of a pool: submit, watch, stop and fetch tasks, from Trio or without it.

    import hivemind.client

    async with hivemind.client.open_client() as client:
        finished = await client.run("hello.py")

Start with ``client``, which holds ``open_client`` and ``Client``; ``blocking`` is the same for
programs without Trio. ``programs`` looks at what is to be run and makes it ready to be sent,
``submitting``, ``watching`` and ``results`` are the calls that outlive a lost connection, and
``connection`` is what they share. Everything raises the one family of ``errors``.

The names below are imported when they are first used, so that ``errors`` alone costs nothing.
``cli`` imports this package, and programs outside of HiveMind do.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hivemind.client.client import Client, Finished, open_client
    from hivemind.client.connection import Patience
    from hivemind.client.errors import ClientError

__all__ = ["Client", "ClientError", "Finished", "Patience", "open_client"]

_PLACES = {
    "Client": "hivemind.client.client",
    "ClientError": "hivemind.client.errors",
    "Finished": "hivemind.client.client",
    "Patience": "hivemind.client.connection",
    "open_client": "hivemind.client.client",
}


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(place), name)

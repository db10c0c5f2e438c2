"""Commands about the pool's machines."""

from typing import TYPE_CHECKING, ClassVar

import click

from hivemind.cli.lazy import Command, LazyGroup
from hivemind.cli.options import DURATION
from hivemind.cli.output import json_option

if TYPE_CHECKING:
    from hivemind.client import Client
    from hivemind.core.messages import NodeView


@click.command(cls=Command)
@json_option
def nodes(as_json: bool) -> None:
    """List the pool's machines."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    async def fetch(client: "Client") -> "list[NodeView]":
        return [node async for node in client.nodes()]

    output_for(as_json).nodes(with_client(fetch))


class _NodeCommands(LazyGroup):
    commands_at: ClassVar = {"token": "hivemind.cli.nodes:token"}


@click.group(cls=_NodeCommands)
def node() -> None:
    """Let machines into the pool."""


@click.command(cls=Command)
@click.option("--ttl", "ttl_s", type=DURATION, help="How long it is good for, such as 1h.")
@json_option
def token(ttl_s: float | None, as_json: bool) -> None:
    """Print a one-time token with which a worker joins the pool for your account.

    It is used up by `hivemind worker --master HOST:PORT --join TOKEN`.
    """
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    secret = with_client(lambda client: client.create_join_token(ttl_s or 0.0))
    output_for(as_json).secret("join_token", secret)

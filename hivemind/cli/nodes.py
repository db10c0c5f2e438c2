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
    commands_at: ClassVar = {
        "token": "hivemind.cli.nodes:token",
        "drain": "hivemind.cli.nodes:drain",
        "resume": "hivemind.cli.nodes:resume",
        "forget": "hivemind.cli.nodes:forget",
    }


@click.group(cls=_NodeCommands)
def node() -> None:
    """Let machines into the pool, and out of it."""


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


@click.command(cls=Command)
@click.argument("node", metavar="NODE")
def drain(node: str) -> None:
    """Give a node nothing more, until it is resumed; what it runs goes on.

    NODE is an id, or a name that only one of your nodes has.
    """
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    view = with_client(lambda client: client.drain_node(node))
    say(f"node {view.name} is given nothing more; it runs {view.running} tasks to their end")


@click.command(cls=Command)
@click.argument("node", metavar="NODE")
def resume(node: str) -> None:
    """Give a drained node work again."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    view = with_client(lambda client: client.resume_node(node))
    say(f"node {view.name} is given work again")


@click.command(cls=Command)
@click.argument("node", metavar="NODE")
def forget(node: str) -> None:
    """Strike a node off the pool's list; what it runs is run elsewhere.

    Its worker is not let in any more, until it enrols anew: its log says how.
    """
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    node_id = with_client(lambda client: client.forget_node(node))
    say(f"node {node_id} is forgotten")

"""Commands about tasks that are there: list, look at, stop, fetch."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hivemind.cli.lazy import Command
from hivemind.cli.output import json_option

if TYPE_CHECKING:
    from hivemind.client import Client
    from hivemind.core.records import Task


@click.command(cls=Command)
@click.option("--all", "include_ended", is_flag=True, help="Those that have ended, too.")
@json_option
def ps(include_ended: bool, as_json: bool) -> None:
    """List your tasks, newest first."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    async def fetch(client: "Client") -> "list[Task]":
        return [task async for task in client.list(include_ended=include_ended)]

    output_for(as_json).tasks(with_client(fetch))


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@json_option
def show(task_id: str, as_json: bool) -> None:
    """Show a task and its attempts."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    output_for(as_json).task(with_client(lambda client: client.get(task_id)))


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@json_option
def explain(task_id: str, as_json: bool) -> None:
    """Say what a task waits for, or why it ended."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    explanation = with_client(lambda client: client.explain(task_id))
    output_for(as_json).explanation(task_id, explanation)


@click.command(cls=Command)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
def stop(task_ids: tuple[str, ...]) -> int:
    """Stop tasks, and wait until nothing of them runs any more."""
    from hivemind.cli.faults import complain, told_of
    from hivemind.cli.session import with_client
    from hivemind.client.errors import ClientError

    failures: list[str] = []

    async def stop_all(client: "Client") -> None:
        stopping: list[str] = []
        for task_id in dict.fromkeys(task_ids):
            try:
                await client.stop(task_id)
            except ClientError as error:
                failures.append(told_of(task_id, error))
            else:
                stopping.append(task_id)
        for task_id in stopping:
            await client.wait(task_id)

    with_client(stop_all)
    for failure in failures:
        complain(failure)
    return 1 if failures else 0


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    required=True,
    help="A folder for the files that the task left; where it ends in .zip, the whole result.",
)
def result(task_id: str, output: Path) -> None:
    """Fetch what a task left in its output folder."""
    from hivemind.cli.destination import Destination
    from hivemind.cli.session import with_client

    destination = Destination.checked(output)
    with_client(lambda client: destination.fetch(client, task_id))

"""Commands that look on while tasks run: ``logs`` and ``wait``. Interrupting them stops no task."""

from typing import TYPE_CHECKING

import click

from hivemind.cli.lazy import Command

if TYPE_CHECKING:
    from hivemind.client import Client
    from hivemind.core.records import Task


_WAITS_AT_ONCE = 100
"""A server takes so many streams on a connection, and all have to end anyway."""


@click.command(cls=Command)
@click.option(
    "-f", "--follow", "is_following", is_flag=True, help="Go on until the task has ended."
)
@click.argument("task_id", metavar="ID")
def logs(task_id: str, is_following: bool) -> None:
    """Print a task's output: stdout on stdout, stderr on stderr."""
    from contextlib import aclosing

    from hivemind.cli.session import with_client
    from hivemind.cli.streams import output_writer
    from hivemind.core.messages import AttemptOutput

    async def show(client: "Client") -> None:
        writer = output_writer()
        async with aclosing(client.watch(task_id, until_now=not is_following)) as items:
            async for item in items:
                if isinstance(item, AttemptOutput):
                    await writer.write(item)

    with_client(show)


@click.command(cls=Command)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
def wait(task_ids: tuple[str, ...]) -> int:
    """Wait until tasks have ended.

    Exits with 0 if all of them succeeded, else with 1 and a line for each that did not.
    """
    import trio

    from hivemind.cli.faults import complain, told_of
    from hivemind.cli.session import with_client
    from hivemind.cli.waits import tell_why_it_waits
    from hivemind.client.errors import ClientError
    from hivemind.core.records import TaskState

    ends: dict[str, Task | ClientError] = {}

    async def wait_for_all(client: "Client") -> None:
        at_once = trio.CapacityLimiter(_WAITS_AT_ONCE)

        async def wait_for(task_id: str) -> None:
            async with at_once, trio.open_nursery() as looking:
                looking.start_soon(tell_why_it_waits, client, task_id)
                try:
                    ends[task_id] = await client.wait(task_id)
                except ClientError as error:
                    ends[task_id] = error
                looking.cancel_scope.cancel()

        async with trio.open_nursery() as waits:
            for task_id in dict.fromkeys(task_ids):
                waits.start_soon(wait_for, task_id)

    with_client(wait_for_all)
    status = 0
    for task_id in dict.fromkeys(task_ids):
        end = ends[task_id]
        if isinstance(end, ClientError):
            complain(told_of(task_id, end))
            status = 1
        elif end.state is not TaskState.SUCCEEDED:
            complain(_how_it_ended(end))
            status = 1
    return status


def _how_it_ended(task: "Task") -> str:
    from hivemind.core.wording import one_line

    words = task.state.value.replace("_", " ")
    own = f"exit status {task.exit_code}"
    if task.exit_code:
        words += f" with {own}"
    said = "" if task.detail in {"", own} else f": {task.detail}"
    return one_line(f"task {task.id} {words}{said}")

"""``hivemind run``: a task in the foreground."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hivemind.cli.options import ProgramCommand, Wish, program_options

if TYPE_CHECKING:
    from hivemind.cli.destination import Destination
    from hivemind.cli.foreground import Outcome
    from hivemind.client.programs import Program
    from hivemind.client.sources import Source


class _RunCommand(ProgramCommand):
    failure_status = 125


@click.command(cls=_RunCommand)
@program_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Put the files of its output folder into PATH; where it ends in .zip, the whole result.",
)
def run(wish: Wish, output: Path | None) -> int:
    """Run a program on the pool and show its output.

    FILE is a Python script or one that begins with #!, DIR a folder, ARCHIVE a zip or tar of one,
    with a main.py or the like in it. What standard input holds goes along, unless it is a terminal.

    Exits with the task's own status, or 124: time limit; 125: it could not be run; 126, 127: the
    command cannot be executed, is not found; 130: interrupted; 137: out of memory, or too much
    output; 143: stopped by someone else.
    """
    import trio

    from hivemind.cli.destination import Destination
    from hivemind.cli.faults import complain, die_of_broken_pipe
    from hivemind.cli.stdin import spooled_stdin
    from hivemind.client.programs import PAYLOAD_BYTES

    program = wish.program()
    destination = None if output is None else Destination.checked(output)
    with spooled_stdin(PAYLOAD_BYTES) as stdin:
        outcome = trio.run(_run, program, stdin, destination)
    if outcome.is_reader_gone:
        die_of_broken_pipe()
    if outcome.verdict.line:
        complain(outcome.verdict.line)
    return outcome.verdict.status


async def _run(
    program: "Program", stdin: "Source | None", destination: "Destination | None"
) -> "Outcome":
    from hivemind.cli.foreground import Foreground
    from hivemind.client import open_client

    async with open_client() as client:
        outcome = await Foreground(client, program, stdin).run()
        if destination is not None and outcome.task is not None and outcome.task.state.is_end:
            await destination.fetch(client, outcome.task.id)
        return outcome

"""``hivemind run``: a task in the foreground."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hivemind.cli.options import ProgramCommand, Wish, program_options

if TYPE_CHECKING:
    from hivemind.cli.destination import Destination
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

    from hivemind.cli.credits import tell_quote
    from hivemind.cli.destination import Destination
    from hivemind.cli.faults import die_of_broken_pipe
    from hivemind.cli.stdin import spooled_stdin

    program = wish.program()
    if wish.quote:
        tell_quote(program)
        return 0
    destination = None if output is None else Destination.checked(output)
    with spooled_stdin() as stdin:
        status = trio.run(_run, program, stdin, destination)
    if status is None:
        die_of_broken_pipe()
    return status


async def _run(
    program: "Program", stdin: "Source | None", destination: "Destination | None"
) -> int | None:
    """The exit status; None where nobody reads the output any more."""
    from hivemind.cli.faults import complain
    from hivemind.cli.foreground import Foreground
    from hivemind.client import ClientError, open_client

    async with open_client() as client:
        outcome = await Foreground(client, program, stdin).run()
        if outcome.is_reader_gone:
            return None
        if outcome.verdict.line:
            complain(outcome.verdict.line)
        if destination is None or outcome.task is None or outcome.is_interrupted:
            return outcome.verdict.status
        try:
            await destination.fetch(client, outcome.task.id)
        except ClientError as error:
            complain(f"{error}; fetch it again with `hivemind result {outcome.task.id} -o PATH`")
            return outcome.verdict.status or _RunCommand.failure_status
        return outcome.verdict.status

"""``hivemind submit``: a task in the background."""

import click

from hivemind.cli.options import ProgramCommand, Wish, program_options


@click.command(cls=ProgramCommand)
@program_options
def submit(wish: Wish) -> None:
    """Hand in a program, as run does, and print its task's id.

    The id is printed once the task is safe on the master's disk.
    """
    from hivemind.cli.credits import tell_quote
    from hivemind.cli.output import say
    from hivemind.cli.progress import Progress
    from hivemind.cli.session import with_client
    from hivemind.cli.stdin import spooled_stdin

    program = wish.program()
    if wish.quote:
        tell_quote(program)
        return
    progress = Progress()
    with spooled_stdin() as stdin:
        try:
            task_id = with_client(
                lambda client: client.submit_program(program, stdin=stdin, on_sent=progress.sent)
            )
        finally:
            progress.clear()
    say(task_id)

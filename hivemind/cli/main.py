"""The console script ``hivemind``: finds the command, and makes an exit status of how it went."""

import os
import sys

import click

from hivemind.cli.faults import complain, die_of_broken_pipe, unwritable
from hivemind.cli.lazy import LazyGroup

MISUSE = 2
INTERRUPTED = 130

_COMMANDS = {
    "up": "hivemind.cli.daemons:up",
    "master": "hivemind.cli.daemons:master",
    "worker": "hivemind.cli.daemons:worker",
    "run": "hivemind.cli.run:run",
    "submit": "hivemind.cli.submit:submit",
    "wait": "hivemind.cli.follow:wait",
    "logs": "hivemind.cli.follow:logs",
    "stop": "hivemind.cli.tasks:stop",
    "result": "hivemind.cli.tasks:result",
    "ps": "hivemind.cli.tasks:ps",
    "show": "hivemind.cli.tasks:show",
    "explain": "hivemind.cli.tasks:explain",
    "nodes": "hivemind.cli.nodes:nodes",
    "node": "hivemind.cli.nodes:node",
    "account": "hivemind.cli.accounts:account",
    "whoami": "hivemind.cli.accounts:whoami",
    "policy": "hivemind.cli.policy:policy",
    "tls": "hivemind.cli.tls:tls",
    "doctor": "hivemind.cli.doctor:doctor",
}


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from hivemind import version

    click.echo(f"hivemind {version()}")
    context.exit()


class _Commands(LazyGroup):
    commands_at = _COMMANDS


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """A handful of Linux machines as one compute pool; every task in a fresh sandbox.

    Start a pool with `hivemind up`, and in another terminal run something on it with
    `hivemind run hello.py` or `hivemind run -- COMMAND`.
    """


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    _hold_standard_streams()
    sys.exit(_flushed(run_main(sys.argv[1:])))


def _hold_standard_streams() -> None:
    """Open what was closed, on /dev/null.

    Else the next socket would get its number, and a task's output would be written into that.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Takes the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _flushed(status: int) -> int:
    """The exit status, once what Python still holds back is written.

    What cannot be written is told, and then dropped: the interpreter would try again at its end,
    fail with a traceback and exit with a status of its own.
    """
    for stream, descriptor, name in (
        (sys.stdout, 1, "standard output"),
        (sys.stderr, 2, "standard error"),
    ):
        try:
            stream.flush()
        except BrokenPipeError:
            die_of_broken_pipe()
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
            if status == 0:
                complain(str(unwritable(name, error)))
                status = 1
    return status


def run_main(arguments: list[str]) -> int:
    """The exit status of one command line; never raises."""
    try:
        status = cli.main(args=arguments, prog_name="hivemind", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return MISUSE
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        complain(error.format_message().rstrip(".") + where)
        return MISUSE
    except click.ClickException as error:
        complain(error.format_message())
        return 1
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        die_of_broken_pipe()
    except OSError as error:  # click's own: it writes the help and the version
        complain(str(unwritable("standard output", error)))
        return 1
    except SystemExit as ending:  # click's own: completion is done, or nobody reads the help
        return ending.code if isinstance(ending.code, int) else 1
    return status if isinstance(status, int) else 0

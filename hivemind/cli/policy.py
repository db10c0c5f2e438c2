"""``hivemind policy``: check policy files, and show what holds. No master is asked."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from hivemind.cli.lazy import Command, LazyGroup
from hivemind.cli.output import json_option

if TYPE_CHECKING:
    from hivemind.settings.origins import Setting


class _PolicyCommands(LazyGroup):
    commands_at: ClassVar = {
        "check": "hivemind.cli.policy:check",
        "show": "hivemind.cli.policy:show",
    }


@click.group(cls=_PolicyCommands)
def policy() -> None:
    """Check policy files, and show what holds."""


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
def check(path: Path) -> int:
    """Say whether a policy file, or each file of a folder, can be used.

    Prints a line for each that can. Exits with 1 if any cannot, and says on standard error what is
    wrong with it. Needs no running pool.
    """
    from hivemind.cli.faults import CommandFailed, complain
    from hivemind.cli.output import say
    from hivemind.core.wording import one_line
    from hivemind.settings.errors import SettingsError
    from hivemind.settings.policies import policy_files, read_policy_file

    if not path.exists():
        raise CommandFailed(f"{path}: there is no such file or folder")
    status = 0
    try:
        files = policy_files(path) if path.is_dir() else [path]
    except SettingsError as error:
        raise CommandFailed(str(error)) from error
    if not files:
        raise CommandFailed(f"{path} has no policy in it: a policy's file is named NAME.toml")
    for file in files:
        try:
            read_policy_file(file)
        except SettingsError as error:
            complain(str(error))
            status = 1
        else:
            say(one_line(f"{file}: ok"))
    return status


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Whose policies.  [default: $HIVEMIND_HOME, else the user's data folder]",
)
@json_option
def show(name: str | None, home: Path | None, as_json: bool) -> None:
    """Show the values of a policy, or of all, and where each came from.

    They are what a daemon of this home reads at its start and at SIGHUP; `pool` is the rules of the
    whole pool. Needs no running pool.
    """
    from hivemind.cli.output import output_for

    output_for(as_json).policies(_in_force(name, home))


def _in_force(name: str | None, home: Path | None) -> "dict[str, tuple[Setting, ...]]":
    from hivemind.cli.faults import CommandFailed
    from hivemind.settings.errors import SettingsError
    from hivemind.settings.home import find_home
    from hivemind.settings.origins import origins
    from hivemind.settings.policies import load_policies

    try:
        found = dict(origins(load_policies(find_home(home))))
    except SettingsError as error:
        raise CommandFailed(str(error)) from error
    if name is None:
        return found
    if name not in found:
        raise CommandFailed(f"there is no policy {name!a}; there are {', '.join(found)}")
    return {name: found[name]}

"""Commands and their options, from click."""

from collections.abc import Iterator

import click

from hivemind.cli.main import cli
from tools.reference.fields import Undescribed, table


def command_lines() -> list[str]:
    """The section on the command line."""
    lines = ["## Commands", "", "Every command takes `--help`.", ""]
    for path, command in _walk(("hivemind",), cli):
        if isinstance(command, click.Group):
            continue
        lines += _command(path, command)
    return lines


def _walk(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _walk((*path, name), below)


def _command(path: tuple[str, ...], command: click.Command) -> list[str]:
    name = " ".join(path)
    if not command.help:
        raise Undescribed(f"the command {name}")
    context = click.Context(command, info_name=name, max_content_width=10_000)
    usage = command.get_usage(context).removeprefix("Usage: ").splitlines()
    text = " ".join(command.help.replace("\b", "").split())
    lines = [f"### `{name}`", "", "```", *(line.strip() for line in usage), "```", "", text, ""]
    rows = [
        _option(name, option, context)
        for option in command.params
        if isinstance(option, click.Option)
    ]
    return lines + (table(("option", "meaning"), rows) if rows else [])


def _option(command: str, option: click.Option, context: click.Context) -> tuple[str, str]:
    if not option.help:
        raise Undescribed(f"the option {option.opts[0]} of {command}")
    record = option.get_help_record(context)
    assert record is not None
    return f"`{record[0]}`", record[1]

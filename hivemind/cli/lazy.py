"""Commands whose modules are imported when they are needed, so that each starts in little time."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import click

from hivemind.cli.faults import status_of


class Command(click.Command):
    """A command that ends in an exit status, whatever happens in it."""

    failure_status: ClassVar[int] = 1
    """What a fault that is not the user's misuse exits with."""

    def invoke(self, ctx: click.Context) -> int:
        """The callback's status; a fault is told in one line and becomes ``failure_status``."""
        run: Callable[[click.Context], Any] = super().invoke
        return status_of(lambda: run(ctx), self.failure_status)


class LazyGroup(click.Group):
    """A group that knows where its commands are."""

    commands_at: ClassVar[Mapping[str, str]]
    """``module:attribute`` by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a task's life rather than of the alphabet."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None where there is none of that name."""
        place = self.commands_at.get(cmd_name)
        if place is None:
            return None
        module_name, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

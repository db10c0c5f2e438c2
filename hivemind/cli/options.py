"""The options that ask for a task, shared by ``run`` and ``submit``, and how they are read."""

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from hivemind.cli.lazy import Command

if TYPE_CHECKING:
    from hivemind.client.programs import Program

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IS_COMMAND = "hivemind.cli.is_command"


class _Quantity(click.ParamType[int | float]):
    """A value that a function of ``core`` reads, named as ``module.function``."""

    def __init__(self, name: str, parse_with: str) -> None:
        self.name = name
        self._module, self._function = parse_with.split(".")

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        import importlib

        from hivemind.core.errors import CoreError

        if isinstance(value, int | float):
            return value
        module = importlib.import_module(f"hivemind.core.{self._module}")
        try:
            parsed: int | float = getattr(module, self._function)(str(value))
        except CoreError as error:
            self.fail(str(error), param, ctx)
        return parsed


SIZE = _Quantity("SIZE", "sizes.parse_size")
DURATION = _Quantity("DURATION", "sizes.parse_duration")
CPUS = _Quantity("N", "sizes.parse_cpus")
CPT = _Quantity("CPT", "cpt.parse_cpt")
TRUST = _Quantity("LEVEL", "trust.parse_trust")


class _Variable(click.ParamType[tuple[str, str]]):
    """``K=V``."""

    name = "K=V"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or _VARIABLE.fullmatch(key) is None:
            self.fail(f"{value!a} is not K=V with a plain name before the '='", param, ctx)
        return key, text


class ProgramCommand(Command):
    """``[OPTIONS] FILE|DIR|ARCHIVE [ARGS...]`` or ``[OPTIONS] -- COMMAND [ARGS...]``.

    Everything from the first operand on is the program's, whatever it looks like; a ``--`` just
    before it tells the second form from the first.
    """

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with a note of where the operands began."""
        parsed, _, _ = self.make_parser(ctx).parse_args(list(args))
        operands = parsed.get("operands")
        before = len(args) - (len(operands) if isinstance(operands, tuple) else 0)
        ctx.meta[_IS_COMMAND] = before > 0 and args[before - 1] == "--"
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both forms."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] FILE|DIR|ARCHIVE [ARGS]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND [ARGS]...", "   or: ")


class Wish(NamedTuple):
    """What the command line asks for.

    No attrs class, since ``hivemind --help`` comes by here and attrs is a third of its time.
    """

    operands: tuple[str, ...]
    is_command: bool
    memory_bytes: int | None
    cpu_millis: int | None
    gpus: int | None
    wall_s: float | None
    policy: str | None
    retries: int | None
    priority: int | None
    least_trust: int | None
    max_ucpt: int | None
    quote: bool
    env: dict[str, str]
    name: str

    def program(self) -> "Program":
        """The program, looked at and ready to be sent. Raises ClientError."""
        from hivemind.client.programs import program_from_command, program_from_path
        from hivemind.core.admission import Ask

        ask = Ask(
            policy=self.policy,
            memory_bytes=self.memory_bytes,
            cpu_millis=self.cpu_millis,
            gpus=self.gpus,
            wall_s=self.wall_s,
            retries=self.retries,
            priority=self.priority,
            least_trust=self.least_trust,
            max_ucpt=self.max_ucpt,
        )
        if self.is_command:
            return program_from_command(self.operands, ask=ask, env=self.env, name=self.name)
        return program_from_path(
            self.operands[0], args=self.operands[1:], ask=ask, env=self.env, name=self.name
        )


def program_options(function: F) -> F:
    """The options and operands of ``run`` and ``submit``; the function gets them as a ``Wish``."""

    def with_wish(operands: tuple[str, ...], **given: object) -> object:
        context = click.get_current_context()
        if not operands or not (operands[0] or context.meta[_IS_COMMAND]):
            raise click.UsageError(
                "nothing to run: give a file, a folder or an archive, or `-- COMMAND`", context
            )
        wished = cast("dict[str, Any]", {k: v for k, v in given.items() if k in Wish._fields})
        rest = {key: value for key, value in given.items() if key not in Wish._fields}
        wish = Wish(
            operands=operands,
            is_command=context.meta[_IS_COMMAND],
            env=dict(wished.pop("env")),
            name=wished.pop("name") or "",
            **wished,
        )
        return function(wish, **rest)

    decorated: Any = functools.wraps(function)(with_wish)
    for decorate in reversed(_DECORATORS):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


_DECORATORS = (
    click.option(
        "--memory",
        "memory_bytes",
        type=SIZE,
        help="Memory for all its processes together, such as 512M.",
    ),
    click.option("--cpus", "cpu_millis", type=CPUS, help="CPUs, such as 1 or 0.5."),
    click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="Whole GPUs."),
    click.option(
        "--time", "wall_s", type=DURATION, help="The longest that it may run, such as 60s or 2h."
    ),
    click.option("--policy", metavar="NAME", help="The pool's policy to run under."),
    click.option(
        "--env", multiple=True, type=_Variable(), help="A variable of its environment; repeatable."
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        metavar="N",
        help="How often to try again after a failure.",
    ),
    click.option(
        "--priority",
        type=int,
        metavar="N",
        help="Higher goes first among your own tasks; may be negative.",
    ),
    click.option(
        "--trust",
        "least_trust",
        type=TRUST,
        help="How far its node must be trusted: high, normal, low, or a number to 100.",
    ),
    click.option(
        "--max-cpt",
        "max_ucpt",
        type=CPT,
        help="Refuse it rather than hold more CPT than this, such as 20 or 0.5.",
    ),
    click.option(
        "--quote", is_flag=True, help="Only say what it would cost at most; nothing is run."
    ),
    click.option("--name", metavar="TEXT", help="What listings call it."),
    click.argument("operands", nargs=-1, type=click.UNPROCESSED),
)

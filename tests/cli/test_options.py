"""What the command line of ``run`` and ``submit`` asks for."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from hivemind.cli.options import ProgramCommand, Wish, program_options


@pytest.fixture
def wish_of() -> Any:
    seen: list[Wish] = []

    @click.command(cls=ProgramCommand)
    @program_options
    def probe(wish: Wish) -> None:
        seen.append(wish)

    def parse(*arguments: str) -> Wish:
        seen.clear()
        probe.main(args=list(arguments), standalone_mode=False)
        return seen[0]

    return parse


def test_sizes_times_and_counts_are_read_with_their_units(wish_of: Any) -> None:
    wish = wish_of(
        *("--memory", "512M", "--cpus", "0.5", "--gpus", "1", "--time", "2m"),
        *("--policy", "gpu", "--retries", "2", "--priority", "-3", "--name", "n", "a.py"),
    )
    assert (wish.memory_bytes, wish.cpu_millis, wish.gpus, wish.wall_s) == (512 << 20, 500, 1, 120)
    assert (wish.policy, wish.retries, wish.priority, wish.name) == ("gpu", 2, -3, "n")


def test_what_is_not_asked_for_is_left_to_the_program_and_the_policy(wish_of: Any) -> None:
    wish = wish_of("a.py")
    unasked = (wish.memory_bytes, wish.cpu_millis, wish.gpus, wish.wall_s, wish.policy)
    assert unasked == (None,) * 5
    assert (wish.retries, wish.priority, wish.env, wish.name) == (None, None, {}, "")


@pytest.mark.parametrize(
    ("arguments", "operands", "is_command"),
    [
        (["a.py"], ("a.py",), False),
        (["a.py", "--memory", "x", "-h"], ("a.py", "--memory", "x", "-h"), False),
        (["a.py", "--", "x"], ("a.py", "--", "x"), False),
        (["--", "sh", "-c", "echo"], ("sh", "-c", "echo"), True),
        (["--name", "x", "--", "ls", "--", "-l"], ("ls", "--", "-l"), True),
        (["--", "a.py"], ("a.py",), True),
    ],
)
def test_the_first_operand_ends_the_options_and_dashes_make_a_command(
    wish_of: Any, arguments: list[str], operands: tuple[str, ...], is_command: bool
) -> None:
    wish = wish_of(*arguments)
    assert (wish.operands, wish.is_command) == (operands, is_command)


def test_variables_keep_everything_after_the_first_equals_sign(wish_of: Any) -> None:
    wish = wish_of("--env", "A=1=2", "--env", "B=", "--env", "A=3", "a.py")
    assert wish.env == {"A": "3", "B": ""}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--memory", "12Q", "a.py"],
        ["--memory", "lots", "a.py"],
        ["--memory", "-1", "a.py"],
        ["--time", "soon", "a.py"],
        ["--cpus", "two", "a.py"],
        ["--gpus", "-1", "a.py"],
        ["--env", "NOVALUE", "a.py"],
        ["--env", "1A=x", "a.py"],
        ["--frobnicate", "a.py"],
        [],
        [""],
        ["--"],
    ],
)
def test_misuse_is_a_usage_error(wish_of: Any, arguments: list[str]) -> None:
    with pytest.raises(click.UsageError) as caught:
        wish_of(*arguments)
    assert "\n" not in caught.value.format_message()


def test_help_shows_both_forms(wish_of: Any) -> None:
    @click.command(cls=ProgramCommand)
    @program_options
    def probe(wish: Wish) -> None:
        """Help."""

    text = CliRunner().invoke(probe, ["--help"]).output
    assert "[OPTIONS] FILE|DIR|ARCHIVE [ARGS]..." in text
    assert "[OPTIONS] -- COMMAND [ARGS]..." in text

"""The table itself can tell one start from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.case import Case, settled
from tests.conformance.table import CASES
from tests.conformance.test_warm import outcome, run, run_real, variables

# What a start that only runs the script's text by `exec` gets wrong.
_NAIVE = "import sys; sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
_NOTICED = (
    "main imports itself",
    "search path",
    "orig argv",
    "stack from the top",
    "uncaught",
    "recursion",
    "warning",
    "source of a function",
    "syntax error",
    "main",
)


def named(name: str) -> Case:
    (found,) = [case for case in CASES if case.name == name]
    return found


def test_the_table_is_long_and_each_row_has_its_own_name() -> None:
    assert len(CASES) >= 120
    assert len({case.name for case in CASES}) == len(CASES)


def test_only_addresses_are_settled() -> None:
    assert settled(b"<f at 0x7fab12> 0x1 17 07:12") == b"<f at 0x...> 0x... 17 07:12"


@pytest.mark.parametrize("name", _NOTICED)
def test_a_start_that_only_looks_the_same_is_noticed(name: str, tmp_path: Path) -> None:
    case, folder = named(name), tmp_path / "task"
    real = run_real(case, folder)
    argv = ["python3", "-c", _NAIVE, *case.argv]
    done = run(argv, case, folder, variables(case, folder))
    assert outcome(done.returncode, done) != real


@pytest.mark.parametrize("name", ["main", "killed by TERM", "uncaught", "exit with 42"])
def test_a_row_that_ends_otherwise_is_noticed(name: str, tmp_path: Path) -> None:
    real = run_real(named(name), tmp_path / "task")
    assert len({real, run_real(named("exit with text"), tmp_path / "task")}) == 2

"""A fork of a warm interpreter is a fresh one, row by row, on this machine without a sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox.launcher.warm as warm
from tests.conformance.case import Case, Outcome, settled
from tests.conformance.table import CASES

PYTHON = os.environ.get("CONFORMANCE_PYTHON", "/usr/bin/python3")
LAUNCHER = Path(warm.__file__).parent
MAIN = Path(__file__).with_name("warm_main.py")
WALL_S = 60
# Rows that are refused, by words or by a look at files, and so executed anew.
EXECUTED = frozenset(
    (
        "missing script",
        "missing script in a missing folder",
        "a folder without main",
        "a folder with main",
        "module",
        "module that is missing",
        "no such option",
        "version",
        "option -O",
        "option -B",
        "option -W",
        "option -X",
        "option -I",
        "script from stdin",
        "no arguments at all",
        "no cached bytecode",
        "search path from the environment",
        "sitecustomize in the search path",
        "locale C",
        "locale POSIX",
        "locale that is not there",
        "encoding by the environment",
        "environment without HOME",
        "another PATH",
        "loader variable",
    )
) | {case.name for case in CASES if case.name.startswith("variable PYTHON")}
# From 3.13 on the interpreter remembers how it was started in ways that cannot be set from outside.
if subprocess.run([PYTHON, "-c", "import sys; sys.exit(sys.version_info >= (3, 13))"]).returncode:
    EXECUTED |= {
        case.name
        for case in CASES
        if "-c" in case.argv[:1]
        or any(
            name.split(".")[0] in sys.stdlib_module_names for name in case.files if "/" not in name
        )
    }
_ZYGOTE_ENV = {"LANG": "C.UTF-8", "HOME": "/nonexistent", "LD_BIND_NOW": "1"}


def variables(case: Case, folder: Path) -> dict[str, str]:
    path = f"{Path(PYTHON).parent}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", **case.env}


def laid_out(case: Case, folder: Path) -> Path:
    """The case's files at a place that is the same each time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in case.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def outcome(code: int, done: subprocess.CompletedProcess[bytes]) -> Outcome:
    signal = -code if code < 0 else None
    return Outcome(
        "", 128 - code if code < 0 else code, signal, settled(done.stdout), settled(done.stderr)
    )


def run(
    argv: list[str], case: Case, folder: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    words = {"stdin": subprocess.DEVNULL} if case.stdin is None else {"input": case.stdin}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, timeout=WALL_S, **words)  # type: ignore[call-overload,no-any-return]


def run_real(case: Case, folder: Path) -> Outcome:
    laid_out(case, folder)
    done = run(["python3", *case.argv], case, folder, variables(case, folder))
    return outcome(done.returncode, done)


def run_warm(case: Case, folder: Path, report: Path) -> Outcome | None:
    """None where the start is one that a warm interpreter leaves to an exec."""
    laid_out(case, folder)
    report.write_text(json.dumps(variables(case, folder)))
    argv = [PYTHON, str(MAIN), str(LAUNCHER), str(report), "python3", *case.argv]
    done = run(argv, case, folder, _ZYGOTE_ENV)
    assert done.returncode == 0, done.stderr.decode()
    status = json.loads(report.read_text())
    if status is None:
        return None
    code = os.waitstatus_to_exitcode(status)
    return None if code == 99 else outcome(code, done)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.lone], ids=lambda case: case.name
)
def test_a_fork_of_a_warm_interpreter_is_a_fresh_one(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    warm_outcome = run_warm(case, folder, tmp_path / "report")
    if warm_outcome is None:
        assert case.name in EXECUTED
        return
    assert case.name not in EXECUTED
    real = run_real(case, folder)
    assert case.exit_code in (None, real.exit_code), real
    assert warm_outcome == real

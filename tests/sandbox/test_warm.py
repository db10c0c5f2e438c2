"""Which starts a warm interpreter takes on, and when it may end without being taken down."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.launcher import warm

PYTHON = "/usr/bin/python3"
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/task", "LANG": "C.UTF-8"}
LAUNCHER = str(Path(warm.__file__).parent)


@pytest.mark.parametrize(
    "argv",
    [
        ("python3", "main.py"),
        ("python3", "main.py", "-u", "-c"),
        ("python3", "./-odd name.py"),
        ("python3", "-u", "main.py"),
        ("python3", "-c", "print(1)", "a"),
        ("python3", "-c", ""),
        (PYTHON, "main.py"),
    ],
)
def test_scripts_and_code_are_taken_on(argv: tuple[str, ...]) -> None:
    assert warm.can_start(argv, ENV, PYTHON)


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("python3",),
        ("python3", "-"),
        ("python3", ""),
        ("python3", "-c"),
        ("python3", "-u"),
        ("python3", "-m", "http.server"),
        ("python3", "-I", "main.py"),
        ("python3", "-uc", "print(1)"),
        ("python3", "-cprint(1)"),
        ("python3", "--", "main.py"),
        ("python3", "-O", "-c", "1"),
        ("python3.11", "main.py"),
        ("python", "main.py"),
        ("/opt/python/bin/python3", "main.py"),
        ("sh", "-c", "python3 main.py"),
    ],
)
def test_all_other_command_lines_are_not(argv: tuple[str, ...]) -> None:
    assert not warm.can_start(argv, ENV, PYTHON)


@pytest.mark.parametrize(
    "variable",
    [
        "PYTHONHASHSEED=0",
        "PYTHONOPTIMIZE=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONSOMETHINGNEW=",
        "LD_PRELOAD=/task/x.so",
        "LC_ALL=C.UTF-8",
        "LANG=C",
        "LANG=de_DE.UTF-8",
        "LANGUAGE=de",
        "GLIBC_TUNABLES=x",
        "MALLOC_ARENA_MAX=1",
        "LOCPATH=/task",
    ],
)
def test_a_variable_that_is_read_at_the_start_calls_for_a_start(variable: str) -> None:
    name, _, value = variable.partition("=")
    assert not warm.can_start(("python3", "main.py"), {**ENV, name: value}, PYTHON)


def test_a_start_without_a_locale_is_not_taken_on() -> None:
    env = {name: value for name, value in ENV.items() if name != "LANG"}
    assert not warm.can_start(("python3", "main.py"), env, PYTHON)


@pytest.mark.parametrize("name", ["PYTHONUNBUFFERED", "PYTHONPATH", "TZ", "PATH", "HOME", "MINE"])
def test_other_variables_do_not_matter(name: str) -> None:
    assert warm.can_start(("python3", "-c", "1"), {**ENV, name: "1"}, PYTHON)


def ends_unseen(program: str) -> bool:
    """What is said of an interpreter that ran a program, its own objects put aside as in a cell."""
    script = f"""
import sys
sys.path[0] = {LAUNCHER!r}
fresh = set(sys.modules)
import warm, unseen
ready = warm.preload()
ids = [id(sys.stdin), id(sys.stdout), id(sys.stderr)]
names = {{"__name__": "__main__"}}
exec({program!r}, names)
sys.__stderr__.write(f"unseen {{unseen.ends_unseen(ids, fresh)}}")
sys.__stderr__.flush()
"""
    script += "import os; os._exit(0)"
    done = subprocess.run(
        [PYTHON, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr in ("unseen True", "unseen False"), done.stderr
    return done.stderr == "unseen True"


@pytest.mark.parametrize(
    "program",
    [
        "print('hello')",
        "import json, re, random, math, collections, datetime; print(json.dumps([1]))",
        "class A:\n    x = 1\na = [A() for _ in range(9)]",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "with open('/dev/null') as f: f.read()",
        "x = [n for n in (n for n in range(3))]",
    ],
)
def test_an_ordinary_program_ends_at_once(program: str) -> None:
    assert ends_unseen(program)


@pytest.mark.parametrize(
    "program",
    [
        "import atexit; atexit.register(print)",
        "import _thread, time; _thread.start_new_thread(time.sleep, (9,)); time.sleep(0.2)",
        "class A:\n    def __del__(self): pass\na = A()",
        "class A:\n    __slots__ = ()\n    def __del__(self): pass\na = A()",
        "f = open('/dev/null', 'w')",
        "def g(): yield\nx = g()\nnext(x)",
        "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda r: print(1))",
        "import ctypes",
        "import logging",
        "import sys; sys.stdout = object()",
        "import sys; del sys.stdin",
        "import sys; sys.stdout.detach()",
        "import sys, types; sys.modules['odd'] = object()",
    ],
)
def test_a_program_that_leaves_something_to_do_is_taken_down(program: str) -> None:
    assert not ends_unseen(program)

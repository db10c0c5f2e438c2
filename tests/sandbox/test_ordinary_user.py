"""An ordinary user gets the same isolation and the same results, with best-effort limits."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.readable import copy
from tests.sandbox.fake_gpus import MADE_BY_ROOT, made_nodes
from tests.sandbox.test_readme import EXAMPLES

_PYTHON = "/usr/bin/python3"
_UID = 54321


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A copy of the package, its tests and what they need that any user can read."""
    if not Path(_PYTHON).exists():
        pytest.skip(f"needs {_PYTHON}, a Python that any user can execute")
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        copy(top)
        yield top


def _run(
    top: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    as_other = {"user": _UID, "group": _UID, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(
        [_PYTHON, "-B", *words],
        cwd=top,
        env={"PYTHONPATH": str(top), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        **as_other,  # type: ignore[call-overload]
    )


def test_the_same_promises_hold(readable: Path) -> None:
    words = ("-m", "pytest", "-q", "-p", "pytest_trio.plugin", "-p", "no:cacheprovider")
    words += ("tests/sandbox", "-k", "best-effort")
    with made_nodes(count=3) if os.geteuid() == 0 else nullcontext() as nodes:
        env = {} if nodes is None else {MADE_BY_ROOT: str(nodes)}
        done = _run(readable, *words, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_limits_by_cgroup_are_refused_with_the_remedy(readable: Path) -> None:
    source = "import trio, sandbox\ntrio.run(sandbox.run, sandbox.Spec(argv=('true',)))\n"
    done = _run(readable, "-c", source)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sandbox.errors.Unavailable: no cgroup: Permission denied")
    assert "systemd-run --user --scope -p Delegate=yes" in last


def test_it_runs_with_attrs_and_trio_alone(readable: Path) -> None:
    source = (
        "import sys, trio, sandbox\n"
        "config = sandbox.PoolConfig(limits='best-effort', slots=1)\n"
        "done = trio.run(sandbox.run, sandbox.Spec(argv=('echo', 'hello')), config)\n"
        "assert not {'hivemind', 'psutil', 'cattrs', 'betterproto2'} & set(sys.modules)\n"
        "print(done.stdout.decode(), end='')\n"
    )
    done = _run(readable, "-c", source)
    assert done.stdout == "hello\n", done.stderr


@pytest.mark.parametrize(
    "title", [title for title, (source, _) in EXAMPLES.items() if "best-effort" in source]
)
def test_the_examples_that_say_so_run(readable: Path, title: str) -> None:
    source, output = EXAMPLES[title]
    done = _run(readable, "-c", source)
    assert (done.stdout, done.stderr) == (output, "")


def test_the_command_line_runs_and_tells_what_it_lacks(readable: Path) -> None:
    options = ("--limits", "best-effort", "--memory", "64M")
    done = _run(readable, "-m", "sandbox", "run", *options, "--", "python3", "pyproject.toml")
    assert done.returncode == 1
    assert 'File "/task/pyproject.toml"' in done.stderr
    done = _run(readable, "-m", "sandbox", "probe")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("ok      isolation: ")]
    lacking = [line for line in lines if line.startswith("missing")]
    assert done.returncode == (1 if lacking else 0)
    assert all("cgroup: " in line and "Delegate=yes" in line for line in lacking)

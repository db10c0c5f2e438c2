"""The examples of sandbox/README.md: each runs as it stands and prints what is written below it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.conftest import needs_cgroup

_PACKAGE = Path(__file__).parents[2]
_EXAMPLE = re.compile(
    r"^### (\d+\. .+?)\n.*?^```python\n(.*?)^```\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_README = _PACKAGE / "sandbox/README.md"
EXAMPLES = {
    title: (source, output) for title, source, output in _EXAMPLE.findall(_README.read_text())
}


def test_there_are_ten_and_none_is_left_out() -> None:
    assert [title.split(".")[0] for title in EXAMPLES] == [str(n) for n in range(1, 11)]
    assert _README.read_text().count("```python") == len(EXAMPLES)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_prints_what_is_written_below_it(title: str, tmp_path: Path) -> None:
    source, output = EXAMPLES[title]
    if "best-effort" not in source:
        needs_cgroup()
    script = tmp_path / "example.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_PACKAGE), *filter(None, sys.path)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output

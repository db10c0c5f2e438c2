"""``tools/demo`` shows a whole pool at work, and leaves nothing behind."""

import subprocess
from pathlib import Path

from tests.pool import clean_environment

DEMO = Path(__file__).resolve().parents[2] / "tools/demo"


def test_the_demo_runs_a_task_shows_its_result_and_cleans_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [DEMO],
        env=clean_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        timeout=120,
        check=False,
    )
    out = done.stdout.decode()
    assert done.returncode == 0, out + done.stderr.decode()
    assert "ready 127.0.0.1:" in out
    assert "it begins with: P5 240 96 255" in out
    assert "the pool has stopped" in out
    assert list(tmp_path.iterdir()) == []

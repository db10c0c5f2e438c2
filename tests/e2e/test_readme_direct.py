"""What the README says of a worker by itself is so: its program is run as it stands there."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.test_readme import block
from tests.pool import LIMITS, Daemon, Pool, clean_environment


def test_a_worker_by_itself_runs_what_the_readme_shows(
    pool: Pool, stubs: Path, tmp_path: Path
) -> None:
    words = block("A worker by itself", 0).split()
    assert words[:4] == ["hivemind", "worker", "--listen", "127.0.0.1:50052"]
    worker: Daemon = pool.lone_worker(home="shown")
    assert worker.arguments[-1] == LIMITS
    program = tmp_path / "program.py"
    program.write_text(block("A worker by itself", 1))
    done = subprocess.run(
        [sys.executable, str(program)],
        env=clean_environment(HIVEMIND_HOME=str(worker.home), PYTHONPATH=str(stubs)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "COMPLETED 0 [\"['--fast', 'two words'] 3\"]\n", done.stderr

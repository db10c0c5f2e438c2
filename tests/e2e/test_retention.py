"""A pool whose owner keeps ended tasks for a moment alone."""

import json
from pathlib import Path

from tests.pool import Pool, wait_until


def test_an_ended_task_is_gone_when_its_time_is_over(pool: Pool, tmp_path: Path) -> None:
    home = pool.root / "up"
    (home / "policies").mkdir(parents=True)
    home.chmod(0o700)
    (home / "policies" / "pool.toml").write_text('retention_s = "3s"\n')
    up = pool.up()
    ran = pool.cli("run", "--", "sh", "-c", "head -c 200000 /dev/zero", home=up.home)
    assert ran.returncode == 0, ran.stderr.decode()
    (task,) = json.loads(pool.cli("ps", "--all", "--json", home=up.home).stdout)["tasks"]
    result = tmp_path / "result"
    for _ in range(2):
        fetched = pool.cli("result", task["id"], "-o", str(result), home=up.home)
        assert fetched.returncode == 0, fetched.stderr.decode()

    def is_gone() -> bool:
        return b"no task" in pool.cli("show", task["id"], home=up.home).stderr

    wait_until("the task is gone", is_gone)
    assert list((home / "output").iterdir()) == []

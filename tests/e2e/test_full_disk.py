"""A store that cannot commit: what was acknowledged stays, what was refused is not kept."""

import json
import resource

from tests.pool import Pool


def test_a_store_that_cannot_grow_refuses_and_the_master_goes_on(pool: Pool) -> None:
    """The kernel refuses the master's writes beyond a size, as a full disk would (setrlimit(2))."""
    master = pool.master()
    kept = pool.cli("submit", "--name", "before", "--", "true", home=master.home)
    assert kept.returncode == 0, kept.stderr.decode()

    wal = master.home / "master.db-wal"
    _, hard = resource.prlimit(master.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(master.pid, resource.RLIMIT_FSIZE, (wal.stat().st_size + 1, hard))
    script = pool.root / "large.py"
    script.write_text("# " + "x" * 60_000 + "\n")
    refused = pool.cli("submit", "--name", "refused", str(script), home=master.home)
    assert refused.returncode == 1
    assert refused.stdout == b""
    assert refused.stderr.decode().count("\n") == 1, refused.stderr.decode()

    resource.prlimit(master.pid, resource.RLIMIT_FSIZE, (hard, hard))
    after = pool.cli("submit", "--name", "after", str(script), home=master.home)
    assert after.returncode == 0, after.stderr.decode()
    assert master.process.poll() is None

    def names() -> list[str]:
        listed = json.loads(pool.cli("ps", "--all", "--json", home=master.home).stdout)
        return sorted(task["name"] for task in listed["tasks"])

    assert names() == ["after", "before"]
    port = master.address.rpartition(":")[2]
    master.kill()
    pool.master(listen=f"127.0.0.1:{port}")
    assert names() == ["after", "before"]
    pool.worker(pool.daemons[-1], "--join", pool.join_token(pool.daemons[-1]))
    listed = json.loads(pool.cli("ps", "--all", "--json", home=master.home).stdout)
    waited = pool.cli("wait", *(task["id"] for task in listed["tasks"]), home=master.home)
    assert waited.returncode == 0, waited.stderr.decode()

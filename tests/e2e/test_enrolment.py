"""A worker that joins with a one-time token, and whose own policy is stricter than the master's."""

import json

from tests.pool import LIMITS, Pool, wait_until

STRICTER = """
memory = { default = "64M", most = "128M" }
"""


def test_a_worker_joins_once_with_its_token_and_comes_back_by_its_key(pool: Pool) -> None:
    master = pool.master()
    token = pool.join_token(master)
    worker = pool.worker(master, "--join", token)
    nodes = json.loads(pool.cli("nodes", "--json", home=master.home).stdout)["nodes"]
    assert [node["status"] for node in nodes] == ["online"]
    assert worker.stop() == 0
    again = pool.worker(master)
    assert again.stop() == 0
    assert len(json.loads(pool.cli("nodes", "--json", home=master.home).stdout)["nodes"]) == 1


def test_a_join_token_serves_once(pool: Pool) -> None:
    master = pool.master()
    token = pool.join_token(master)
    pool.worker(master, "--join", token)
    refused = pool.cli(
        "worker",
        "--master",
        master.address,
        "--join",
        token,
        "--limits",
        LIMITS,
        "--home",
        str(pool.root / "second"),
        home=pool.root / "second",
    )
    assert refused.returncode == 1
    assert refused.stderr.count(b"join token") == refused.stderr.count(b"node token") == 1


def test_a_worker_refuses_what_its_own_policy_does_not_allow(pool: Pool) -> None:
    master = pool.master()
    policies = pool.root / "worker" / "policies"
    policies.mkdir(parents=True)
    (pool.root / "worker").chmod(0o700)
    (policies / "default.toml").write_text(STRICTER)
    pool.worker(master, "--join", pool.join_token(master))
    refused = pool.cli("run", "--memory", "1G", "--", "true", home=master.home)
    assert refused.returncode == 125
    assert b"memory" in refused.stderr
    assert b"128" in refused.stderr
    allowed = pool.cli("run", "--memory", "64M", "--", "echo", "fits", home=master.home)
    assert (allowed.returncode, allowed.stdout) == (0, b"fits\n"), allowed.stderr.decode()


def test_a_refused_task_goes_to_a_worker_that_takes_it(pool: Pool) -> None:
    master = pool.master()
    policies = pool.root / "strict" / "policies"
    policies.mkdir(parents=True)
    (pool.root / "strict").chmod(0o700)
    (policies / "default.toml").write_text(STRICTER)
    pool.worker(master, "--join", pool.join_token(master), home="strict")
    pool.worker(master, "--join", pool.join_token(master), home="generous")

    def online() -> bool:
        listed = pool.cli("nodes", "--json", home=master.home)
        return [n["status"] for n in json.loads(listed.stdout)["nodes"]] == ["online"] * 2

    wait_until("both nodes are online", online)
    for _ in range(3):
        done = pool.cli("run", "--memory", "1G", "--", "echo", "ran", home=master.home)
        assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr.decode()

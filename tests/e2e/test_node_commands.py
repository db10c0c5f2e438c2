"""Nodes are drained, resumed and forgotten by their owners, and by nobody else."""

import json
import signal

from tests.pool import Daemon, Pool, wait_until


def join(pool: Pool, master: Daemon, name: str) -> Daemon:
    return pool.worker(master, "--join", pool.join_token(master), home=name)


def listed(pool: Pool, master: Daemon) -> list[dict[str, object]]:
    nodes = json.loads(pool.cli("nodes", "--json", home=master.home).stdout)["nodes"]
    assert isinstance(nodes, list)
    return nodes


def state_of(pool: Pool, master: Daemon, task_id: str) -> str:
    shown = pool.cli("show", task_id, "--json", home=master.home)
    assert shown.returncode == 0, shown.stderr.decode()
    return str(json.loads(shown.stdout)["state"])


def _is_told(worker: Daemon) -> bool:
    return "was forgotten; enrol it anew" in worker.log.read_text()


def test_a_drained_node_is_given_nothing_until_it_is_resumed(pool: Pool) -> None:
    master = pool.master()
    worker = join(pool, master, "one")
    (node,) = listed(pool, master)
    node_id = str(node["id"])
    drained = pool.cli("node", "drain", str(node["name"]), home=master.home)
    assert drained.returncode == 0, drained.stderr.decode()
    submitted = pool.cli("submit", "--", "echo", "ran", home=master.home)
    task_id = submitted.stdout.decode().strip()
    explained = pool.cli("explain", task_id, home=master.home).stdout.decode()
    assert "draining" in explained

    # The wish outlives both daemons.
    assert worker.stop() == 0
    master.kill()
    master = pool.master(listen=master.address)
    pool.worker(master, home="one")
    assert [n["draining"] for n in listed(pool, master)] == [True]
    assert state_of(pool, master, task_id) == "queued"

    resumed = pool.cli("node", "resume", node_id, home=master.home)
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert pool.cli("wait", task_id, home=master.home).returncode == 0


def test_a_node_that_is_away_cannot_be_drained(pool: Pool) -> None:
    master = pool.master()
    worker = join(pool, master, "one")
    (node,) = listed(pool, master)
    assert worker.stop() == 0
    policies = master.home / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "pool.toml").write_text('lease_s = "1s"\nheartbeat_s = "0.3s"\n')
    master.process.send_signal(signal.SIGHUP)
    worker = pool.worker(master, home="one")
    worker.kill()
    wait_until(
        "the node is offline",
        lambda: [n["status"] for n in listed(pool, master)] == ["offline"],
    )
    refused = pool.cli("node", "drain", str(node["id"]), home=master.home)
    assert refused.returncode == 1
    assert b"is away" in refused.stderr


def test_what_a_forgotten_node_ran_is_run_elsewhere_and_it_stays_away(pool: Pool) -> None:
    master = pool.master()
    first = join(pool, master, "one")
    submitted = pool.cli("submit", "--", "sh", "-c", "sleep 3; echo ran", home=master.home)
    task_id = submitted.stdout.decode().strip()
    wait_until("it runs", lambda: state_of(pool, master, task_id) == "running")
    (node,) = listed(pool, master)
    join(pool, master, "two")
    forgotten = pool.cli("node", "forget", str(node["id"]), home=master.home)
    assert forgotten.returncode == 0, forgotten.stderr.decode()
    assert str(node["id"]) not in {str(n["id"]) for n in listed(pool, master)}
    assert pool.cli("wait", task_id, home=master.home).returncode == 0
    shown = json.loads(pool.cli("show", task_id, "--json", home=master.home).stdout)
    assert [a["outcome"] for a in shown["attempts"]] == ["lost", "succeeded"]
    wait_until("its worker says why it is not let in", lambda: _is_told(first))
    again = pool.cli("node", "forget", str(node["id"]), home=master.home)
    assert again.returncode == 1
    assert b"no node" in again.stderr


def test_nobody_steers_another_accounts_node(pool: Pool) -> None:
    master = pool.master()
    join(pool, master, "one")
    (node,) = listed(pool, master)
    other = pool.root / "mallory"
    known = {"HIVEMIND_MASTER": master.address}
    for command in ("register", "login"):
        done = pool.cli(
            *("account", command, "mallory", "--password-stdin"),
            home=other,
            stdin=b"a-long-password",
            environment=known,
        )
        assert done.returncode == 0, done.stderr.decode()
    for command in ("drain", "resume", "forget"):
        for named in ("id", "name"):
            refused = pool.cli("node", command, str(node[named]), home=other, environment=known)
            assert refused.returncode == 1
            assert b"not yours" in refused.stderr
    assert [n["draining"] for n in listed(pool, master)] == [False]

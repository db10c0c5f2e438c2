"""kill -9 of anything loses nothing that was acknowledged."""

import json
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.pool import Daemon, Pool, processes_with, wait_until


def submit(pool: Pool, home: Path, number: int, acknowledged: list[str]) -> None:
    """Submit a few, one after the other; note each id that was acknowledged.

    A submit that loses its master half-way tries again by itself, with the same key; one that finds
    none at all says so, and is repeated here.
    """
    submitted = 0
    while submitted < 8:
        done = pool.cli("submit", "--memory", "64M", "--", "echo", str(number), home=home)
        if done.returncode == 0:
            acknowledged.append(done.stdout.decode().strip())
            submitted += 1
        else:
            assert b"no master answers" in done.stderr, done.stderr.decode()
            time.sleep(0.1)


def states(pool: Pool, master: Daemon) -> dict[str, str]:
    listed = json.loads(pool.cli("ps", "--all", "--json", home=master.home).stdout)
    return {task["id"]: task["state"] for task in listed["tasks"]}


async def test_every_task_acknowledged_by_a_killed_master_ends_once(pool: Pool) -> None:
    master = pool.master()
    port = master.address.rpartition(":")[2]
    pool.worker(master, "--join", pool.join_token(master), "--slots", "2")
    acknowledged: list[str] = []
    async with trio.open_nursery() as submitters:
        for number in range(3):
            submitters.start_soon(
                trio.to_thread.run_sync, submit, pool, master.home, number, acknowledged
            )
        for _ in range(3):
            enough = len(acknowledged) + 4
            await trio.to_thread.run_sync(
                wait_until, "tasks were acknowledged", partial(has, acknowledged, enough)
            )
            master.kill()
            master = await trio.to_thread.run_sync(partial(pool.master, listen=f"127.0.0.1:{port}"))
    assert len(set(acknowledged)) == 24
    waited = pool.cli("wait", *acknowledged, home=master.home, within_s=180)
    assert waited.returncode == 0, waited.stderr.decode()
    ended = states(pool, master)
    assert Counter(ended.values()) == {"succeeded": 24}
    assert set(ended) == set(acknowledged)
    for task in acknowledged[::4]:
        assert re.fullmatch(rb"\d\n", pool.cli("logs", task, home=master.home).stdout)


def has(items: list[str], enough: int) -> bool:
    return len(items) >= enough


def test_a_task_whose_worker_was_killed_runs_again_on_its_return(pool: Pool) -> None:
    master = pool.master()
    worker = pool.worker(master, "--join", pool.join_token(master))
    marker = "86413"
    script = f"echo attempt $HIVEMIND_ATTEMPT; test $HIVEMIND_ATTEMPT -gt 1 || sleep {marker}"
    task = pool.cli(
        "submit", "--", "sh", "-c", script, home=master.home
    ).stdout.decode().strip()  # fmt: skip
    wait_until("it runs", lambda: processes_with(f"sleep\0{marker}"))
    worker.kill()
    wait_until("nothing of it is left", lambda: not processes_with(f"sleep\0{marker}"))
    pool.worker(master)
    waited = pool.cli("wait", task, home=master.home)
    assert waited.returncode == 0, waited.stderr.decode()
    shown = json.loads(pool.cli("show", task, "--json", home=master.home).stdout)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["lost", "succeeded"]
    assert pool.cli("logs", task, home=master.home).stdout == b"attempt 2\n"


def test_a_task_that_ran_through_a_masters_death_is_not_run_twice(pool: Pool) -> None:
    master = pool.master()
    port = master.address.rpartition(":")[2]
    pool.worker(master, "--join", pool.join_token(master))
    following = pool.start_cli(
        "run", "--", "sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done",
        home=master.home,
    )  # fmt: skip
    assert following.stdout is not None
    assert following.stdout.readline() == b"line 1\n"
    master.kill()
    pool.master(listen=f"127.0.0.1:{port}")
    rest, errors = following.communicate(timeout=60)
    assert following.returncode == 0, errors.decode()
    assert rest == b"".join(b"line %d\n" % i for i in range(2, 7))
    (task,) = states(pool, pool.daemons[-1])
    shown = json.loads(pool.cli("show", task, "--json", home=master.home).stdout)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]


def test_a_task_whose_worker_never_returns_is_given_to_another(pool: Pool) -> None:
    master_home = pool.root / "master"
    (master_home / "policies").mkdir(parents=True)
    master_home.chmod(0o700)
    (master_home / "policies" / "pool.toml").write_text('lease_s = "3s"\nheartbeat_s = "1s"\n')
    master = pool.master()
    first = pool.worker(master, "--join", pool.join_token(master), home="first")
    marker = "86417"
    task = pool.cli(
        "submit", "--", "sh", "-c", f"test $HIVEMIND_ATTEMPT -gt 1 || sleep {marker}",
        home=master.home,
    ).stdout.decode().strip()  # fmt: skip
    wait_until("it runs", lambda: processes_with(f"sleep\0{marker}"))
    pool.worker(master, "--join", pool.join_token(master), home="second")
    first.kill()
    waited = pool.cli("wait", task, home=master.home)
    assert waited.returncode == 0, waited.stderr.decode()
    shown = json.loads(pool.cli("show", task, "--json", home=master.home).stdout)
    assert shown["crashes"] == 1


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_a_client_that_vanishes_while_it_follows_changes_nothing_for_others(
    pool: Pool, end: str
) -> None:
    up = pool.up()
    task = pool.cli(
        "submit", "--", "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.5; done", home=up.home
    ).stdout.decode().strip()  # fmt: skip
    vanishing = pool.start_cli("logs", "-f", task, home=up.home)
    assert vanishing.stdout is not None
    assert vanishing.stdout.readline() == b"1\n"
    if end == "kill":
        vanishing.kill()
    else:
        vanishing.send_signal(2)
    vanishing.communicate(timeout=30)
    followed = pool.cli("logs", "-f", task, home=up.home)
    assert (followed.returncode, followed.stdout) == (0, b"1\n2\n3\n4\n")
    shown = json.loads(pool.cli("show", task, "--json", home=up.home).stdout)
    assert shown["state"] == "succeeded"

"""Alice's task on bob's node, and who has what afterwards."""

import json
import subprocess
import sys
from pathlib import Path

from tests.pool import Daemon, Pool, clean_environment

PAYER = Path(__file__).with_name("peers") / "payer.py"
CPT = 1_000_000
PRICES = "price_least_cpt = 600\ngrant_cpt = 10_000\n"
"""Ten CPT a second, so that what ran for a second can be seen in whole CPT."""


def master_with_prices(pool: Pool) -> Daemon:
    policies = pool.root / "master" / "policies"
    policies.mkdir(parents=True)
    (policies / "pool.toml").write_text(PRICES)
    return pool.master()


def log_in(pool: Pool, master: Daemon, name: str, home: Path) -> None:
    for verb in ("register", "login"):
        done = pool.cli(
            *("account", verb, name, "--password-stdin"),
            home=home,
            stdin=b"a long password\n",
            environment={"HIVEMIND_MASTER": master.address},
        )
        assert done.returncode == 0, done.stderr.decode()


def test_bobs_node_runs_alices_task_and_both_see_it_in_their_balances(
    pool: Pool, stubs: Path, tmp_path: Path
) -> None:
    master = master_with_prices(pool)
    log_in(pool, master, "bob", tmp_path / "bob")
    token = pool.cli("node", "token", home=tmp_path / "bob").stdout.decode().strip()
    pool.worker(master, "--join", token)
    ran = subprocess.run(
        [sys.executable, str(PAYER), str(stubs), master.address],
        capture_output=True,
        env=clean_environment(),
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    seen = json.loads(ran.stdout)
    assert seen["before"] == {"alice": 10_000, "bob": 10_000}
    assert seen["held"] == [4000 * CPT, 6000 * CPT]
    assert seen["state"] == "TASK_STATE_SUCCEEDED"
    (alice, held), (bob, _) = seen["exact"]["alice"], seen["exact"]["bob"]
    assert held == 0
    assert alice + bob == 20_000 * CPT
    # It slept for 1.2 s, and everything around that takes some time.
    assert 12 * CPT <= bob - 10_000 * CPT <= 600 * CPT
    assert seen["after"] == {"alice": alice // CPT, "bob": bob // CPT}
    assert seen["history"] == [
        ["refund", 6000 * CPT - (bob - 10_000 * CPT), ""],
        ["hold", -6000 * CPT, ""],
        ["grant", 10_000 * CPT, ""],
    ]
    assert seen["earned"] == ["pay", True, 1]
    assert seen["too_dear"] == ["RESOURCE_EXHAUSTED", "2003"]
    assert seen["over_max"] == ["RESOURCE_EXHAUSTED", "2003"]
    assert seen["transfers"] == {
        "good": [True, "", None],
        "once": [True, "", None],
        "again": [True, "", None],
        "nobody": [False, "USER_NOT_FOUND", "1001"],
        "too much": [False, "INSUFFICIENT_RESOURCES", "2003"],
    }
    assert seen["in_the_end"] == {
        "alice": (alice - 12 * CPT) // CPT,
        "bob": (bob + 12 * CPT) // CPT,
    }
    assert seen["refused"] == {
        "nothing": ["INVALID_ARGUMENT", None],
        "less": ["INVALID_ARGUMENT", None],
        "far too much": ["INVALID_ARGUMENT", None],
        "to herself": ["INVALID_ARGUMENT", None],
        "no token": ["UNAUTHENTICATED", "1004"],
        "a bad token": ["UNAUTHENTICATED", "1004"],
        "another's": ["PERMISSION_DENIED", "1001"],
        "metadata wins": ["PERMISSION_DENIED", "1001"],
    }


def test_money_and_what_was_earned_survive_kill_9_of_the_master(pool: Pool, tmp_path: Path) -> None:
    master = master_with_prices(pool)
    log_in(pool, master, "alice", tmp_path / "alice")
    admin_token = pool.join_token(master)
    pool.worker(master, "--join", admin_token)
    submitted = pool.cli(
        *("submit", "--time", "60s", "--", "sh", "-c", "sleep 3"), home=tmp_path / "alice"
    )
    assert submitted.returncode == 0, submitted.stderr.decode()
    task = submitted.stdout.decode().strip()
    master.kill()
    again = pool.master(listen=master.address)
    home = tmp_path / "alice"
    assert pool.cli("wait", task, home=home).returncode == 0

    def balance(of: Path) -> tuple[int, int]:
        done = pool.cli("account", "balance", "--json", home=of)
        found = json.loads(done.stdout)
        return found["balance_ucpt"], found["held_ucpt"]

    alice, admin = balance(home), balance(again.home)
    assert alice[1] == admin[1] == 0
    assert alice[0] + admin[0] == 20_000 * CPT
    # The attempt went on while the master was away, and is paid for like any other: once.
    assert 30 * CPT <= admin[0] - 10_000 * CPT <= 600 * CPT

"""CPT between two accounts: by a grpcio client, by the command line, and for real work."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hivemind.settings.credentials import read_credentials
from tests.pool import COMMAND_S, Daemon, Pool, clean_environment, open_pool_folder, wait_until

CLIENT = Path(__file__).with_name("peers") / "credits_client.py"
CPT = 1_000_000


@attrs.frozen
class Bank:
    """A master, its client, and who is there."""

    pool: Pool
    master: Daemon
    stubs: Path
    tokens: dict[str, str]

    def ask(self, case: str) -> Any:
        """What the client saw."""
        ran = subprocess.run(
            [
                *(sys.executable, str(CLIENT), str(self.stubs), self.master.address),
                *(case, json.dumps(self.tokens)),
            ],
            capture_output=True,
            env=clean_environment(),
            timeout=COMMAND_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return json.loads(ran.stdout)

    def cli(self, who: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """A command of that account's."""
        known = {"HIVEMIND_MASTER": self.master.address, "HIVEMIND_TOKEN": self.tokens[who]}
        return self.pool.cli(*arguments, home=self.pool.root / who, environment=known)

    def ucpt(self, who: str) -> int:
        """What it has, exactly."""
        shown = self.cli(who, "account", "balance", "--json")
        assert shown.returncode == 0, shown.stderr.decode()
        return int(json.loads(shown.stdout)["balance_ucpt"])


def open_bank(pool: Pool, stubs: Path) -> Bank:
    master = pool.master()
    admin = read_credentials(master.home)
    assert admin is not None
    tokens = Bank(pool, master, stubs, {}).ask("enter")
    return Bank(pool, master, stubs, {"admin": admin.token, **tokens})


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, stubs: Path) -> Iterator[Bank]:
    with open_pool_folder(tmp_path_factory.mktemp("bank")) as pool:
        yield open_bank(pool, stubs)


def test_transfers_move_what_there_is_once_and_nothing_else(bank: Bank) -> None:
    seen = bank.ask("transfers")
    assert seen["good"][:2] == [True, None]
    assert seen["again"][:2] == [True, None]
    assert seen["other"][0] in {"ALREADY_EXISTS", "INVALID_ARGUMENT"}
    assert seen["token in the message"]
    assert seen["too much"][:2] == [False, "2003"]
    assert seen["too much"][2].startswith("INSUFFICIENT_RESOURCES: ")
    assert seen["nobody"][:2] == [False, "1001"]
    for case in ("oneself", "nothing", "less than nothing"):
        assert seen[case][0] == "INVALID_ARGUMENT", case
    assert seen["most of all"][0] in {False, "INVALID_ARGUMENT"}
    assert seen["another's"][:2] == ["PERMISSION_DENIED", "1001"]
    assert seen["by an admin"] == 111
    assert seen["of nobody by an admin"][:2] == [False, "1001"]
    assert seen["balances"] == [89, 111]


def test_the_command_line_shows_and_moves_cpt(bank: Bank) -> None:
    before = bank.ucpt("ann"), bank.ucpt("bob")
    moved = bank.cli("bob", "account", "transfer", "ann", "2.5", "--memo", "lunch")
    assert moved.returncode == 0, moved.stderr.decode()
    assert (bank.ucpt("ann"), bank.ucpt("bob")) == (before[0] + 2_500_000, before[1] - 2_500_000)
    entries = json.loads(bank.cli("ann", "account", "history", "--json").stdout)["movements"]
    assert (entries[0]["memo"], entries[-1]["kind"]) == ("lunch", "grant")
    denied = bank.cli("ann", "account", "balance", "bob")
    assert denied.returncode == 1
    assert b"Traceback" not in denied.stderr
    quoted = bank.cli("ann", "run", "--quote", "--time", "2m", "--", "true")
    assert quoted.returncode == 0, quoted.stderr.decode()
    assert b"4 CPT at most" in quoted.stdout + quoted.stderr
    dear = bank.cli("ann", "submit", "--max-cpt", "3", "--time", "2m", "--", "true")
    assert dear.returncode in {1, 125}
    assert b"CPT" in dear.stderr
    assert json.loads(bank.cli("ann", "ps", "--all", "--json").stdout)["tasks"] == []


def test_a_role_and_a_new_key_are_an_admins_to_give(bank: Bank) -> None:
    refused = bank.cli("ann", "account", "role", "ann", "admin")
    assert refused.returncode == 1
    assert b"admin" in refused.stderr
    assert bank.cli("ann", "account", "rotate-keys").returncode == 1
    assert bank.cli("admin", "account", "role", "bob", "admin").returncode == 0
    assert json.loads(bank.cli("bob", "account", "whoami", "--json").stdout)["role"] == "admin"
    assert bank.cli("admin", "account", "role", "bob", "user").returncode == 0
    # Tokens of the old key are believed for the grace, and those of the new one at once.
    assert bank.cli("admin", "account", "rotate-keys", "--grace", "1h").returncode == 0
    assert bank.ucpt("ann") > 0
    assert bank.cli("admin", "account", "rotate-keys", "--grace", "0").returncode == 0
    stale = bank.cli("ann", "account", "balance")
    assert stale.returncode == 1
    assert b"log in" in stale.stderr


@pytest.mark.slow
def test_a_provider_earns_what_ran_and_the_rest_comes_back(pool: Pool, stubs: Path) -> None:
    bank = open_bank(pool, stubs)
    total = sum(map(bank.ucpt, ("ann", "bob", "admin")))
    token = bank.cli("bob", "node", "token").stdout.decode().strip()
    pool.worker(bank.master, "--join", token, home="bobs-node")
    seen = bank.ask("work")
    assert seen["made"][0] is True
    assert seen["held"] == 80
    assert seen["status"] == "COMPLETED"
    assert seen["dear"][:2] == [False, "2003"]
    assert seen["dear is"][1] == "3001"
    earned = bank.ucpt("bob") - 100 * CPT
    # Two seconds and a little at two CPT a minute.
    assert 2 * 2 * CPT // 60 <= earned < 10 * 2 * CPT // 60
    assert bank.ucpt("ann") == 100 * CPT - earned
    assert sum(map(bank.ucpt, ("ann", "bob", "admin"))) == total
    kinds = [
        entry["kind"]
        for entry in json.loads(bank.cli("ann", "account", "history", "--json").stdout)["movements"]
    ]
    assert kinds == ["refund", "hold", "grant"]

    # One's own work on one's own node is free.
    before = bank.ucpt("bob")
    own = bank.cli("bob", "run", "--", "echo", "mine")
    assert (own.returncode, own.stdout) == (0, b"mine\n"), own.stderr.decode()
    assert bank.ucpt("bob") == before

    # What is held survives the master, and is given back once when the task is stopped.
    task = bank.cli("ann", "submit", "--", "sleep", "60").stdout.decode().strip()
    wait_until(
        "it runs",
        lambda: json.loads(bank.cli("ann", "show", task, "--json").stdout)["state"] == "running",
    )
    bank.master.kill()
    again = pool.master(listen=bank.master.address)
    assert again.address == bank.master.address
    assert bank.cli("ann", "stop", task).returncode == 0
    bank.cli("ann", "wait", task)
    assert sum(map(bank.ucpt, ("ann", "bob", "admin"))) == total
    assert bank.ucpt("ann") > 98 * CPT

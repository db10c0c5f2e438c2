"""A master that others can reach calls nothing on its own machine because a stranger says so."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.foreign import RULES, open_peer
from tests.pool import Daemon, Pool, open_pool_folder, wait_until


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("local")) as opened:
        yield opened


def start_master(pool: Pool, home: str, rules: str) -> Daemon:
    policies = pool.root / home / "policies"
    policies.mkdir(parents=True)
    (policies / "pool.toml").write_text(f'registration = "open"\n{RULES}{rules}')
    master = pool.master("--allow-plaintext", home=home, listen="0.0.0.0:0")
    master.address = f"127.0.0.1:{master.address.rpartition(':')[2]}"
    return master


def test_a_stranger_cannot_have_the_master_call_its_own_machine(pool: Pool, stubs: Path) -> None:
    master = start_master(pool, "careful", "")
    with (
        socket.create_server(("127.0.0.1", 0)) as private,
        open_peer(stubs, master) as mallory,
    ):
        mallory.log_in("mallory")
        port = private.getsockname()[1]
        for host in (
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "localhost",
            "A.localhost.",
        ):
            said = mallory.register("spy", port, hostname=host)
            assert said["status"] == "INVALID_ARGUMENT", said
            assert "its own machine" in said["message"]
        # The machine's own name leads here, too, and only the master can tell.
        said = mallory.register("spy", port, hostname=socket.gethostname())
        assert said["success"]
        time.sleep(1.0)
        private.settimeout(0.2)
        with pytest.raises(TimeoutError):
            private.accept()
        told = mallory.call("NodeManagerService/HealthCheck", token="", node_id="spy")
        assert "has not reached it" in told["message"]


def test_an_operator_may_have_nodes_there(pool: Pool, stubs: Path) -> None:
    master = start_master(pool, "open", 'local_nodes = "allow"\n')
    with open_peer(stubs, master) as ann:
        ann.log_in("ann").join("near")
        wait_until("it is online", lambda: ann.status_of("near") == "online")
        end = ann.watch(ann.submit("print('ran')\n", at="near"))
        assert (end["state"], end["output"]) == ("SUCCEEDED", "ran\n")

"""Who may call a worker of a pool directly, and what is shared between callers and the master."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from nacl.signing import SigningKey

from hivemind.client.blocking import BlockingClient
from hivemind.client.errors import ClientError
from hivemind.rpc.errors import ErrorCode
from hivemind.rpc.tokens import MASTER_AUDIENCE, Claims, sign_token
from hivemind.worker.identity import IdentityFolder
from tests.e2e.calling import Caller, local_token, open_caller
from tests.e2e.foreign import open_peer
from tests.e2e.test_direct_worker import LASTING, write_policy
from tests.pool import Daemon, Pool, open_pool_folder, processes_with, wait_until

PASSWORD = "a long password"
NOT_FOUND = str(int(ErrorCode.TASK_NOT_FOUND))
NO_ROOM = str(int(ErrorCode.INSUFFICIENT_RESOURCES))
NO_NODE = str(int(ErrorCode.NODE_NOT_FOUND))
NO_SESSION = str(int(ErrorCode.INVALID_SESSION))


@attrs.frozen(kw_only=True)
class Place:
    """A pool of a master and a worker, which is alice's; bob and mallory have accounts, too."""

    pool: Pool
    master: Daemon
    worker: Daemon
    node: str

    def login(self, name: str) -> str:
        """A new token of the account's, meant for the master."""
        return self.client().login(name, PASSWORD)

    def client(self, token: str | None = None) -> BlockingClient:
        """Of this pool's master."""
        return BlockingClient(self.master.address, token, self.pool.root / "nobody")

    def act(self, token: str, *arguments: str) -> tuple[int, str]:
        """A command with this token; its exit status, and what it said."""
        environment = {"HIVEMIND_MASTER": self.master.address, "HIVEMIND_TOKEN": token}
        done = self.pool.cli(*arguments, home=self.pool.root / "nobody", environment=environment)
        return done.returncode, (done.stdout or done.stderr).decode().strip()

    def node_token(self, owner: str, guest: str = "", *, node: str = "", ttl_s: float = 0) -> str:
        """A token for the node, as its owner gets one."""
        secret = self.client(owner).create_node_token(node or self.node, ttl_s, guest)
        return secret.text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_pool_folder(tmp_path_factory.mktemp("direct-pool")) as pool:
        master = pool.master()
        half = Place(pool=pool, master=master, worker=master, node="")
        for name in ("alice", "bob", "mallory"):
            half.client().register(name, PASSWORD)
        join_token = half.client(half.login("alice")).create_join_token().text
        write_policy(pool.root / "worker", POLICY)
        worker = pool.worker(master, "--slots", "2", "--join", join_token)
        listed = json.loads(pool.cli("nodes", "--json", home=master.home).stdout)["nodes"]
        yield attrs.evolve(half, worker=worker, node=listed[0]["id"])


POLICY = """
accounts = ["alice", "bob", "admin"]
memory = { default = "64M", most = "512M" }
scratch = { default = "64M", most = "512M" }
"""


@pytest.fixture(scope="module")
def alice(place: Place) -> str:
    return place.login("alice")


@pytest.fixture(scope="module")
def caller(place: Place, stubs: Path) -> Iterator[Caller]:
    with open_caller(stubs, place.worker.address) as opened:
        yield opened


def refusal(reply: dict[str, object]) -> tuple[object, object]:
    return reply.get("refused"), reply["code"]


def test_the_listing_tells_where_a_node_can_be_called(place: Place) -> None:
    (node,) = json.loads(place.pool.cli("nodes", "--json", home=place.master.home).stdout)["nodes"]
    assert node["address"] == place.worker.address


def test_a_node_is_named_as_the_listing_names_it(place: Place, alice: str, caller: Caller) -> None:
    (node,) = json.loads(place.pool.cli("nodes", "--json", home=place.master.home).stdout)["nodes"]
    assert node["name"] != node["id"]
    status, token = place.act(alice, "account", "token", "--node", node["name"])
    assert status == 0, token
    assert caller.call("taskworker", "GetSystemInfo", token)["hostname"]
    for stranger in (place.login("bob"), admin_token(place)):
        status, text = place.act(stranger, "account", "token", "--node", node["name"])
        assert (status, text) == (1, f"hivemind: node {node['id']} is not yours")


# -- who may call ------------------------------------------------------------------------------


def test_the_tokens_that_are_meant_for_a_node_open_it(
    place: Place, alice: str, caller: Caller
) -> None:
    """One of the pool's for this node, its owner's own, and the one in its home."""
    good = {
        "minted": place.node_token(alice),
        "owner": alice,
        "local": local_token(place.worker),
        "guest": place.node_token(alice, "bob"),
    }
    for name, token in good.items():
        assert caller.execute(f"by-{name}", b"print('ran')", token=token)["success"], name
        caller.token = token
        assert caller.until(f"by-{name}", "COMPLETED")["output"] == ["ran"]
        assert caller.call("taskworker", "GetSystemInfo")["hostname"]


def test_fault_12_execute_task_runs_nobodys_code_but_whom_its_owner_lets_in(
    place: Place, alice: str, caller: Caller
) -> None:
    marker = f"fault-12-{os.getpid()}"
    script = f"#!/bin/sh\nsh -c 'sleep 600; :' {marker}\n".encode()
    elsewhere = Claims(
        subject="alice",
        role="admin",
        kind="direct",
        audience=place.node,
        token_id="node/x.1",
        issued_at=time.time(),
        expires_at=time.time() + 600,
    )
    forger = SigningKey.generate()
    refused = {
        "none": "",
        "garbage": "Bearer of bad news",
        "a stranger's account": place.login("mallory"),
        "a guest's account": place.login("bob"),
        "the admin's account": admin_token(place),
        "forged for the node": sign_token(elsewhere, forger),
        "forged for the master": sign_token(
            attrs.evolve(elsewhere, kind="account", audience=MASTER_AUDIENCE), forger
        ),
        "of no algorithm": unsigned(alice),
        "altered": altered(place.node_token(alice)),
    }
    for name, token in refused.items():
        for reply in (
            caller.push("code", script, token or ""),
            caller.execute("code", script, "shell", token or ""),
        ):
            assert refusal(reply) == ("UNAUTHENTICATED", NO_SESSION), name
    assert processes_with(marker) == []


def admin_token(place: Place) -> str:
    text = (place.master.home / "credentials.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("token"))
    return line.partition('"')[2].rstrip('"')


def unsigned(token: str) -> str:
    """The same claims under a header that says that nobody need sign them."""
    _, body, _ = token.split(".")
    return f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}."


def altered(token: str) -> str:
    """One letter of the claims is another."""
    header, body, signature = token.split(".")
    return f"{header}.{body[:20]}{'A' if body[20] != 'A' else 'B'}{body[21:]}.{signature}"


def test_whom_the_policy_names_not_is_told_so(place: Place, alice: str, caller: Caller) -> None:
    token = place.node_token(alice, "mallory")
    for reply in (
        caller.push("m", b"print(1)", token),
        caller.execute("m", b"print(1)", token=token),
        caller.call("taskworker", "GetSystemInfo", token),
    ):
        assert refusal(reply) == ("PERMISSION_DENIED", NO_NODE)
        assert "accounts" in reply["text"]


def test_a_token_for_a_node_opens_neither_the_master_nor_another_node(
    place: Place, alice: str, stubs: Path
) -> None:
    join_token = place.client(alice).create_join_token().text
    second = place.pool.worker(place.master, "--join", join_token, home="second")
    listed = json.loads(place.pool.cli("nodes", "--json", home=place.master.home).stdout)["nodes"]
    other = next(node["id"] for node in listed if node["address"] == second.address)
    token = place.node_token(alice)
    with pytest.raises(ClientError, match="another server"):
        place.client(token).whoami()
    with open_caller(stubs, second.address) as there:
        assert refusal(there.push("x", b"print(1)", token)) == ("UNAUTHENTICATED", NO_SESSION)
        assert there.push("x", b"print(1)", place.node_token(alice, node=other))["success"]
        assert refusal(there.push("y", b"print(1)", local_token(place.worker))) == (
            "UNAUTHENTICATED",
            NO_SESSION,
        )
    assert second.stop() == 0


def test_only_a_nodes_owner_gets_tokens_for_it(place: Place, alice: str, caller: Caller) -> None:
    status, text = place.act(alice, "account", "token", "--node", place.node, "--ttl", "1m")
    assert status == 0
    assert caller.call("taskworker", "GetSystemInfo", text)["hostname"]
    for token in (place.login("bob"), admin_token(place)):
        with pytest.raises(ClientError, match=rf"node {place.node} is not yours"):
            place.node_token(token)
    with pytest.raises(ClientError, match="no node 'no-such-node'"):
        place.node_token(alice, node="no-such-node")
    with pytest.raises(ClientError, match="no account 'no-such-account'"):
        place.node_token(alice, "no-such-account")
    for ttl_s in (-1, 31 * 86400, float("nan")):
        with pytest.raises(ClientError, match="30 days"):
            place.node_token(alice, ttl_s=ttl_s)


def test_a_node_that_was_forgotten_is_not_to_be_had_by_registering_its_id(
    place: Place, alice: str, stubs: Path
) -> None:
    join_token = place.client(alice).create_join_token().text
    worker = place.pool.worker(place.master, "--slots", "1", "--join", join_token, home="forgotten")
    membership = IdentityFolder(worker.home / "worker").load_membership()
    assert membership is not None
    assert place.act(alice, "node", "forget", membership.node_id)[0] == 0
    mallory = place.login("mallory")
    with open_peer(stubs, place.master) as peer:
        peer.token = mallory
        said = peer.register(membership.node_id, 1)
    assert said["status"] == "INVALID_ARGUMENT", said
    with pytest.raises(ClientError, match="no node"):
        place.node_token(mallory, node=membership.node_id)
    assert worker.stop() == 0


def test_a_token_opens_nothing_once_it_has_expired(
    place: Place, alice: str, caller: Caller
) -> None:
    token = place.node_token(alice, ttl_s=2)
    assert caller.call("taskworker", "GetSystemInfo", token)["hostname"]
    time.sleep(2.2)
    late = caller.call("taskworker", "GetSystemInfo", token)
    assert refusal(late) == ("UNAUTHENTICATED", NO_SESSION)
    assert "expired" in late["text"]


def test_a_revoked_token_opens_nothing_once_the_node_has_heard(
    place: Place, alice: str, caller: Caller
) -> None:
    minted, guests = place.node_token(alice), place.node_token(alice, "bob")
    owners = place.login("alice")
    untouched = place.node_token(alice)
    with pytest.raises(ClientError, match="another account's"):
        place.client(place.login("bob")).revoke_token(minted)
    revoked = place.pool.cli(
        *("account", "revoke", "-"),
        home=place.pool.root / "nobody",
        stdin=f"{minted}\n".encode(),
        environment={"HIVEMIND_MASTER": place.master.address, "HIVEMIND_TOKEN": alice},
    )
    assert revoked.returncode == 0, revoked.stderr.decode()
    place.client(alice).revoke_token(guests)
    place.client(owners).logout()

    def is_shut(token: str) -> bool:
        reply = caller.call("taskworker", "GetSystemInfo", token)
        return refusal(reply) == ("UNAUTHENTICATED", NO_SESSION) and "revoked" in reply["text"]

    # The next heartbeat brings it.
    for token in (minted, guests, owners):
        wait_until("the token is shut out", lambda token=token: is_shut(token), within_s=10)
    assert caller.call("taskworker", "GetSystemInfo", untouched)["hostname"]
    kept = json.loads((place.worker.home / "worker" / "keyring.json").read_text())
    assert len(kept["revoked"]) >= 3


# -- whose tasks -------------------------------------------------------------------------------


def test_tasks_are_seen_and_stopped_by_whoever_started_them_and_by_the_owner(
    place: Place, alice: str, caller: Caller
) -> None:
    bob = place.node_token(alice, "bob")
    caller.token = alice
    assert caller.execute("alices", LASTING)["success"]
    caller.until("alices", "RUNNING", printed="up")
    calls = [
        ("nodepool", "StopTaskExecution"),
        ("nodepool", "ReportOutput"),
        ("nodepool", "ReportRunningStatus"),
        ("taskworker", "GetTaskStatus"),
        ("taskworker", "CancelTask"),
    ]
    for service, method in calls:
        reply = caller.call(service, method, bob, task_id="alices")
        assert refusal(reply) == ("PERMISSION_DENIED", NOT_FOUND), method
        assert "up" not in str(reply)
    assert caller.status("alices")["status"] == "RUNNING"

    # An id is its account's own.
    assert caller.execute("alices", b"print('another')", token=bob)["success"]
    wait_until("bob's has ended", lambda: caller.status("alices", bob)["status"] == "COMPLETED")
    assert caller.status("alices", bob)["output"] == ["another"]
    assert caller.status("alices")["output"] == ["up"]
    assert caller.call("taskworker", "CancelTask", task_id="alices")["success"]

    assert caller.execute("bobs", LASTING, token=bob)["success"]
    assert caller.call("taskworker", "CancelTask", task_id="bobs")["success"]
    seen = caller.status("bobs", bob)
    assert (seen["status"], seen["message"]) == ("STOPPED", "stopped by alice")


def test_room_is_shared_with_the_masters_tasks(place: Place, alice: str, caller: Caller) -> None:
    caller.token = alice
    environment = {"HIVEMIND_MASTER": place.master.address, "HIVEMIND_TOKEN": alice}
    running = place.pool.start_cli(
        *("run", "--", "sh", "-c", "echo up; sleep 600"),
        home=place.pool.root / "nobody",
        environment=environment,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    assert caller.execute("beside", LASTING)["success"]
    refused = caller.execute("too-much", b"print(1)")
    assert (refused["success"], refused["code"]) == (False, NO_ROOM)
    assert "2 of 2 slots" in refused["message"]

    # What the master sends meanwhile waits, until there is room.
    waiting = place.pool.start_cli(
        *("run", "--", "echo", "ran"), home=place.pool.root / "nobody", environment=environment
    )
    wait_until("it was refused for now", lambda: "busy" in place.worker.log.read_text())
    assert waiting.poll() is None
    assert caller.call("taskworker", "CancelTask", task_id="beside")["success"]
    out, _ = waiting.communicate(timeout=60)
    assert out == b"ran\n"
    running.terminate()
    running.communicate(timeout=60)


def test_a_new_signing_key_counts_at_the_node_with_the_next_heartbeat(
    place: Place, caller: Caller
) -> None:
    """Last of those that use alice's first token, which no new key has signed."""
    before = place.node_token(place.login("alice"))
    assert caller.call("taskworker", "GetSystemInfo", before)["hostname"]
    place.client(admin_token(place)).rotate_keys(0)
    after = place.node_token(place.login("alice"))

    def is_shut(token: str) -> bool:
        reply = caller.call("taskworker", "GetSystemInfo", token)
        return refusal(reply) == ("UNAUTHENTICATED", NO_SESSION)

    wait_until("the old key's token is shut out", lambda: is_shut(before), within_s=20)
    assert caller.call("taskworker", "GetSystemInfo", after)["hostname"]


# -- while the master is away ------------------------------------------------------------------


def test_a_worker_checks_tokens_while_its_master_is_away_even_after_a_restart(
    pool: Pool, stubs: Path
) -> None:
    up_master = pool.master()
    worker = pool.worker(up_master, "--join", pool.join_token(up_master))
    listed = json.loads(pool.cli("nodes", "--json", home=up_master.home).stdout)["nodes"]
    minted, shut = (
        pool.cli("account", "token", "--node", listed[0]["id"], home=up_master.home)
        .stdout.decode()
        .strip()
        for _ in range(2)
    )
    assert pool.cli("account", "revoke", shut, home=up_master.home).returncode == 0
    keyring = worker.home / "worker" / "keyring.json"
    wait_until("it has heard", lambda: keyring.exists() and '"node/' in keyring.read_text())
    up_master.kill()
    with open_caller(stubs, worker.address, minted) as caller:
        assert caller.run("away", b"print('ran')")["output"] == ["ran"]
        assert refusal(caller.status("away", shut)) == ("UNAUTHENTICATED", NO_SESSION)
    worker.kill()

    # It is not ready before its master is back, and serves its callers all the same.
    address = worker.home / "worker" / "address"
    address.unlink(missing_ok=True)
    again = pool.start_cli(
        *("worker", "--master", up_master.address, "--home", str(worker.home)),
        *("--limits", worker.arguments[worker.arguments.index("--limits") + 1]),
        home=worker.home,
    )
    try:
        wait_until("it listens", address.exists)
        with open_caller(stubs, address.read_text().strip(), minted) as caller:
            assert caller.run("away", b"print('ran')")["output"] == ["ran"]
            assert refusal(caller.status("away", shut)) == ("UNAUTHENTICATED", NO_SESSION)
    finally:
        again.kill()
        again.communicate()

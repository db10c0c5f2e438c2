"""Workers that speak the public API alone, each a real grpcio program in a process of its own."""

import base64
import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.foreign import RULES, Peer, open_peer
from tests.pool import Daemon, Pool, open_pool_folder, wait_until

HELLO = "print('hello')\nprint('again')\n"
SLEEP = """
import os, time
print('begun', flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.1)
"""
NOT_YOURS = ("PERMISSION_DENIED", "3001")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("foreign")) as opened:
        yield opened


@pytest.fixture(scope="module")
def master(shared: Pool) -> Daemon:
    """One master for all of these tests; each has nodes and locations of its own."""
    return start_master(shared, "master")


def start_master(pool: Pool, home: str, listen: str = "127.0.0.1:0") -> Daemon:
    policies = pool.root / home / "policies"
    policies.mkdir(parents=True, exist_ok=True)
    (policies / "pool.toml").write_text(RULES)
    return pool.master(home=home, listen=listen)


@pytest.fixture(scope="module")
def client(master: Daemon, stubs: Path) -> Iterator[Peer]:
    """Somebody who submits and owns no node."""
    with open_peer(stubs, master) as peer:
        yield peer.log_in("carol")


@pytest.fixture(scope="module")
def owner(master: Daemon, stubs: Path) -> Iterator[Peer]:
    """The process of somebody who owns nodes; those of all these tests are in it."""
    with open_peer(stubs, master) as peer:
        yield peer.log_in("ann")


@pytest.fixture
def worker(owner: Peer) -> Peer:
    """The same, with nothing seen yet."""
    owner.events.clear()
    return owner


def test_a_foreign_worker_runs_a_task_of_the_command_line(
    shared: Pool, master: Daemon, client: Peer, worker: Peer, tmp_path: Path
) -> None:
    worker.join("cli")
    script = tmp_path / "hello.py"
    script.write_text(HELLO)
    ran = shared.cli("run", str(script), home=master.home)
    assert (ran.returncode, ran.stdout) == (0, b"hello\nagain\n"), ran.stderr.decode()
    listed = json.loads(shared.cli("ps", "--all", "--json", home=master.home).stdout)
    (task,) = listed["tasks"]
    assert (task["state"], task["unconfirmed"]) == ("succeeded", False)
    nodes = json.loads(shared.cli("nodes", "--json", home=master.home).stdout)["nodes"]
    (node,) = [node for node in nodes if node["id"] == "cli"]
    assert (node["status"], node["sandbox"], node["reserved"]["cpu_millis"]) == (
        *("online", "enabled"),
        0,
    )
    out = tmp_path / "result"
    assert shared.cli("result", task["id"], "-o", str(out), home=master.home).returncode == 0
    assert (out / "result.bin").read_bytes() == b"\x00raw result\xff"
    assert worker.call("NodeManagerService/ReportStatus", node_id="cli", status="offline")[
        "success"
    ]


def test_what_it_reports_is_kept_and_its_result_comes_as_it_was_stored(
    client: Peer, worker: Peer
) -> None:
    worker.join("good")
    task = client.submit(HELLO, at="good")
    end = client.watch(task)
    assert (end["state"], end["output"]) == ("SUCCEEDED", "hello\nagain\n")
    executed = worker.event("execute", node_id="good")
    assert executed["task_id"] == f"{task}.1"
    (attempt,) = client.get(task)["attempts"]
    assert (attempt["nodeId"], attempt["outcome"], attempt["rawResult"]) == (
        *("good", "succeeded"),
        True,
    )
    packed = client.ask("download", token=client.token, task_id=task)["zip"]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:
        assert archive.read("output/result.bin") == b"\x00raw result\xff"
        assert archive.read("stdout.txt") == b"hello\nagain\n"


def test_the_token_that_the_master_shows_opens_nothing_at_the_master(
    client: Peer, worker: Peer
) -> None:
    worker.join("nosy")
    client.watch(client.submit(HELLO, at="nosy"))
    shown = worker.event("execute", node_id="nosy")["token"]
    body = json.loads(base64.urlsafe_b64decode(shown.split(".")[1] + "=="))
    assert body["aud"] == "nosy"
    for method, request in (
        ("NodeManagerService/GetNodeList", {}),
        ("MasterNodeService/StoreOutput", {"task_id": "x"}),
        ("NodeManagerService/ReportStatus", {"node_id": "nosy", "status": "online"}),
    ):
        refused = worker.call(method, token=shown, **request)
        assert (refused["status"], refused["code"]) == ("UNAUTHENTICATED", "1004"), method
    named = worker.register("hivemind-master", 1)
    assert named["status"] == "INVALID_ARGUMENT"


def test_a_worker_that_is_done_before_it_answers_is_as_good(client: Peer, worker: Peer) -> None:
    # It has one thread, and that is busy: its gRPC alone answers whether it is there.
    worker.join("blocking", mode="blocking", threads=1)
    script = "import time\nprint('begun', flush=True)\ntime.sleep(2.8)\nprint('done')\n"
    end = client.watch(client.submit(script, at="blocking"))
    # That took longer than the time for an answer, and than the lease.
    assert (end["state"], end["attempt"], end["output"]) == ("SUCCEEDED", 1, "begun\ndone\n")


def test_what_is_too_large_for_a_workers_grpc_runs_on_another(client: Peer, worker: Peer) -> None:
    worker.join("small", is_small=True, location="sizes")
    wait_until("it is online", lambda: client.status_of("small") == "online")
    client.watch(client.submit(HELLO, at="sizes"))
    task = client.submit(HELLO, at="sizes", filler=6 * 1024 * 1024)
    wait_until("it is refused", lambda: "outcome" in client.get(task)["attempts"][0])
    worker.join("wide", location="sizes")
    assert client.watch(task)["state"] == "SUCCEEDED"
    outcomes = {attempt["nodeId"]: attempt["outcome"] for attempt in client.get(task)["attempts"]}
    assert outcomes == {"small": "refused", "wide": "succeeded"}


def test_what_needs_more_than_its_bytes_is_not_given_to_a_foreign_worker(
    client: Peer, worker: Peer
) -> None:
    worker.join("plain")
    task = client.submit(HELLO, at="plain", argv=["argument"])
    wait_until("it is online", lambda: worker.status_of("plain") == "online")
    client.watch(client.submit(HELLO, at="plain"))
    assert client.get(task)["state"] == "QUEUED"
    said = client.call("v1/Tasks/Explain", task_id=task)
    assert "told a program's bytes alone" in said["headline"], said
    client.ask("stop", token=client.token, task_id=task)


def test_a_task_of_a_hundred_megabytes_is_pushed_and_not_held_in_memory(
    master: Daemon, client: Peer, worker: Peer
) -> None:
    worker.join("large")
    wait_until("it is online", lambda: "large" in worker.nodes())
    before = master.rss_bytes()
    master.reset_peak()
    task = client.submit("print('ok')\n", at="large", filler=95 * 1024 * 1024)
    executed = worker.event("execute", node_id="large")
    assert executed["size"] > 95 * 1024 * 1024
    assert executed["task_id"] == f"{task}.1"
    assert master.peak_rss_bytes() - before < 48 * 1024 * 1024
    client.ask("stop", token=client.token, task_id=task)
    client.watch(task)


# --- the faults of the earlier implementation ---


def test_fault_3_losing_a_nodes_task_does_not_refresh_its_heartbeat(
    master: Daemon, client: Peer, stubs: Path
) -> None:
    with open_peer(stubs, master) as doomed:
        doomed.log_in("ann").join("doomed", mode="good")
        task = client.submit(SLEEP, at="doomed")
        doomed.event("execute")
        wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
        doomed.process.kill()
        died_at = time.time()
    wait_until("it is late", lambda: client.status_of("doomed") == "late")
    wait_until("it is lost", lambda: client.get(task)["state"] == "QUEUED")
    heard_at = client.nodes()["doomed"]["last_heartbeat"]
    assert heard_at <= died_at + 0.5
    assert client.status_of("doomed") == "offline"
    time.sleep(0.5)
    assert client.nodes()["doomed"]["last_heartbeat"] == pytest.approx(heard_at, abs=0.05)
    client.ask("stop", token=client.token, task_id=task)


def test_fault_4_neither_a_stop_nor_a_lost_node_leaks_what_was_reserved(
    shared: Pool, master: Daemon, client: Peer, worker: Peer, stubs: Path
) -> None:
    def reserved(node_id: str) -> int:
        listed = json.loads(shared.cli("nodes", "--json", home=master.home).stdout)["nodes"]
        (node,) = [node for node in listed if node["id"] == node_id]
        return int(node["reserved"]["cpu_millis"]) + int(node["running"])

    worker.join("tidy", cpu_cores=1)
    for _ in range(2):
        task = client.submit(SLEEP, at="tidy")
        wait_until("it runs", lambda t=task: client.get(t)["state"] == "RUNNING")
        client.ask("stop", token=client.token, task_id=task)
        assert client.watch(task)["state"] == "STOPPED"
    assert reserved("tidy") == 0
    with open_peer(stubs, master) as doomed:
        doomed.log_in("ann").join("gone", cpu_cores=1)
        task = client.submit(SLEEP, at="gone")
        wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
    wait_until("it is lost", lambda: client.get(task)["state"] == "QUEUED")
    worker.join("gone", cpu_cores=1)
    wait_until("it runs again", lambda: client.get(task)["attempt"] == 2)
    client.ask("stop", token=client.token, task_id=task)
    client.watch(task)
    assert reserved("gone") == 0


def test_fault_6_a_list_of_nodes_is_ordered_and_never_cut(worker: Peer) -> None:
    ids = [f"many-{number:03}" for number in range(120)]
    for node_id in ids:
        assert worker.register(node_id, 9, hostname="192.0.2.1", location="")["success"]
    listed = list(worker.nodes())
    assert [node_id for node_id in listed if node_id in set(ids)] == ids
    assert listed == sorted(listed)
    for node_id in ids:
        worker.call("NodeManagerService/ReportStatus", node_id=node_id, status="offline")


def test_fault_7_a_node_that_takes_connections_and_says_nothing_delays_nobody(
    client: Peer, worker: Peer
) -> None:
    worker.join("stuck", mode="hanging", location="both")
    worker.join("mute", mode="mute", location="both")
    worker.join("quick", mode="good", location="both")
    wait_until("it is online", lambda: client.status_of("quick") == "online")
    begun = time.monotonic()
    tasks = [client.submit(HELLO, at="both") for _ in range(8)]
    ends = [client.watch(task) for task in tasks]
    assert {end["state"] for end in ends} == {"SUCCEEDED"}
    # Those that the mute one was given first cost the time for an answer, once.
    assert time.monotonic() - begun < 15
    for node in ("stuck", "mute", "quick"):
        worker.call("NodeManagerService/ReportStatus", node_id=node, status="offline")


def test_fault_9_a_health_check_says_how_the_node_really_is(client: Peer, worker: Peer) -> None:
    assert client.call("NodeManagerService/HealthCheck", token="", node_id="nobody") | {
        "message": ""
    } == {"status": "unknown", "code": "2001", "message": ""}
    worker.join("healthy")
    assert client.status_of("healthy") == "online"
    worker.ask("close", node_id="healthy")
    wait_until("it is late", lambda: client.status_of("healthy") == "late")
    wait_until("it is offline", lambda: client.status_of("healthy") == "offline")
    said = client.call("NodeManagerService/HealthCheck", token="", node_id="healthy")
    assert said["message"].startswith("heard "), said
    # Nobody answers at its port, and yet it reports.
    worker.call("NodeManagerService/ReportStatus", node_id="healthy", status="busy")
    assert client.status_of("healthy") == "online"


def test_fault_13_a_task_of_a_lost_node_runs_elsewhere(
    master: Daemon, client: Peer, worker: Peer, stubs: Path
) -> None:
    with open_peer(stubs, master) as doomed:
        doomed.log_in("ann").join("first", location="pair")
        task = client.submit("import time\nprint('ran', flush=True)\ntime.sleep(0.5)\n", at="pair")
        wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
        worker.join("second", location="pair")
    end = client.watch(task)
    assert (end["state"], end["attempt"]) == ("SUCCEEDED", 2)
    outcomes = [attempt["outcome"] for attempt in client.get(task)["attempts"]]
    assert outcomes == ["lost", "succeeded"]


def test_a_worker_that_was_restarted_at_its_address_does_not_keep_what_it_forgot(
    client: Peer, worker: Peer
) -> None:
    port = worker.join("forgetful", mode="silent")
    task = client.submit(HELLO, at="forgetful")
    worker.event("execute", node_id="forgetful")
    wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
    worker.ask("close", node_id="forgetful")
    worker.ask("serve", mode="good", node_id="forgetful", token=worker.token, port=port)
    assert worker.register("forgetful", port)["success"]
    end = client.watch(task)
    assert (end["state"], end["attempt"], end["output"]) == ("SUCCEEDED", 2, "hello\nagain\n")


# --- nodes that do not behave ---


@pytest.mark.parametrize("mode", ["refusing", "aborting", "dying", "mute"])
def test_a_task_that_a_node_does_not_take_runs_on_another(
    master: Daemon, client: Peer, worker: Peer, stubs: Path, mode: str
) -> None:
    with open_peer(stubs, master) as bad:
        bad.log_in("ann").join(f"bad-{mode}", mode=mode, location=mode)
        wait_until("it is there", lambda: client.status_of(f"bad-{mode}") == "online")
        task = client.submit(HELLO, at=mode)
        bad.event("execute") if mode != "dying" else None
        worker.join(f"good-{mode}", location=mode)
        end = client.watch(task)
        assert (end["state"], end["output"], end["crashes"]) == ("SUCCEEDED", "hello\nagain\n", 0)
        if mode == "mute":
            # It may run there all the same, so it is told to stop.
            assert bad.event("stop")["task_id"] == f"{task}.1"


def test_a_slow_answer_is_waited_for(client: Peer, worker: Peer) -> None:
    worker.join("slow", mode="slow")
    end = client.watch(client.submit(HELLO, at="slow"))
    assert (end["state"], end["attempt"]) == ("SUCCEEDED", 1)


def test_a_stop_that_the_node_shows_is_confirmed(client: Peer, worker: Peer) -> None:
    worker.join("stopping")
    task = client.submit(SLEEP, at="stopping")
    wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
    client.ask("stop", token=client.token, task_id=task)
    end = client.watch(task)
    assert (end["state"], end["unconfirmed"]) == ("STOPPED", False)


def test_a_stop_that_the_node_cannot_show_is_listed_as_unconfirmed(
    shared: Pool, master: Daemon, client: Peer, worker: Peer
) -> None:
    worker.join("deaf", mode="deaf")
    task = client.submit(SLEEP, at="deaf")
    wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
    begun = time.monotonic()
    client.ask("stop", token=client.token, task_id=task)
    end = client.watch(task)
    assert (end["state"], end["unconfirmed"]) == ("STOPPED", True)
    assert time.monotonic() - begun < 10
    shown = client.get(task)["attempts"][0]
    assert (shown["outcome"], shown["unconfirmed"]) == ("lost", True)
    listed = json.loads(shared.cli("nodes", "--json", home=master.home).stdout)["nodes"]
    assert [node["unconfirmed"] for node in listed if node["id"] == "deaf"] == [1]
    table = shared.cli("show", task, "--json", home=master.home)
    assert json.loads(table.stdout)["unconfirmed"] is True
    # It answers the next question, so that it is given work again.
    worker.ask("mode", node_id="deaf", mode="good")
    assert client.watch(client.submit(HELLO, at="deaf"))["state"] == "SUCCEEDED"


def test_a_time_limit_holds_on_a_node_that_does_not_know_it(client: Peer, worker: Peer) -> None:
    worker.join("endless")
    end = client.watch(client.submit(SLEEP, at="endless", ask={"wall_s": 0.5}))
    assert (end["state"], end["reason"]) == ("TIMED_OUT", "time_limit")
    executed = worker.event("execute", node_id="endless")["task_id"]
    assert worker.event("stop", node_id="endless")["task_id"] == executed


def test_too_much_output_ends_the_attempt(client: Peer, worker: Peer) -> None:
    worker.join("flood")
    script = "import time\nwhile True:\n    print('x' * 900, flush=True)\n"
    end = client.watch(client.submit(script, at="flood", ask={"output_bytes": 20_000}))
    assert (end["state"], end["reason"]) == ("FAILED", "output_limit")
    assert len(end["output"]) <= 20_000
    worker.event("stop", node_id="flood")


# --- lies ---


@pytest.fixture
def taken(client: Peer, worker: Peer) -> tuple[str, str]:
    """A task that a node has and says nothing about, and the node."""
    node_id = f"silent-{time.monotonic_ns()}"
    worker.join(node_id, mode="silent")
    task = client.submit(HELLO, at=node_id, client_id=f"mine-{node_id}")
    worker.event("execute", node_id=node_id)
    wait_until("it runs", lambda: client.get(task)["state"] == "RUNNING")
    return task, node_id


def test_only_the_owner_of_the_node_reports_on_what_that_node_was_given(
    master: Daemon, client: Peer, worker: Peer, taken: tuple[str, str], stubs: Path
) -> None:
    task, node_id = taken
    with open_peer(stubs, master) as mallory:
        mallory.log_in("mallory").join("hers")
        for name in (f"{task}.1", task, f"mine-{node_id}"):
            for method, request in (
                ("StoreOutput", {"output": "forged"}),
                ("StoreLogs", {"logs": "forged", "node_id": node_id}),
                ("StoreResult", {"result_data": "Zm9yZ2Vk"}),
                ("ReturnTaskResult", {"result_data": "Zm9yZ2Vk"}),
                ("TaskCompleted", {"success": True, "node_id": "hers"}),
                ("TaskCompleted", {"success": True, "node_id": node_id}),
            ):
                said = mallory.call(f"MasterNodeService/{method}", task_id=name, **request)
                assert (said["status"], said["code"]) == NOT_YOURS, (name, method)
        stolen = mallory.register(node_id, 1)
        assert (stolen["status"], stolen["code"]) == ("PERMISSION_DENIED", "2001")
        status = mallory.call("NodeManagerService/ReportStatus", node_id=node_id, status="offline")
        assert (status["status"], status["code"]) == ("PERMISSION_DENIED", "2001")
    # The submitter is no node, and another node of the same owner was not given it.
    assert (
        client.call("MasterNodeService/TaskCompleted", task_id=f"{task}.1", success=True)["code"]
        == "3001"
    )
    worker.join(f"other-{node_id}", mode="silent")
    said = worker.call(
        "MasterNodeService/TaskCompleted", task_id=f"{task}.1", node_id=f"other-{node_id}"
    )
    assert (said["status"], said["code"]) == NOT_YOURS
    never = worker.call("MasterNodeService/StoreResult", task_id=f"{task}.2", result_data="eA==")
    assert (never["status"], never["code"]) == NOT_YOURS
    assert client.get(task)["state"] == "RUNNING"
    assert worker.call("MasterNodeService/TaskCompleted", task_id=f"mine-{node_id}", success=True)[
        "success"
    ]
    assert client.watch(task)["output"] == ""


def test_the_first_word_on_an_attempts_end_counts(
    client: Peer, worker: Peer, taken: tuple[str, str]
) -> None:
    task, node_id = taken
    done = {"task_id": f"{task}.1", "node_id": node_id}
    first = worker.call("MasterNodeService/TaskCompleted", **done, success=True)
    again = worker.call("MasterNodeService/TaskCompleted", **done, success=True)
    assert first == again
    assert first["success"]
    otherwise = worker.call("MasterNodeService/TaskCompleted", **done, success=False)
    assert (otherwise["status"], otherwise["success"]) == ("OK", False)
    assert otherwise["message"] == "the attempt succeeded before, and that stands"
    late = worker.call("MasterNodeService/StoreOutput", task_id=f"{task}.1", output="late")
    assert late["success"]
    end = client.watch(task)
    assert (end["state"], end["output"]) == ("SUCCEEDED", "")


def test_reports_with_a_number_are_taken_once(
    client: Peer, worker: Peer, taken: tuple[str, str]
) -> None:
    task, node_id = taken
    one = {"task_id": f"{task}.1", "output": "one\n", "sequence": 1}
    two = {"task_id": f"{task}.1", "output": "two", "sequence": 2, "node_id": node_id}
    bare = {"task_id": f"{task}.1", "output": "!"}
    for method, report in (
        ("MasterNodeService/StoreOutput", one),
        ("MasterNodeService/StoreOutput", one),
        ("WorkerNodeService/ReportOutput", two),
        ("MasterNodeService/StoreOutput", one),
        ("WorkerNodeService/ReportOutput", two),
        ("MasterNodeService/StoreOutput", bare),
        ("MasterNodeService/StoreOutput", bare),
    ):
        assert worker.call(method, **report)["success"]
    worker.call("MasterNodeService/TaskCompleted", task_id=f"{task}.1", success=True)
    assert client.watch(task)["output"] == "one\ntwo!!"


def test_gauges_are_per_cent_and_a_result_is_no_larger_than_it_may_be(
    client: Peer, worker: Peer, taken: tuple[str, str]
) -> None:
    task, node_id = taken
    running = {"task_id": f"{task}.1", "node_id": node_id}
    good = worker.call("WorkerNodeService/ReportRunningStatus", **running, cpu_usage=100)
    assert (good["success"], good["cpt_reward"]) == (True, "0")
    for gauge in ("cpu_usage", "memory_usage", "gpu_usage", "gpu_memory_usage"):
        for value in (-1, 101):
            bad = worker.call("WorkerNodeService/ReportRunningStatus", **running, **{gauge: value})
            assert bad["status"] == "INVALID_ARGUMENT"
    large = worker.call("MasterNodeService/StoreResult", task_id=f"{task}.1", zeros=100_000_000)
    assert large["success"], large
    more = worker.call("MasterNodeService/StoreResult", task_id=f"{task}.1", zeros=100_000_001)
    assert more["status"] == "RESOURCE_EXHAUSTED"
    worker.call("MasterNodeService/TaskCompleted", task_id=f"{task}.1", success=True)
    (attempt,) = client.get(task)["attempts"]
    assert attempt["resultBytes"] == "100000000"


def test_a_batch_answers_each_report_by_itself(
    client: Peer, worker: Peer, taken: tuple[str, str]
) -> None:
    task, node_id = taken
    mine = f"{task}.1"
    outputs = [
        {"output": {"task_id": mine, "output": f"{number}\n", "sequence": number}}
        for number in range(1, 901)
    ]
    said = worker.call(
        "v1/Reports/ReportBatch",
        reports=[
            *outputs,
            {"running": {"task_id": mine, "node_id": node_id, "cpu_usage": 400}},
            {"logs": {"task_id": mine, "node_id": node_id, "logs": "a log"}},
            {"completed": {"task_id": "somebody-elses", "success": True}},
            {"status": {"node_id": node_id, "status": "online"}},
            {"result": {"task_id": mine, "result_data": "cmVzdWx0"}},
            {"completed": {"task_id": mine, "success": True}},
            {"output": {"task_id": mine, "output": "late"}},
        ],
    )
    assert said["status"] == "OK", said
    oks = [outcome["ok"] for outcome in said["outcomes"]]
    assert oks == [True] * 900 + [False, True, False, True, True, True, True]
    assert said["outcomes"][902]["code"] == 3001
    end = client.watch(task)
    assert end["output"] == "".join(f"{number}\n" for number in range(1, 901))
    assert (end["state"], client.get(task)["attempts"][0]["resultBytes"]) == ("SUCCEEDED", "6")
    many = [{"status": {"node_id": node_id, "status": "idle"}}] * 1001
    over = worker.call("v1/Reports/ReportBatch", reports=many)
    assert over["status"] == "INVALID_ARGUMENT"


# --- registering ---


def test_registering_again_resets_nothing_and_moves_where_tasks_are_pushed(
    client: Peer, worker: Peer, taken: tuple[str, str]
) -> None:
    task, node_id = taken
    before = worker.nodes()[node_id]
    port = worker.ask("serve", mode="good", node_id=f"{node_id}-b", token=worker.token)["port"]
    said = worker.register(node_id, port, cpu_cores=8, trust_level=100, last_heartbeat=1.0)
    assert said["success"], said
    after = worker.nodes()[node_id]
    assert (after["port"], after["cpu_cores"]) == (port, 8)
    assert after["trust_level"] == before["trust_level"] == 50
    assert after["last_heartbeat"] >= before["last_heartbeat"]
    assert client.get(task)["state"] == "RUNNING"
    next_one = client.submit(HELLO, at=node_id)
    moved = worker.event("execute", task_id=f"{next_one}.1")
    assert moved["node_id"] == f"{node_id}-b"
    worker.call("MasterNodeService/TaskCompleted", task_id=f"{task}.1", success=True)
    assert client.watch(task)["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": ""},
        {"node_id": "a b"},
        {"node_id": "x" * 129},
        {"node_id": "01m890ff683bteehcywjq6qqqr"},
        {"hostname": ""},
        {"hostname": "http://here"},
        {"hostname": "169.254.169.254"},
        {"hostname": "0.0.0.0"},
        {"hostname": "2130706433"},
        {"port": 0},
        {"port": 65536},
        {"cpu_cores": 0},
        {"cpu_cores": 4097},
        {"memory_gb": -1},
        {"gpu_score": -1},
        {"location": "x" * 201},
        {"gpu_name": "a\nb"},
    ],
)
def test_a_registration_that_cannot_be_is_refused(worker: Peer, wrong: dict[str, object]) -> None:
    fields = {"node_id": "wrong", "port": 1, **wrong}
    said = worker.register(str(fields.pop("node_id")), int(str(fields.pop("port"))), **fields)
    assert said["status"] == "INVALID_ARGUMENT", said
    assert "wrong" not in worker.nodes()


def test_a_storm_of_registrations_delays_nobody(client: Peer, worker: Peer, master: Daemon) -> None:
    worker.join("calm")
    wait_until("it is online", lambda: client.status_of("calm") == "online")
    storm = [
        worker.send(
            "call",
            service="nodepool.NodeManagerService",
            method="RegisterWorkerNode",
            token=worker.token,
            request={
                "node_id": f"storm-{number % 40}",
                "hostname": "127.0.0.1",
                "port": 1 + number % 7,
                "cpu_cores": 1 + number % 3,
                "memory_gb": 1,
            },
        )
        for number in range(400)
    ]
    begun = time.monotonic()
    end = client.watch(client.submit(HELLO, at="calm"))
    assert end["state"] == "SUCCEEDED"
    assert time.monotonic() - begun < 15
    assert all(worker.answer(number)["success"] for number in storm)
    assert sum(node_id.startswith("storm-") for node_id in worker.nodes()) == 40
    for number in range(40):
        worker.call("NodeManagerService/ReportStatus", node_id=f"storm-{number}", status="offline")


def test_a_node_that_drains_or_leaves_gets_nothing_more(client: Peer, worker: Peer) -> None:
    def report(status: str) -> None:
        said = worker.call("NodeManagerService/ReportStatus", node_id="leaver", status=status)
        assert said["success"], said

    worker.join("leaver")
    wait_until("it is online", lambda: client.status_of("leaver") == "online")
    running = client.submit(SLEEP, at="leaver")
    worker.event("execute", node_id="leaver")
    wait_until("it runs", lambda: client.get(running)["state"] == "RUNNING")
    report("draining")
    waiting = client.submit(HELLO, at="leaver")
    report("idle")
    assert client.get(running)["state"] == "RUNNING"
    assert client.get(waiting)["state"] == "QUEUED"
    report("offline")
    assert client.status_of("leaver") == "offline"
    assert client.get(running)["state"] == "QUEUED"
    client.ask("stop", token=client.token, task_id=running)
    report("online")
    assert client.watch(waiting)["state"] == "SUCCEEDED"


# --- the master dies ---


def test_a_master_that_is_killed_loses_no_task_and_no_report(tmp_path: Path, stubs: Path) -> None:
    with open_pool_folder(tmp_path / "pool") as pool:
        first = start_master(pool, "master")
        with open_peer(stubs, first) as peer:
            peer.log_in("ann").join("node", mode="silent")
            running = peer.submit(HELLO, at="node", client_id="running")
            peer.event("execute")
            wait_until("it runs", lambda: peer.get(running)["state"] == "RUNNING")
            report = {"task_id": f"{running}.1", "output": "once\n", "sequence": 7}
            assert peer.call("MasterNodeService/StoreOutput", **report)["success"]
            done = peer.submit(HELLO, at="node")
            peer.event("execute")
            assert peer.call("MasterNodeService/TaskCompleted", task_id=f"{done}.1", success=True)[
                "success"
            ]
            peer.ask("mode", node_id="node", mode="mute")
            asked = peer.submit(HELLO, at="node")
            peer.event("execute")
            first.kill()
            start_master(pool, "master", listen=first.address)
            peer.ask("mode", node_id="node", mode="good")
            assert peer.get(done)["state"] == "SUCCEEDED"
            assert peer.call("MasterNodeService/TaskCompleted", task_id=f"{done}.1", success=True)[
                "success"
            ]
            # What it was asked to take when the master died is asked again, under another id.
            assert peer.watch(asked)["state"] == "SUCCEEDED"
            # What it had taken goes on, and a repeat is known for one.
            assert peer.call("MasterNodeService/StoreOutput", **report)["success"]
            more = report | {"output": "more", "sequence": 8}
            assert peer.call("MasterNodeService/StoreOutput", **more)["success"]
            assert peer.call("MasterNodeService/TaskCompleted", task_id="running", success=True)[
                "success"
            ]
            end = peer.watch(running)
            assert (end["state"], end["attempt"], end["output"]) == ("SUCCEEDED", 1, "once\nmore")


def test_nodes_whose_answers_never_end_take_little_of_the_masters_memory(
    master: Daemon, client: Peer, worker: Peer
) -> None:
    """Each of the tasks that such a node is given is an answer that the master could hold."""
    program = Path(__file__).with_name("peers") / "hoarder.py"
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE) as hoarder:
        try:
            assert hoarder.stdout is not None
            assert worker.register("hoarder", int(hoarder.stdout.readline()), cpu_cores=100)[
                "success"
            ]
            wait_until("it is online", lambda: client.status_of("hoarder") == "online")
            before = master.rss_bytes()
            master.reset_peak()
            asked = {"cpu_millis": 1000, "memory_bytes": 2**26, "scratch_bytes": 2**24}
            tasks = [client.submit(HELLO, at="hoarder", ask=asked) for _ in range(60)]
            assert [hoarder.stdout.readline() for _ in tasks] == [b"given\n"] * 60
            wait_until("it is lost", lambda: "outcome" in client.get(tasks[-1])["attempts"][0])
            assert master.peak_rss_bytes() - before < 32 * 1024 * 1024
            (attempt, *_) = client.get(tasks[0])["attempts"]
            assert attempt["outcome"] == "lost"
            assert "is over the limit" in attempt["detail"]
        finally:
            hoarder.kill()
    for task in tasks:
        client.ask("stop", token=client.token, task_id=task)
    assert worker.call("NodeManagerService/ReportStatus", node_id="hoarder", status="offline")[
        "success"
    ]

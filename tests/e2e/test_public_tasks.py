"""The task service of the public API, used by an ordinary grpcio client in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hivemind.settings.credentials import read_credentials
from tests.pool import COMMAND_S, Daemon, Pool, clean_environment, open_pool_folder

CLIENT = Path(__file__).with_name("peers") / "tasks_client.py"
MIB = 1024 * 1024
NOT_YOURS = ("PERMISSION_DENIED", "3001")
LIMIT_BYTES = 100_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as opened:
        yield opened


@attrs.frozen
class Client:
    """Runs a case of the client against a daemon, with the tokens of its accounts."""

    daemon: Daemon
    stubs: Path
    tokens: dict[str, str]

    @classmethod
    def of(cls, daemon: Daemon, stubs: Path) -> "Client":
        """With accounts that it makes."""
        credentials = read_credentials(daemon.home)
        assert credentials is not None
        admin = {"admin": credentials.token}
        return cls(daemon, stubs, admin | cls(daemon, stubs, admin).ask("enter"))

    def ask(self, case: str, *arguments: str) -> Any:
        """What it saw."""
        where = [str(CLIENT), str(self.stubs), self.daemon.address, json.dumps(self.tokens)]
        ran = subprocess.run(
            [sys.executable, *where, case, *arguments],
            capture_output=True,
            env=clean_environment(),
            timeout=COMMAND_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return json.loads(ran.stdout)


def be_generous(folder: Pool, home: str) -> None:
    """Have newcomers given enough for many tasks."""
    policies = folder.root / home / "policies"
    policies.mkdir(parents=True)
    policies.parent.chmod(0o700)
    (policies / "pool.toml").write_text("grant_cpt = 1_000_000\n")


@pytest.fixture(scope="module")
def up(folder: Pool, stubs: Path) -> Client:
    be_generous(folder, "up")
    return Client.of(folder.up("--slots", "4"), stubs)


@pytest.fixture(scope="module")
def master(folder: Pool, stubs: Path) -> Client:
    """Of one without a node, so that what is uploaded waits."""
    be_generous(folder, "master")
    return Client.of(folder.master(), stubs)


def test_a_task_from_its_upload_to_its_result(up: Client) -> None:
    seen = up.ask("life")
    assert seen["made"]["success"]
    assert seen["made"]["message"] == "task life taken"
    lines = ["one", "two", "caf\N{LATIN SMALL LETTER E WITH ACUTE} \ufffd"]
    success, status, message, output = seen["end"]
    assert (success, status, message) == (True, "COMPLETED", "it succeeded")
    # Two pipes, so the lines of one may be seen before those of the other.
    assert sorted(output) == sorted(lines)
    assert sorted(seen["logs"]) == sorted("\n".join(lines))
    result = seen["result"]
    assert (result["success"], result["code"]) == (True, None)
    assert list(result["members"]) == ["output/made.txt", "result.json", "stderr.txt", "stdout.txt"]
    assert result["members"]["output/made.txt"] == "kept by life"
    assert result["members"]["stderr.txt"] == "two\n"
    report = json.loads(result["members"]["result.json"])
    assert (report["task_id"], report["exit_code"]) == ("life", 0)
    assert seen["same"]
    assert seen["row"] == ["COMPLETED", True, "alice"]
    assert seen["in_order"]
    assert seen["stopped_after"]["success"]
    assert "over already: COMPLETED" in seen["stopped_after"]["message"]


def test_what_the_bytes_are_is_told_by_themselves(up: Client) -> None:
    seen = up.ask("archives")
    assert seen["zip"] == ["from a zip"]
    assert seen["hashbang"] == ["from sh"]
    assert seen["python"] == ["Hello, HiveMind!"]
    assert seen["binary"]["status"] == "INVALID_ARGUMENT"
    assert "neither a script nor an archive" in seen["binary"]["message"]
    assert seen["empty"]["status"] == "INVALID_ARGUMENT"
    assert "empty" in seen["empty"]["message"]


def test_ids_are_checked_and_repeats_of_the_same_bytes_are_the_same_task(up: Client) -> None:
    seen = up.ask("ids")
    assert [bad["status"] for bad in seen["bad"]] == ["INVALID_ARGUMENT"] * 4
    assert seen["longest"]["success"]
    assert seen["none"] == [True, ["no id"]]
    assert seen["first"]["success"]
    assert seen["again"]["success"]
    assert "known with these bytes" in seen["again"]["message"]
    assert seen["other"]["status"] == "ALREADY_EXISTS"
    assert "other bytes" in seen["other"]["message"]
    assert seen["theirs"]["success"]
    assert seen["outputs"] == [["alice"], ["mallory"]]
    assert seen["listed"] == [1, 1]
    assert seen["admin"]["status"] == "INVALID_ARGUMENT"
    assert "ask for it by the pool's id" in seen["admin"]["message"]


def test_only_an_admin_submits_for_another(up: Client) -> None:
    seen = up.ask("owners")
    refused = seen["for_another"]
    assert (refused["status"], refused["code"]) == ("PERMISSION_DENIED", "1001")
    nobody = seen["for_nobody"]
    assert (nobody["success"], nobody["code"]) == (False, "1001")
    assert nobody["message"].startswith("USER_NOT_FOUND: ")
    assert seen["by_admin"]["success"]
    assert seen["output"] == ["for alice"]
    assert seen["owner"] == "alice"
    assert seen["admin_lists"]
    assert seen["mallory_lists"] == []


def test_anothers_task_is_denied_and_an_unknown_one_is_not_found(up: Client) -> None:
    seen = up.ask("strangers")
    assert len(seen["theirs"]) == 8
    for call, told in seen["theirs"].items():
        assert (told["status"], told["code"]) == NOT_YOURS, call
        assert told["message"].startswith("TASK_NOT_FOUND: "), call
    for call, told in seen["unknown"].items():
        assert (told["status"], told["success"], told["code"]) == ("OK", False, "3001"), call
        assert told["message"].startswith("TASK_NOT_FOUND: "), call
    assert len(seen["tokenless"]) == 6
    for call, told in seen["tokenless"].items():
        assert (told["status"], told["code"]) == ("UNAUTHENTICATED", "1004"), call
    assert seen["still"]


def test_a_token_may_travel_in_the_message_and_the_metadatas_wins(up: Client) -> None:
    seen = up.ask("tokens")
    for method in ("GetTaskResult", "GetTaskLogs", "StopTask"):
        assert seen[method] == [True, "1004", "3001"], method
    assert seen["GetAllTasks"]


def test_what_did_not_succeed_says_so_and_its_result_is_there(up: Client) -> None:
    seen = up.ask("ends")
    fails = seen["fails"]
    assert fails["poll"] == ["FAILED", "exit status 3"]
    assert (fails["success"], fails["code"]) == (False, "3002")
    assert fails["message"] == "TASK_FAILED: exit status 3"
    assert fails["members"]["stdout.txt"] == "before\n"
    slow = seen["slow"]
    assert slow["poll"][0] == "FAILED"
    assert "time limit" in slow["poll"][1]
    assert (slow["success"], slow["code"]) == (False, "3002")
    assert slow["members"]["stdout.txt"] == "before\n"
    assert (seen["running"]["success"], seen["running"]["code"]) == (False, None)
    assert "endless is RUNNING" in seen["running"]["message"]
    assert seen["running"]["members"] == {}
    assert seen["stop"]["success"]
    assert "endless is STOPPED" in seen["stop"]["message"]
    assert seen["status"] == "STOPPED"
    assert seen["stop_again"]["success"]
    assert "over already: STOPPED" in seen["stop_again"]["message"]
    stopped = seen["stopped"]
    assert (stopped["success"], stopped["code"]) == (False, "3003")
    assert stopped["message"].startswith("TASK_CANCELLED: ")
    assert stopped["members"]["stdout.txt"] == "before\n"
    assert (seen["too_large"]["success"], seen["too_large"]["code"]) == (False, "2003")
    assert seen["too_large"]["message"].startswith(
        "INSUFFICIENT_RESOURCES: no node has 64 CPUs (the largest has "
    )
    assert seen["too_large"]["message"].endswith("); ask for less")
    assert (seen["too_trusted"]["success"], seen["too_trusted"]["code"]) == (False, "2003")
    assert seen["too_trusted"]["message"] == (
        "INSUFFICIENT_RESOURCES: it asks for a trust of 100: 1 node is trusted less; ask for less"
    )


def test_a_poll_shows_the_end_of_much_output_and_says_what_it_left_out(up: Client) -> None:
    seen = up.ask("much")
    assert seen["lines"] == [4000, "2000", "5999"]
    assert "2000 earlier lines of its output are left out" in seen["message"]
    assert seen["logs"]


def test_a_listing_has_every_task_the_newest_first(master: Client) -> None:
    seen = master.ask("many")
    assert seen["in_order"]
    assert seen["statuses"] == ["PENDING"]
    assert seen["unset"] == ["", 0, 0]
    message, status = seen["stopped"]
    assert "many-0 is STOPPED" in message
    assert status == "STOPPED"


def test_100_mb_are_taken_one_byte_more_is_not_and_neither_is_held_in_memory(
    master: Client,
) -> None:
    master.daemon.reset_peak()
    before = master.daemon.rss_bytes()
    seen = master.ask("sized", str(LIMIT_BYTES))
    grown = master.daemon.peak_rss_bytes() - before
    assert seen["fits"]["success"]
    assert seen["again"]["success"]
    assert seen["over"]["status"] == "RESOURCE_EXHAUSTED"
    assert str(LIMIT_BYTES) in seen["over"]["message"]
    assert "Tasks/Submit" in seen["over"]["message"]
    assert grown < 64 * MIB


def test_a_smaller_limit_of_the_policy_holds_here_too(folder: Pool, stubs: Path) -> None:
    policies = folder.root / "small" / "policies"
    policies.mkdir(parents=True, mode=0o700)
    (policies / "pool.toml").write_text("payload_bytes = 200_000\n")
    (folder.root / "small").chmod(0o700)
    small = Client.of(folder.master(home="small"), stubs)
    seen = small.ask("sized", "200000")
    assert seen["fits"]["success"]
    assert seen["over"]["status"] == "RESOURCE_EXHAUSTED"
    assert seen["over"]["message"].endswith("200000 bytes")


def test_a_large_result_is_sent_as_it_is_read(up: Client) -> None:
    left = up.ask("weighty", str(96 * MIB))
    assert left["status"] == "COMPLETED"
    up.daemon.reset_peak()
    before = up.daemon.rss_bytes()
    assert up.ask("fetched") == left["digest"]
    assert up.daemon.peak_rss_bytes() - before < 64 * MIB


def test_an_unforeseen_fault_is_9999_and_logged_once_with_the_id_that_is_told(up: Client) -> None:
    task_id = up.ask("ended")
    log = up.daemon.home / "output" / task_id / "1.log"
    log.unlink()
    log.mkdir()
    told = up.ask("polled", task_id)
    assert (told["status"], told["code"]) == ("INTERNAL", "9999")
    words, _, error_id = told["message"].rpartition(" id ")
    assert words == "INTERNAL_ERROR: an unforeseen fault,"
    assert up.daemon.log.read_text().count(error_id) == 1
    assert up.ask("polled", "broken")["success"]

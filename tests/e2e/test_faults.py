"""Faults that an earlier pool had, each looked for by an ordinary grpcio client.

The others are where their subject is: what nodes do in ``test_foreign_workers``, what a worker
allows in ``test_direct_worker``, whose task it is in ``test_public_tasks``.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hivemind.settings.credentials import read_credentials
from tests.pool import COMMAND_S, Daemon, Pool, clean_environment, open_pool_folder, processes_with

CLIENT = Path(__file__).with_name("peers") / "faults_client.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as opened:
        yield opened


@pytest.fixture(scope="module")
def up(folder: Pool) -> Daemon:
    return folder.up("--slots", "4")


def look_for(case: str, up: Daemon, stubs: Path, *arguments: str) -> Any:
    credentials = read_credentials(up.home)
    assert credentials is not None
    ran = subprocess.run(
        [sys.executable, str(CLIENT), str(stubs), up.address, credentials.token, case, *arguments],
        capture_output=True,
        env=clean_environment(),
        timeout=COMMAND_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def test_a_fast_task_never_runs_again_after_its_end(up: Daemon, stubs: Path) -> None:
    order = ["PENDING", "RUNNING", "COMPLETED"]
    for seen in look_for("fast", up, stubs):
        assert seen[-1] == "COMPLETED"
        assert seen == [status for status in order if status in seen]


def test_failed_and_stopped_tasks_do_not_end_completed(up: Daemon, stubs: Path) -> None:
    ends = {"good": "COMPLETED", "bad": "FAILED", "long": "STOPPED"}
    assert look_for("ends", up, stubs) == {"polled": ends, "listed": ends}


def test_messages_of_more_than_four_megabytes_pass(up: Daemon, stubs: Path) -> None:
    seen = look_for("large", up, stubs)
    assert seen["status"] == "COMPLETED"
    assert seen["sent"] > 4 * 1024 * 1024
    assert seen["received"] > 4 * 1024 * 1024


def test_a_poll_of_very_many_lines_shows_the_newest_and_says_so(up: Daemon, stubs: Path) -> None:
    seen = look_for("lines", up, stubs)
    assert (seen["count"], seen["last"]) == (4000, "29999")
    assert "26000 earlier lines of its output are left out" in seen["message"]


def test_a_silent_task_is_stopped_at_once_and_its_children_with_it(up: Daemon, stubs: Path) -> None:
    marker = "silent-child-of-the-fault-test"
    seen = look_for("silent", up, stubs, marker)
    assert seen["status"] == "STOPPED"
    assert processes_with(marker) == []


def test_a_result_is_there_however_often_it_is_read_and_whatever_is_killed(
    folder: Pool, stubs: Path
) -> None:
    up = folder.up(home="killed")
    first = look_for("twice", up, stubs, "first")
    up.kill()
    again = folder.up(home="killed")
    assert len(set(first + look_for("twice", again, stubs, "again"))) == 1

"""Two accounts that do not trust each other."""

import json
import subprocess
import sys
from pathlib import Path

from tests.pool import Pool, clean_environment

STRANGER = Path(__file__).with_name("peers") / "stranger.py"
NOT_YOURS = ("PERMISSION_DENIED", "3001")


def test_a_grpcio_stranger_neither_sees_nor_stops_nor_reads_anothers_task(
    pool: Pool, stubs: Path
) -> None:
    up = pool.up()
    ran = subprocess.run(
        [sys.executable, str(STRANGER), str(stubs), up.address],
        capture_output=True,
        env=clean_environment(),
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    seen = json.loads(ran.stdout)
    assert seen["alice"] == [True, True]
    assert seen["mallory"] == [True, True]
    assert seen["taken"] == [False, "USER_EXISTS", "1003"]
    assert seen["wrong"] == [False, "INVALID_PASSWORD", "1002"]
    assert seen["state"] == "TASK_STATE_SUCCEEDED"
    assert seen["stdout"] == "to stdout\n"
    assert seen["stderr"] == "to stderr\n"
    assert seen["result_bytes"] > 0
    for call in ("get", "stop", "explain", "watch", "download"):
        denied = seen["mallory_sees"][call]
        assert (denied["status"], denied["code"]) == NOT_YOURS, call
    assert seen["mallory_sees"]["list_all"]["status"] == "PERMISSION_DENIED"
    assert seen["mallory_lists"] == 0
    for caller in ("nobody", "forged"):
        assert seen[caller]["status"] == "UNAUTHENTICATED", caller
        assert seen[caller]["code"] == "1004", caller


def test_the_command_line_of_one_account_does_not_reach_anothers_task(
    pool: Pool, tmp_path: Path
) -> None:
    up = pool.up()
    homes = {}
    for name in ("alice", "mallory"):
        homes[name] = tmp_path / name
        for verb in ("register", "login"):
            done = pool.cli(
                "account",
                verb,
                name,
                "--password-stdin",
                home=homes[name],
                stdin=b"a long password\n",
                environment={"HIVEMIND_MASTER": up.address},
            )
            assert done.returncode == 0, done.stderr.decode()
    whoami = pool.cli("account", "whoami", "--json", home=homes["mallory"])
    assert json.loads(whoami.stdout)["account"] == "mallory"
    task = (
        pool.cli("submit", "--", "sh", "-c", "echo secret; sleep 60", home=homes["alice"])
        .stdout.decode()
        .strip()
    )
    assert task
    for command in (
        ("show", task),
        ("logs", task),
        ("explain", task),
        ("stop", task),
        ("result", task, "-o", str(tmp_path / "stolen")),
    ):
        done = pool.cli(*command, home=homes["mallory"])
        assert done.returncode != 0, command
        assert b"secret" not in done.stdout, command
        assert done.stderr.decode().count("\n") == 1, done.stderr.decode()
    assert not (tmp_path / "stolen").exists()
    assert json.loads(pool.cli("ps", "--all", "--json", home=homes["mallory"]).stdout) == {
        "tasks": []
    }
    mine = json.loads(pool.cli("show", task, "--json", home=homes["alice"]).stdout)
    assert mine["state"] in {"assigned", "running"}
    assert pool.cli("stop", task, home=homes["alice"]).returncode == 0

"""The daemons' commands: ready when usable, one line about every fault, a drain by signal."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool import HIVEMIND, LIMITS, Pool, clean_environment, open_pool_folder


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with open_pool_folder(tmp_path / "pool") as opened:
        yield opened


def _fault(*arguments: str, **variables: str) -> tuple[int, str]:
    """How a daemon that cannot start ends, and the one line it says."""
    done = subprocess.run(
        [HIVEMIND, *arguments],
        stdin=subprocess.DEVNULL,
        env=clean_environment(**variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == b""
    said = done.stderr.decode()
    assert said.startswith("hivemind: "), said
    assert said.count("\n") == 1, said
    return done.returncode, said


def test_a_pool_starts_runs_drains_and_comes_back_as_it_was(pool: Pool) -> None:
    up = pool.up()
    running = pool.start_cli("run", "--", "sh", "-c", "echo up; sleep 1; echo end", home=up.home)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    assert up.stop() == 0
    said = up.log.read_text()
    assert "drained" in said
    assert not re.search(r"\[(warning|error) ", said), said
    # What ran had its time: it ended by itself, and the client saw it or waits for the master.
    again = pool.up("--listen", up.address)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, b"end\n")
    assert len(json.loads(pool.cli("nodes", "--json", home=up.home).stdout)["nodes"]) == 1
    assert again.stop() == 0


def test_a_second_signal_stops_at_once(pool: Pool) -> None:
    up = pool.up()
    running = pool.start_cli("run", "--", "sh", "-c", "echo up; sleep 60", home=up.home)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    begun = time.monotonic()
    up.process.send_signal(signal.SIGTERM)
    _wait_for_log(up.log, "draining")
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(25) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 25  # the worker's drain alone has 30 s
    running.kill()
    running.communicate()
    assert up.process.stdout is not None
    up.process.stdout.close()


def _wait_for_log(log: Path, words: str, *, times: int = 1) -> None:
    deadline = time.monotonic() + 30
    while log.read_text().count(words) < times:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_sighup_reads_the_policies_again_and_a_bad_one_changes_nothing(pool: Pool) -> None:
    up = pool.up()
    policies = up.home / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "tiny.toml").write_text('memory = { default = "16M", most = "16M" }\n')
    up.process.send_signal(signal.SIGHUP)
    _wait_for_log(up.log, "policies_reloaded", times=2)
    said = [line for line in up.log.read_text().splitlines() if "policies_reloaded" in line]
    assert {line.rpartition("daemon=")[2] for line in said} == {"master", "worker"}
    done = pool.cli("run", "--policy", "tiny", "--memory", "1G", "--", "true", home=up.home)
    assert b"16M" in done.stderr
    (policies / "tiny.toml").write_text("memry = 1\n")
    up.process.send_signal(signal.SIGHUP)
    _wait_for_log(up.log, "policies_not_reloaded")
    done = pool.cli("run", "--policy", "tiny", "--memory", "1G", "--", "true", home=up.home)
    assert b"16M" in done.stderr
    assert up.stop() == 0


_BAD_VALUES = {
    "network": '"lan"',
    "seccomp": '"off"',
    "tmp": '{ most = "1K" }',
    "mounts": '[{ source = "data", target = "/data" }]',
    "env": "{ A = 1 }",
    "cpu_time": '{ most = "soon" }',
    "reuse": "true",
    "cell_age": "0",
}


def test_a_bad_value_keeps_the_old_policy_and_is_told_by_file_and_key(pool: Pool) -> None:
    up = pool.up()
    lab = up.home / "policies/lab.toml"
    lab.parent.mkdir(exist_ok=True)
    good = 'env = { WHERE = "lab" }\nopen_files = { default = 99, most = 100 }\n'
    lab.write_text(good)
    up.process.send_signal(signal.SIGHUP)
    _wait_for_log(up.log, "policies_reloaded")
    command = ("run", "--policy", "lab", "--", "sh", "-c", "echo $WHERE; ulimit -n")
    assert pool.cli(*command, home=up.home).stdout == b"lab\n99\n"
    for key, value in _BAD_VALUES.items():
        lab.write_text(f"{key} = {value}\n")
        up.process.send_signal(signal.SIGHUP)
        # Both daemons say so, each about its own policies.
        _wait_for_log(up.log, f"{lab}: {key}: ", times=2)
    assert pool.cli(*command, home=up.home).stdout == b"lab\n99\n"
    lab.write_text(good.replace("99", "88"))
    up.process.send_signal(signal.SIGHUP)
    _wait_for_log(up.log, "policies_reloaded", times=4)
    assert pool.cli(*command, home=up.home).stdout == b"lab\n88\n"
    assert up.stop() == 0


def test_a_worker_reloads_its_own_policies_and_refuses_what_they_do_not_give(pool: Pool) -> None:
    master = pool.master()
    token = pool.cli("node", "token", home=master.home).stdout.decode().strip()
    worker = pool.worker(master, "--join", token)
    assert pool.cli("run", "--", "true", home=master.home).returncode == 0
    default = worker.home / "policies/default.toml"
    default.parent.mkdir(exist_ok=True)
    default.write_text('network = "none"\n')
    worker.process.send_signal(signal.SIGHUP)
    _wait_for_log(worker.log, "policies_reloaded")
    refused = "network: the task asks for loopback and this machine's policy default gives none"
    pool.cli("submit", "--", "true", home=master.home)
    _wait_for_log(worker.log, refused)
    default.write_text('network = "lan"\n')
    worker.process.send_signal(signal.SIGHUP)
    _wait_for_log(worker.log, f"{default}: network: expected one of none, loopback, full")
    pool.cli("submit", "--", "true", home=master.home)
    _wait_for_log(worker.log, refused, times=2)
    assert worker.stop() == 0
    assert master.stop() == 0


def test_logs_can_be_json_and_every_line_is(pool: Pool, tmp_path: Path) -> None:
    config = tmp_path / "master.toml"
    config.write_text('log_format = "json"\nlog_level = "debug"\n')
    master = pool.master("--config", str(config))
    assert master.stop() == 0
    lines = master.log.read_text().splitlines()
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp"} <= set(json.loads(line))


def test_a_port_in_use_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for daemon in ("up", "master"):
            status, said = _fault(daemon, "--home", str(tmp_path / daemon), "--listen", address)
            assert status == 1
            assert address in said
            assert "--listen" in said
            assert not (tmp_path / daemon).exists()


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nowhere")):
        status, said = _fault("up", "--home", str(home), "--listen", "127.0.0.1:0")
        assert status == 1
        assert str(home) in said
        assert "--home" in said


def test_a_corrupt_database_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "master.db").write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    before = (home / "master.db").read_bytes()
    status, said = _fault("master", "--home", str(home), "--listen", "127.0.0.1:0")
    assert status == 1
    assert "master.db" in said
    assert (home / "master.db").read_bytes() == before


def test_a_config_with_an_unknown_key_is_told(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('lisen = "127.0.0.1:0"\n')
    for daemon in (["master"], ["worker", "--master", "127.0.0.1:1"]):
        status, said = _fault(*daemon, "--config", str(config), "--home", str(tmp_path / "h"))
        assert status == 1
        assert "lisen" in said
        assert str(config) in said


def test_a_policy_file_with_an_unknown_key_is_told(tmp_path: Path) -> None:
    policies = tmp_path / "home/policies"
    policies.mkdir(parents=True)
    (tmp_path / "home").chmod(0o700)
    (policies / "default.toml").write_text("memry = 1\n")
    status, said = _fault("master", "--home", str(tmp_path / "home"), "--listen", "127.0.0.1:0")
    assert status == 1
    assert "memry" in said


def test_a_worker_without_a_token_is_told_what_it_lacks(pool: Pool) -> None:
    master = pool.master()
    options = ("--home", str(pool.root / "w"), "--master", master.address, "--limits", LIMITS)
    status, said = _fault("worker", *options)
    assert status == 1
    assert "--join" in said


def test_a_signal_before_it_is_ready_ends_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = subprocess.Popen(
        [
            *(HIVEMIND, "worker", "--home", str(home), "--limits", LIMITS),
            *("--master", "127.0.0.1:1", "--join", "x"),
        ],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"master_not_reached" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"")

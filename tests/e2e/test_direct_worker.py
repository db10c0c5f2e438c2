"""A worker that is used directly, without a master: every call of its own two services."""

import io
import json
import os
import re
import stat
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind.core.direct import MOST_OUTPUT_LINES
from hivemind.rpc.errors import ErrorCode
from sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from tests.e2e.calling import Caller, local_token, open_caller
from tests.e2e.test_tls import make_certificate
from tests.pool import (
    HIVEMIND,
    LIMITS,
    Daemon,
    Pool,
    clean_environment,
    open_pool_folder,
    processes_with,
    wait_until,
)

DEFAULT_POLICY = """
memory = { default = "64M", most = "512M" }
scratch = { default = "64M", most = "512M" }
output = { default = "4M", most = "8M" }
wall = { default = "60s", most = "60s" }
"""
NOT_FOUND = str(int(ErrorCode.TASK_NOT_FOUND))
NO_ROOM = str(int(ErrorCode.INSUFFICIENT_RESOURCES))
NO_SESSION = str(int(ErrorCode.INVALID_SESSION))
LASTING = b"import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def write_policy(home: Path, text: str = DEFAULT_POLICY) -> None:
    (home / "policies").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    (home / "policies" / "default.toml").write_text(text)


def zipped(**files: str | bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return packed.getvalue()


def everything_of(worker: Daemon) -> list[str]:
    return sorted(str(path) for path in worker.home.rglob("*"))


def uploads_of(worker: Daemon) -> list[Path]:
    return list((worker.home / "worker" / "uploads").iterdir())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with open_pool_folder(tmp_path_factory.mktemp("direct")) as folder:
        write_policy(folder.root / "lone")
        yield folder.lone_worker("--slots", "2")


@pytest.fixture(scope="module")
def caller(worker: Daemon, stubs: Path) -> Iterator[Caller]:
    with open_caller(stubs, worker.address, local_token(worker)) as opened:
        yield opened


# -- where it is, and who may call -------------------------------------------------------------


def test_its_address_is_where_it_says(worker: Daemon, caller: Caller) -> None:
    file = worker.home / "worker" / "address"
    assert file.read_text() == f"{worker.address}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert f"address={worker.address}" in worker.log.read_text()
    assert caller.call("", "reflection")["services"] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "nodepool.WorkerNodeService",
        "taskworker.TaskWorkerService",
    ]


def test_its_own_token_is_its_owners_alone(worker: Daemon) -> None:
    file = worker.home / "worker" / "local-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert local_token(worker) not in worker.log.read_text()


CALLS = [
    ("nodepool", "ExecuteTask"),
    ("nodepool", "StopTaskExecution"),
    ("nodepool", "ReportOutput"),
    ("nodepool", "ReportRunningStatus"),
    ("taskworker", "ExecuteTask"),
    ("taskworker", "GetTaskStatus"),
    ("taskworker", "CancelTask"),
    ("taskworker", "GetSystemInfo"),
]


@pytest.mark.parametrize(("service", "method"), CALLS)
def test_no_call_is_open_to_strangers(caller: Caller, service: str, method: str) -> None:
    for token in ("", "x", caller.token[:-1], "a.b.c"):
        refused = caller.call(service, method, token)
        assert (refused["refused"], refused["code"]) == ("UNAUTHENTICATED", NO_SESSION)


def test_a_stranger_cannot_have_its_disk_filled(caller: Caller, worker: Daemon) -> None:
    refused = caller.call("nodepool", "ExecuteTask", "", task_id="fat", task_data_bytes=20_000_000)
    assert refused["refused"] == "UNAUTHENTICATED"
    assert uploads_of(worker) == []


# -- what runs ---------------------------------------------------------------------------------


def test_the_example_of_the_api_runs(caller: Caller) -> None:
    accepted = caller.push("task-001", b"print('Hello, HiveMind!')")
    assert accepted["success"], accepted
    done = caller.until("task-001", "COMPLETED")
    assert done["message"] == "it succeeded"
    assert (done["output"], done["exit_code"]) == (["Hello, HiveMind!"], 0)


def test_a_script_for_the_shell_runs(caller: Caller) -> None:
    assert caller.run("sh-1", b"echo $0; echo two >&2", "shell")["output"] == ["main", "two"]
    named = caller.run("sh-2", b"#!/usr/bin/env python3\nprint('by its first line')\n", "shell")
    assert named["output"] == ["by its first line"]
    assert caller.push("sh-3", b"#!/bin/sh\necho pushed\n")["success"]
    assert caller.until("sh-3", "COMPLETED")["output"] == ["pushed"]


def test_python_is_python_whatever_its_first_line_says(caller: Caller) -> None:
    assert caller.run("py-1", b"#!/bin/false\nprint('ran')\n")["output"] == ["ran"]


def test_an_archive_runs_its_entry(caller: Caller) -> None:
    packed = zipped(main__py="import helper; print(helper.word)", helper__py="word = 'packed'")
    assert caller.run("zip-1", packed, "archive")["output"] == ["packed"]
    assert caller.push("zip-2", packed)["success"]
    assert caller.until("zip-2", "COMPLETED")["output"] == ["packed"]
    nothing = caller.run("zip-3", zipped(readme__txt="nothing to run"), "archive")
    assert nothing["status"] == "FAILED"
    assert "no entry" in nothing["message"]


def test_parameters_become_variables_and_arguments(caller: Caller) -> None:
    script = (
        b"import json, os, sys\n"
        b"own = {k: v for k, v in os.environ.items() if k.startswith('HIVEMIND_PARAM_')}\n"
        b"print(json.dumps([sys.argv[1:], own, os.environ['HIVEMIND_TASK_ID']]))\n"
    )
    given = {"args": "one 'two three' --four", "depth": "3", "Name_2": "x y\nz"}
    (line,) = caller.run("with.parameters-1", script, parameters=given)["output"]
    assert json.loads(line) == [
        ["one", "two three", "--four"],
        {"HIVEMIND_PARAM_DEPTH": "3", "HIVEMIND_PARAM_NAME_2": "x y\nz"},
        "with.parameters-1",
    ]
    (line,) = caller.run("pa-2", script, parameters={"args": '["a b", "", "c"]'})["output"]
    assert json.loads(line)[0] == ["a b", "", "c"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"a-b": "1"}, "cannot name a parameter"),
        ({"LD_PRELOAD=x": "1"}, "cannot name a parameter"),
        ({"a": "1", "A": "2"}, "two parameters"),
        ({"args": "'open"}, "split"),
        ({"args": "[1]"}, "JSON list"),
        ({"a": "nul \0 byte"}, "zero byte"),
    ],
)
def test_parameters_that_cannot_be_handed_over_are_refused(
    caller: Caller, parameters: dict[str, str], words: str
) -> None:
    refused = caller.execute("bad-parameters", b"print(1)", parameters=parameters)
    assert refused["refused"] == "INVALID_ARGUMENT"
    assert words in refused["text"]
    assert caller.status("bad-parameters")["code"] == NOT_FOUND


@pytest.mark.parametrize(
    ("data", "task_type", "words"),
    [
        (b"", "python", "empty"),
        (b"\x7fELF\0\0\0", "python", "neither a script nor an archive"),
        (b"print(1)", "archive", "none: send a zip or a tar"),
        (zipped(main__py="1"), "python", "say archive"),
        (zipped(main__py="1"), "shell", "say archive"),
        (b"print(1)", "docker", "task_type"),
        (b"print(1)", "", "task_type"),
    ],
)
def test_what_cannot_be_run_is_refused_clearly(
    caller: Caller, data: bytes, task_type: str, words: str
) -> None:
    refused = caller.execute("bad-data", data, task_type)
    assert refused["refused"] == "INVALID_ARGUMENT"
    assert words in refused["text"]


def test_what_a_script_asks_for_itself_it_gets_or_is_refused(caller: Caller) -> None:
    asks = "# /// script\n# [tool.hivemind]\n# memory = '{}'\n# env = {{ WORD = 'asked' }}\n# ///\n"
    needs = "import os; x = bytearray(200_000_000); print(os.environ['WORD'])\n"
    assert caller.run("asks", (asks.format("400M") + needs).encode())["output"] == ["asked"]
    refused = caller.execute("asks-more", (asks.format("4G") + needs).encode())
    assert refused["refused"] == "INVALID_ARGUMENT"
    assert "allows at most 512M" in refused["text"]
    other = b"# /// script\n# [tool.hivemind]\n# policy = 'no-such'\n# ///\n"
    refused = caller.execute("asks-other", other)
    assert refused["refused"] == "PERMISSION_DENIED"
    assert "no-such" in refused["text"]


def test_the_lines_of_both_streams_are_whole(caller: Caller) -> None:
    script = (
        "import sys, time\n"
        "for piece in ('one ', 'line\\n'):\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        print(piece, end='', file=stream, flush=True)\n"
        "        time.sleep(0.05)\n"
    )
    assert caller.run("lines", script.encode())["output"] == ["one line", "one line"]


def test_what_fails_says_how(caller: Caller) -> None:
    failed = caller.run("fails", b"import sys; print('before'); sys.exit(3)")
    assert (failed["status"], failed["exit_code"]) == ("FAILED", 3)
    assert (failed["output"], failed["message"]) == (["before"], "exit status 3")
    full = caller.run("hungry", b"x = bytearray(400_000_000); print(len(x))")
    assert (full["status"], full["exit_code"]) == ("FAILED", 137)
    assert "memory limit" in full["message"]


def test_only_the_end_of_much_output_is_told_and_said_to_be_so(caller: Caller) -> None:
    lines = MOST_OUTPUT_LINES + 5000
    seen = caller.run("talks", f"for i in range({lines}): print(i)".encode())
    assert seen["output"] == [str(i) for i in range(5000, lines)]
    assert f"last {MOST_OUTPUT_LINES} lines" in seen["message"]


# -- fault 11 ----------------------------------------------------------------------------------


def test_fault_11_a_zip_bomb_fills_nothing_but_its_own_room(caller: Caller, worker: Daemon) -> None:
    bomb = zipped(main__py="print('unpacked')", zeros=b"\0" * 300_000_000)
    assert len(bomb) < 1_000_000
    seen = caller.run("bomb", bomb, "archive")
    assert seen["status"] == "FAILED"
    assert seen["output"] == []
    held = sum(path.stat().st_size for path in worker.home.rglob("*") if path.is_file())
    assert held < 50_000_000


@pytest.mark.parametrize(
    "task_id", ["", "../../etc/x", "/etc/passwd", "a/b", "a b", "x" * 129, "a\nb", "é"]
)
def test_fault_11_an_id_is_a_name_and_never_a_path(
    caller: Caller, worker: Daemon, task_id: str
) -> None:
    before = everything_of(worker)
    for refused in (caller.execute(task_id, b"print(1)"), caller.push(task_id, b"print(1)")):
        assert refused["refused"] == "INVALID_ARGUMENT"
        assert "cannot be an id" in refused["text"]
    # An upload that was refused is removed when the refusal is on its way.
    wait_until("nothing was made", lambda: everything_of(worker) == before)


def test_ids_that_look_like_folders_are_mere_names(caller: Caller, worker: Daemon) -> None:
    for task_id in ("..", ".", "x" * 128):
        assert caller.run(task_id, b"print('ran')")["output"] == ["ran"]
    names = [path.name for path in (worker.home / "worker" / "direct").iterdir()]
    assert not {"..", ".", "x" * 128} & set(names)


# -- sizes -------------------------------------------------------------------------------------


def test_a_hundred_megabytes_are_taken_and_not_a_byte_more(caller: Caller, worker: Daemon) -> None:
    worker.reset_peak()
    before = worker.rss_bytes()
    for service, more in (("taskworker", {"task_type": "python"}), ("nodepool", {})):
        refused = caller.call(
            service, "ExecuteTask", task_id="over", task_data_bytes=100_000_001, **more
        )
        assert refused["refused"] == "RESOURCE_EXHAUSTED", refused
        assert "100000000" in refused["text"]
        assert caller.status("over")["code"] == NOT_FOUND
    taken = caller.call("nodepool", "ExecuteTask", task_id="full", task_data_bytes=100_000_000)
    # It is taken whole; that it does not fit this policy's scratch space is the task's own end.
    assert taken["success"], taken
    assert caller.until("full", "COMPLETED", "FAILED")["status"] == "FAILED"
    assert worker.peak_rss_bytes() - before < 60_000_000
    wait_until("no upload is left", lambda: uploads_of(worker) == [])


# -- repeats, stops, room ----------------------------------------------------------------------


def test_the_same_task_sent_again_is_the_same_task(caller: Caller) -> None:
    script = b"import time; print(time.time_ns())"
    first = caller.run("again", script)["output"]
    repeated = caller.execute("again", script)
    assert repeated["success"]
    assert "before" in repeated["message"]
    assert caller.status("again")["output"] == first
    other = caller.execute("again", b"print('another')")
    assert other["refused"] == "ALREADY_EXISTS"
    changed = caller.execute("again", script, parameters={"x": "1"})
    assert changed["refused"] == "ALREADY_EXISTS"


@pytest.mark.parametrize(
    ("service", "method"), [("nodepool", "StopTaskExecution"), ("taskworker", "CancelTask")]
)
def test_a_stop_ends_the_whole_tree_daemons_included(
    caller: Caller, service: str, method: str
) -> None:
    marker = f"direct-daemon-{method}-{os.getpid()}"
    script = (
        "import os, subprocess, sys, time\n"
        f"shell = ['sh', '-c', 'sleep 600 & sleep 600; :', '{marker}']\n"
        "subprocess.Popen(shell, start_new_session=True, stdin=subprocess.DEVNULL)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sh', shell)\n"
        "    os._exit(0)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    task_id = f"tree-{method}"
    assert caller.execute(task_id, script.encode())["success"]
    assert caller.until(task_id, "RUNNING", printed="up")["message"] == "it runs"
    wait_until("its daemons run", lambda: len(processes_with(marker)) >= 2)
    stopped = caller.call(service, method, task_id=task_id)
    assert stopped["success"], stopped
    assert processes_with(marker) == []
    assert "STOPPED" in stopped["message"]
    seen = caller.status(task_id)
    assert (seen["status"], seen["output"]) == ("STOPPED", ["up"])
    again = caller.call(service, method, task_id=task_id)
    assert again["success"]
    assert "STOPPED" in again["message"]


def test_what_has_ended_cannot_be_stopped_into_something_else(caller: Caller) -> None:
    caller.run("done", b"print(1)")
    assert "COMPLETED" in caller.call("taskworker", "CancelTask", task_id="done")["message"]
    assert caller.status("done")["status"] == "COMPLETED"


def test_a_worker_that_is_full_says_so_and_takes_more_later(caller: Caller) -> None:
    for task_id in ("full-1", "full-2"):
        assert caller.execute(task_id, LASTING)["success"]
        caller.until(task_id, "RUNNING", printed="up")
    refused = caller.execute("full-3", b"print(1)")
    assert (refused["success"], refused["code"]) == (False, NO_ROOM)
    assert refused["message"].startswith("INSUFFICIENT_RESOURCES: busy")
    assert caller.status("full-3")["code"] == NOT_FOUND
    for task_id in ("full-1", "full-2"):
        assert caller.call("taskworker", "CancelTask", task_id=task_id)["success"]
    assert caller.run("full-3", b"print(1)")["status"] == "COMPLETED"


def test_the_reports_answer_for_tasks_that_are_here(caller: Caller) -> None:
    caller.run("reported", b"print(1)")
    told = caller.call("nodepool", "ReportOutput", task_id="reported", output="forged")
    assert told["success"]
    measured = caller.call("nodepool", "ReportRunningStatus", task_id="reported", cpu_usage=75)
    assert (measured["success"], measured["cpt_reward"]) == (True, "0")
    assert caller.status("reported")["output"] == ["1"]


@pytest.mark.parametrize(
    ("service", "method"),
    [call for call in CALLS if call[1] not in {"ExecuteTask", "GetSystemInfo"}],
)
def test_a_task_that_is_not_here_is_not_found(caller: Caller, service: str, method: str) -> None:
    refused = caller.call(service, method, task_id="nobody-knows")
    assert (refused["success"], refused["code"]) == (False, NOT_FOUND)
    assert refused["message"].startswith("TASK_NOT_FOUND: ")


def test_the_machine_is_told_as_it_is(caller: Caller) -> None:
    caller.call("taskworker", "GetSystemInfo")
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        sum(range(10_000))
    seen = caller.call("taskworker", "GetSystemInfo")
    capabilities, usage = seen["capabilities"], seen["usage"]
    assert capabilities["cpu_cores"] == len(os.sched_getaffinity(0))
    assert capabilities["supported_tasks"] == ["python", "shell", "archive"]
    assert int(capabilities["memory_mb"]) > 100
    assert seen["hostname"] == os.uname().nodename
    assert 0 < usage["cpu_percent"] <= 100
    assert 0 < usage["memory_percent"] <= 100
    assert 0 < usage["disk_percent"] <= 100
    assert usage["network_mbps"] >= 0


# -- its beginning and its end -----------------------------------------------------------------


def test_a_draining_worker_lets_tasks_end_and_takes_no_more(pool: Pool, stubs: Path) -> None:
    write_policy(pool.root / "lone")
    worker = pool.lone_worker("--slots", "2")
    with open_caller(stubs, worker.address, local_token(worker)) as caller:
        script = b"import time; time.sleep(2); print('end')"
        assert caller.execute("ends", script)["success"]
        caller.until("ends", "RUNNING")
        worker.process.terminate()
        wait_until("it drains", lambda: "draining" in worker.log.read_text())
        refused = caller.execute("late", b"print(1)")
        assert (refused["success"], refused["code"]) == (False, str(int(ErrorCode.NODE_OFFLINE)))
        assert refused["message"].startswith("NODE_OFFLINE: ")
        assert caller.execute("ends", script)["success"], "what was accepted is not taken back"
        assert worker.process.wait(30) == 0
        assert worker.process.stdout is not None
        worker.process.stdout.close()
    assert re.search(r"direct_task_ended .*COMPLETED", worker.log.read_text())
    assert not (worker.home / "worker" / "address").exists()


def test_after_a_kill_nothing_is_left_of_its_tasks(pool: Pool, stubs: Path) -> None:
    write_policy(pool.root / "lone")
    worker = pool.lone_worker()
    token = local_token(worker)
    marker = f"direct-killed-{os.getpid()}"
    with open_caller(stubs, worker.address, token) as caller:
        script = f"echo up; sh -c 'sleep 600; :' {marker}".encode()
        assert caller.execute("killed", script, "shell")["success"]
        caller.until("killed", "RUNNING", printed="up")
    worker.kill()
    again = pool.lone_worker()
    assert local_token(again) == token
    wait_until("its tasks are gone", lambda: processes_with(marker) == [])
    assert list((again.home / "worker" / "direct").iterdir()) == []
    with open_caller(stubs, again.address, token) as caller:
        assert caller.status("killed")["code"] == NOT_FOUND


def test_with_a_certificate_it_speaks_tls_alone(pool: Pool, stubs: Path) -> None:
    certificate = make_certificate(pool.root / "keys", "IP:127.0.0.1")
    config = pool.root / "worker.toml"
    config.write_text(
        f"tls_cert = '{certificate}'\ntls_key = '{certificate.with_name('key.pem')}'\n"
    )
    worker = pool.lone_worker("--config", str(config))
    with open_caller(stubs, worker.address, local_token(worker), certificate) as caller:
        assert caller.run("tls", b"print('by TLS')")["output"] == ["by TLS"]
    with open_caller(stubs, worker.address, local_token(worker)) as plain:
        assert plain.status("tls")["refused"] == "UNAVAILABLE"


def test_no_token_travels_in_plain_text_off_the_machine_unless_that_is_said(pool: Pool) -> None:
    refused = pool.cli(
        *("worker", "--listen", "0.0.0.0:0", "--limits", LIMITS), home=pool.root / "lone"
    )
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"plain text" in refused.stderr
    assert b"--tls-cert" in refused.stderr
    said = pool.lone_worker("--allow-plaintext", listen="0.0.0.0:0")
    assert said.address.startswith("0.0.0.0:")
    assert said.stop() == 0


def test_fault_14_without_a_whole_sandbox_there_is_no_worker(tmp_path: Path) -> None:
    found = find_bubblewrap()
    assert isinstance(found, Bubblewrap)
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'bubblewrap 0.11.0'\nexit 1\n")
    broken.chmod(0o755)
    command = f'mount --bind {broken} {found.path} && exec "$@"'
    refused = subprocess.run(
        [
            *("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))),
            *("sh", "-c", command, "sh", HIVEMIND, "worker", "--listen", "127.0.0.1:0"),
            *("--home", str(tmp_path / "home"), "--limits", LIMITS),
        ],
        capture_output=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stdout == b""
    assert b"this machine cannot run tasks" in refused.stderr
    assert not (tmp_path / "home" / "worker" / "address").exists()

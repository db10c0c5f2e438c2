"""``hivemind run`` against a real pool: streams, statuses, input, results, interrupts."""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hivemind.core.records import Task, TaskState
from tests.cli.conftest import Shell
from tests.pool import HIVEMIND, processes_with, wait_until

END_S = 30


def _names(shell: Shell) -> list[str]:
    return [task.name for task in shell.client.list(include_ended=True)]


def _task(shell: Shell, name: str) -> Task:
    """The newest task of that name."""
    return next(task for task in shell.client.list(include_ended=True) if task.name == name)


@contextmanager
def _running(shell: Shell, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A `run` whose task has said "up"; it is gone when the block is left."""
    process = shell.start("run", *arguments)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def _end(process: "subprocess.Popen[bytes]") -> tuple[int, bytes]:
    """Its exit status, and what it said on standard error."""
    _, said = process.communicate(timeout=END_S)
    return process.returncode, said


def test_a_scripts_own_file_says_how_it_is_shut_in(shell: Shell, tmp_path: Path) -> None:
    script = tmp_path / "small.py"
    script.write_text(
        "# /// script\n# [tool.hivemind]\n# scratch = '8M'\n# tmp = '1M'\n# open_files = 77\n"
        "# cpu_time = '9s'\n# ///\n"
        "import os, resource\n"
        "for path in ('/task', '/tmp', '/dev/shm'):\n"
        "    stat = os.statvfs(path)\n"
        "    print(path, stat.f_blocks * stat.f_frsize)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])\n"
    )
    done = shell.run("run", str(script))
    assert (done.returncode, done.stderr) == (0, "")
    shm = (7 << 20) // 8
    assert done.stdout.splitlines() == [
        f"/task {(7 << 20) - shm}",
        f"/tmp {1 << 20}",
        f"/dev/shm {shm}",
        "77",
    ]
    script.write_text(script.read_text().replace("tmp = '1M'", "network = 'full'"))
    done = shell.run("run", str(script))
    assert (done.returncode, done.stdout) == (125, "")
    assert "network full was asked for and policy default allows at most loopback" in done.stderr


# --- statuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 139), ("kill -TERM $$", 143)],
)
def test_the_tasks_own_end_is_the_commands(shell: Shell, script: str, status: int) -> None:
    done = shell.run("run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


# Slow enough for a watchdog that looks ten times a second, where there is no cgroup.
HOARD = """
import time
hoard = []
while True:
    hoard.append(bytes(1 << 20).replace(b"\\0", b"x"))
    time.sleep(0.002)
"""


@pytest.mark.parametrize(
    ("options", "command", "status", "words"),
    [
        (["--time", "0.3s"], ["sleep", "60"], 124, "time limit of 0.3s"),
        (["--memory", "16M"], ["python3", "-c", HOARD], 137, "out of memory"),
        ([], ["sh", "-c", "head -c 17M /dev/zero"], 137, "output limit"),
        (["--policy", "nobodys"], ["true"], 125, "policy 'nobodys'"),
        (["--memory", "900T"], ["true"], 125, "memory"),
    ],
)
def test_an_end_by_a_limit_or_a_refusal_is_named_in_one_line(
    shell: Shell, options: list[str], command: list[str], status: int, words: str
) -> None:
    done = shell.run("run", *options, "--", *command)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("hivemind: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_be_run_126(shell: Shell) -> None:
    assert shell.run("run", "--", "no-such-command-anywhere").returncode == 127
    assert shell.run("run", "--", "/usr/bin").returncode == 126


def test_without_a_master_it_is_125(shell: Shell, tmp_path: Path) -> None:
    environment = {"HIVEMIND_MASTER": "127.0.0.1:1", "HIVEMIND_TOKEN": "x"}
    done = shell.pool.cli("run", "--", "true", home=tmp_path, environment=environment)
    assert done.returncode == 125
    assert done.stderr == (
        b"hivemind: no master answers at 127.0.0.1:1; "
        b"start one with `hivemind up`, or set HIVEMIND_MASTER\n"
    )


def test_a_retry_gives_another_try_and_its_status(shell: Shell) -> None:
    script = "echo $HIVEMIND_ATTEMPT; test $HIVEMIND_ATTEMPT = 2"
    done = shell.run("run", "--retries", "1", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "1\n2\n")


# --- streams ------------------------------------------------------------------------------------


def test_the_streams_stay_apart_and_their_bytes_are_exact(shell: Shell, tmp_path: Path) -> None:
    script = tmp_path / "bytes.py"
    script.write_text(
        "import sys\n"
        "sys.stdout.buffer.write(bytes(range(256)) * 1000)\n"
        "sys.stderr.buffer.write(bytes(range(255, -1, -1)) * 1000)\n"
    )
    done = shell.pool.cli("run", str(script), home=shell.home)
    assert done.returncode == 0
    assert done.stdout == bytes(range(256)) * 1000
    assert done.stderr == bytes(range(255, -1, -1)) * 1000


def test_output_is_there_while_the_task_runs(shell: Shell) -> None:
    marker = f"{os.getpid()}.125"
    script = f"echo up; echo err >&2; sleep {marker}"
    with _running(shell, "--", "sh", "-c", script) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"err\n"
        assert process.poll() is None
        assert processes_with(marker)
        process.send_signal(signal.SIGTERM)
        _end(process)


def test_output_that_begins_anew_is_told_apart(shell: Shell) -> None:
    done = shell.run("run", "--retries", "1", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\nout\n")
    assert done.stderr.splitlines() == [
        "err",
        "hivemind: attempt 1 is over, and the task is run again: the output of attempt 2 follows,"
        " from its beginning",
        "err",
    ]


def test_output_goes_into_a_file_as_into_a_pipe(shell: Shell, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [HIVEMIND, "run", "--", "head", "-c", "300000", "/dev/zero"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            env=shell.environment,
            timeout=END_S,
            check=False,
        )
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == bytes(300_000)


def test_a_reader_that_goes_away_ends_the_task_quietly(shell: Shell) -> None:
    script = "echo up; exec yes"
    with _running(shell, "--name", "broken pipe", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(END_S) == -signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert _task(shell, "broken pipe").state is TaskState.STOPPED


def test_output_that_cannot_be_written_is_told_and_ends_the_task(shell: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        for stream in ("stdout", "stderr"):
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
            where = "" if stream == "stdout" else " >&2"
            with subprocess.Popen(
                [HIVEMIND, "run", "--name", stream, "--", "sh", "-c", f"echo up{where}; sleep 600"],
                stdin=subprocess.DEVNULL,
                env=shell.environment,
                **streams,  # type: ignore[arg-type]
            ) as process:
                assert process.wait(END_S) == 125
                if process.stderr is not None:
                    said = process.stderr.read().decode()
                    assert said.startswith("hivemind: standard output cannot be written: ")
                    assert said.count("\n") == 1
            assert _task(shell, stream).state is TaskState.STOPPED


def test_at_a_terminal_one_line_tells_the_progress_and_is_gone_in_the_end(shell: Shell) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [HIVEMIND, "run", "--", "sh", "-c", "sleep 0.5; echo out"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**shell.environment, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        out, _ = process.communicate(timeout=END_S)
    told = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
        while data := terminal.read(4096):
            told += data
    assert (process.returncode, out) == (0, b"out\n")
    assert b": running on " in told
    assert told.endswith(b"\r\x1b[2K")
    assert b"\n" not in told


def test_a_closed_standard_output_is_no_fault(shell: Shell) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {HIVEMIND} run -- sh -c 'echo lost; echo kept >&2' >&- </dev/null"],
        env=shell.environment,
        stderr=subprocess.PIPE,
        timeout=END_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"kept\n")


# --- what is run --------------------------------------------------------------------------------


def test_a_script_gets_its_arguments_variables_and_name(shell: Shell, tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text("import os, sys\nprint(sys.argv, os.environ['A'], os.getcwd())\n")
    done = shell.run("run", "--env", "A=b c", "--name", "hi", str(script), "--x", "-h", "--", "y")
    assert done.stdout == "['hello.py', '--x', '-h', '--', 'y'] b c /task\n"
    assert _task(shell, "hi").state is TaskState.SUCCEEDED


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_project_of_several_files_is_run_by_its_entry(
    shell: Shell, tmp_path: Path, form: str
) -> None:
    project = tmp_path / "project"
    (project / "pkg").mkdir(parents=True)
    (project / "main.py").write_text("from pkg import mod\nprint(mod.read())\n")
    (project / "pkg/__init__.py").touch()
    (project / "pkg/mod.py").write_text("def read(): return open('data.txt').read()\n")
    (project / "data.txt").write_text("from a file")
    if form == "zip":
        archive = tmp_path / "project.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for path in project.rglob("*.*"):
                packed.write(path, path.relative_to(project))
        project = archive
    assert shell.run("run", str(project)).stdout == "from a file\n"


def test_settings_in_the_file_hold_and_flags_win(shell: Shell, tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_text(
        "# /// script\n# [tool.hivemind]\n# time = '77s'\n# memory = '99M'\n"
        "# env = { A = 'file' }\n# ///\nimport os; print(os.environ['A'])\n"
    )
    done = shell.run("run", "--name", "inline", "--memory", "88M", str(script))
    assert done.stdout == "file\n"
    task = _task(shell, "inline")
    assert task.wall_s == 77
    assert task.requirements.memory_bytes == 88 << 20


# --- standard input -----------------------------------------------------------------------------


def test_standard_input_reaches_the_task_whole(shell: Shell) -> None:
    data = os.urandom(3_000_000)
    done = shell.run("run", "--", "sha256sum", stdin=data)
    assert done.stdout.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("given", [b"", None])
def test_an_empty_or_null_input_is_none(shell: Shell, given: bytes | None) -> None:
    assert shell.run("run", "--", "wc", "-c", stdin=given).stdout.strip() == "0"


def test_a_closed_input_is_none(shell: Shell) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {HIVEMIND} run -- wc -c <&-"],
        env=shell.environment,
        capture_output=True,
        timeout=END_S,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"0"), done.stderr


def test_an_input_over_the_limit_is_refused_and_nothing_is_submitted(
    shell: Shell, tmp_path: Path
) -> None:
    holes = tmp_path / "holes"
    with holes.open("wb") as file:
        file.truncate(1_000_000_001)
    with holes.open("rb") as file:
        done = subprocess.run(
            [HIVEMIND, "run", "--name", "too long", "--", "cat"],
            stdin=file,
            env=shell.environment,
            capture_output=True,
            timeout=END_S,
            check=False,
        )
    assert done.returncode == 125
    assert b"standard input is longer than 1000000000 bytes" in done.stderr
    assert "too long" not in _names(shell)


@pytest.mark.parametrize(("size", "status"), [(1000, 0), (1001, 1)])
def test_an_input_from_a_pipe_is_counted_as_it_comes(size: int, status: int) -> None:
    program = (
        "from hivemind.cli.stdin import spooled_stdin\n"
        "with spooled_stdin(1000) as source:\n"
        "    assert source is not None and source.size == 1000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"x" * size,
        capture_output=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == status
    assert (b"longer than 1000 bytes" in done.stderr) == bool(status)


# --- results ------------------------------------------------------------------------------------

_WRITES = (
    "mkdir -p output/deep && echo A > $HIVEMIND_OUTPUT/a && head -c 99999 /dev/zero > output/deep/b"
)


def test_the_output_folder_arrives_in_a_folder(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("run", "--output", str(tmp_path / "new"), "--", "sh", "-c", _WRITES)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "new/a").read_text() == "A\n"
    assert (tmp_path / "new/deep/b").read_bytes() == bytes(99_999)


def test_a_path_that_ends_in_zip_gets_the_whole_result(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    done = shell.run("run", "--output", str(path), "--", "sh", "-c", f"echo said; {_WRITES}")
    assert done.returncode == 0
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as result:
        assert result.read("output/a") == b"A\n"
        assert result.read("stdout.txt") == b"said\n"
        assert json.loads(result.read("result.json"))


def test_a_failed_task_leaves_its_output_too(shell: Shell, tmp_path: Path) -> None:
    script = "echo half > output/h; exit 3"
    done = shell.run("run", "--output", str(tmp_path / "o"), "--", "sh", "-c", script)
    assert done.returncode == 3
    assert (tmp_path / "o/h").read_text() == "half\n"


def test_an_output_path_that_cannot_be_is_told_before_anything_runs(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "no/such.zip"):
        done = shell.run("run", "--name", "nowhere", "--output", str(path), "--", "true")
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
    assert "nowhere" not in _names(shell)


def test_a_result_that_could_not_be_written_can_be_fetched_as_the_command_says(
    shell: Shell, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    script = "echo up; echo kept > output/kept; sleep 1"
    with _running(shell, "--output", str(place), "--", "sh", "-c", script) as process:
        place.touch()
        status, said = _end(process)
    line = said.decode()
    assert (status, line.count("\n")) == (125, 1)
    assert line.startswith(f"hivemind: {place}: ")
    told = re.search(r"`hivemind (result \w+ -o) PATH`", line)
    assert told is not None, line
    assert shell.run(*told[1].split(), str(tmp_path / "new")).returncode == 0
    assert (tmp_path / "new" / "kept").read_text() == "kept\n"


# --- interrupts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_stops_the_task_and_leaves_no_process(
    shell: Shell, number: signal.Signals, status: int
) -> None:
    marker = f"{os.getpid()}.{status}"
    name = f"interrupted by {number}"
    # What it starts has left its session and ignores what can be ignored.
    child = f"trap '' INT TERM HUP; sleep {marker} & wait; wait"
    script = f'trap "" INT TERM HUP; setsid sh -c "{child}" & echo up; wait'
    with _running(shell, "--name", name, "--", "sh", "-c", script) as process:
        wait_until("the child runs", lambda: processes_with(f"sleep\0{marker}"))
        process.send_signal(number)
        ended, said = _end(process)
    assert (ended, said) == (status, b"")
    assert not processes_with(f"sleep\0{marker}")
    assert _task(shell, name).state is TaskState.STOPPED


def test_a_second_interrupt_leaves_at_once(shell: Shell) -> None:
    script = "echo up; sleep 60"
    with _running(shell, "--name", "left", "--", "sh", "-c", script) as process:
        os.kill(shell.up.pid, signal.SIGSTOP)  # so that no stop can be answered
        try:
            process.send_signal(signal.SIGINT)
            wait_until("the first was heeded", lambda: _sleeps_with_nothing_pending(process.pid))
            process.send_signal(signal.SIGINT)
            ended, said = _end(process)
        finally:
            os.kill(shell.up.pid, signal.SIGCONT)
    assert ended == 130
    assert b"left while task" in said
    shell.client.stop(_task(shell, "left").id)
    assert shell.client.wait(_task(shell, "left").id).state is TaskState.STOPPED


def _sleeps_with_nothing_pending(pid: int) -> bool:
    """Whether the process waits and has no signal pending: it has dealt with the one it got."""
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    return status["State"].startswith("S") and int(status["ShdPnd"], 16) == 0


def test_a_stop_by_someone_else_is_143(shell: Shell) -> None:
    script = "echo up; sleep 60"
    with _running(shell, "--name", "by another", "--", "sh", "-c", script) as process:
        shell.client.stop(_task(shell, "by another").id)
        ended, said = _end(process)
    assert ended == 143
    assert b"was stopped by admin" in said

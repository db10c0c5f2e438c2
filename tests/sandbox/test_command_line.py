"""`python -m sandbox`: what its words mean, and what becomes of them in real runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import sandbox
from sandbox import bubblewrap
from sandbox.__main__ import main
from sandbox.command_line import parse
from sandbox.order import RunOrder, read_order
from tests.sandbox.conftest import processes_with, unique

_ROOT = Path(__file__).parents[2]


def _order(*words: str, folder: Path = Path("/nowhere"), terminal: bool = True) -> RunOrder:
    return read_order(parse(["run", *words]), folder, stdin_is_terminal=terminal)


# What the words mean.


def test_every_option_reaches_the_run(tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"x")
    source.chmod(0o700)
    order = _order(
        *("--memory", "64M", "--time", "5m", "--cpu-time", "10", "--cpus", "0.5", "--pids", "20"),
        *("--scratch", "1M", "--output-limit", "64K", "--limits", "best-effort"),
        *("--network", "none", "--seccomp", "allow-list", "--root", "/srv/root"),
        *("--env", "A=1", "--env", "B=x=y", "--file", f"{source}", "--file", f"{source}:deep/er"),
        *("--archive", "a.zip", "--ro", "/data:/inputs/data", "--stdin", "/etc/hostname"),
        *("--collect", str(tmp_path / "o.tar"), "--output", "model"),
        *("--", "prog", "--memory", "1", "--", "x"),
    )
    assert order.config == sandbox.PoolConfig(limits="best-effort", slots=1)
    assert order.collect == tmp_path / "o.tar"
    assert order.spec == sandbox.Spec(
        argv=("prog", "--memory", "1", "--", "x"),
        env={"A": "1", "B": "x=y"},
        limits=sandbox.Limits(
            memory_bytes=64 << 20,
            wall_s=300,
            cpu_s=10,
            cpus=0.5,
            pids=20,
            scratch_bytes=1 << 20,
            file_bytes=1 << 20,
            output_bytes=64 << 10,
        ),
        files=(
            sandbox.StagedFile(source=source, name="tool", mode=0o700),
            sandbox.StagedFile(source=source, name="deep/er", mode=0o700),
        ),
        archive=sandbox.Archive(source=Path("a.zip")),
        binds=(sandbox.ReadOnlyBind(source=Path("/data"), target=PurePosixPath("/inputs/data")),),
        stdin=Path("/etc/hostname"),
        network="none",
        seccomp="allow-list",
        root=Path("/srv/root"),
        outputs=("model",),
    )


def test_without_options_the_limits_are_those_of_the_package() -> None:
    assert _order("--", "true").spec == sandbox.Spec(argv=("true",))


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (("python3", "-c", "pass", "-v"), ("python3", "-c", "pass", "-v")),
        (("--time", "1", "a", "--", "b"), ("a", "--", "b")),
        (("--", "--odd"), ("--odd",)),
    ],
)
def test_the_command_begins_at_the_dashes_or_at_the_first_word_that_is_no_option(
    words: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    assert _order(*words).spec.argv == argv


@pytest.mark.parametrize(
    ("command", "staged"),
    [
        ("python3 x.py", "x.py"),
        ("python3 -u ./x.py data", "x.py"),
        ("python3 sub/y.py x.py", "sub/y.py"),
        ("./tool x.py", "tool"),
        ("tool", None),  # on PATH, not here
        ("python3 -c x.pyc", None),
        ("python3 missing.py", None),
        ("cat sub", None),
        ("cat ../secret", None),
        ("cat sub/../../secret", None),
        ("cat {folder}/x.py", None),
        ("cat pipe", None),
    ],
)
def test_the_commands_own_file_is_staged_and_nothing_else(
    tmp_path: Path, command: str, staged: str | None
) -> None:
    folder = tmp_path / "here"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(folder / "pipe")
    for name in ("x.py", "sub/y.py", "tool", "data"):
        (folder / name).write_text(name)
    (folder / "tool").chmod(0o4755)
    order = _order("--", *command.format(folder=folder).split(), folder=folder)
    files = [(file.source, file.name, file.mode) for file in order.spec.files]
    mode = 0o755 if staged == "tool" else 0o644
    assert files == ([(folder / staged, staged, mode)] if staged else [])


def test_a_file_named_by_an_option_or_an_archive_goes_before_the_commands_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "x.py").write_text("here")
    order = _order("--file", "/etc/hostname:x.py", "--", "python3", "x.py", folder=tmp_path)
    assert [file.source for file in order.spec.files] == [Path("/etc/hostname")]
    order = _order("--archive", "a.zip", "--", "python3", "x.py", folder=tmp_path)
    assert order.spec.files == ()


@pytest.mark.parametrize(
    ("words", "terminal", "stdin"),
    [
        ((), True, None),
        ((), False, 0),
        (("--stdin", "-"), True, 0),
        (("--stdin", "/dev/null"), False, None),
        (("--stdin", "data"), False, Path("data")),
    ],
)
def test_our_own_stdin_is_passed_on_unless_it_is_a_terminal(
    words: tuple[str, ...], terminal: bool, stdin: object
) -> None:
    assert _order(*words, "--", "cat", terminal=terminal).spec.stdin == stdin


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "the following arguments are required"),
        (("frobnicate",), "invalid choice"),
        (("run",), "no command"),
        (("run", "--"), "no command"),
        (("run", "--memory", "5X", "--", "true"), "--memory: '5X' is not a size"),
        (("run", "--time", "soon", "--", "true"), "--time: 'soon' is not a time"),
        (("run", "--time", "0", "--", "true"), "wall_s must be positive"),
        (("run", "--memory", "1M", "--", "true"), "memory_bytes must be at least"),
        (("run", "--cpus", "inf", "--", "true"), "--cpus: 'inf' is not a number"),
        (("run", "--pids", "-1", "--", "true"), "--pids"),
        (("run", "--mem", "64M", "--", "true"), "unrecognized arguments: --mem"),
        (("run", "--env", "A", "--", "true"), "'A' is not NAME=VALUE"),
        (("run", "--file", "/etc/passwd:../x", "--", "true"), "relative path"),
        (("run", "--ro", "/data", "--", "true"), "is not PATH:TARGET"),
        (("run", "--ro", "/data:/usr/x", "--", "true"), "folder of the system"),
        (("run", "--network", "some", "--", "true"), "invalid choice"),
        (("run", "--collect", "/dev/null", "--", "true"), "not a regular file"),
        (("run", "--collect", "/no/such/x.tar", "--", "true"), "folder cannot be written"),
        (("run", "--output", "x", "--", "true"), "needs --collect"),
    ],
)
def test_misuse_is_told_in_one_line_with_status_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    try:
        status: object = main(list(words))
    except SystemExit as ended:
        status = ended.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("sandbox: ")
    assert told in lines[0]


# What becomes of it.

_Run = Any


@pytest.fixture
def run(tmp_path: Path) -> Iterator[_Run]:
    """Start `python -m sandbox run --limits best-effort ...` in a folder of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **more: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "run", "--limits", "best-effort", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            **{**pipes, **more},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def _finish(process: subprocess.Popen[bytes], given: bytes | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(given, timeout=60)
    return process.returncode, out.decode(), err.decode()


def test_the_example_works_as_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("limits by cgroup need root or a delegated cgroup")
    (tmp_path / "x.py").write_text("import sys; print('hello', *sys.argv)\n")
    line = "python -m sandbox run --memory 256M --time 10s -- python3 x.py one two"
    done = subprocess.run(
        [sys.executable, *line.split()[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello x.py one two\n", b"")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--", "sh", "-c", "echo out; echo err >&2; exit 7"), 7, "err\n"),
        (("--time", "300ms", "--", "sleep", "100"), 124, "sandbox: ended: time limit\n"),
        (("--output-limit", "1K", "--", "yes"), 137, "sandbox: ended: output limit\n"),
        (("--", "sh", "-c", "kill -TERM $$"), 143, ""),
        (("--", "no-such-command"), 127, "no-such-command: No such file or directory\n"),
        (("--", "/etc/passwd"), 126, "/etc/passwd: Permission denied\n"),
        (("--file", "missing", "--", "true"), 125, "No such file or directory\n"),
        (("--stdin", "missing", "--", "true"), 125, "it is not a file\n"),
    ],
)
def test_the_exit_status_is_the_commands_own_or_says_what_ended_it(
    run: _Run, words: tuple[str, ...], status: int, told: str
) -> None:
    code, _, err = _finish(run(*words))
    assert code == status
    assert err.endswith(told)
    assert err.count("\n") == (1 if told else 0)


def test_a_machine_that_cannot_run_it_is_told_in_one_line_with_status_125(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bubblewrap, "_candidates", list)
    assert main(["run", "--", "true"]) == 125
    err = capsys.readouterr().err
    assert err.startswith("sandbox: no bubblewrap: it is not installed: install it")
    assert err.count("\n") == 1


def test_output_comes_while_the_command_runs_and_an_interrupt_leaves_nothing(run: _Run) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        marker = unique("foreground")
        process = run("--", "sh", "-c", f"trap '' INT TERM HUP; echo up; sleep 1000; : {marker}")
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert _inside(process, marker)
        process.send_signal(number)
        assert _finish(process) == (status, "", "")
        assert not processes_with(marker)


def test_an_interrupt_leaves_no_cgroup(run: _Run) -> None:
    if os.geteuid() != 0:
        pytest.skip("limits by cgroup need root or a delegated cgroup")
    marker = unique("cgroup")
    process = run("--limits", "cgroup", "--", "sh", "-c", f"echo up; sleep 1000; : {marker}")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    inside = next(pid for pid in processes_with(f"sleep 1000; : {marker}") if pid != process.pid)
    lines = Path(f"/proc/{inside}/cgroup").read_text().splitlines()
    pools = {PurePosixPath(line).parent.name for line in lines if "/sandbox/" in line}
    assert len(pools) == 1
    assert list(Path("/sys/fs/cgroup").rglob(*pools))
    process.send_signal(signal.SIGINT)
    assert _finish(process)[0] == 130
    assert not list(Path("/sys/fs/cgroup").rglob(*pools))


def test_a_signal_that_we_were_started_to_ignore_is_ignored(run: _Run) -> None:
    process = run(
        *("--", "sh", "-c", "echo up; sleep 1; echo still"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGHUP)
    assert _finish(process) == (0, "still\n", "")


def test_a_reader_that_goes_away_ends_it_quietly(run: _Run) -> None:
    marker = unique("pipe")
    process = run("--", "sh", "-c", f"yes {marker}; : {marker}")
    assert process.stdout is not None
    assert process.stdout.readline() == f"{marker}\n".encode()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    assert not processes_with(marker)


def test_a_reader_that_stands_still_does_not_hold_up_the_time_limit(run: _Run) -> None:
    marker = unique("slow")
    process = run("--time", "1", "--", "sh", "-c", f"yes {marker}; : {marker}")
    assert process.stdout is not None
    process.stdout.readline()
    ends_at = time.monotonic() + 20
    while _inside(process, marker) and time.monotonic() < ends_at:
        time.sleep(0.1)
    assert process.poll() is None
    assert not _inside(process, marker)


def _inside(process: subprocess.Popen[bytes], marker: str) -> list[int]:
    return [pid for pid in processes_with(marker) if pid != process.pid]


@pytest.mark.parametrize(
    ("closed", "status"), [("1>/dev/full", 125), ("1>&-", 0), ("0<&- 1>&- 2>&-", 0)]
)
def test_an_output_that_cannot_be_written_is_no_traceback(
    run: _Run, closed: str, status: int
) -> None:
    script = f'"$0" -m sandbox run --limits best-effort -- sh -c "echo x; cat" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    wanted = b"sandbox: cannot write the output: No space left on device\n" if status else b""
    assert done.stderr == wanted


def test_piped_input_reaches_the_command_live_and_to_its_end(run: _Run) -> None:
    process = run("--", "sh", "-c", "read line; echo got $line; wc -c", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"got first\n"
    assert _finish(process, b"x" * 300_000) == (0, "300000\n", "")


def test_a_command_that_does_not_read_is_not_held_up_by_an_open_input(run: _Run) -> None:
    process = run("--", "echo", "done", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read() == b"done\n"
    assert process.wait(60) == 0


def test_a_file_is_read_as_input(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"1\n2\n3\n")
    assert _finish(run("--stdin", "data", "--", "wc", "-l")) == (0, "3\n", "")
    with (tmp_path / "data").open("rb") as file:
        assert _finish(run("--", "wc", "-l", stdin=file)) == (0, "3\n", "")


def test_files_archives_binds_and_variables_are_there(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool ran\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "folder/data").write_text("bound\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("packed", "unpacked\n")
    done = _finish(
        run(
            *("--file", "tool:bin/tool", "--archive", "a.zip", "--env", "WORD=said"),
            *("--ro", "folder:/inputs", "--"),
            *("sh", "-c", "bin/tool; cat packed /inputs/data; echo $WORD; ls"),
        )
    )
    assert done == (0, "tool ran\nunpacked\nbound\nsaid\nbin\noutput\npacked\n", "")


def test_what_it_leaves_is_collected_whatever_its_status(run: _Run, tmp_path: Path) -> None:
    script = "echo kept >output/x; ln -s / output/link; echo more >y; exit 4"
    words = ("--collect", "out.tar", "--output", "y", "--", "sh", "-c", script)
    assert _finish(run(*words)) == (4, "", "sandbox: not collected: link\n")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert sorted(archive.getnames()) == ["x", "y"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]


def test_what_is_too_large_to_collect_leaves_the_old_file(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "out.tar").write_bytes(b"old")
    script = "truncate -s 600K output/a output/b"
    words = ("--scratch", "1M", "--collect", "out.tar", "--", "sh", "-c", script)
    code, _, err = _finish(run(*words))
    assert (code, err) == (125, "sandbox: the output is larger than 1048576 bytes\n")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.tar", b"old")]

"""What a run promises, through the public interface and with real processes."""

from __future__ import annotations

import time

import pytest
import trio

import sandbox
from sandbox import Reason, Stream
from tests.sandbox.conftest import (
    InCells,
    cgroup_folders,
    limits,
    processes_with,
    python,
    shell,
    unique,
)


async def test_output_exit_code_and_usage_of_a_simple_program(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, shell("echo out; echo err >&2; exit 3"))
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert done.result.reason is Reason.EXITED
    assert done.result.exit_code == 3
    assert done.result.signal is None
    assert done.result.usage.wall_s > 0
    assert done.result.usage.cpu_s > 0
    assert done.result.usage.memory_peak_bytes > 1 << 16


async def test_output_arrives_while_the_task_still_runs(any_pool: sandbox.Pool) -> None:
    async with any_pool.open_run(shell("echo first; sleep 60; echo second")) as run:
        with trio.fail_after(30):
            async for chunk in run.chunks():
                assert (chunk.stream, chunk.data) == (Stream.STDOUT, b"first\n")
                assert abs(chunk.at - time.time()) < 60
                run.stop()
            result = await run.wait()
    assert (result.reason, result.exit_code) == (Reason.STOPPED, 143)


@pytest.mark.parametrize(
    ("script", "reason", "code", "number"),
    [
        ("exit 0", Reason.EXITED, 0, None),
        ("exit 127", Reason.EXITED, 127, None),
        ("exit 255", Reason.EXITED, 255, None),
        ("kill -TERM $$", Reason.SIGNALLED, 143, 15),
        ("kill -SEGV $$", Reason.SIGNALLED, 139, 11),
        ("kill -KILL $$", Reason.SIGNALLED, 137, 9),
    ],
)
async def test_exit_codes_are_those_of_a_shell(
    pool: sandbox.Pool, script: str, reason: Reason, code: int, number: int | None
) -> None:
    result = (await sandbox.run_in(pool, shell(script))).result
    assert (result.reason, result.exit_code, result.signal) == (reason, code, number)


async def test_a_missing_command_is_127_and_says_so(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, sandbox.Spec(argv=("no-such-command", "x")))
    assert done.result.exit_code == 127
    assert b"no-such-command" in done.stderr


async def test_a_file_that_is_not_executable_is_126_and_says_so(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, sandbox.Spec(argv=("/etc/passwd",)))
    assert done.result.exit_code == 126
    assert b"/etc/passwd" in done.stderr


async def test_the_wall_time_limit_ends_a_task_that_ignores_signals(any_pool: sandbox.Pool) -> None:
    spec = shell("trap '' TERM INT HUP; while :; do sleep 1; done", limits=limits(wall_s=0.5))
    done = await sandbox.run_in(any_pool, spec)
    assert (done.result.reason, done.result.exit_code) == (Reason.TIME_LIMIT, 124)
    assert done.result.usage.wall_s >= 0.5


async def test_the_cpu_time_limit_counts_all_processes(any_pool: sandbox.Pool) -> None:
    spec = shell(
        "while :; do :; done & while :; do :; done", limits=limits(cpu_s=0.4, cpus=2.0, wall_s=60)
    )
    done = await sandbox.run_in(any_pool, spec)
    assert (done.result.reason, done.result.exit_code) == (Reason.CPU_TIME_LIMIT, 124)
    assert 0.4 <= done.result.usage.cpu_s < 20


async def test_a_limit_that_nobody_reaches_is_no_obstacle(any_pool: sandbox.Pool) -> None:
    endless = limits(cpu_s=1e300, wall_s=float("inf"))
    done = await sandbox.run_in(any_pool, shell("exit 0", limits=endless))
    assert (done.result.reason, done.result.exit_code) == (Reason.EXITED, 0)


async def test_the_memory_limit_ends_the_whole_task(any_pool: sandbox.Pool) -> None:
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    hoard = []\n"
        "    while True:\n"
        "        hoard.append(bytes(1 << 20).replace(b'\\0', b'x'))\n"
        "        time.sleep(0.002)\n"
        "os.wait()\n"
        "time.sleep(60)\n"
    )
    done = await sandbox.run_in(any_pool, python(source, limits=limits()))
    assert (done.result.reason, done.result.exit_code) == (Reason.OUT_OF_MEMORY, 137)
    assert done.result.usage.memory_peak_bytes > 48 << 20


_FILL_SOCKETS = """
import socket
pairs, held = [], 0
try:
    while len(pairs) < 1000:
        reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        reader.bind(("127.0.0.1", 0))
        writer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        writer.connect(reader.getsockname())
        reader.setblocking(False)
        pairs.append(reader)
        for _ in range(64):
            writer.send(bytes(60_000))
        writer.close()
except OSError:
    pass
for reader in pairs:
    try:
        while True:
            held += len(reader.recv(60_000))
    except OSError:
        pass
print(held >> 20)
"""


async def test_what_lies_in_sockets_counts_against_the_memory_limit(pool: sandbox.Pool) -> None:
    spec = python(_FILL_SOCKETS, limits=limits(open_files=1200))
    done = await sandbox.run_in(pool, spec)
    told = done.stdout.decode().strip()
    # Either the kernel refused the bytes, or it ended the task for them.
    assert done.result.reason is Reason.OUT_OF_MEMORY or 0 < int(told) <= 96


async def test_output_beyond_the_limit_is_cut_and_ends_the_task(any_pool: sandbox.Pool) -> None:
    spec = shell("exec yes", limits=limits(output_bytes=100_000))
    done = await sandbox.run_in(any_pool, spec)
    assert (done.result.reason, done.result.exit_code) == (Reason.OUTPUT_LIMIT, 137)
    assert len(done.stdout) == 100_000


async def test_output_over_the_limit_counts_even_if_the_task_ended_first(
    pool: sandbox.Pool,
) -> None:
    spec = shell("printf 123456789", limits=limits(output_bytes=8))
    async with pool.open_run(spec) as run:
        result = await run.wait()
        data = b"".join([chunk.data async for chunk in run.chunks()])
    assert result.reason is Reason.OUTPUT_LIMIT
    assert data == b"12345678"


async def test_output_at_the_limit_is_no_offence(pool: sandbox.Pool) -> None:
    spec = shell("printf 12345678", limits=limits(output_bytes=8))
    done = await sandbox.run_in(pool, spec)
    assert (done.result.reason, done.stdout) == (Reason.EXITED, b"12345678")


async def test_stop_kills_daemons_and_leaves_no_process_and_no_cgroup(
    any_pool: sandbox.Pool,
) -> None:
    marker = unique("stop")
    script = (
        f"(setsid sh -c 'sleep 1000; : {marker}' </dev/null >/dev/null 2>&1 &) ;"
        f"sh -c 'sleep 1000; : {marker}' & echo up; wait"
    )
    async with any_pool.open_run(shell(script)) as run:
        async for _ in run.chunks():
            assert processes_with(marker)
            run.stop()
        result = await run.wait()
        assert result.reason is Reason.STOPPED
        assert not processes_with(marker)
    if not isinstance(any_pool, InCells):  # a cell's stays, for the runs that follow
        assert not [path for path in cgroup_folders() if path.name.isdigit()]


async def test_daemons_that_hold_the_output_die_with_the_main_process(
    any_pool: sandbox.Pool,
) -> None:
    marker = unique("daemon")
    script = f"setsid sh -c 'sleep 1000; : {marker}' & echo done"
    with trio.fail_after(30):
        done = await sandbox.run_in(any_pool, shell(script))
    assert (done.result.reason, done.stdout) == (Reason.EXITED, b"done\n")
    assert not processes_with(marker)


async def test_the_limit_of_processes_makes_fork_fail(any_pool: sandbox.Pool) -> None:
    source = (
        "import os, time\n"
        "made = 1\n"
        "try:\n"
        "    while os.fork():\n"
        "        made += 1\n"
        "    time.sleep(100)\n"
        "except BlockingIOError:\n"
        "    print(made, flush=True)\n"
    )
    async with trio.open_nursery() as runs:
        for _ in range(2):

            async def one() -> None:
                done = await sandbox.run_in(any_pool, python(source, limits=limits(pids=30)))
                assert int(done.stdout) == 30

            runs.start_soon(one)


async def test_a_fork_storm_is_contained_and_stopped(any_pool: sandbox.Pool) -> None:
    source = (
        "import os\n"
        "print('storm', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except OSError:\n"
        "        pass\n"
    )
    async with any_pool.open_run(python(source, limits=limits(pids=64))) as run:
        async for _ in run.chunks():
            run.stop()
        with trio.fail_after(10):
            assert (await run.wait()).reason is Reason.STOPPED


async def test_leaving_the_run_kills_it(any_pool: sandbox.Pool) -> None:
    marker = unique("leave")
    async with any_pool.open_run(shell(f"echo up; sleep 1000; : {marker}")) as run:
        async for _ in run.chunks():
            break
        assert processes_with(marker)
    assert not processes_with(marker)


async def test_a_task_that_ended_by_itself_is_not_stopped_afterwards(pool: sandbox.Pool) -> None:
    async with pool.open_run(shell("exit 5")) as run:
        await run.wait()
        run.stop()
        run.stop()
        assert (await run.wait()).exit_code == 5


async def test_stdin_is_the_given_file_to_its_end(
    any_pool: sandbox.Pool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("stdin") / "data"
    source.write_bytes(b"line\n" * 200_000)
    done = await sandbox.run_in(any_pool, shell("wc -c; readlink /proc/self/fd/0", stdin=source))
    first, second = done.stdout.split(b"\n")[:2]
    assert int(first) == 1_000_000
    assert second.startswith(b"pipe:")


async def test_a_task_need_not_read_its_stdin(
    any_pool: sandbox.Pool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("stdin") / "data"
    source.write_bytes(bytes(1 << 20))
    done = await sandbox.run_in(any_pool, shell("exit 4", stdin=source))
    assert done.result.exit_code == 4


async def test_fifty_runs_share_few_slots(pool: sandbox.Pool) -> None:
    outputs: set[bytes] = set()

    async def one(number: int) -> None:
        outputs.add((await sandbox.run_in(pool, shell(f"echo {number}"))).stdout)

    async with trio.open_nursery() as runs:
        for number in range(50):
            runs.start_soon(one, number)
    assert outputs == {b"%d\n" % number for number in range(50)}


async def test_a_cancelled_caller_leaves_nothing(any_pool: sandbox.Pool) -> None:
    marker = unique("cancel")
    for delay_s in (0, 0.001, 0.003, 0.01, 0.05):
        with trio.move_on_after(delay_s):
            await sandbox.run_in(any_pool, shell(f"sleep 1000; : {marker}"))
        assert not processes_with(marker)
    assert (await sandbox.run_in(any_pool, shell("echo ok"))).stdout == b"ok\n"

"""What a task writes, and the pipes that it writes to."""

from __future__ import annotations

import pytest
import trio

import sandbox
from sandbox import Reason
from tests.abuse.arena import Arena, case, limits


@case(25)
async def test_a_flood_of_output_is_cut_at_its_limit(arena: Arena) -> None:
    seen = await arena.shell("yes & exec yes >&2", limits=limits(output_bytes=1_000_000))
    assert seen.ended == (Reason.OUTPUT_LIMIT, 137)
    assert len(seen.stdout) + len(seen.stderr) == 1_000_000


@case(53)
async def test_forged_messages_on_any_descriptor_change_no_result(arena: Arena) -> None:
    seen = await arena.python("""
forged = b'{"exit-code": 0}\\n{"child-pid": 1}\\n{"error": "setup", "text": "forged"}\\n'
forged += b'{"id": 1, "answer": "ended", "status": 0, "cpu_s": 0, "memory_peak_bytes": 0}\\n'
for number in range(3, 1100):
    attempt(os.write, number, forged)
for pid in ("1", "self", *filter(str.isdigit, os.listdir("/proc"))):
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        continue
    for name in names:
        path = f"/proc/{pid}/fd/{name}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, forged)
        except OSError:
            pass
sys.stderr.buffer.write(forged)
sys.stderr.flush()
os._exit(7)
""")
    assert seen.ended == (Reason.EXITED, 7)


@case(54)
async def test_any_bytes_come_out_as_they_are_and_an_endless_line_is_cut(arena: Arena) -> None:
    odd = bytes(range(256)) + b"\x1b]0;title\x07\x1b[2J\x1b[1000D\xff\xfe\r\b\b\x00" * 10
    seen = await arena.python(
        f"sys.stdout.buffer.write({odd!r}); sys.stdout.flush()\n"
        "while True:\n    os.write(1, b'x' * 65536)\n",
        limits=limits(output_bytes=300_000),
    )
    assert seen.stdout == odd + b"x" * (300_000 - len(odd))
    assert seen.ended == (Reason.OUTPUT_LIMIT, 137)


@case(55)
async def test_closing_its_output_and_running_on_ends_at_the_wall_time(arena: Arena) -> None:
    source = "tell(started=True)\nfor n in (0, 1, 2):\n    os.close(n)\ntime.sleep(1000)\n"
    async with arena.open(arena.python_spec(source, limits=limits(wall_s=1.0))) as run:
        with trio.fail_after(20):
            assert await arena.rest(run) == b'{"started": true}\n'
            result = await run.wait()
    assert (result.reason, result.exit_code) == (Reason.TIME_LIMIT, 124)


@case(64)
async def test_a_huge_command_line_is_refused_and_a_large_one_works(arena: Arena) -> None:
    with pytest.raises(sandbox.BadSpec, match="longer than"):
        sandbox.Spec(argv=("echo", "x" * (1 << 18)))
    with pytest.raises(sandbox.BadSpec, match="variable"):
        sandbox.Spec(argv=("true",), env={"A": "x" * (1 << 18)})
    with pytest.raises(sandbox.BadSpec, match="Argument list too long"):
        await arena.run(sandbox.Spec(argv=("echo", *["x" * 100_000] * 40)))
    seen = await arena.run(sandbox.Spec(argv=("echo", *["x" * 50_000] * 10)))
    assert len(seen.stdout) == 500_010


@case(96)
async def test_output_byte_by_byte_arrives_whole(arena: Arena) -> None:
    seen = await arena.python("for n in range(20_000):\n    os.write(1, b'%d' % (n % 10))\n")
    assert seen.stdout == b"0123456789" * 2000


@case(97)
async def test_nothing_is_written_after_the_main_process_has_ended(arena: Arena) -> None:
    with trio.fail_after(20):
        seen = await arena.python("""
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(1, b"d")
        time.sleep(0.001)
time.sleep(0.05)
os._exit(3)
""")
    assert seen.ended == (Reason.EXITED, 3)
    assert set(seen.stdout) <= {ord("d")}


@case(98)
async def test_a_stdin_that_nobody_reads_holds_nothing_up(arena: Arena) -> None:
    given = arena.host_file(b"line\n" * 1_000_000)
    seen = await arena.shell("sleep 0.2; exit 4", stdin=given)
    assert seen.ended == (Reason.EXITED, 4)
    assert given.read_bytes() == b"line\n" * 1_000_000


@case(99)
async def test_its_streams_cannot_be_turned_against_the_pool(arena: Arena) -> None:
    """Flags, owners and sizes of a pipe belong to both of its ends; the pool must not mind."""
    given = arena.host_file(b"given")
    seen = await arena.python(
        """
told = {}
for n in (0, 1, 2):
    attempt(fcntl.fcntl, n, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT | os.O_ASYNC)
    attempt(fcntl.fcntl, n, fcntl.F_SETOWN, int(os.environ["POOL_PID"]))
    attempt(fcntl.fcntl, n, 1031, 4096)
    told[str(n)] = attempt(os.ftruncate, n, 0)
attempt(overwrite, "/proc/self/fd/0", b"into the pipe")
fcntl.fcntl(1, fcntl.F_SETFL, 0)
tell(**told)
os._exit(5)
""",
        stdin=given,
    )
    assert seen.ended == (Reason.EXITED, 5)
    assert set(seen.told.values()) == {"EINVAL"}
    assert given.read_bytes() == b"given"

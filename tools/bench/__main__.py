"""`just bench [sandbox] [pool]`: what a sandboxed task costs, and what a pool adds to it.

The yardstick, measured again before each benchmark, is a bare `posix_spawn` of /bin/true with its
output read to the end.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

import sandbox
from hivemind.client import open_client
from tests.pool import LIMITS, Pool, open_pool_folder

RUNS = 60
SUBMITS = 150


def bare_spawn_s() -> float:
    """The median time from a spawn to its end."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        read, write = os.pipe()
        pid = os.posix_spawn(
            "/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
        )
        os.close(write)
        while os.read(read, 4096):
            pass
        os.close(read)
        os.waitpid(pid, 0)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def show(what: str, seconds: float, bare_s: float) -> None:
    print(f"{what:<44} {seconds * 1000:8.2f} ms  {seconds / bare_s:7.1f}x bare")


async def timed(what: Callable[[], Awaitable[object]], runs: int) -> float:
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        await what()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


async def bench_sandbox() -> None:
    bare_s = bare_spawn_s()
    show("bare posix_spawn of true", bare_s, bare_s)
    config = sandbox.PoolConfig(slots=1, limits="cgroup" if LIMITS == "cgroup" else "best-effort")
    async with sandbox.open_pool(config) as pool:
        true = sandbox.Spec(argv=("/bin/true",))
        python = sandbox.Spec(argv=("python3", "-c", "print('hello')"))
        show("cold sandbox, true", await timed(lambda: sandbox.run_in(pool, true), RUNS), bare_s)
        show(
            "cold sandbox, python3 hello",
            await timed(lambda: sandbox.run_in(pool, python), RUNS // 2),
            bare_s,
        )


async def bench_pool() -> None:
    bare_s = bare_spawn_s()
    show("bare posix_spawn of true", bare_s, bare_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_pool_folder(Path(folder) / "pool") as daemons,
    ):
        await _bench_pool(daemons, bare_s)


async def _bench_pool(daemons: Pool, bare_s: float) -> None:
    up = daemons.up()
    async with open_client(home=up.home) as client:

        async def one() -> None:
            task = await client.submit(command=["true"])
            await client.wait(task)

        show("one task through an idle pool, true", await timed(one, RUNS), bare_s)
        begun = time.perf_counter()
        tasks = [await client.submit(command=["true"]) for _ in range(SUBMITS)]
        submit_s = (time.perf_counter() - begun) / SUBMITS
        show(f"a durable submit, one by one ({SUBMITS})", submit_s, bare_s)
        for task in tasks:
            await client.wait(task)
        each_s = (time.perf_counter() - begun) / SUBMITS
        show("a task of many, submit to end", each_s, bare_s)
    up.stop()


BENCHMARKS = {"sandbox": bench_sandbox, "pool": bench_pool}


async def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"bench: {name} is unknown; choose of {', '.join(BENCHMARKS)}")
    for name in names:
        print(f"-- {name}")
        await BENCHMARKS[name]()


trio.run(main)

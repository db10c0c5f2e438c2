"""What a sandboxed task costs: every figure a ratio to bare processes of the same round.

Rounds alternate between the yardstick and what is measured; the median of their ratios counts.
"""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import attrs
import trio

import sandbox
from tests.pool import LIMITS
from tools.bench import bare

ROUNDS = 5
AT_ONCE = 4
STORM = 60
PAUSE_S = 0.01  # in which a cell gets ready for its next run

_TRUE = sandbox.Spec(argv=bare.TRUE)
_HELLO = sandbox.Spec(argv=("python3", "-c", "print('hello')"))
_IN_CELL = {"tenant": "bench", "warm_python": False}
_WARM = {"tenant": "bench", "warm_python": True}
_STORM = f"""
import os, time
for _ in range({STORM - 1}):
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(0.0005)
print("up", flush=True)
time.sleep(1000)
"""


class Figure(NamedTuple):
    """One line of the result."""

    what: str
    values: list[float]
    unit: str
    goal: str


@asynccontextmanager
async def _open() -> AsyncIterator[sandbox.Pool]:
    config = sandbox.PoolConfig(
        slots=AT_ONCE,
        limits="cgroup" if LIMITS == "cgroup" else "best-effort",
        cells=sandbox.CellRules(max_runs=1_000_000, max_age_s=3600, idle_s=3600),
    )
    async with sandbox.open_pool(config) as pool:
        yield pool


async def bench() -> None:
    """Measure, and print one line for each figure."""
    figures = [
        Figure("cold sandbox, true: time, alone", [], "x bare spawn", "<= 9"),
        Figure("cell, true: rate", [], "x bare spawn", ">= 0.25"),
        Figure("cell, true: rate", [], "x cold sandbox", ">= 2.5"),
        Figure("warm start, hello: rate", [], "x bare python3", ">= 5"),
        Figure("warm start, hello: first output, alone", [], "x bare python3", "<= 0.2"),
        Figure("the same, right after another run", [], "x bare python3", ""),
        Figure("the pool's own CPU for a run in a cell", [], "ms", "<= 0.2"),
        Figure(f"stop of {STORM} processes, to the empty cgroup", [], "ms", "<= 30"),
        Figure("cold sandbox, hello: rate", [], "x bare python3", ""),
        Figure("cell, hello: rate", [], "x bare python3", ""),
    ]
    async with _open() as pool:
        for kind in (_IN_CELL, _WARM):
            await _rate_per_s(pool, attrs.evolve(_HELLO, **kind), 40)
        for number in range(ROUNDS):
            values = await _round(pool)
            for figure, value in zip(figures, values, strict=True):
                figure.values.append(value)
            print(f"   round {number + 1} of {ROUNDS}", flush=True)
    for figure in figures:
        middle = statistics.median(figure.values)
        span = f"{min(figure.values):.2f} to {max(figure.values):.2f}"
        print(f"{figure.what:<46} {middle:8.2f} {figure.unit:<15} {figure.goal:<8} ({span})")


async def _round(pool: sandbox.Pool) -> list[float]:
    spawn_s = bare.one_s(bare.TRUE, 40)
    cold_s = statistics.median([await _one_s(pool, _TRUE) for _ in range(25)])
    spawn_rate = bare.rate_per_s(bare.TRUE, 500, AT_ONCE)
    cell_rate, own_s = await _rate_per_s(pool, attrs.evolve(_TRUE, **_IN_CELL), 400)
    cold_rate, _ = await _rate_per_s(pool, _TRUE, 80)
    python_rate = bare.rate_per_s(bare.HELLO, 60, AT_ONCE)
    warm_rate, _ = await _rate_per_s(pool, attrs.evolve(_HELLO, **_WARM), 300)
    cold_python_rate, _ = await _rate_per_s(pool, _HELLO, 50)
    cell_python_rate, _ = await _rate_per_s(pool, attrs.evolve(_HELLO, **_IN_CELL), 60)
    python_first_s = bare.first_output_s(bare.HELLO, 12)
    warm_first_s = await _first_outputs_s(pool, pause_s=PAUSE_S)
    next_first_s = await _first_outputs_s(pool, pause_s=0)
    return [
        cold_s / spawn_s,
        cell_rate / spawn_rate,
        cell_rate / cold_rate,
        warm_rate / python_rate,
        warm_first_s / python_first_s,
        next_first_s / python_first_s,
        own_s * 1000,
        1000 * statistics.median([await _storm_s(pool) for _ in range(5)]),
        cold_python_rate / python_rate,
        cell_python_rate / python_rate,
    ]


async def _rate_per_s(pool: sandbox.Pool, spec: sandbox.Spec, runs: int) -> tuple[float, float]:
    """Runs a second in a closed loop, and the processor time of this very process for each."""
    left = runs

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            done = await sandbox.run_in(pool, spec)
            if done.result.exit_code != 0:
                raise RuntimeError(f"a run of the benchmark failed: {done}")

    begun, begun_cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)
    return runs / (time.perf_counter() - begun), (time.process_time() - begun_cpu) / runs


async def _one_s(pool: sandbox.Pool, spec: sandbox.Spec) -> float:
    begun = time.perf_counter()
    await sandbox.run_in(pool, spec)
    return time.perf_counter() - begun


async def _first_outputs_s(pool: sandbox.Pool, *, pause_s: float) -> float:
    """The median time to the first output of warm starts, with this pause between two of them."""
    times_s = []
    for _ in range(25):
        await trio.sleep(pause_s)
        begun = time.perf_counter()
        async with pool.open_run(attrs.evolve(_HELLO, **_WARM)) as run:
            await anext(run.chunks())
            times_s.append(time.perf_counter() - begun)
            await run.wait()
    return statistics.median(times_s)


async def _storm_s(pool: sandbox.Pool) -> float:
    """From the stop to the last of many restless processes."""
    spec = sandbox.Spec(argv=("python3", "-c", _STORM), **_IN_CELL)
    async with pool.open_run(spec) as run:
        async for chunk in run.chunks():
            if chunk.data != b"up\n":
                raise RuntimeError(f"the storm did not rise: {chunk.data!r}")
            break
        begun = time.perf_counter()
        run.stop()
        await run.wait()
        return time.perf_counter() - begun

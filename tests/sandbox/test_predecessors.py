"""What a run in a cell can learn of the one before it: one plants, the next one looks.

`sandbox/README.md` says the same in words, under "Cells".
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

import sandbox
from sandbox import Start
from tests.sandbox.conftest import CGROUP_PARENT, limits, needs_cgroup

_PLANT = r"""
import ctypes, os, resource, signal, socket, subprocess, sys, time
for folder in ("/task", "/tmp", "/dev/shm", "/task/output"):
    open(f"{folder}/planted", "w").write("swordfish")
libc = ctypes.CDLL(None, use_errno=True)
segment = libc.shmget(0x5EC2E7, 4096, 0o1666)
libc.semget(0x5EC2E7, 1, 0o1666)
libc.msgget(0x5EC2E7, 0o1666)
listener = socket.create_server(("127.0.0.1", 4711))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0planted")
abstract.listen()
client = socket.create_connection(("127.0.0.1", 4711))
client.sendall(b"x" * 100_000)
os.environ["PLANTED"] = "swordfish"
os.putenv("PLANTED", "swordfish")
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
os.nice(5)
os.umask(0o077)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.modules["planted"] = sys
import builtins, random
builtins.planted = True
random.seed(1)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
os.wait()
assert segment >= 0
"""

_LOOK = r"""
import builtins, ctypes, glob, json, os, resource, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
found = []
for folder in ("/task", "/tmp", "/dev/shm", "/task/output"):
    found += [f"{folder}/{name}" for name in os.listdir(folder) if name != "output"]
for call, arguments in (("shmget", (0x5EC2E7, 4096, 0)), ("semget", (0x5EC2E7, 1, 0)),
                        ("msgget", (0x5EC2E7, 0))):
    if getattr(libc, call)(*arguments) >= 0:
        found.append(call)
for family, address in ((socket.AF_INET, ("127.0.0.1", 4711)), (socket.AF_UNIX, "\0planted")):
    try:
        socket.socket(family).connect(address)
        found.append(str(address))
    except OSError:
        pass
found += [f"pid {name}" for name in os.listdir("/proc")
          if name.isdigit() and int(name) not in (1, os.getpid())]
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        if path != f"/proc/{os.getpid()}/cmdline" and b"swordfish" in open(path, "rb").read():
            found.append(path)
    except OSError:
        pass
if "PLANTED" in os.environ:
    found.append("environment")
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 20:
    found.append("rlimit")
if os.nice(0):
    found.append("nice")
if os.umask(0o022) != 0o022:
    found.append("umask")
if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
    found.append("signal")
if "planted" in sys.modules or hasattr(builtins, "planted"):
    found.append("interpreter")
if os.listdir("/dev/pts") != ["ptmx"]:
    found.append("/dev/pts")
text = open("/proc/self/mountinfo").read() + open("/proc/net/unix").read()
if "planted" in text or "swordfish" in text:
    found.append("mounts or sockets")
lo = [line for line in open("/proc/net/dev") if "lo:" in line][0].split()
print(json.dumps({
    "found": found,
    "loopback_bytes": int(lo[1]),
    "closing": open("/proc/net/tcp").read().count("1267"),
    "hash": hash("seed"),
    "layout": open("/proc/self/maps").readline().split("-")[0],
}))
"""


@contextlib.asynccontextmanager
async def _open(**rules: int) -> AsyncIterator[sandbox.Pool]:
    needs_cgroup()
    config = sandbox.PoolConfig(
        slots=1, cgroup_parent=CGROUP_PARENT, cells=sandbox.CellRules(**rules)
    )
    async with sandbox.open_pool(config) as pool:
        yield pool


def _spec(source: str, *, warm: bool) -> sandbox.Spec:
    return sandbox.Spec(
        argv=("python3", "-c", source), limits=limits(), tenant="a", warm_python=warm
    )


async def _told(pool: sandbox.Pool, spec: sandbox.Spec, start: Start) -> dict[str, Any]:
    async with pool.open_run(spec) as run:
        assert run.started is start
        output = b"".join([chunk.data async for chunk in run.chunks()])
        assert (await run.wait()).exit_code == 0, output
    told: dict[str, Any] = json.loads(output or b"{}")
    return told


@pytest.mark.parametrize("plant", [Start.CELL, Start.WARM])
@pytest.mark.parametrize("look", [Start.CELL, Start.WARM])
async def test_nothing_that_a_run_left_is_there_for_the_next_one_of_its_tenant(
    plant: Start, look: Start
) -> None:
    async with _open() as pool:
        await _told(pool, _spec("pass", warm=True), Start.WARM)
        await _told(pool, _spec(_PLANT, warm=plant is Start.WARM), plant)
        told = await _told(pool, _spec(_LOOK, warm=look is Start.WARM), look)
    assert told["found"] == []


async def test_that_the_look_would_see_what_is_there() -> None:
    async with _open() as pool:
        told = await _told(pool, _spec(_PLANT + _LOOK, warm=False), Start.CELL)
    seen = {entry.split(" ")[0] for entry in told["found"]}
    assert {"/tmp/planted", "shmget", "semget", "msgget", "('127.0.0.1',", "pid"} <= seen
    assert {"environment", "rlimit", "nice", "umask", "signal", "interpreter"} <= seen
    assert {"mounts", "\0planted"} <= seen


async def test_traces_of_the_network_stay_in_the_cell() -> None:
    async with _open() as pool:
        await _told(pool, _spec(_PLANT, warm=False), Start.CELL)
        told = await _told(pool, _spec(_LOOK, warm=False), Start.CELL)
        alone = attrs.evolve(_spec(_LOOK, warm=False), tenant=None)
        assert (await _told(pool, alone, Start.COLD))["loopback_bytes"] < 1000
    # What a window holds went at once, the rest perhaps never.
    assert told["loopback_bytes"] > 60_000


@pytest.mark.parametrize("start", [Start.CELL, Start.WARM])
@pytest.mark.parametrize(
    "changes", [{"tenant": "b"}, {"reuse": False}], ids=["another tenant", "without reuse"]
)
async def test_whoever_shares_no_cell_learns_nothing_at_all(
    changes: dict[str, Any], start: Start
) -> None:
    warm = start is Start.WARM
    async with _open(parked=1) as pool:
        first = await _told(pool, _spec(_LOOK, warm=warm), start)
        await _told(pool, _spec(_PLANT, warm=warm), start)
        with trio.fail_after(20):
            while not pool.parked:  # noqa: ASYNC110 - without reuse a run gets no other cell
                await trio.sleep(0.02)
        told = await _told(pool, attrs.evolve(_spec(_LOOK, warm=warm), **changes), start)
    assert told["found"] == []
    assert told["loopback_bytes"] < 1000
    assert told["closing"] == first["closing"]
    assert (told["hash"], told["layout"]) != (first["hash"], first["layout"])


async def test_warm_starts_share_the_layout_of_memory_and_the_seed_of_hashes() -> None:
    async with _open() as pool:
        first = await _told(pool, _spec(_LOOK, warm=True), Start.WARM)
        second = await _told(pool, _spec(_LOOK, warm=True), Start.WARM)
        other = await _told(pool, attrs.evolve(_spec(_LOOK, warm=True), tenant="b"), Start.WARM)
        executed = await _told(pool, _spec(_LOOK, warm=False), Start.CELL)
    assert (first["hash"], first["layout"]) == (second["hash"], second["layout"])
    assert other["hash"] != first["hash"]
    assert executed["hash"] != first["hash"]


_SEARCH = """
marker = ("sword" + "fish" + "-%d").encode()[:-2]
found = 0
own = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        place, rights = line.split()[:2]
        first, last = (int(word, 16) for word in place.split("-"))
        if not rights.startswith("rw"):
            continue
        memory.seek(first)
        try:
            data = memory.read(last - first)
        except OSError:
            continue
        at = data.find(marker)
        while at >= 0:
            found += data[at + len(marker):at + len(marker) + 2] == NUMBER.encode()
            own += 1
            at = data.find(marker, at + 1)
print(found, own > 0)
"""


async def test_a_fork_finds_nothing_of_earlier_runs_in_its_memory() -> None:
    """Their variables, arguments and programs, which went through the same launcher."""
    async with _open() as pool:
        for warm in (True, False, True):
            plant = attrs.evolve(
                _spec("pass  # swordfish-11", warm=warm),
                argv=("python3", "-c", "pass  # swordfish-11", "swordfish-11" * 100),
                env={"SECRET": "swordfish-11" * 1000},
            )
            await sandbox.run_in(pool, plant)
        for number, seen in (("11", b"0 True"), ("22", b"True")):
            look = attrs.evolve(
                _spec(f"NUMBER = '{number}'\n{_SEARCH}", warm=True), env={"MINE": "swordfish-22"}
            )
            async with pool.open_run(look) as run:
                assert run.started is Start.WARM
                told = b"".join([chunk.data async for chunk in run.chunks()])
            assert told.strip().endswith(seen), told
            assert number == "11" or int(told.split()[0]) > 0  # its own it does find

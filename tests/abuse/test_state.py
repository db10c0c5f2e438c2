"""What one task leaves for the next, and what a killed pool leaves for everyone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio

import sandbox
from sandbox import Reason
from tests.abuse import outside
from tests.abuse.arena import Arena, case
from tests.abuse.modes import CGROUP_PARENT

_VICTIM = """
import sys, trio, sandbox
from tests.abuse.modes import choose_limits, mode_named
async def main():
    config = sandbox.PoolConfig(limits=sys.argv[1], slots=2, cgroup_parent=sys.argv[2])
    async with sandbox.open_pool(config) as pool:
        script = "(setsid sleep 1000 &) ; setsid sh -c 'sleep 1000; :' & echo up; wait"
        spec = sandbox.Spec(argv=("/bin/sh", "-c", script), env={"MARK": sys.argv[3]})
        async with pool.open_run(mode_named(sys.argv[4]).adapt(spec)) as run:
            async for chunk in run.chunks():
                print(end="up", flush=True)
trio.run(main)
"""


@case(56, alone=True)
async def test_a_killed_worker_leaves_nothing_that_runs_and_the_next_sweeps_its_folders(
    arena: Arena,
) -> None:
    parent = f"{CGROUP_PARENT}-victim"
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-c", _VICTIM, arena.pool.config.limits, parent),
            *(arena.mark, arena.mode.name),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            assert await process.stdout.receive_some() == b"up"
            assert arena.task_processes()
            below = outside.descendants(process.pid)
            assert len(below) >= 4
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await process.wait()
            await process.stdout.aclose()
    with trio.fail_after(10):
        for pid in below:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # EINVAL: it is gone, and its number still names a session
                continue
            await trio.lowlevel.wait_readable(pidfd)
            os.close(pidfd)
    assert not arena.task_processes()
    if arena.with_cgroup:
        assert outside.cgroup_folders(parent)
        config = sandbox.PoolConfig(slots=1, cgroup_parent=parent)
        async with sandbox.open_pool(config):
            assert len({path.name for path in outside.cgroup_folders(parent)}) == 1
        assert not outside.cgroup_folders(parent)


_PLANT = """
import builtins
for folder in ("/task", "/tmp", "/dev/shm", "/task/output"):
    write(f"{folder}/planted", b"planted")
LIBC.shmget(0x5EED, 4096, 0o1666)
system("semget", 0x5EED, 1, 0o1666)
system("msgget", 0x5EED, 0o1666)
queue = attempt(system, "mq_open", b"planted", os.O_CREAT | os.O_RDWR, 0o666, 0)
os.environ["PLANTED"] = "planted"
builtins.planted = sys.planted = "planted"
sys.path.insert(0, "/tmp/planted")
os.umask(0)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    one = socket.socket(socket.AF_UNIX)
    one.bind(chr(0) + "planted")
    one.listen()
    two = socket.create_server(("127.0.0.1", 4321))
    held = os.open("/usr", os.O_RDONLY)
    tell(planted=True)
    time.sleep(1000)
time.sleep(0.2)
"""
_LOOK = """
import builtins
found = [os.path.join(top, name) for folder in ("/task", "/tmp", "/dev/shm")
         for top, _, names in os.walk(folder) for name in names]
def connect(family, address):
    socket.socket(family).connect(address)
handlers = [n for n in range(1, 32) if signal.getsignal(n) == signal.SIG_IGN]
umask = os.umask(0o22)
sysv = [len(read(f"/proc/sysvipc/{kind}").splitlines()) for kind in ("shm", "sem", "msg")]
tell(found=found, sysv=sysv,
     queue=attempt(system, "mq_open", b"planted", os.O_RDWR, 0, 0),
     environment="PLANTED" in os.environ, builtins=hasattr(builtins, "planted"),
     sys=hasattr(sys, "planted"), path="/tmp/planted" in sys.path, umask=umask,
     ignored=signal.SIGUSR1 in handlers, unix=attempt(connect, socket.AF_UNIX, chr(0) + "planted"),
     inet=attempt(connect, socket.AF_INET, ("127.0.0.1", 4321)),
     processes=sum(name.isdigit() for name in os.listdir("/proc")))
"""


@case(61)
async def test_nothing_planted_is_found_by_the_next_task_in_the_same_place(arena: Arena) -> None:
    clean = (await arena.python(_LOOK)).told
    for _ in range(2):
        planted = await arena.python(_PLANT)
        assert planted.told == {"planted": True}, planted
        assert planted.ended == (Reason.EXITED, 0)
        # Both slots, one of which is that of the planter.
        for _ in range(2):
            assert (await arena.python(_LOOK)).told == clean
    assert clean["found"] == []
    assert clean["sysv"] == [1, 1, 1]
    assert clean["queue"] == "ENOENT"
    assert (clean["unix"], clean["inet"]) == ("ECONNREFUSED", "ECONNREFUSED")


@case(62)
async def test_descriptors_cannot_be_smuggled_from_one_task_to_another(arena: Arena) -> None:
    giver = """
import array
one = socket.socket(socket.AF_UNIX)
one.bind(chr(0) + "smuggler")
one.listen()
for folder in ("/tmp", "/dev/shm", "/task"):
    two = socket.socket(socket.AF_UNIX)
    two.bind(f"{folder}/smuggler")
    two.listen()
tell(up=True)
one.settimeout(10)
peer, _ = one.accept()
peer.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.open("/", 0)]))])
"""
    taker = """
def take(name):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(3)
    one.connect(name)
    socket.recv_fds(one, 1, 1)
names = [chr(0) + "smuggler", "/tmp/smuggler", "/dev/shm/smuggler", "/task/smuggler"]
tell(**{name: attempt(take, name) for name in names})
"""
    async with arena.open(arena.python_spec(giver)) as run:
        assert b"up" in await arena.first_line(run)
        taken = await arena.python(taker)
    assert set(taken.told.values()) <= {"ECONNREFUSED", "ENOENT"}, taken.told


_POISON = """
import site
made = []
places = {site.getusersitepackages(), *sys.path, "/task", "/tmp", sys.prefix, sys.base_prefix,
          os.path.expanduser("~/.local/lib"), os.path.dirname(os.__file__)}
for folder in filter(None, places):
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        continue
    for name, text in (("evil.pth", "import sys; sys.poisoned = 1\\n"),
                       ("sitecustomize.py", "import sys; sys.poisoned = 1\\n"),
                       ("usercustomize.py", "import sys; sys.poisoned = 1\\n"),
                       ("json.py", "import sys; sys.poisoned = 1\\n")):
        if attempt(write, f"{folder}/{name}", text.encode()) == "OK":
            made.append(folder)
import builtins, codecs, importlib, threading
builtins.open = builtins.print
json.dumps = lambda *a, **k: "poisoned"
sys.poisoned = 1
sys.modules["random"] = sys
sys.meta_path.clear()
sys.settrace(lambda *a: None)
threading.settrace(lambda *a: None)
os.write(1, " ".join(sorted(set(made))).encode())
"""


@case(63)
async def test_a_poisoned_interpreter_is_not_the_next_tasks(arena: Arena) -> None:
    for _ in range(2):
        poisoned = await arena.python(_POISON)
        assert poisoned.result.exit_code == 0, poisoned.stderr
        places = poisoned.stdout.decode().split()
        assert places
        assert all(place.startswith(("/task", "/tmp")) for place in places), places
        for _ in range(2):
            after = await arena.python("""
import random, site
assert sys.gettrace() is None
tell(poisoned=hasattr(sys, "poisoned"), odd=random is sys, finders=len(sys.meta_path) > 0,
     file=json.__file__.startswith("/task"), draws=random.random())
""")
            told = after.told
            assert 0 <= told.pop("draws") < 1
            assert told == {"poisoned": False, "odd": False, "finders": True, "file": False}


_IN_FLIGHT = """
import array
sent, keep = 0, []
def flood():
    global sent
    while sent < 200_000:
        one, two = socket.socketpair()
        one.setblocking(False)
        keep.append(two)
        while True:
            try:
                one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                      array.array("i", [two.fileno()] * 100))])
            except BlockingIOError:
                break
            sent += 100
        one.close()
        two.close()
tell(error=attempt(flood), sent=sent)
"""


@case(108)
async def test_descriptors_in_flight_are_few_and_gone_with_the_run(arena: Arena) -> None:
    """A message may hold descriptors, and a socket that nobody holds but its own message."""
    arena.may_fall_back = True
    seen = await arena.python(_IN_FLIGHT)
    assert seen.result.reason is Reason.OUT_OF_MEMORY or seen.told["error"] in (
        "ETOOMANYREFS",
        "EMFILE",
        "ENOBUFS",
    ), seen.told
    assert seen.result.reason is Reason.OUT_OF_MEMORY or seen.told["sent"] < 100_000


@case(110)
async def test_a_hoard_of_descriptors_in_flight_keeps_no_other_task_from_starting(
    arena: Arena,
) -> None:
    """The kernel counts them per user, and the pool itself starts tasks by sending descriptors."""
    arena.may_fall_back = True
    spec = arena.python_spec(_IN_FLIGHT + "time.sleep(100)\n")
    async with arena.open(spec) as run:
        assert b"sent" in await arena.first_line(run)
        with trio.fail_after(20):
            for _ in range(3):
                assert (await arena.shell("echo through")).stdout == b"through\n"


@case(109)
async def test_two_tasks_at_once_see_nothing_of_each_other(arena: Arena) -> None:
    source = """
write("/task/mine", MARK.encode())
write("/tmp/mine", MARK.encode())
write("/dev/shm/mine", MARK.encode())
tell(up=True)
time.sleep(100)
"""
    async with arena.open(arena.python_spec(source)) as run:
        assert b"up" in await arena.first_line(run)
        look = await arena.shell(
            "ls -A /task /tmp /dev/shm; cat /proc/[0-9]*/comm; kill -9 2 3 4 2>/dev/null;"
            "ls /proc | grep -c '^[0-9]'"
        )
        assert b"mine" not in look.stdout
        assert arena.task_processes()
        run.stop()
        assert (await run.wait()).reason is Reason.STOPPED

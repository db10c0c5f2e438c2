"""What a task cannot see, reach or do. Each test tries it for real, from inside."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import trio

import sandbox
from tests.sandbox.conftest import (
    limits,
    needs_cgroup,
    processes_with,
    python,
    shell,
    uid_of,
    unique,
)


async def _run_json(pool: sandbox.Pool, source: str) -> dict[str, object]:
    done = await sandbox.run_in(pool, python("import json\n" + source, limits=limits()))
    assert done.result.exit_code == 0, done.stderr.decode()
    parsed: dict[str, object] = json.loads(done.stdout)
    return parsed


async def test_the_file_system_is_the_tasks_own(any_pool: sandbox.Pool) -> None:
    source = f"""
import os
seen = {{path: os.path.exists(path) for path in (
    "/etc/shadow", "/root", "/home", "/host", "/pool", "/sys", "/var", "/boot", "/run",
    {__file__!r}, "/oldroot", "/newroot", "/etc/hostname", "/etc/machine-id",
)}}
print(json.dumps(dict(
    seen=[path for path, there in seen.items() if there],
    top=sorted(os.listdir("/")),
    passwd=open("/etc/passwd").read(),
    cwd=os.getcwd(),
)))
"""
    told = await _run_json(any_pool, source)
    assert told["seen"] == []
    expected = {"dev", "etc", "proc", "task", "tmp", "usr"}
    assert (
        expected
        <= set(told["top"])
        <= expected | {"bin", "lib", "lib32", "lib64", "libx32", "sbin"}
    )  # type: ignore[call-overload]
    assert "root" not in str(told["passwd"])
    assert told["cwd"] == "/task"


async def test_only_task_and_tmp_and_shm_can_be_written(any_pool: sandbox.Pool) -> None:
    source = """
import os
written = []
for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/proc/sys/kernel", "/bin",
               "/task", "/tmp", "/dev/shm"):
    try:
        open(folder + "/x", "w").close()
        written.append(folder)
    except OSError:
        pass
print(json.dumps(dict(written=written)))
"""
    told = await _run_json(any_pool, source)
    assert told["written"] == ["/task", "/tmp", "/dev/shm"]


async def test_no_path_of_the_host_shows_anywhere(any_pool: sandbox.Pool) -> None:
    source = """
import os
text = open("/proc/self/mountinfo").read() + open("/proc/1/cmdline").read()
text += open("/proc/self/cgroup").read() + open("/proc/self/environ").read()
try:
    text += open("/proc/1/environ").read()
except PermissionError:
    pass  # the init of a run in a cell shows nothing at all
text += " ".join(os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2))
print(json.dumps(dict(text=text)))
"""
    text = str((await _run_json(any_pool, source))["text"])
    words = {str(Path.cwd()), str(Path(sandbox.__file__).parent), sys.prefix, "/root", "/host"}
    assert not [word for word in words - {"/usr"} if word in text]
    assert str(os.getpid()) not in text


async def test_the_pools_environment_is_invisible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_POOL", "swordfish")
    script = "env; cat /proc/*/environ | tr '\\0' '\\n'"
    done = await sandbox.run(
        shell(script, env={"GIVEN": "yes"}),
        sandbox.PoolConfig(limits="best-effort", slots=1),
    )
    variables = {line.split(b"=")[0] for line in done.stdout.splitlines()}
    assert b"swordfish" not in done.stdout
    assert variables == {b"GIVEN", b"HOME", b"LANG", b"PATH", b"PWD"}


async def test_only_its_own_processes_are_visible(any_pool: sandbox.Pool) -> None:
    source = """
import os
print(json.dumps(dict(pids=sorted(int(n) for n in os.listdir("/proc") if n.isdigit()))))
"""
    assert (await _run_json(any_pool, source))["pids"] == [1, 2]


async def test_killing_everything_kills_only_itself(any_pool: sandbox.Pool) -> None:
    result = (await sandbox.run_in(any_pool, shell("kill -9 -1; kill -9 1; exit 6"))).result
    assert result.exit_code in (6, 137)
    assert (await sandbox.run_in(any_pool, shell("echo ok"))).stdout == b"ok\n"


async def test_no_network_not_even_the_hosts_loopback(any_pool: sandbox.Pool) -> None:
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        name = f"\0sandbox-test-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        source = f"""
import socket
answers = {{}}
for family, address in ((socket.AF_INET, ("127.0.0.1", {listener.getsockname()[1]})),
                        (socket.AF_INET, ("192.0.2.1", 80)),
                        (socket.AF_UNIX, {name!r})):
    try:
        socket.socket(family).connect(address)
        answers[str(address)] = "connected"
    except OSError as error:
        answers[str(address)] = error.strerror
print(json.dumps(dict(answers=sorted(answers.values()),
                      links=[n for _, n in socket.if_nameindex()] if False else [])))
"""
        told = await _run_json(any_pool, source)
    assert told["answers"] == ["Connection refused", "Connection refused", "Network is unreachable"]


async def test_its_own_loopback_works(any_pool: sandbox.Pool) -> None:
    source = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
client.sendall(b"x")
print(json.dumps(dict(got=listener.accept()[0].recv(1).decode())))
"""
    assert (await _run_json(any_pool, source))["got"] == "x"


async def test_it_holds_no_privilege_and_is_filtered(any_pool: sandbox.Pool) -> None:
    source = """
fields = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({key: fields[key].strip() for key in (
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups", "Uid"
)}))
"""
    told = await _run_json(any_pool, source)
    for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(str(told[key]), 16) == 0
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert told["Uid"] == "1000\t1000\t1000\t1000"
    if os.geteuid() == 0:
        assert told["Groups"] == ""


async def test_as_root_the_host_sees_an_unprivileged_uid_of_its_own_per_slot(
    pool: sandbox.Pool,
) -> None:
    uids: set[int] = set()
    both_up = trio.Event()

    async def one(number: int) -> None:
        marker = unique(f"uid-{number}")
        async with pool.open_run(shell(f"echo up; sleep 1000; : {marker}")) as run:
            async for _ in run.chunks():
                break
            mine = {uid_of(pid) for pid in processes_with(marker)}
            assert len(mine) == 1
            uids.update(mine)
            if len(uids) == 2:
                both_up.set()
            with trio.fail_after(30):
                await both_up.wait()

    async with trio.open_nursery() as runs:
        for number in range(2):
            runs.start_soon(one, number)
    assert min(uids) >= 0x70000000


async def test_runs_do_not_see_each_others_files(any_pool: sandbox.Pool) -> None:
    async with any_pool.open_run(
        shell("echo mine >/task/f; echo mine >/tmp/f; echo up; sleep 100")
    ) as run:
        async for _ in run.chunks():
            break
        other = await sandbox.run_in(any_pool, shell("ls -A /task /tmp /dev/shm"))
    later = await sandbox.run_in(any_pool, shell("ls -A /task /tmp /dev/shm"))
    for listing in (other.stdout, later.stdout):
        assert listing.split() == [b"/dev/shm:", b"/task:", b"output", b"/tmp:"]


_PROBES = """
import ctypes, errno, fcntl, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    return errno.errorcode.get(ctypes.get_errno(), "OK")
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OK"
told = dict(
    unshare=call(272, 0x10000000), setns=call(308, 0, 0), mount=call(165, 0, 0, 0, 0, 0),
    umount2=call(166, 0, 0), pivot_root=call(155, 0, 0), chroot=call(161, 0),
    keyctl=call(250, 0, -3, 0), add_key=call(248, 0, 0, 0, 0, 0), bpf=call(321, 0, 0, 0),
    io_uring=call(425, 1, 0), userfaultfd=call(323, 0), perf=call(298, 0, 0, 0, 0, 0),
    ptrace=call(101, 0, 0, 0, 0), process_vm_readv=call(310, 1, 0, 0, 0, 0, 0),
    personality=call(135, 0xFFFFFFFF), open_tree=call(428, -100, 0, 0),
    fsopen=call(430, 0, 0), pidfd_getfd=call(438, 0, 0, 0), kexec=call(246, 0, 0, 0, 0),
    clone_newuser=call(56, 0x10000000 | 17, 0, 0, 0, 0), clone3=call(435, 0, 0),
    memfd_secret=call(447, 0), syslog=call(103, 3, 0, 0),
    tiocsti=attempt(lambda: fcntl.ioctl(0, 0x5412, b"x")),
    tioclinux=attempt(lambda: fcntl.ioctl(0, 0x541C, b"x")),
    vsock=attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
    netlink=attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    packet=attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    alg=attempt(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)),
    unix=attempt(lambda: socket.socketpair()),
    inet=attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
)
print(json.dumps(told))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
async def test_what_the_filter_refuses(any_pool: sandbox.Pool) -> None:
    told = await _run_json(any_pool, _PROBES)
    assert told.pop("clone3") == "ENOSYS"
    assert {told.pop("unix"), told.pop("inet")} == {"OK"}
    assert set(told.values()) == {"EPERM"}, told


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int 0x80 and x32 are of x86_64")
async def test_a_call_under_another_numbering_kills(any_pool: sandbox.Pool) -> None:
    source = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))"
    result = (await sandbox.run_in(any_pool, python(source))).result
    assert (result.reason, result.signal) == (sandbox.Reason.SIGNALLED, 31)


async def test_threads_and_subprocesses_work_under_the_filter(any_pool: sandbox.Pool) -> None:
    source = """
import subprocess, threading, multiprocessing.shared_memory
out = []
def work():
    out.append(subprocess.check_output(["echo", "hi"]).decode())
thread = threading.Thread(target=work)
thread.start(); thread.join()
memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
memory.close(); memory.unlink()
print(json.dumps(dict(out=out)))
"""
    assert (await _run_json(any_pool, source))["out"] == ["hi\n"]


async def test_only_three_descriptors_are_open(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, shell("ls /proc/self/fd; ls -l /proc/1/fd"))
    own = done.stdout.split(b"total")[0].split()
    assert own == [b"0", b"1", b"2", b"3"]  # 3 is ls reading the folder
    # Its init holds nothing that could be opened again and written: the status pipe is closed.
    assert b"memfd" not in done.stdout
    in_a_cell_it_shows_nothing = b"Permission denied" in done.stderr
    assert done.stdout.count(b"pipe:") == (0 if in_a_cell_it_shows_nothing else 2)


async def test_the_limits_of_a_process_are_set(any_pool: sandbox.Pool) -> None:
    spec = shell(
        "ulimit -c; ulimit -n; ulimit -f", limits=limits(open_files=99, file_bytes=1 << 20)
    )
    assert (await sandbox.run_in(any_pool, spec)).stdout == b"0\n99\n2048\n"


async def test_the_quota_of_bytes_holds_in_each_folder(any_pool: sandbox.Pool) -> None:
    script = (
        "for d in /task /tmp /dev/shm; do head -c 30000000 /dev/zero >$d/x; stat -c %s $d/x; done"
    )
    done = await sandbox.run_in(any_pool, shell(script, limits=limits()))
    assert [int(word) for word in done.stdout.split()] == [16 << 20, 4 << 20, 4 << 20]
    assert done.stderr.count(b"No space left") == 3


async def test_the_quota_of_inodes_holds(any_pool: sandbox.Pool) -> None:
    source = """
made = 0
try:
    while True:
        open(f"/task/{made}", "w").close()
        made += 1
except OSError as error:
    print(json.dumps(dict(made=made, error=error.errno)))
"""
    spec = python("import json\n" + source, limits=limits(scratch_inodes=500))
    done = await sandbox.run_in(any_pool, spec)
    told = json.loads(done.stdout)
    assert 490 <= told["made"] <= 500
    assert told["error"] == 28


async def test_a_file_cannot_pass_the_file_limit(any_pool: sandbox.Pool) -> None:
    spec = shell("truncate -s 1T /task/x", limits=limits(file_bytes=1 << 20))
    done = await sandbox.run_in(any_pool, spec)
    assert done.result.exit_code != 0


async def test_setuid_and_device_files_are_of_no_use(any_pool: sandbox.Pool) -> None:
    script = (
        "mknod /task/null c 1 3 || echo refused;"
        "cp /usr/bin/id /task/id; chmod 4755 /task/id; /task/id -u"
    )
    done = await sandbox.run_in(any_pool, shell(script))
    assert done.stdout == b"refused\n1000\n"


async def test_a_cgroup_cannot_be_escaped_by_mounting(pool: sandbox.Pool) -> None:
    needs_cgroup()
    done = await sandbox.run_in(pool, shell("cat /proc/self/cgroup; unshare -rm true; ls /sys"))
    assert all(line.endswith(b":/") for line in done.stdout.splitlines()), done.stdout
    assert done.result.exit_code != 0


async def test_a_command_cannot_turn_into_an_option(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, sandbox.Spec(argv=("--version",)))
    assert done.result.exit_code == 127
    assert done.stdout == b""


_SPACES = """
import json, os, socket
names = [name for name in os.listdir("/proc/self/ns") if not name.startswith("time")]
print(json.dumps([os.readlink(f"/proc/self/ns/{name}") for name in names]), flush=True)
"""


async def test_runs_at_the_same_time_share_no_namespace(any_pool: sandbox.Pool) -> None:
    told = b""
    async with any_pool.open_run(python(_SPACES + "import time; time.sleep(60)")) as run:
        async for chunk in run.chunks():
            told += chunk.data
            break
        other = await sandbox.run_in(any_pool, python(_SPACES))
    first, second = set(json.loads(told)), set(json.loads(other.stdout))
    ours = {str(path.readlink()) for path in _namespaces_of_ours()}
    assert len(first) >= 7
    assert not first & second
    assert not (first | second) & ours


async def test_a_run_finds_nothing_in_its_namespaces(any_pool: sandbox.Pool) -> None:
    """What earlier runs did in theirs: a segment that outlives its process, and traffic."""
    source = """
import ctypes, socket
print(json.dumps(dict(
    host=socket.gethostname(),
    segments=len(open("/proc/sysvipc/shm").readlines()) - 1,
    traffic=sum(int(line.split()[1]) for line in open("/proc/net/dev").readlines()[2:]),
    devices=[line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]],
)))
assert ctypes.CDLL(None).shmget(4711, 4096, 0o1666) >= 0
with socket.create_server(("127.0.0.1", 0)) as listener:
    socket.create_connection(listener.getsockname()).sendall(b"x")
"""
    for _ in range(4):
        told = await _run_json(any_pool, source)
        assert told == {"host": "sandbox", "segments": 0, "traffic": 0, "devices": ["lo"]}


def _namespaces_of_ours() -> list[Path]:
    folder = Path("/proc/self/ns")
    return [path for path in folder.iterdir() if not path.name.startswith("time")]


async def test_each_folder_has_a_quota_of_inodes_of_its_own(any_pool: sandbox.Pool) -> None:
    source = """
told = {}
for folder in ("/task", "/tmp", "/dev/shm"):
    made = 0
    try:
        while True:
            open(f"{folder}/{made}", "w").close()
            made += 1
    except OSError as error:
        told[folder] = made, error.errno
print(json.dumps(told))
"""
    small = limits(scratch_inodes=100, tmp_inodes=50, shm_inodes=20)
    done = await sandbox.run_in(any_pool, python("import json\n" + source, limits=small))
    told = json.loads(done.stdout)
    for folder, inodes in (("/task", 100), ("/tmp", 50), ("/dev/shm", 20)):
        made, number = told[folder]
        assert inodes - 4 <= made < inodes, folder
        assert number == 28

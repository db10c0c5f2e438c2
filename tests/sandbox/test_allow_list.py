"""The allow list: how it differs from Docker's and from the deny list, and that programs run."""

from __future__ import annotations

import json
import platform
import shutil

import pytest

import sandbox
from sandbox.spawner import seccomp, syscalls
from tests.sandbox import bpf_machine
from tests.sandbox.conftest import limits, python, shell

_LIMITS = limits(memory_bytes=256 << 20, scratch_bytes=64 << 20)


def _verdicts(machine: str, mode: seccomp.Mode) -> dict[str, int]:
    program = bpf_machine.parse(seccomp.build_filter(machine, mode=mode))
    return {
        name: bpf_machine.verdict(program, bpf_machine.call(machine, number, 1))
        for name, number in syscalls.numbers(machine).items()
    }


def test_what_docker_allows_and_we_refuse() -> None:
    # ptrace and process_vm_*: one task's processes have no business in each other's memory, and
    # ptrace has passed filters before. The clocks: reading them by adjtimex is all that is lost.
    # The mounts: they tell the host's paths. The rest: rarely needed, often exploited.
    assert set(seccomp._DOCKER.split()) & set(seccomp._REFUSED.split()) == {
        "adjtimex",
        "clock_adjtime",
        "listmount",
        "memfd_secret",
        "modify_ldt",
        "name_to_handle_at",
        "process_mrelease",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "statmount",
        "vmsplice",
    }


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_it_refuses_all_that_the_deny_list_refuses(machine: str) -> None:
    deny, allow = _verdicts(machine, "deny-list"), _verdicts(machine, "allow-list")
    assert {name for name in allow if allow[name] == bpf_machine.ALLOW} < {
        name for name in deny if deny[name] == bpf_machine.ALLOW
    }
    assert allow["clone3"] == deny["clone3"] == bpf_machine.ENOSYS


def test_what_the_deny_list_allows_and_it_refuses() -> None:
    deny, allow = _verdicts("x86_64", "deny-list"), _verdicts("x86_64", "allow-list")
    # Most of these no kernel has any more.
    assert {name for name in allow if allow[name] != deny[name]} == {
        "_sysctl",
        "afs_syscall",
        "create_module",
        "file_getattr",
        "file_setattr",
        "get_kernel_syms",
        "get_mempolicy",
        "getpmsg",
        "nfsservctl",
        "putpmsg",
        "query_module",
        "rseq_slice_yield",
        "security",
        "sysfs",
        "tuxcall",
        "uprobe",
        "ustat",
        "vserver",
    }


# get_mempolicy stands outside Docker's list; the deny list has nothing against it.
_PROBE = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
told = {}
for name in ("get_mempolicy", "file_getattr", "bpf"):
    ctypes.set_errno(0)
    libc.syscall(NUMBERS[name], *[ctypes.c_ulong(0)] * 5)
    told[name] = errno.errorcode.get(ctypes.get_errno(), "")
print(json.dumps(told))
"""


async def _probe(pool: sandbox.Pool, mode: seccomp.Mode) -> dict[str, str]:
    source = f"NUMBERS = {syscalls.numbers(platform.machine())!r}\n{_PROBE}"
    done = await sandbox.run_in(pool, python(source, seccomp=mode, limits=_LIMITS))
    assert done.result.exit_code == 0, done.stderr.decode()
    told: dict[str, str] = json.loads(done.stdout)
    return told


async def test_the_mode_of_a_spec_is_the_filter_of_its_run(any_pool: sandbox.Pool) -> None:
    deny, allow = await _probe(any_pool, "deny-list"), await _probe(any_pool, "allow-list")
    assert allow == {"get_mempolicy": "EPERM", "file_getattr": "EPERM", "bpf": "EPERM"}
    assert deny["bpf"] == "EPERM"
    # An older kernel may lack one, but the filter does not refuse it.
    assert deny["get_mempolicy"] in ("", "ENOSYS")
    assert deny["file_getattr"] in ("EFAULT", "EINVAL", "ENOSYS")


_PYTHON_PROGRAMS = {
    "threads": """
import threading, queue
work = queue.Queue()
threads = [threading.Thread(target=work.put, args=(n,)) for n in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sorted(work.get() for _ in threads) == list(range(20))
""",
    "subprocess": """
import os, subprocess
assert subprocess.run(["sort"], input=b"b\\na\\n", capture_output=True).stdout == b"a\\nb\\n"
assert subprocess.run("exit 4", shell=True, start_new_session=True).returncode == 4
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {})
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
assert os.system("exit 6") >> 8 == 6
""",
    "multiprocessing": """
import multiprocessing
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=4096)
    block.close(); block.unlink()
""",
    "sqlite": """
import sqlite3
with sqlite3.connect("/task/x.db") as base:
    base.execute("pragma journal_mode=wal")
    base.execute("create table t (n integer)")
    base.executemany("insert into t values (?)", ((n,) for n in range(1000)))
assert sqlite3.connect("/task/x.db").execute("select sum(n) from t").fetchone() == (499500,)
""",
    "ssl and hashes": """
import hashlib, secrets, ssl, zlib, bz2, lzma, decimal, uuid, tempfile
ssl.create_default_context()
assert len(hashlib.sha256(secrets.token_bytes(99)).digest()) == 32
assert lzma.decompress(lzma.compress(b"x" * 9999)) == b"x" * 9999
with tempfile.NamedTemporaryFile() as file: file.write(uuid.uuid4().bytes); file.flush()
""",
    "asyncio": """
import asyncio
async def main():
    async def echo(reader, writer):
        writer.write(await reader.readline()); await writer.drain(); writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.readline() == b"hello\\n"
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert (await child.communicate(b"cat"))[0] == b"cat"
    await asyncio.to_thread(abs, 1)
    server.close()
asyncio.run(main())
""",
    "event descriptors": """
import ctypes, os, select, signal, mmap, fcntl, resource, socket, time
poll = select.epoll(); event = os.eventfd(0); poll.register(event, select.EPOLLIN)
os.eventfd_write(event, 3)
assert poll.poll(5)[0][0] == event and os.eventfd_read(event) == 3
libc = ctypes.CDLL(None, use_errno=True)
timer = libc.timerfd_create(1, 0)
assert timer >= 0 and libc.inotify_init1(0) >= 0 and libc.signalfd(-1, bytes(128), 0) >= 0
one, two = socket.socketpair(); one.send(b"x"); assert two.recv(1) == b"x"
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
memory = os.memfd_create("x"); os.ftruncate(memory, 4096); mmap.mmap(memory, 4096)[:2] = b"ab"
fcntl.flock(memory, fcntl.LOCK_EX); os.sched_setaffinity(0, os.sched_getaffinity(0))
assert os.waitid(os.P_PIDFD, os.pidfd_open(os.spawnlp(os.P_NOWAIT, "true", "true")), os.WEXITED)
""",
    "many files": """
import os, shutil, zipfile
for n in range(300):
    os.makedirs(f"/task/a/{n % 10}/{n}"); open(f"/task/a/{n % 10}/{n}/f", "w").write("x" * n)
shutil.copytree("/task/a", "/task/b", symlinks=True); os.symlink("b", "/task/c")
os.link("/task/a/1/1/f", "/task/l")
os.rename("/task/b", "/task/d"); os.utime("/task/l", (4e8, 4e8))
shutil.make_archive("/task/z", "zip", "/task/a")
zipfile.ZipFile("/task/z.zip").extractall("/tmp/z")
os.chmod("/task/l", 0o600); os.sync(); shutil.rmtree("/task/a"); os.truncate("/task/l", 1)
assert os.copy_file_range(os.open("/task/z.zip", 0), os.open("/task/y", 66), 100) == 100
assert os.sendfile(os.open("/task/w", 66), os.open("/task/z.zip", 0), 0, 100) == 100
""",
}


@pytest.mark.parametrize("mode", seccomp.MODES)
@pytest.mark.parametrize("name", _PYTHON_PROGRAMS)
async def test_python_programs_run(
    best_effort_pool: sandbox.Pool, mode: seccomp.Mode, name: str
) -> None:
    spec = python(_PYTHON_PROGRAMS[name], seccomp=mode, limits=_LIMITS)
    done = await sandbox.run_in(best_effort_pool, spec)
    assert done.result.exit_code == 0, done.stderr.decode()


_SHELL_PROGRAMS = {
    "pipeline": (
        "sh",
        "seq 3000 | sort -rn | uniq | head -n 7 | wc -l; (sleep 0.01 & wait); trap : TERM;"
        " kill -TERM $$; test $(ls /usr/bin | grep -c .) -gt 10",
        "7\n",
    ),
    "archives": (
        "tar",
        "mkdir a && seq 99999 > a/x && tar czf a.tgz a && rm -r a && tar xzf a.tgz && gzip a/x"
        " && gunzip -c a/x.gz | tail -n 1",
        "99999\n",
    ),
    "perl": ("perl", "perl -e 'print join(q(,), sort { $b <=> $a } 1..3)'", "3,2,1"),
    "git": (
        "git",
        "git init -q . && git config user.email a@b && git config user.name a && echo x > f"
        " && git add f && git commit -qm one && git log --format=%s && git gc -q && git fsck",
        "one\n",
    ),
    "search and replace": (
        "awk",
        "seq 5 | awk '{s += $1} END {print s}' | sed s/15/fifteen/; find /usr/lib -name x.y;"
        " dd if=/dev/zero of=z bs=4096 count=9 status=none; cp z y; cmp z y; timeout 5 true",
        "fifteen\n",
    ),
}


@pytest.mark.parametrize("mode", seccomp.MODES)
@pytest.mark.parametrize("name", _SHELL_PROGRAMS)
async def test_shell_programs_run(
    best_effort_pool: sandbox.Pool, mode: seccomp.Mode, name: str
) -> None:
    command, script, printed = _SHELL_PROGRAMS[name]
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    done = await sandbox.run_in(best_effort_pool, shell(script, seccomp=mode, limits=_LIMITS))
    assert done.result.exit_code == 0, done.stderr.decode()
    assert done.stdout.decode() == printed


async def test_a_virtual_environment_can_be_made(best_effort_pool: sandbox.Pool) -> None:
    script = (
        "python3 -m venv --without-pip /task/v && /task/v/bin/python -c"
        " 'import sys; print(sys.prefix)'"
    )
    spec = shell(script, seccomp="allow-list", limits=_LIMITS)
    done = await sandbox.run_in(best_effort_pool, spec)
    assert (done.result.exit_code, done.stdout) == (0, b"/task/v\n"), done.stderr.decode()

"""Doors into the kernel that programs do not need."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import trio

from sandbox import Reason
from tests.abuse.arena import Arena, case

_CLOSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "EINVAL"}
_X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="a numbering of x86_64")


@case(18)
async def test_no_new_namespace_can_be_made(arena: Arena) -> None:
    seen = await arena.python("""
flags = dict(user=0x10000000, mount=0x20000, pid=0x20000000, net=0x40000000, ipc=0x8000000,
             uts=0x4000000, cgroup=0x2000000, time=0x80)
told = {name: attempt(system, "unshare", flag) for name, flag in flags.items()}
NUMBERS["clone"] = (56, 220)
for name, flag in flags.items():
    if name != "time":  # clone knows it not
        told["clone " + name] = attempt(system, "clone", flag | 17, 0, 0, 0, 0)
print(os.system("unshare -Ur true 2>/dev/null || unshare -m true 2>/dev/null"))
tell(clone3=attempt(system, "clone3", ctypes.create_string_buffer(88), 88), told=told)
""")
    assert seen.told["clone3"] == "ENOSYS"
    assert set(seen.told["told"].values()) == {"EPERM"}
    assert seen.stdout.splitlines()[0] != b"0"


@case(19)
async def test_no_file_system_can_be_mounted_not_even_a_cgroup(arena: Arena) -> None:
    seen = await arena.python("""
os.mkdir("m")
told = {kind: attempt(system, "mount", b"x", b"m", kind.encode(), 0, 0)
        for kind in ("cgroup2", "cgroup", "tmpfs", "proc", "sysfs", "overlay", "devpts", "bpf")}
told.update(
    bind=attempt(system, "mount", b"/proc/1/root", b"m", b"", 4096, 0),
    remount=attempt(system, "mount", b"none", b"/usr", b"", 32 | 4096, 0),
    umount=attempt(system, "umount2", b"/tmp", 2), fsopen=attempt(system, "fsopen", b"cgroup2", 0),
    open_tree=attempt(system, "open_tree", -100, b"/", 1),
    setattr=attempt(system, "mount_setattr", -100, b"/usr", 0, ctypes.create_string_buffer(32), 32))
tell(told=told, cgroup=read("/proc/self/cgroup").decode(), sys=os.path.exists("/sys/fs/cgroup"))
""")
    assert set(seen.told["told"].values()) == {"EPERM"}, seen.told
    assert not seen.told["sys"]
    assert all(line.endswith(":/") for line in seen.told["cgroup"].splitlines())


@case(21)
async def test_no_environment_but_its_own_can_be_read(arena: Arena) -> None:
    seen = await arena.shell("env; cat /proc/[0-9]*/environ | tr '\\0' '\\n'", env={"GIVEN": "yes"})
    names = {line.split(b"=")[0] for line in seen.stdout.splitlines()}
    hints = {b"MARK", b"CANARY_FILE", b"CANARY_PORT", b"CANARY_SOCKET", b"POOL_PID"}
    assert names <= hints | {b"GIVEN", b"HOME", b"LANG", b"PATH", b"PWD", b"_", b"SHLVL"}
    assert b"GIVEN" in names


@case(23)
async def test_it_inherits_no_descriptor_but_its_three_streams(arena: Arena) -> None:
    seen = await arena.shell(
        "ls /proc/self/fd | tr '\\n' ' '; echo;"
        "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null; done | grep -v '^total'"
    )
    own, *others = seen.stdout.decode().splitlines()
    assert own.split() == ["0", "1", "2", "3"]  # 3 is ls reading the folder
    targets = {line.split(" -> ")[1] for line in others if " -> " in line}
    # The eventfd is bubblewrap's own; what has no name in a file system cannot be opened again.
    known = ("pipe:[", "/dev/null", "/proc/", "anon_inode:[eventfd]")
    assert all(target.startswith(known) for target in targets), targets


@case(24)
async def test_the_kernels_own_words_and_memory_cannot_be_read(arena: Arena) -> None:
    seen = await arena.python("""
buffer = ctypes.create_string_buffer(4096)
symbols = read("/proc/kallsyms").split(b"\\n")[:100] if os.path.exists("/proc/kallsyms") else []
told = dict(syslog=attempt(system, "syslog", 3, buffer, 4096), kmsg=attempt(read, "/proc/kmsg"),
            devkmsg=attempt(read, "/dev/kmsg"), mem=attempt(read, "/dev/mem"),
            debug=attempt(os.listdir, "/sys/kernel/debug"))
core = read("/proc/kcore")[:64] if attempt(read, "/proc/kcore") == "OK" else b""
tell(told=told, addresses=[s.decode() for s in symbols if s and int(s.split()[0], 16)],
     core=len(core))
""")
    assert set(seen.told["told"].values()) <= {"EPERM", "EACCES", "ENOENT"}
    assert seen.told["addresses"] == []
    assert seen.told["core"] == 0


@case(30)
async def test_keyrings_cannot_be_used(arena: Arena) -> None:
    seen = await arena.python("""
tell(add=attempt(system, "add_key", b"user", b"k", b"v", 1, -3),
     get=attempt(system, "keyctl", 0, -3, 0), join=attempt(system, "keyctl", 1, 0),
     session=attempt(system, "keyctl", 6, -4, 0),
     request=attempt(system, "request_key", b"user", b"k", 0, -3))
""")
    assert set(seen.told.values()) == {"EPERM"}


@case(31)
async def test_a_crash_leaves_no_core_file(arena: Arena) -> None:
    script = (
        "ulimit -c unlimited 2>/dev/null; sh -c 'kill -SEGV $$'; sh -c 'kill -ABRT $$';"
        "find /task /tmp /dev/shm -type f"
    )
    async with arena.open(arena.shell_spec(script)) as run:
        said = await arena.rest(run)
        await run.wait()
        _, found = await arena.collect(run)
    assert not [line for line in said.splitlines() if line.startswith(b"/")]
    assert found == {}
    assert not list(Path.cwd().glob("core*"))


_ON_A_TERMINAL = """
import fcntl, os, sys, termios, trio
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import sandbox
from tests.abuse.modes import choose_limits, mode_named, pool_config
SOURCE = '''
import fcntl, os, pty, termios
def push(descriptor):
    try:
        fcntl.ioctl(descriptor, termios.TIOCSTI, b"x")
    except OSError as error:
        return error.strerror
    return "pushed"
def opened(path):
    try:
        return push(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.strerror
print([push(n) for n in (0, 1, 2)] + [opened("/dev/tty"), opened("/dev/console")])
own, other = pty.openpty()
print([push(own), push(other)])
'''
async def main():
    config = pool_config(choose_limits())
    async with sandbox.open_pool(config) as pool:
        spec = mode_named(sys.argv[1]).adapt(sandbox.Spec(argv=("python3", "-c", SOURCE)))
        done = await sandbox.run_in(pool, spec)
    sys.stdout.write("TOLD" + done.stdout.decode() + done.stderr.decode() + "END")
trio.run(main)
"""


@case(52, alone=True)
async def test_nothing_can_be_typed_into_the_pools_own_terminal(arena: Arena) -> None:
    controller, terminal = os.openpty()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", _ON_A_TERMINAL, arena.mode.name],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        said = ""
        with trio.fail_after(40):
            while "END" not in said and process.poll() is None:
                await trio.lowlevel.wait_readable(controller)
                said += os.read(controller, 4096).decode()
            process.wait(10)
        waiting = bytearray(4)
        fcntl.ioctl(terminal, termios.FIONREAD, waiting)
    finally:
        os.close(terminal)
        os.close(controller)
    told = said.partition("TOLD")[2]
    assert told.count("[") == 2, said
    assert "pushed" not in told
    assert "not permitted" in told
    assert not any(waiting)


_OWN_SETTINGS = ("kernel/shmmax", "kernel/msgmax", "kernel/msgmni", "fs/mqueue/msg_max")


def _host_settings() -> list[str]:
    names = (*_OWN_SETTINGS, "kernel/core_pattern")
    return [Path(f"/proc/sys/{name}").read_text() for name in names]


@case(85)
async def test_no_kernel_setting_of_the_host_or_of_a_neighbour_can_be_written(
    arena: Arena,
) -> None:
    """Those of its own ipc namespace a task may change: they are gone with it."""
    look = f"""
tell(**{{name: read(f"/proc/sys/{{name}}").decode() for name in {_OWN_SETTINGS}}})
"""
    host = _host_settings()
    clean = (await arena.python(look)).told
    seen = await arena.python(f"""
for name in {_OWN_SETTINGS}:
    attempt(overwrite, f"/proc/sys/{{name}}", b"77")
told = {{path: attempt(overwrite, path, b"1") for path in (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/file-max", "/proc/sys/kernel/pid_max",
    "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/kernel/ns_last_pid", "/proc/sys/user/max_user_namespaces", "/proc/self/uid_map",
    "/proc/self/gid_map", "/proc/self/setgroups", "/proc/irq/default_smp_affinity",
    "/proc/1/uid_map", "/proc/acpi/wakeup", "/proc/self/loginuid")}}
tell(told=told)
""")
    opened = {path: told for path, told in seen.told["told"].items() if told not in _CLOSED}
    assert not opened
    for _ in range(2):
        assert (await arena.python(look)).told == clean
    assert _host_settings() == host


@case(86)
async def test_no_other_process_can_be_traced_or_its_memory_taken(arena: Arena) -> None:
    seen = await arena.python("""
child = os.fork()
if child == 0:
    time.sleep(1000)
vector = ctypes.create_string_buffer(16)
told = {}
for pid in (1, child, int(os.environ["POOL_PID"])):
    told[f"attach {pid}"] = attempt(system, "ptrace", 16, pid, 0, 0)
    told[f"seize {pid}"] = attempt(system, "ptrace", 0x4206, pid, 0, 0)
    told[f"read {pid}"] = attempt(system, "process_vm_readv", pid, vector, 1, vector, 1, 0)
    told[f"write {pid}"] = attempt(system, "process_vm_writev", pid, vector, 1, vector, 1, 0)
    told[f"kcmp {pid}"] = attempt(system, "kcmp", os.getpid(), pid, 0, 0, 0)
pidfd = os.pidfd_open(child)
told["getfd"] = attempt(system, "pidfd_getfd", pidfd, 0, 0)
told["traceme"] = attempt(system, "ptrace", 0, 0, 0, 0)
tell(**told)
""")
    assert set(seen.told.values()) == {"EPERM"}, seen.told


@case(87)
async def test_writing_its_inits_memory_gains_no_more_than_its_own_exit_code(arena: Arena) -> None:
    seen = await arena.python("""
def scribble(pid):
    maps = read(f"/proc/{pid}/maps").decode().splitlines()
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    for line in maps:
        span, rights = line.split()[:2]
        if "w" in rights:
            start, end = (int(word, 16) for word in span.split("-"))
            os.pwrite(memory, b"{\\"exit-code\\": 0}\\n" * 200, start)
told = dict(init=attempt(scribble, 1), pool=attempt(read, f"/proc/{os.environ['POOL_PID']}/maps"))
tell(**told)
sys.stdout.flush()
os._exit(7)
""")
    assert seen.told["pool"] == "ENOENT"
    assert seen.result.reason in (Reason.EXITED, Reason.SIGNALLED)
    if seen.told["init"] in ("EACCES", "EPERM"):
        assert seen.result.exit_code == 7


@case(88)
async def test_a_program_without_a_file_is_confined_like_any(arena: Arena) -> None:
    seen = await arena.python("""
program = os.memfd_create("program", 0)
os.write(program, read("/usr/bin/grep") if os.path.exists("/usr/bin/grep") else b"")
with open("/usr/bin/grep", "rb") as file:
    file.seek(1 << 20)
    while data := file.read(1 << 20):
        os.write(program, data)
sys.stdout.flush()
os.execve(program, ["grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status"], {"MARK": MARK})
""")
    fields = dict(line.split() for line in seen.stdout.decode().splitlines())
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("1", "2")
    assert {fields[name] for name in fields if name.startswith("Cap")} == {"0" * 16}


@case(89)
async def test_what_kernels_were_broken_by_is_refused(arena: Arena) -> None:
    seen = await arena.python("""
zero = ctypes.create_string_buffer(256)
tell(bpf=attempt(system, "bpf", 0, zero, 48), uring=attempt(system, "io_uring_setup", 1, zero),
     userfaultfd=attempt(system, "userfaultfd", 0),
     perf=attempt(system, "perf_event_open", zero, 0, -1, -1, 0),
     fanotify=attempt(system, "fanotify_init", 0, 0),
     module=attempt(system, "init_module", zero, 1, b""), kexec=attempt(
     system, "kexec_load", 0, 0, 0, 0), secret=attempt(system, "memfd_secret", 0),
     vmsplice=attempt(system, "vmsplice", 1, zero, 0, 0), acct=attempt(system, "acct", 0),
     swap=attempt(system, "swapon", b"/task/x", 0), quota=attempt(system, "quotactl", 0, 0, 0, 0),
     reboot=attempt(system, "reboot", 0, 0, 0, 0), iopl=attempt(system, "iopl", 3),
     personality=attempt(system, "personality", 0x40000))
""")
    assert set(seen.told.values()) == {"EPERM"}, seen.told


@case(90)
async def test_neither_the_clock_nor_the_hosts_name_can_be_changed_or_told(arena: Arena) -> None:
    seen = await arena.python("""
times = ctypes.create_string_buffer(256)
tell(set=attempt(system, "clock_settime", 0, times), day=attempt(system, "settimeofday", times, 0),
     adjust=attempt(system, "adjtimex", times), name=attempt(system, "sethostname", b"x", 1),
     domain=attempt(system, "setdomainname", b"x", 1), nodename=os.uname().nodename)
""")
    told = seen.told
    assert told.pop("nodename") == "sandbox"
    assert set(told.values()) == {"EPERM"}


@_X86
@case(91)
async def test_a_call_under_another_numbering_kills_the_process(arena: Arena) -> None:
    seen = await arena.python("""
tell(started=True)
LIBC.syscall(ctypes.c_long(0x40000000 + 39))
tell(survived=True)
""")
    assert seen.told == {"started": True}
    assert (seen.result.reason, seen.result.signal) == (Reason.SIGNALLED, 31)


@_X86
@case(92)
async def test_a_call_by_the_gate_of_32_bit_programs_kills_the_process(arena: Arena) -> None:
    seen = await arena.python("""
area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
area.write(bytes.fromhex("b814000000" "cd80" "c3"))  # getpid of i386 by int 0x80
tell(started=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
ctypes.CFUNCTYPE(ctypes.c_long)(address)()
tell(survived=True)
""")
    assert seen.told == {"started": True}
    # A kernel without 32-bit programs ends it by SIGSEGV instead of the filter's SIGSYS.
    assert seen.result.reason is Reason.SIGNALLED
    assert seen.result.signal in (31, 11)

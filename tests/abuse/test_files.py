"""Reading and writing what is not the task's own."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import sandbox
from tests.abuse.arena import Arena, case, limits

_ABSENT = {"ENOENT", "ENOTDIR"}
_CLOSED = _ABSENT | {"EACCES", "EPERM", "EROFS", "ELOOP", "EINVAL", "EBUSY"}


@case(1)
async def test_no_file_of_the_host_outside_usr_can_be_read(arena: Arena) -> None:
    seen = await arena.python("""
pool = os.environ["POOL_PID"]
secret = os.environ["CANARY_FILE"]
paths = ["/etc/shadow", "/host/etc/shadow", "/oldroot/etc/shadow", "/newroot/etc/shadow", secret,
         "/host" + secret, "/tmp/../" + secret, "/usr/../.." + secret, "/pool/etc/passwd",
         f"/proc/{pool}/environ", f"/proc/{pool}/root{secret}", "/var/log/syslog", "/root/.bashrc"]
tell(**{path: attempt(read, path) for path in paths})
""")
    assert set(seen.told.values()) <= _ABSENT, seen.told


@case(2)
async def test_nothing_but_its_three_folders_can_be_written(arena: Arena) -> None:
    seen = await arena.python("""
folders = ["/", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/etc", "/dev", "/dev/pts", "/proc",
           "/proc/sys", "/proc/sys/kernel", "/proc/1", "/bin", "/lib", "/proc/1/root/usr",
           "/proc/self/root/etc", os.path.dirname(os.environ["CANARY_FILE"]), sys.prefix]
tell(**{folder: attempt(write, f"{folder}/{MARK}") for folder in folders},
     **{name: attempt(overwrite, name) for name in ("/etc/passwd", "/usr/bin/env", "/bin/sh")},
     mkdir=attempt(os.mkdir, f"/usr/{MARK}"), symlink=attempt(os.symlink, "/", f"/{MARK}"),
     unlink=attempt(os.unlink, "/etc/passwd"), rename=attempt(os.rename, "/usr/bin", "/usr/bun"),
     chmod=attempt(os.chmod, "/usr/bin/env", 0o777), utime=attempt(os.utime, "/usr/bin/env"))
""")
    assert set(seen.told.values()) <= _CLOSED, seen.told


@case(10)
async def test_a_file_of_a_terabyte_cannot_be_made(arena: Arena) -> None:
    seen = await arena.python(
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
answers = {}
for folder in ("/task", "/tmp", "/dev/shm"):
    with open(f"{folder}/x", "wb") as file:
        answers[folder] = attempt(os.ftruncate, file.fileno(), 1 << 40)
        answers[folder + " allocate"] = attempt(os.posix_fallocate, file.fileno(), 0, 1 << 40)
        answers[folder + " write"] = attempt(os.pwrite, file.fileno(), b"x", 1 << 40)
tell(**answers)
""",
        limits=limits(file_bytes=1 << 20),
    )
    assert set(seen.told.values()) <= {"EFBIG", "ENOSPC"}, seen.told


@case(22)
async def test_no_path_of_the_host_is_told(arena: Arena) -> None:
    seen = await arena.python("""
text = ""
for name in ("mountinfo", "mounts", "mountstats", "cmdline", "environ", "cgroup", "maps", "status"):
    for who in ("self", "1"):
        try:
            text += read(f"/proc/{who}/{name}").decode(errors="replace")
        except OSError:
            pass
for who in ("self", "1"):
    for what in ("cwd", "root", "exe", "fd/0", "fd/1", "fd/2", "ns/mnt"):
        try:
            text += os.readlink(f"/proc/{who}/{what}") + " "
        except OSError:
            pass
text = text.replace("CANARY_FILE=" + os.environ["CANARY_FILE"], "")
tell(text=text, python=sys.prefix)
""")
    words = {
        str(Path.cwd()),
        str(Path(sandbox.__file__).parent),
        str(arena.folder),
        str(Path.home()),
    }
    if seen.told["python"] != sys.prefix:
        words.add(sys.prefix)
    found = [word for word in words - {"/", "/usr"} if word in seen.told["text"]]
    # Names like /pool/bin are the spawner's own and neutral: they say nothing of the host.
    assert not found, seen.told["text"]


@case(29)
async def test_a_file_of_the_host_cannot_be_linked_into_the_task(arena: Arena) -> None:
    seen = await arena.python("""
def link_by_descriptor():
    descriptor = os.open("/usr/bin/env", os.O_RDONLY)
    os.link(f"/proc/self/fd/{descriptor}", "/task/b", follow_symlinks=True)
tell(usr=attempt(os.link, "/usr/bin/env", "/task/a"), descriptor=attempt(link_by_descriptor),
     etc=attempt(os.link, "/etc/passwd", "/task/c"), rename=attempt(os.rename, "/etc/hosts", "x"))
""")
    assert set(seen.told.values()) <= {"EXDEV", "EPERM", "EROFS"}, seen.told


@case(65)
async def test_no_step_through_proc_or_upwards_leaves_the_root(arena: Arena) -> None:
    seen = await arena.python("""
secret = os.environ["CANARY_FILE"]
top = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
def climb():
    for _ in range(50):
        os.chdir("..")
    return sorted(os.listdir("."))
def by_descriptor():
    os.fchdir(top)
    return climb()
def through(path):
    os.chdir(path)
    return climb()
views = {}
for name, action in dict(
        cwd=climb, descriptor=by_descriptor, init=lambda: through("/proc/1/root"),
        own=lambda: through("/proc/self/root"), init_cwd=lambda: through("/proc/1/cwd")).items():
    try:
        views[name] = action()
    except PermissionError:
        pass  # its init may be closed to it: better still
reads = {path: attempt(read, path + secret) for path in (
    "/proc/1/root", "/proc/self/root/..", "/proc/1/cwd/../..", f"/proc/self/fd/{top}/..",
    "/proc/thread-self/root", "/proc/self/task/1/root")}
tell(same=len({tuple(view) for view in views.values()}) == 1, seen=views["cwd"], reads=reads)
""")
    assert seen.told["same"]
    assert not {"host", "pool", "root", "home"} & set(seen.told["seen"])
    assert set(seen.told["reads"].values()) <= _CLOSED


@case(66)
async def test_a_file_handle_opens_nothing(arena: Arena) -> None:
    seen = await arena.python("""
handle = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132), 136)
mount_id = ctypes.create_string_buffer(8)
# The root folder of many file systems has inode 2: what once led out of containers.
shocker = ctypes.create_string_buffer((8).to_bytes(4, "little") + (1).to_bytes(4, "little")
                                      + (2).to_bytes(8, "little"), 16)
usr = os.open("/usr", os.O_RDONLY)
tell(name=attempt(system, "name_to_handle_at", -100, b"/usr", handle, mount_id, 0),
     open=attempt(system, "open_by_handle_at", usr, shocker, 0))
""")
    assert set(seen.told.values()) == {"EPERM"}


@case(67)
async def test_another_root_cannot_be_had_to_climb_out_of(arena: Arena) -> None:
    seen = await arena.python("""
os.mkdir("jail")
outside = os.open("/", os.O_RDONLY)
def join(who):
    system("setns", os.open(f"/proc/{who}/ns/mnt", os.O_RDONLY), 0)
tell(chroot=attempt(system, "chroot", b"jail"),
     pivot=attempt(system, "pivot_root", b"jail", b"jail"),
     own=attempt(join, "self"), init=attempt(join, "1"))
""")
    assert set(seen.told.values()) <= {"EPERM", "EACCES"}


@case(68)
async def test_the_setuid_programs_of_the_host_lend_nothing(arena: Arena) -> None:
    seen = await arena.shell(
        "mkdir m; for try in 'su -c id' 'mount -t tmpfs x m' 'sudo -n id' 'umount /tmp'"
        " 'chsh -s /bin/sh' 'newgrp root' 'pkexec id'; do"
        ' $try </dev/null >/dev/null 2>&1 && echo "$try worked"; done;'
        "grep NoNewPrivs /proc/self/status; awk '$5 == \"/usr\" {print $6}' /proc/self/mountinfo"
    )
    assert b"worked" not in seen.stdout
    assert seen.stdout.split()[:2] == [b"NoNewPrivs:", b"1"]
    assert b"nosuid" in seen.stdout.split()[2]


@case(69)
async def test_its_devices_are_few_and_no_others_can_be_made(arena: Arena) -> None:
    seen = await arena.python("""
told = {path: attempt(os.open, path, os.O_RDWR) for path in (
    "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/loop-control",
    "/dev/sda", "/dev/vda", "/dev/port", "/dev/rtc", "/dev/userfaultfd", "/dev/vhost-vsock")}
for name, kind, number in (("own-null", stat.S_IFCHR, (1, 3)), ("mem", stat.S_IFCHR, (1, 1)),
                           ("disk", stat.S_IFBLK, (254, 0)), ("fuse", stat.S_IFCHR, (10, 229))):
    for folder in ("/task", "/tmp", "/dev/shm", "/dev"):
        told[f"mknod {folder}/{name}"] = attempt(
            os.mknod, f"{folder}/{name}", kind | 0o666, os.makedev(*number))
tell(told=told, there=sorted(os.listdir("/dev")))
""")
    assert set(seen.told["told"].values()) <= {"ENOENT", "EPERM", "EROFS", "EACCES"}
    known = {"console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm"}
    assert set(seen.told["there"]) <= known | {
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }


@case(28)
async def test_a_setuid_copy_and_a_device_node_are_of_no_use(arena: Arena) -> None:
    seen = await arena.shell(
        "for d in /task /tmp /dev/shm; do mknod $d/null c 1 3 2>/dev/null && echo made;"
        "cp /usr/bin/id $d/id && chmod 6755 $d/id && $d/id -u; $d/id -G; done"
    )
    assert seen.stdout.split() == [b"1000", b"1000"] * 3 or (
        # As an ordinary user without a group of its own the rest shows as nobody's.
        b"made" not in seen.stdout and seen.stdout.split()[0::2].count(b"1000") == 3
    )


@case(70)
async def test_what_it_hands_its_own_start_never_reaches_the_host_side(arena: Arena) -> None:
    """A loader that obeyed these words outside would open the canary, which is being watched."""
    file = str(arena.canary.file)
    hostile = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GCONV_PATH", "BASH_ENV", "ENV")
    env = dict.fromkeys((*hostile, "PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME"), file)
    del env["PYTHONHOME"]
    seen = await arena.run(arena.shell_spec("echo started", env=env))
    assert seen.stdout == b"started\n"


@case(71)
async def test_a_name_of_its_own_in_place_of_a_system_folder_moves_nothing(arena: Arena) -> None:
    seen = await arena.shell(
        "rm -rf /task /tmp /dev/shm 2>/dev/null; ln -s /usr /task/output/usr; rmdir /task/output;"
        "ln -s / /task/output 2>/dev/null; ls -ld /task | cut -c1"
    )
    assert seen.stdout == b"d\n"


async def test_the_canary_can_be_read_by_anyone_so_that_only_the_sandbox_hides_it(
    arena: Arena,
) -> None:
    mode = os.lstat(arena.canary.file).st_mode
    assert stat.S_IMODE(mode) == 0o644
    assert all(folder.stat().st_mode & 0o001 for folder in arena.canary.file.parents)

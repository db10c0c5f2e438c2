"""What every hostile Python program begins with: ways to try a thing and to tell of it."""

from __future__ import annotations

# The mark in the program's short name lets it be found from outside, whatever it does with its
# environment and its command line.
PRELUDE = '''
import ctypes, errno, fcntl, json, mmap, os, platform, resource, signal, socket, stat, sys, time
MARK = os.environ["MARK"]
try:
    with open("/proc/self/comm", "w") as file:
        file.write(MARK)
except OSError:
    pass
NUMBERS = dict(
    add_key=(248, 217), bpf=(321, 280), chroot=(161, 51), clock_settime=(227, 112),
    clone3=(435, 435), fanotify_init=(300, 262), fsopen=(430, 430), init_module=(175, 105),
    io_uring_setup=(425, 425), kcmp=(312, 272), kexec_load=(246, 104), keyctl=(250, 219),
    memfd_secret=(447, 447), mount=(165, 40), mount_setattr=(442, 442),
    name_to_handle_at=(303, 264), open_by_handle_at=(304, 265), open_tree=(428, 428),
    perf_event_open=(298, 241), pidfd_getfd=(438, 438), pivot_root=(155, 41), ptrace=(101, 117),
    process_vm_readv=(310, 270), process_vm_writev=(311, 271), quotactl=(179, 60),
    reboot=(169, 142), request_key=(249, 218), sched_setattr=(314, 274), setdomainname=(171, 162),
    sethostname=(170, 161), setns=(308, 268), settimeofday=(164, 170), shmat=(30, 196),
    shmdt=(67, 197), shmget=(29, 194), semget=(64, 190), mq_open=(240, 180), msgget=(68, 186),
    swapon=(167, 224), syslog=(103, 116), umount2=(166, 39), unshare=(272, 97),
    userfaultfd=(323, 282), ioprio_set=(251, 30), personality=(135, 92), iopl=(172, None),
    adjtimex=(159, 171), acct=(163, 89), vmsplice=(278, 75),
)
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

def system(name, *arguments):
    """Make a system call; its answer, or an OSError."""
    number = NUMBERS[name][0 if platform.machine() == "x86_64" else 1]
    if number is None:
        raise OSError(errno.EPERM, name)
    words = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    ctypes.set_errno(0)
    answer = LIBC.syscall(ctypes.c_long(number), *words)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer

def attempt(action, *arguments, **more):
    """What came of it: OK, or the name of the error."""
    try:
        action(*arguments, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "OK"

def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 20)

def write(path, data=b"x"):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)

def overwrite(path, data=b"x"):
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)

def tell(**what):
    print(json.dumps(what), flush=True)

'''

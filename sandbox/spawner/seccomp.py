"""What a task may ask of the kernel: the two policies, and the filter made from either.

The deny list refuses what only reaches for the kernel's rarely used doors and allows the rest. The
allow list allows what Docker's default profile allows without any capability, less what the deny
list refuses. The same in both:

- A refused call fails with EPERM, so that a program sees an ordinary error.
- A number without a name in the tables fails with ENOSYS, even under the deny list. Nobody has
  judged what a newer kernel offers there, and every program that uses a new call must cope with a
  kernel that lacks it.
- clone with any new namespace is refused. clone3 fails with ENOSYS, for its flags lie behind a
  pointer that a filter cannot read; the C library then falls back to clone.
- Sockets have the given families alone: no vsock, which no network namespace contains, no netlink.
- A call by another architecture's numbers, x32 included, kills the process.
"""

from __future__ import annotations

import errno

from sandbox.spawner import bpf, syscalls

TYPE_CHECKING = False  # as in `typing`, whose import would cost more than all of this
if TYPE_CHECKING:
    from typing import Literal

    Mode = Literal["deny-list", "allow-list"]
    Families = Literal["unix", "inet"]

MODES: tuple[Mode, ...] = ("deny-list", "allow-list")

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # x32 is x86_64's numbers from here on

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone knows no NEWTIME.
_NEW_NAMESPACES = 0x7E020000
# TIOCSTI and TIOCLINUX put words in a terminal's mouth; TIOCSETD loads line disciplines, of which
# several have been the way into a kernel.
_TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)
# AF_UNIX, AF_INET, AF_INET6
_FAMILIES: dict[str, tuple[int, ...]] = {"unix": (1,), "inet": (1, 2, 10)}

_REFUSED = (
    # The memory, descriptors and state of other processes.
    "kcmp pidfd_getfd process_madvise process_mrelease process_vm_readv process_vm_writev ptrace"
    # Mounts, and what tells of them: statmount and listmount name the host's paths.
    " chroot fsconfig fsmount fsopen fspick listmount mount mount_setattr move_mount open_tree"
    " open_tree_attr pivot_root statmount umount2"
    # Namespaces; listns enumerates them.
    " listns setns unshare"
    # Files by handle pass by the paths that a mount namespace shows.
    " name_to_handle_at open_by_handle_at"
    # Large and young parts of the kernel, each with a history of escapes; io_uring would also do
    # what this filter refuses.
    " bpf fanotify_init io_uring_enter io_uring_register io_uring_setup perf_event_open"
    " userfaultfd vmsplice"
    # Keyrings belong to no namespace.
    " add_key keyctl request_key"
    # Security modules: a task has no label to read or change.
    " lsm_get_self_attr lsm_list_modules lsm_set_self_attr"
    # Placing memory on nodes, moving it, and hiding it from the kernel.
    " mbind memfd_secret migrate_pages move_pages set_mempolicy set_mempolicy_home_node"
    # Other personalities switch protections off; a table of segments is old and full of holes.
    " modify_ldt personality"
    # The machine itself: its clock, name, log, terminals, quotas, swap, ports, modules, kernel.
    " acct adjtimex clock_adjtime clock_settime delete_module finit_module init_module ioperm iopl"
    " kexec_file_load kexec_load lookup_dcookie quotactl quotactl_fd reboot setdomainname"
    " sethostname settimeofday swapoff swapon syslog uselib vhangup"
)
# Looked at and left allowed: pidfd_open and pidfd_send_signal (processes of its own namespace),
# landlock (can only take away), map_shadow_stack and mseal (its own memory), cachestat (no more
# than mincore tells), file_setattr (no more than an ioctl does), uretprobe and uprobe (the kernel
# lets them pass any filter, for the host's tracing).

# github.com/moby/profiles, seccomp/default_linux.go of 2026: what it allows without any capability
# and whatever the arguments, less the names that neither architecture has.
_DOCKER = (
    "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod"
    " chown clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect"
    " copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old"
    " epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit"
    " exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat"
    " fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr"
    " fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv"
    " futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64"
    " getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid"
    " getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt"
    " gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1"
    " inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl"
    " ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self"
    " lchown lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr"
    " lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore"
    " mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr"
    " mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv"
    " msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat"
    " openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect"
    " poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv"
    " process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink"
    " readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename"
    " renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask"
    " rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo"
    " sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam"
    " sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam"
    " sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile"
    " sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid"
    " setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid"
    " setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown"
    " sigaltstack signalfd signalfd4 splice stat statfs statmount statx symlink symlinkat sync"
    " sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun"
    " timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill"
    " truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4"
    " waitid write writev"
)


class UnknownArchitecture(Exception):
    """There is no frozen table of system calls for this machine; no filter can be made."""


def supported(machine: str) -> bool:
    """Whether a filter can be made for this architecture (as `platform.machine` names it)."""
    return machine in _AUDIT_ARCH


def build_filter(machine: str, *, mode: Mode = "deny-list", families: Families = "inet") -> bytes:
    """Make the filter for one architecture, as bubblewrap's --seccomp reads it.

    Args:
        machine: the architecture, as `platform.machine` names it.
        mode: which of the two policies.
        families: the sockets that can be had: "unix" alone, or "inet" (IPv4 and IPv6) as well.

    Raises:
        UnknownArchitecture: the tables do not know `machine`.
        ValueError: there is no such mode, or no such choice of families.
    """
    if not supported(machine):
        raise UnknownArchitecture(machine)
    if mode not in MODES:
        raise ValueError(f"there is no seccomp mode {mode!r}")
    if families not in _FAMILIES:
        raise ValueError(f"there are no socket families {families!r}")
    refused, unknown = bpf.refuse(errno.EPERM), bpf.refuse(errno.ENOSYS)
    numbers = syscalls.numbers(machine)
    allowed = set(numbers if mode == "deny-list" else _DOCKER.split()) - set(_REFUSED.split())
    rules: dict[str, bpf.Rule] = {
        name: bpf.ALLOW if name in allowed else refused for name in numbers
    }
    rules["clone"] = bpf.ByArgument(
        0, bpf.ANY_BIT, (_NEW_NAMESPACES,), when=refused, otherwise=bpf.ALLOW
    )
    rules["clone3"] = unknown
    rules["ioctl"] = bpf.ByArgument(
        1, bpf.EQUAL, _TERMINAL_TRICKS, when=refused, otherwise=bpf.ALLOW
    )
    rules["socket"] = rules["socketpair"] = bpf.ByArgument(
        0, bpf.EQUAL, _FAMILIES[families], when=bpf.ALLOW, otherwise=refused
    )
    starts: dict[int, bpf.Rule] = {0: unknown}
    starts |= {number + 1: unknown for number in numbers.values()}
    starts |= {numbers[name]: rule for name, rule in rules.items()}
    if machine == "x86_64":
        starts[_X32] = bpf.KILL_PROCESS
    return bpf.assemble(_AUDIT_ARCH[machine], starts, foreign=bpf.KILL_PROCESS)

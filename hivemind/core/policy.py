"""What policy files say, as records. ``settings`` reads them; ``admission`` applies them."""

import math
from collections.abc import Mapping

import attrs

from hivemind.core.confinement import Network, Reuse, Seccomp

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


LEAST: Mapping[str, float] = {
    "memory": 16 * MIB,
    "scratch": 192 * KIB,
    "scratch_inodes": 16,
    "tmp": 64 * KIB,
    "tmp_inodes": 16,
    "shm": 64 * KIB,
    "shm_inodes": 16,
    "cpus": 0.001,
    "wall": 0.001,
    "cpu_time": 0.001,
    "pids": 8,
    "file_size": 4 * KIB,
    "open_files": 64,
}
"""What no task can run with less of, by key: a sandbox needs it itself. Unpacking and starting take
about 12 MiB, and the scratch space is shared out to three folders."""

SYSTEM_FOLDERS = frozenset(
    ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "task", "tmp")
) | {"usr"}
"""The folders at the root of a sandbox that are its own: nothing can be mounted in them."""

RESERVED_VARIABLES = "HIVEMIND_"
"""How the variables begin that say which task it is; no policy sets those."""

HOST_ROOT = "host"
"""The ``root`` of a profile whose tasks see the machine's own /usr."""


@attrs.frozen(kw_only=True)
class Bound:
    """What a task gets when it asks for nothing, and the most that it may ask for."""

    default: float
    most: float


@attrs.frozen
class Mount:
    """A file or folder of the machine that tasks see read-only; both paths are absolute."""

    source: str
    target: str


@attrs.frozen(kw_only=True)
class Profile:
    """One named policy that a task may run under, such as ``default``.

    On the master it says what may be asked; on a worker what this machine is ready to give. Sizes
    are bytes and times are seconds. ``root`` and ``mounts`` are the worker's alone.
    """

    name: str
    description: str = ""
    accounts: tuple[str, ...] = ("*",)
    """Who may use it: account names, ``role:admin``, ``role:provider``, or ``*``. Empty: nobody."""
    root: str = HOST_ROOT
    """``host``, or the absolute path of a folder with another root file system."""
    mounts: tuple[Mount, ...] = ()
    memory: Bound = attrs.field(factory=lambda: Bound(default=512 * MIB, most=16 * GIB))
    scratch: Bound = attrs.field(factory=lambda: Bound(default=512 * MIB, most=16 * GIB))
    scratch_inodes: Bound = attrs.field(factory=lambda: Bound(default=100_000, most=1_000_000))
    tmp: Bound = attrs.field(factory=lambda: Bound(default=64 * MIB, most=4 * GIB))
    """A part of the scratch space, as is ``shm``; the default is an eighth of it at most."""
    tmp_inodes: Bound = attrs.field(factory=lambda: Bound(default=16_384, most=1_000_000))
    shm: Bound = attrs.field(factory=lambda: Bound(default=64 * MIB, most=4 * GIB))
    shm_inodes: Bound = attrs.field(factory=lambda: Bound(default=16_384, most=1_000_000))
    cpus: Bound = attrs.field(factory=lambda: Bound(default=1, most=64))
    gpus: Bound = attrs.field(factory=lambda: Bound(default=0, most=0))
    wall: Bound = attrs.field(factory=lambda: Bound(default=600, most=7 * 86400))
    cpu_time: Bound = attrs.field(factory=lambda: Bound(default=math.inf, most=math.inf))
    """Infinite: no limit."""
    pids: Bound = attrs.field(factory=lambda: Bound(default=256, most=4096))
    file_size: Bound = attrs.field(factory=lambda: Bound(default=16 * GIB, most=16 * GIB))
    open_files: Bound = attrs.field(factory=lambda: Bound(default=1024, most=16_384))
    output: Bound = attrs.field(factory=lambda: Bound(default=16 * MIB, most=256 * MIB))
    result: Bound = attrs.field(factory=lambda: Bound(default=256 * MIB, most=4 * GIB))
    retries: Bound = attrs.field(factory=lambda: Bound(default=0, most=10))
    priority: Bound = attrs.field(factory=lambda: Bound(default=0, most=10))
    """A priority may be as low as minus ``most``."""
    network: Network = Network.LOOPBACK
    """What a task gets and the most that it may ask for, as are ``seccomp`` and ``reuse``."""
    seccomp: Seccomp = Seccomp.DENY_LIST
    env: Mapping[str, str] = attrs.field(factory=dict)
    """Variables that a task has unless it sets them itself."""
    reuse: Reuse = Reuse.ACCOUNT
    cell_runs: int = 100
    """After this many tasks a sandbox that is kept is made anew."""
    cell_age: float = 600.0
    """After this long a sandbox that is kept is made anew."""
    parked: int = 1
    """How many sandboxes are made ahead."""
    warm_python: bool = True
    """Whether Python scripts may start from a warm interpreter in a sandbox that is kept."""


@attrs.frozen(kw_only=True)
class PoolRules:
    """Rules of the whole pool, from ``pool.toml``; the master's alone."""

    registration: str = "auto"
    """``open``, ``invite``, or ``auto``: open while the master listens on loopback alone."""
    local_nodes: str = "auto"
    """``allow``, ``refuse``, or ``auto``: allowed while the master listens on loopback alone."""
    lease_s: float = 15.0
    """How long a node may be silent before what runs there is given up."""
    heartbeat_s: float = 2.0
    stop_grace_s: float = 10.0
    """How long a stop may go unanswered by a connected node before its session is cut."""
    time_limit_grace_s: float = 15.0
    """How long after a task's time limit the master ends an attempt that nobody reported on."""
    push_probe_s: float = 5.0
    """How often a node that is pushed to is asked whether it is there."""
    push_lease_s: float = 60.0
    """As ``lease_s``, for nodes that are pushed to."""
    push_accept_s: float = 30.0
    """How long such a node may take to say that it has taken a task, once it has all of it."""
    crash_limit: int = 3
    """A task whose node was lost this many times fails."""
    refusal_bar_s: float = 10.0
    retry_backoff_s: float = 1.0
    retry_backoff_most_s: float = 60.0
    token_ttl_s: float = 86400.0
    node_token_ttl_s: float = 600.0
    join_token_ttl_s: float = 3600.0
    retention_s: float = math.inf
    """How long an ended task is kept, with all that is its. Infinite: for good."""
    payload_bytes: int = 1_000_000_000
    """The most that a program, an archive or a standard input may be."""
    uploads_in_flight_bytes: int = 8_000_000_000
    """What all uploads that are arriving may hold of the disk; no less than the largest result."""
    queue_per_account: int = 100_000
    """How many unfinished tasks an account may have."""
    kept_bytes_per_account: int = 50_000_000_000
    """What an account's tasks, ended ones included, may take of the master's disk before it may
    submit no more."""
    logins_per_minute: int = 10
    """From one address; for one account ten times as many, and so may it make tokens for nodes."""
    transfers_per_minute: int = 100
    """Of one account; each is in the ledger for good."""
    key_grace_s: float = 86400.0
    """After the signing key was changed: how long tokens of the old one are believed."""
    grant_ucpt: int = 100_000_000
    """What a new account gets."""
    price_cpu_ucpt: int = 1_000_000
    """For a CPU, for a minute; so are the other prices for a minute."""
    price_memory_gb_ucpt: int = 1_000_000
    """Of memory and scratch space together."""
    price_gpu_ucpt: int = 1_000_000
    price_gpu_memory_gb_ucpt: int = 1_000_000
    price_least_ucpt: int = 1_000_000
    """A task is never cheaper."""

"""What policy files say, as records. ``settings`` reads them; ``admission`` applies them."""

import attrs

MIB = 1024 * 1024
GIB = 1024 * MIB


@attrs.frozen(kw_only=True)
class Bound:
    """What a task gets when it asks for nothing, and the most that it may ask for."""

    default: float
    most: float


@attrs.frozen(kw_only=True)
class Profile:
    """One named policy that a task may run under, such as ``default``.

    On the master it says what may be asked; on a worker what this machine is ready to give. Sizes
    are bytes and times are seconds.
    """

    name: str
    description: str = ""
    accounts: tuple[str, ...] = ("*",)
    """Who may use it: account names, ``role:admin``, ``role:provider``, or ``*``. Empty: nobody."""
    memory: Bound = attrs.field(factory=lambda: Bound(default=512 * MIB, most=16 * GIB))
    scratch: Bound = attrs.field(factory=lambda: Bound(default=512 * MIB, most=16 * GIB))
    cpus: Bound = attrs.field(factory=lambda: Bound(default=1, most=64))
    gpus: Bound = attrs.field(factory=lambda: Bound(default=0, most=0))
    wall: Bound = attrs.field(factory=lambda: Bound(default=3600, most=7 * 86400))
    pids: Bound = attrs.field(factory=lambda: Bound(default=256, most=4096))
    output: Bound = attrs.field(factory=lambda: Bound(default=16 * MIB, most=256 * MIB))
    result: Bound = attrs.field(factory=lambda: Bound(default=256 * MIB, most=4 * GIB))
    retries: Bound = attrs.field(factory=lambda: Bound(default=0, most=10))
    priority: Bound = attrs.field(factory=lambda: Bound(default=0, most=10))
    """A priority may be as low as minus ``most``."""


@attrs.frozen(kw_only=True)
class PoolRules:
    """Rules of the whole pool, from ``pool.toml``; the master's alone."""

    registration: str = "auto"
    """``open``, ``invite``, or ``auto``: open while the master listens on loopback alone."""
    lease_s: float = 15.0
    """How long a node may be silent before what runs there is given up."""
    heartbeat_s: float = 2.0
    stop_grace_s: float = 10.0
    """How long a stop may go unanswered by a connected node before its session is cut."""
    time_limit_grace_s: float = 15.0
    """How long after a task's time limit the master ends an attempt that nobody reported on."""
    crash_limit: int = 3
    """A task whose node was lost this many times fails."""
    refusal_bar_s: float = 10.0
    retry_backoff_s: float = 1.0
    retry_backoff_most_s: float = 60.0
    token_ttl_s: float = 86400.0
    node_token_ttl_s: float = 600.0
    join_token_ttl_s: float = 3600.0
    payload_bytes: int = 100_000_000
    """The most that a program, an archive or a standard input may be."""
    uploads_in_flight_bytes: int = 8_000_000_000
    """What all uploads that are arriving may hold of the disk; no less than the largest result."""
    queue_per_account: int = 100_000
    """How many unfinished tasks an account may have."""
    logins_per_minute: int = 10
    """By account and by peer address."""

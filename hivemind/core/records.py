"""The nouns of HiveMind, shared by every room of the house.

All are frozen. Instants (``*_at``) are seconds since the epoch by the wall clock and serve people
and ordering only; whatever must elapse is a duration (``*_s``), because wall clocks jump.
"""

import enum
from collections.abc import Mapping

import attrs

from hivemind.core.confinement import Confinement
from hivemind.core.registration import Registration


class TaskState(enum.StrEnum):
    """Where a task rests. The last four are ends: nothing leaves them."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"

    @property
    def is_end(self) -> bool:
        """Whether the task is over for good."""
        return self in _ENDS


_ENDS = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED, TaskState.TIMED_OUT})


class Outcome(enum.StrEnum):
    """How one attempt ended. *Lost* and *refused* end an attempt, never a task by themselves."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    REFUSED = "refused"


class Reason(enum.StrEnum):
    """Why an attempt, or a task, ended as it did."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    CPU_TIME_LIMIT = "cpu_time_limit"
    OUTPUT_LIMIT = "output_limit"
    STOPPED = "stopped"
    NODE_LOST = "node_lost"
    REFUSED = "refused"
    BAD_PAYLOAD = "bad_payload"
    BAD_RESULT = "bad_result"
    SANDBOX_FAILED = "sandbox_failed"


class RefusalKind(enum.StrEnum):
    """Whether asking the same node again could help."""

    BUSY = "busy"
    """For now: no free slot, draining, out of disk. The node is barred for a while."""
    POLICY = "policy"
    """For good: the node's own policy, or its machine, does not allow what the task needs."""


class PayloadKind(enum.StrEnum):
    """What the bytes of a task are, and so how its command begins."""

    SCRIPT = "script"
    """One file: Python, or an executable with ``#!``."""
    ARCHIVE = "archive"
    """A zip or tar, unpacked into the working folder."""
    COMMAND = "command"
    """No bytes: the arguments are the whole command line."""


class Role(enum.StrEnum):
    """What an account may do."""

    USER = "user"
    PROVIDER = "provider"
    ADMIN = "admin"


@attrs.frozen(kw_only=True)
class Requirements:
    """What a task needs of a node while it runs. All of it is reserved, whether used or not."""

    cpu_millis: int = 1000
    memory_bytes: int = 512 * 1024 * 1024
    scratch_bytes: int = 512 * 1024 * 1024
    gpus: int = 0
    gpu_memory_bytes: int = 0
    gpu_name: str = ""
    location: str = ""
    only_account: str = ""
    """Whose nodes alone may have it; empty: anybody's."""
    least_trust: int = 0
    """How far its node must be trusted."""
    pushable: bool = False
    """It needs nothing of its node but its bytes, so a node that is told no more may run it."""


@attrs.frozen(kw_only=True)
class Capacity:
    """What a node has for tasks altogether."""

    slots: int
    cpu_millis: int
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0
    gpu_name: str = ""
    location: str = ""


@attrs.frozen(kw_only=True)
class TaskSpec:
    """Everything a worker needs to run a task; stored and forwarded as opaque bytes.

    The limits are effective ones: the master has already cut what was asked to the policy.
    """

    kind: PayloadKind
    filename: str = ""
    """The script's own name, for tracebacks and ``sys.argv[0]``; a bare name without a folder."""
    argv: tuple[str, ...] = ()
    """Arguments; for ``COMMAND`` the whole command line. An archive's ``command`` comes first."""
    command: tuple[str, ...] = ()
    """For ``ARCHIVE``: the entry to use instead of looking for one; may be empty."""
    env: Mapping[str, str] = attrs.field(factory=dict)
    policy: str = "default"
    requirements: Requirements = attrs.field(factory=Requirements)
    wall_s: float = 600.0
    cpu_s: float | None = None
    pids: int = 256
    output_bytes: int = 16 * 1024 * 1024
    """Standard output and standard error together."""
    result_bytes: int = 128 * 1024 * 1024
    """What the output folder and ``outputs`` may hold when they are collected."""
    has_stdin: bool = False
    outputs: tuple[str, ...] = ()
    """Files and folders, relative to the working folder, that belong to the result beside the
    output folder's content. They keep their relative names in it; where the output folder has
    something of the same name, that counts."""
    confinement: Confinement = attrs.field(factory=Confinement)
    name: str = ""
    """As its submitter calls it; tasks of one account and name are one job."""


@attrs.frozen(kw_only=True)
class Blob:
    """Bytes kept by the store: inline up to a limit, otherwise a file in the home's ``blobs``."""

    size: int
    inline: bytes | None = None
    file: str | None = None
    """A name relative to the blobs folder; exactly one of ``inline`` and ``file`` is set."""


@attrs.frozen(kw_only=True)
class Task:
    """One task as the master knows it. Its spec and payload stay in the store."""

    id: str
    account: str
    state: TaskState
    client_id: str = ""
    """The id that the client chose, unique within its account; empty when it chose none."""
    client_key: str = ""
    """The submit's idempotency key, unique within the account; empty when none was given."""
    name: str = ""
    policy: str = "default"
    priority: int = 0
    requirements: Requirements = attrs.field(factory=Requirements)
    wall_s: float = 600.0
    attempt: int = 0
    """The newest attempt's number; 0 before the first."""
    stop_requested: bool = False
    stopped_by: str = ""
    retries: int = 0
    """How many failed attempts may be tried again."""
    failures: int = 0
    crashes: int = 0
    """Attempts that were running when their node was lost."""
    backoff_s: float = 0.0
    """While queued: how long to wait from the requeue, or from a load, before assigning again."""
    node_id: str = ""
    """The node of the attempt under way; empty while there is none."""
    reason: Reason | None = None
    detail: str = ""
    """One line for people."""
    exit_code: int | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    unconfirmed: bool = False
    """It ended although its node never showed that its last attempt had."""


@attrs.frozen(kw_only=True)
class Usage:
    """What an attempt used."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_peak_bytes: int = 0
    gpu_memory_peak_bytes: int = 0


@attrs.frozen(kw_only=True)
class Attempt:
    """One try at a task on one node."""

    task_id: str
    number: int
    node_id: str
    lease_id: str
    assigned_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    detail: str = ""
    exit_code: int | None = None
    usage: Usage = attrs.field(factory=Usage)
    report_seq: int = 0
    """The highest report of this attempt that was applied; lower ones are repeats."""
    refusal: RefusalKind | None = None
    result_bytes: int = 0
    """Size of the tar of its output folder, kept as a blob; 0 when it left none."""
    raw_result: bool = False
    """The blob is no tar but the bytes that a pushed node stored as the result."""
    unconfirmed: bool = False
    """It was ended, and its node never showed that it had stopped it."""


@attrs.frozen(kw_only=True)
class Ending:
    """A worker's word on how an attempt ended."""

    outcome: Outcome
    reason: Reason
    exit_code: int | None = None
    detail: str = ""
    usage: Usage = attrs.field(factory=Usage)
    result_bytes: int = 0


@attrs.frozen(kw_only=True)
class Account:
    """Somebody who may log in."""

    name: str
    role: Role
    password_hash: str
    """Argon2id in its standard string form; empty for an account that only holds tokens."""
    created_at: float
    email: str = ""


@attrs.frozen(kw_only=True)
class Node:
    """A machine that was enrolled. Whether it is here now is the fleet's to know."""

    id: str
    account: str
    name: str
    public_key: bytes
    """Ed25519, 32 bytes; empty for a node that is pushed to."""
    enrolled_at: float
    last_seen_at: float = 0.0
    trust: int = 50
    is_drained: bool = False
    """Its owner wants it to be given nothing more, until it is resumed."""
    registration: Registration | None = None
    """Of a node that is pushed to; None for one that dials the master."""
    unconfirmed: int = 0
    """How many stops of attempts it never confirmed."""


@attrs.frozen(kw_only=True)
class JoinToken:
    """A one-time secret that lets a worker enrol for an account, or a person register.

    The store keeps its SHA-256 alone.
    """

    digest: bytes
    account: str
    """Whose node it will be; for an invitation, who invited."""
    purpose: str
    """``join`` or ``invite``."""
    expires_at: float
    used_at: float | None = None


@attrs.frozen(kw_only=True)
class RevokedToken:
    """A token that must not be believed although it has not expired."""

    token_id: str
    expires_at: float


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a worker says of itself in its hello."""

    capacity: Capacity
    hostname: str
    version: str
    limits: str
    """``cgroup`` or ``best-effort``."""
    sandbox: str
    """``enabled`` when isolation is whole."""
    address: str = ""
    """``HOST:PORT`` of its own services; empty where it does not tell."""

    @property
    def has_whole_sandbox(self) -> bool:
        """Whether isolation is whole."""
        return self.sandbox == "enabled"

    is_pushed: bool = False
    """It is pushed to, and told nothing of a task but its bytes; the master's own knowledge."""


@attrs.frozen(kw_only=True)
class Vitals:
    """How a node is doing, sent with every heartbeat."""

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    load_1m: float
    disk_free_bytes: int
    running: int
    gpu_percent: float = 0.0
    gpu_memory_used_bytes: int = 0


class OutputStream(enum.IntEnum):
    """Which of a task's two streams a piece of output came from."""

    STDOUT = 1
    STDERR = 2


@attrs.frozen(kw_only=True)
class OutputChunk:
    """Some output of an attempt, in order.

    ``offset`` counts the bytes of both streams together that came before it in the attempt.
    """

    stream: OutputStream
    offset: int
    data: bytes
    at: float

"""What clients, master and workers say to each other, as records.

``rpc.contract`` turns these into the messages of the wire and back; nobody else sees those.
"""

import enum
from collections.abc import Mapping

import attrs

from hivemind.core.admission import Ask
from hivemind.core.ledger import MovementKind
from hivemind.core.records import (
    Attempt,
    Capabilities,
    Capacity,
    Ending,
    OutputChunk,
    PayloadKind,
    RefusalKind,
    RevokedToken,
    Role,
    Task,
    Vitals,
)
from hivemind.core.registration import Registration

UPLOAD_CHUNK_BYTES = 256 * 1024
"""How much of an upload or download travels in one message. Larger ones gain nothing on loopback
and cost memory at both ends; the transport splits them into frames anyway."""

INLINE_BYTES = 64 * 1024
"""Payloads and results up to this size ride in the message that needs them."""

MOST_KEYS = 32
MOST_REVOKED = 200
"""What one keyring may hold. A revoked token costs some 35 microseconds at each end."""


@attrs.frozen(kw_only=True)
class Submission:
    """What a client wants run; its bytes follow in chunks."""

    kind: PayloadKind
    ask: Ask
    filename: str = ""
    argv: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    name: str = ""
    client_id: str = ""
    client_key: str = ""
    has_stdin: bool = False
    outputs: tuple[str, ...] = ()
    """As in the task's spec."""
    payload_bytes: int = 0
    """How many bytes are to follow, so that too many need not be sent; 0 where it is not known."""
    stdin_bytes: int = 0


class UploadPart(enum.Enum):
    """Which of a submission's byte strings a chunk belongs to. The payload comes whole first."""

    PAYLOAD = "payload"
    STDIN = "stdin"


@attrs.frozen
class UploadChunk:
    """A piece of a submission's bytes."""

    part: UploadPart
    data: bytes


@attrs.frozen(kw_only=True)
class Submitted:
    """The task is on disk."""

    task_id: str
    repeated: bool = False
    """The client's key was known, and this is the task that it made."""


@attrs.frozen(kw_only=True)
class TaskDetail:
    """A task with all its attempts, oldest first."""

    task: Task
    attempts: tuple[Attempt, ...]


@attrs.frozen(kw_only=True)
class TaskList:
    """One page of tasks, newest first."""

    tasks: tuple[Task, ...]
    next_cursor: str = ""
    """Empty on the last page."""


@attrs.frozen(kw_only=True)
class ListQuery:
    """Which tasks to list."""

    account: str = ""
    """Empty: the caller's own; ``*``: everybody's, for an admin."""
    include_ended: bool = False
    cursor: str = ""
    limit: int = 100


@attrs.frozen(kw_only=True)
class WatchQuery:
    """What to send of a task, and from where."""

    task_id: str
    output: bool = True
    attempt: int = 0
    offset: int = 0
    """Bytes of that attempt's output that were seen before."""
    until_now: bool = False


@attrs.frozen(kw_only=True)
class AttemptOutput:
    """Output of one attempt."""

    attempt: int
    chunk: OutputChunk


WatchItem = Task | AttemptOutput


@attrs.frozen(kw_only=True)
class NodeView:
    """A node as people see it."""

    id: str
    account: str
    name: str
    status: str
    """``online``, ``late`` or ``offline``."""
    draining: bool = False
    capacity: Capacity = attrs.field(
        factory=lambda: Capacity(slots=0, cpu_millis=0, memory_bytes=0)
    )
    vitals: Vitals | None = None
    running: int = 0
    cpu_millis_reserved: int = 0
    memory_bytes_reserved: int = 0
    limits: str = ""
    sandbox: str = ""
    trust: int = 50
    last_seen_at: float = 0.0
    hostname: str = ""
    version: str = ""
    address: str = ""
    """``HOST:PORT`` of the node's own services; empty where it told none."""
    port: int = 0
    """Where tasks are pushed to; 0 for a node that dials the master."""
    unconfirmed: int = 0
    """How many stops of attempts it never confirmed."""


@attrs.frozen(kw_only=True)
class NodeList:
    """One page of nodes, by id."""

    nodes: tuple[NodeView, ...]
    next_cursor: str = ""


@attrs.frozen(kw_only=True)
class NodeInfo:
    """A node as the public API lists it."""

    node_id: str
    said: Registration
    """What it registered, or what is known of one that dials the master."""
    trust: int
    last_seen_at: float


@attrs.frozen(kw_only=True)
class Identity:
    """Who a caller is."""

    account: str
    role: Role
    email: str
    created_at: float
    expires_at: float


@attrs.frozen(kw_only=True)
class Balance:
    """What an account has, in millionths of a CPT."""

    account: str
    balance_ucpt: int
    held_ucpt: int
    """What is held for its unfinished tasks besides."""


@attrs.frozen(kw_only=True)
class HistoryEntry:
    """A movement of the ledger as one of its two sides sees it."""

    seq: int
    at: float
    kind: MovementKind
    change_ucpt: int
    """Below zero for what was given."""
    other: str
    """The account on the other side; empty where that is the pool itself, or a task's escrow."""
    task_id: str = ""
    attempt: int = 0
    memo: str = ""


@attrs.frozen(kw_only=True)
class History:
    """One page of what an account gave and got, newest first."""

    account: str
    entries: tuple[HistoryEntry, ...]
    next_cursor: str = ""


@attrs.frozen(kw_only=True)
class Transferred:
    """A transfer is on disk."""

    balance_ucpt: int
    """What the giver has afterwards."""
    repeated: bool = False
    """The key was known, and nothing was moved now."""


@attrs.frozen(kw_only=True)
class Secret:
    """A one-time secret, told once; the store keeps its digest."""

    text: str
    expires_at: float


@attrs.frozen(kw_only=True)
class Enrolment:
    """A worker's wish to join."""

    join_token: str
    public_key: bytes
    name: str
    signature: bytes


@attrs.frozen(kw_only=True)
class Enrolled:
    """The node's id for good, and whose it is."""

    node_id: str
    account: str


@attrs.frozen(kw_only=True)
class NodeToken:
    """A short-lived token for the link."""

    text: str
    expires_in_s: float


@attrs.frozen
class AttemptRef:
    """Names one attempt."""

    task_id: str
    attempt: int


@attrs.frozen(kw_only=True)
class Hello:
    """The first thing on a link: what the worker is, and what it still holds."""

    capabilities: Capabilities
    held: tuple[AttemptRef, ...] = ()
    """Attempts that run, and those whose final report still waits to be acknowledged."""
    draining: bool = False


@attrs.frozen(kw_only=True)
class StartedReport:
    """The attempt runs."""

    ref: AttemptRef
    seq: int


@attrs.frozen(kw_only=True)
class RefusedReport:
    """The attempt was not run."""

    ref: AttemptRef
    seq: int
    kind: RefusalKind
    detail: str


@attrs.frozen(kw_only=True)
class FinishedReport:
    """The attempt is over and its sandbox empty."""

    ref: AttemptRef
    seq: int
    ending: Ending
    output_bytes: int
    """How much output the attempt had, both streams; the master waits until it has all of it."""
    result: bytes | None = None
    """A small tar of its output folder; None where it is empty, or large and follows apart."""


@attrs.frozen(kw_only=True)
class OutputReport:
    """Output of an attempt, in order."""

    task_id: str
    output: AttemptOutput


@attrs.frozen
class DrainNotice:
    """From a worker: give me nothing more. From the master: finish what runs, take nothing more."""


WorkerItem = (
    Hello | Vitals | StartedReport | RefusedReport | OutputReport | FinishedReport | DrainNotice
)


@attrs.frozen
class OutputHeld:
    """How many bytes of an attempt's output the master has."""

    ref: AttemptRef
    offset: int


@attrs.frozen(kw_only=True)
class Keyring:
    """What a node needs to check by itself the tokens that its own services are called with."""

    verify_keys: tuple[bytes, ...] = ()
    """Ed25519, 32 bytes each: what the pool's tokens are signed with."""
    revoked: tuple[RevokedToken, ...] = ()
    distrust_until: float = 0.0
    """No token that expires at or before this time is to be believed: more are revoked than
    ``revoked`` has room for."""


@attrs.frozen(kw_only=True)
class Welcome:
    """The master's answer to a hello."""

    lease_s: float
    heartbeat_s: float
    held: tuple[OutputHeld, ...] = ()
    unwanted: tuple[AttemptRef, ...] = ()
    """Held attempts that must end without a report."""
    epoch: int = 0
    keyring: Keyring | None = None
    """None: whatever the worker has stays in force."""


@attrs.frozen(kw_only=True)
class Assignment:
    """Run this."""

    ref: AttemptRef
    lease_id: str
    account: str
    spec: bytes
    """A serialised TaskSpec: ``rpc.contract.specs.decode_spec`` reads it."""
    payload: bytes | None = None
    payload_to_fetch: int = 0
    stdin: bytes | None = None
    stdin_to_fetch: int = 0
    known_as: str = ""
    """What whoever submitted it calls the task, where that is not the id of ``ref``."""


@attrs.frozen
class StopOrder:
    """Stop the attempt and report how it ended."""

    ref: AttemptRef


@attrs.frozen
class KillOrder:
    """End the attempt; its report is not wanted."""

    ref: AttemptRef


@attrs.frozen
class Renewed:
    """The lease of everything that runs on the node begins anew."""


@attrs.frozen
class Acknowledged:
    """The report is on disk."""

    ref: AttemptRef
    seq: int


MasterItem = (
    Welcome | Assignment | StopOrder | KillOrder | Renewed | Acknowledged | DrainNotice | Keyring
)

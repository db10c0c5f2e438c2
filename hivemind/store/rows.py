"""Records to rows and back: a function each way, in the order of the columns named beside it."""

from typing import Any

from hivemind.core.records import (
    Account,
    Attempt,
    Blob,
    JoinToken,
    Node,
    Outcome,
    Reason,
    RefusalKind,
    Requirements,
    RevokedToken,
    Role,
    Task,
    TaskState,
    Usage,
)
from hivemind.core.registration import Intent, Registration

Row = tuple[Any, ...]

# The first four are a task's for good.
TASK_COLUMNS = (
    "id", "account", "client_id", "client_key",
    "state", "name", "policy", "priority",
    "cpu_millis", "memory_bytes", "scratch_bytes", "gpus", "gpu_memory_bytes", "gpu_name",
    "location", "wall_s", "attempt", "stop_requested", "stopped_by", "retries", "failures",
    "crashes", "backoff_s", "node_id", "reason", "detail", "exit_code", "submitted_at",
    "started_at", "finished_at", "only_account", "least_trust", "pushable", "unconfirmed",
)  # fmt: skip
TASK_KEY_COLUMNS = 4


def task_row(task: Task) -> Row:
    """A task's row."""
    needs = task.requirements
    return (
        task.id, task.account, task.client_id, task.client_key,
        task.state.value, task.name, task.policy, task.priority,
        needs.cpu_millis, needs.memory_bytes, needs.scratch_bytes, needs.gpus,
        needs.gpu_memory_bytes, needs.gpu_name, needs.location,
        task.wall_s, task.attempt, int(task.stop_requested), task.stopped_by, task.retries,
        task.failures, task.crashes, task.backoff_s, task.node_id, _value(task.reason),
        task.detail, task.exit_code, task.submitted_at, task.started_at, task.finished_at,
        needs.only_account, needs.least_trust, int(needs.pushable), int(task.unconfirmed),
    )  # fmt: skip


def task_of(row: Row) -> Task:
    """The task of a row. Raises ValueError where a word is unknown."""
    (
        id_, account, client_id, client_key,
        state, name, policy, priority,
        cpu_millis, memory_bytes, scratch_bytes, gpus, gpu_memory_bytes, gpu_name, location,
        wall_s, attempt, stop_requested, stopped_by, retries,
        failures, crashes, backoff_s, node_id, reason,
        detail, exit_code, submitted_at, started_at, finished_at, only_account, least_trust,
        pushable, unconfirmed,
    ) = row  # fmt: skip
    return Task(
        id=id_,
        account=account,
        client_id=client_id,
        client_key=client_key,
        state=TaskState(state),
        name=name,
        policy=policy,
        priority=priority,
        requirements=Requirements(
            cpu_millis=cpu_millis,
            memory_bytes=memory_bytes,
            scratch_bytes=scratch_bytes,
            gpus=gpus,
            gpu_memory_bytes=gpu_memory_bytes,
            gpu_name=gpu_name,
            location=location,
            only_account=only_account,
            least_trust=least_trust,
            pushable=bool(pushable),
        ),
        wall_s=wall_s,
        attempt=attempt,
        stop_requested=bool(stop_requested),
        stopped_by=stopped_by,
        retries=retries,
        failures=failures,
        crashes=crashes,
        backoff_s=backoff_s,
        node_id=node_id,
        reason=None if reason is None else Reason(reason),
        detail=detail,
        exit_code=exit_code,
        submitted_at=submitted_at,
        started_at=started_at,
        finished_at=finished_at,
        unconfirmed=bool(unconfirmed),
    )


ATTEMPT_COLUMNS = (
    "task_id", "number", "node_id", "lease_id", "assigned_at", "started_at", "ended_at",
    "outcome", "reason", "detail", "exit_code", "used_wall_s", "used_cpu_s",
    "used_memory_peak_bytes", "report_seq", "refusal", "result_bytes",
    "used_gpu_memory_peak_bytes", "raw_result", "unconfirmed",
)  # fmt: skip


def attempt_row(attempt: Attempt) -> Row:
    """An attempt's row."""
    return (
        attempt.task_id, attempt.number, attempt.node_id, attempt.lease_id, attempt.assigned_at,
        attempt.started_at, attempt.ended_at,
        _value(attempt.outcome), _value(attempt.reason), attempt.detail, attempt.exit_code,
        attempt.usage.wall_s, attempt.usage.cpu_s, attempt.usage.memory_peak_bytes,
        attempt.report_seq, _value(attempt.refusal), attempt.result_bytes,
        attempt.usage.gpu_memory_peak_bytes, int(attempt.raw_result), int(attempt.unconfirmed),
    )  # fmt: skip


def attempt_of(row: Row) -> Attempt:
    """The attempt of a row. Raises ValueError where a word is unknown."""
    (
        task_id, number, node_id, lease_id, assigned_at, started_at, ended_at,
        outcome, reason, detail, exit_code, used_wall_s, used_cpu_s,
        used_memory_peak_bytes, report_seq, refusal, result_bytes,
        used_gpu_memory_peak_bytes, raw_result, unconfirmed,
    ) = row  # fmt: skip
    return Attempt(
        task_id=task_id,
        number=number,
        node_id=node_id,
        lease_id=lease_id,
        assigned_at=assigned_at,
        started_at=started_at,
        ended_at=ended_at,
        outcome=None if outcome is None else Outcome(outcome),
        reason=None if reason is None else Reason(reason),
        detail=detail,
        exit_code=exit_code,
        usage=Usage(
            wall_s=used_wall_s,
            cpu_s=used_cpu_s,
            memory_peak_bytes=used_memory_peak_bytes,
            gpu_memory_peak_bytes=used_gpu_memory_peak_bytes,
        ),
        report_seq=report_seq,
        refusal=None if refusal is None else RefusalKind(refusal),
        result_bytes=result_bytes,
        raw_result=bool(raw_result),
        unconfirmed=bool(unconfirmed),
    )


def blob_row(blob: Blob | None) -> Row:
    """Size, bytes and file of a blob. Raises ValueError if it is not kept in exactly one way."""
    if blob is None:
        return (None, None, None)
    if (blob.inline is None) == (blob.file is None):
        raise ValueError("a blob must have either its bytes or a file")
    return (blob.size, blob.inline, blob.file)


def blob_of(row: Row) -> Blob | None:
    """The blob of its three columns."""
    size, inline, file = row
    return None if size is None else Blob(size=size, inline=inline, file=file)


ACCOUNT_COLUMNS = ("name", "role", "password_hash", "created_at", "email")


def account_row(account: Account) -> Row:
    """An account's row."""
    return (
        account.name, account.role.value, account.password_hash, account.created_at, account.email,
    )  # fmt: skip


def account_of(row: Row) -> Account:
    """The account of a row. Raises ValueError where its role is unknown."""
    name, role, password_hash, created_at, email = row
    return Account(
        name=name,
        role=Role(role),
        password_hash=password_hash,
        created_at=created_at,
        email=email,
    )


# From "hostname" on: what a pushed node registered; nulls for any other.
NODE_COLUMNS = (
    "id", "account", "name", "public_key", "enrolled_at", "last_seen_at", "trust", "is_drained",
    "unconfirmed",
    "hostname", "port", "cpu_cores", "memory_gb", "cpu_score", "gpu_score", "gpu_memory_gb",
    "gpu_name", "location", "docker_status", "intent",
)  # fmt: skip
_REGISTRATION_COLUMNS = 11


def node_row(node: Node) -> Row:
    """A node's row."""
    return (
        node.id, node.account, node.name, node.public_key, node.enrolled_at, node.last_seen_at,
        node.trust, int(node.is_drained), node.unconfirmed, *_registration_row(node.registration),
    )  # fmt: skip


def _registration_row(said: Registration | None) -> Row:
    if said is None:
        return (None,) * _REGISTRATION_COLUMNS
    return (
        said.hostname, said.port, said.cpu_cores, said.memory_gb, said.cpu_score, said.gpu_score,
        said.gpu_memory_gb, said.gpu_name, said.location, said.docker_status, said.intent.value,
    )  # fmt: skip


def node_of(row: Row) -> Node:
    """The node of a row. Raises ValueError where its intent is unknown."""
    id_, account, name, public_key, enrolled_at, last_seen_at, trust = row[:7]
    is_drained, unconfirmed, *rest = row[7:]
    return Node(
        id=id_,
        account=account,
        name=name,
        public_key=public_key,
        enrolled_at=enrolled_at,
        last_seen_at=last_seen_at,
        trust=trust,
        is_drained=bool(is_drained),
        registration=_registration_of(tuple(rest)),
        unconfirmed=unconfirmed,
    )


def _registration_of(row: Row) -> Registration | None:
    (
        hostname, port, cpu_cores, memory_gb, cpu_score, gpu_score,
        gpu_memory_gb, gpu_name, location, docker_status, intent,
    ) = row  # fmt: skip
    if hostname is None:
        return None
    return Registration(
        hostname=hostname,
        port=port,
        cpu_cores=cpu_cores,
        memory_gb=memory_gb,
        cpu_score=cpu_score,
        gpu_score=gpu_score,
        gpu_memory_gb=gpu_memory_gb,
        gpu_name=gpu_name,
        location=location,
        docker_status=docker_status,
        intent=Intent(intent),
    )


JOIN_TOKEN_COLUMNS = ("digest", "account", "purpose", "expires_at", "used_at")


def join_token_row(token: JoinToken) -> Row:
    """A join token's row."""
    return (token.digest, token.account, token.purpose, token.expires_at, token.used_at)


def join_token_of(row: Row) -> JoinToken:
    """The join token of a row."""
    digest, account, purpose, expires_at, used_at = row
    return JoinToken(
        digest=digest, account=account, purpose=purpose, expires_at=expires_at, used_at=used_at
    )


REVOKED_TOKEN_COLUMNS = ("token_id", "expires_at")


def revoked_token_row(token: RevokedToken) -> Row:
    """A revoked token's row."""
    return (token.token_id, token.expires_at)


def revoked_token_of(row: Row) -> RevokedToken:
    """The revoked token of a row."""
    token_id, expires_at = row
    return RevokedToken(token_id=token_id, expires_at=expires_at)


def _value(word: Outcome | Reason | RefusalKind | None) -> str | None:
    return None if word is None else word.value

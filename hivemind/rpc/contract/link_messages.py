"""What travels on the link: records into messages and back."""

import math
from typing import assert_never

import betterproto2

from hivemind._pb.hivemind import v1
from hivemind.core.messages import (
    MOST_KEYS,
    MOST_REVOKED,
    Acknowledged,
    Assignment,
    AttemptRef,
    DrainNotice,
    FinishedReport,
    Hello,
    Keyring,
    KillOrder,
    MasterItem,
    OutputHeld,
    OutputReport,
    RefusedReport,
    Renewed,
    StartedReport,
    StopOrder,
    Welcome,
    WorkerItem,
)
from hivemind.core.records import (
    Capabilities,
    Ending,
    Outcome,
    Reason,
    RefusalKind,
    RevokedToken,
    Vitals,
)
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.contract.nodes import (
    capacity_from_wire,
    capacity_to_wire,
    vitals_from_wire,
    vitals_to_wire,
)
from hivemind.rpc.contract.task_messages import (
    outcome_from_wire,
    output_from_wire,
    output_to_wire,
    reason_from_wire,
    usage_from_wire,
    usage_to_wire,
)

_MOST = 2**63 - 1
"""The largest number that the store keeps; a lying node must not fail the turn of others."""


_MOST_SEQ = 2**62
"""Of a node's reports. The master numbers its own last word on an attempt after them."""


def _stored(number: int, most: int = _MOST) -> int:
    if number > most:
        raise MalformedMessage(f"{number} is more than this pool counts to")
    return number


_EXIT_CODES = range(-64, 256)
"""As a shell has them, or a signal's number negated. A shell takes any other modulo 256, which
would make a success of some."""

_LABEL_CHARACTERS = 200

_KEY_BYTES = 32


def _label(text: str) -> str:
    """What a node calls something of its own: kept in memory, and shown to everybody."""
    if len(text) > _LABEL_CHARACTERS or not text.isprintable():
        raise MalformedMessage(
            f"{text[:40]!a} is no name: up to {_LABEL_CHARACTERS} printable characters are"
        )
    return text


def _ref_to_wire(ref: AttemptRef) -> v1.AttemptRef:
    return v1.AttemptRef(task_id=ref.task_id, attempt=ref.attempt)


def _ref_from_wire(wire: v1.AttemptRef | None) -> AttemptRef:
    if wire is None:
        raise MalformedMessage("an item lacks the attempt that it is about")
    return AttemptRef(wire.task_id, wire.attempt)


def _hello_to_wire(hello: Hello) -> v1.Hello:
    capabilities = hello.capabilities
    return v1.Hello(
        capacity=capacity_to_wire(capabilities.capacity),
        hostname=capabilities.hostname,
        version=capabilities.version,
        limits=capabilities.limits,
        sandbox=capabilities.sandbox,
        held=[_ref_to_wire(ref) for ref in hello.held],
        draining=hello.draining,
        address=capabilities.address,
    )


def _hello_from_wire(wire: v1.Hello) -> Hello:
    capacity = capacity_from_wire(wire.capacity)
    _label(capacity.gpu_name)
    _label(capacity.location)
    return Hello(
        capabilities=Capabilities(
            capacity=capacity,
            hostname=_label(wire.hostname),
            version=_label(wire.version),
            limits=_label(wire.limits),
            sandbox=_label(wire.sandbox),
            address=_label(wire.address),
        ),
        held=tuple(_ref_from_wire(ref) for ref in wire.held),
        draining=wire.draining,
    )


def _vitals_from_wire(wire: v1.Vitals) -> Vitals:
    """JSON has no word for what is not a number, and it would be in everybody's listing."""
    vitals = vitals_from_wire(wire)
    if not all(map(math.isfinite, (vitals.cpu_percent, vitals.load_1m, vitals.gpu_percent))):
        raise MalformedMessage("a node's vitals are not numbers")
    return vitals


def finished_to_wire(report: FinishedReport) -> v1.Finished:
    """Field by field. The result's size is what arrives, so it does not travel."""
    ending = report.ending
    return v1.Finished(
        task_id=report.ref.task_id,
        attempt=report.ref.attempt,
        seq=report.seq,
        ending=v1.Ending(
            outcome=ending.outcome,
            reason=ending.reason,
            exit_code=ending.exit_code,
            detail=ending.detail,
            usage=usage_to_wire(ending.usage),
        ),
        result=report.result,
        output_bytes=report.output_bytes,
    )


def finished_from_wire(wire: v1.Finished) -> FinishedReport:
    """Field by field. Raises MalformedMessage where it says not how the attempt ended."""
    ending = wire.ending or v1.Ending()
    outcome = outcome_from_wire(ending.outcome)
    reason = reason_from_wire(ending.reason)
    if outcome is None or reason is None:
        raise MalformedMessage("a final report must say the outcome and the reason")
    if outcome in {Outcome.LOST, Outcome.REFUSED} or reason in {Reason.NODE_LOST, Reason.REFUSED}:
        raise MalformedMessage(f"a final report cannot say {outcome} for {reason}")
    if ending.exit_code is not None and ending.exit_code not in _EXIT_CODES:
        raise MalformedMessage(f"no program exits with {ending.exit_code}")
    usage = usage_from_wire(ending.usage)
    _stored(usage.memory_peak_bytes)
    _stored(usage.gpu_memory_peak_bytes)
    return FinishedReport(
        ref=AttemptRef(wire.task_id, wire.attempt),
        seq=_stored(wire.seq, _MOST_SEQ),
        ending=Ending(
            outcome=outcome,
            reason=reason,
            exit_code=ending.exit_code,
            detail=ending.detail,
            usage=usage,
            result_bytes=len(wire.result or b""),
        ),
        output_bytes=wire.output_bytes,
        result=wire.result,
    )


def _keyring_to_wire(keyring: Keyring) -> v1.Keyring:
    return v1.Keyring(
        verify_keys=list(keyring.verify_keys),
        revoked=[
            v1.RevokedToken(token_id=token.token_id, expires_at=token.expires_at)
            for token in keyring.revoked
        ],
        distrust_until=keyring.distrust_until,
    )


def _keyring_from_wire(wire: v1.Keyring) -> Keyring:
    """Raises MalformedMessage for more than a node keeps, and for what is no key."""
    if len(wire.verify_keys) > MOST_KEYS or len(wire.revoked) > MOST_REVOKED:
        raise MalformedMessage(
            f"a keyring has up to {MOST_KEYS} keys and {MOST_REVOKED} revoked tokens"
        )
    if any(len(key) != _KEY_BYTES for key in wire.verify_keys):
        raise MalformedMessage(f"a verification key has {_KEY_BYTES} bytes")
    return Keyring(
        verify_keys=tuple(wire.verify_keys),
        revoked=tuple(
            RevokedToken(token_id=token.token_id, expires_at=token.expires_at)
            for token in wire.revoked
        ),
        distrust_until=wire.distrust_until,
    )


def worker_item_to_wire(item: WorkerItem) -> v1.WorkerItem:
    """The item in its envelope."""
    match item:
        case Hello():
            return v1.WorkerItem(hello=_hello_to_wire(item))
        case Vitals():
            return v1.WorkerItem(vitals=vitals_to_wire(item))
        case StartedReport():
            return v1.WorkerItem(
                started=v1.Started(task_id=item.ref.task_id, attempt=item.ref.attempt, seq=item.seq)
            )
        case RefusedReport():
            return v1.WorkerItem(
                refused=v1.Refused(
                    task_id=item.ref.task_id,
                    attempt=item.ref.attempt,
                    seq=item.seq,
                    kind=item.kind,
                    detail=item.detail,
                )
            )
        case OutputReport():
            return v1.WorkerItem(
                output=v1.TaskOutput(task_id=item.task_id, output=output_to_wire(item.output))
            )
        case FinishedReport():
            return v1.WorkerItem(finished=finished_to_wire(item))
        case DrainNotice():
            return v1.WorkerItem(draining=v1.Drain())
        case _:
            assert_never(item)


def worker_item_from_wire(wire: v1.WorkerItem) -> WorkerItem:
    """The item out of its envelope. Raises MalformedMessage for an empty or unknown one."""
    _, value = betterproto2.which_one_of(wire, "item")
    match value:
        case v1.Hello():
            return _hello_from_wire(value)
        case v1.Vitals():
            return _vitals_from_wire(value)
        case v1.Started():
            return StartedReport(
                ref=AttemptRef(value.task_id, value.attempt), seq=_stored(value.seq, _MOST_SEQ)
            )
        case v1.Refused():
            try:
                kind = RefusalKind(value.kind)
            except ValueError as error:
                raise MalformedMessage(f"refusal kind {value.kind!r} is unknown") from error
            return RefusedReport(
                ref=AttemptRef(value.task_id, value.attempt),
                seq=_stored(value.seq, _MOST_SEQ),
                kind=kind,
                detail=value.detail,
            )
        case v1.TaskOutput():
            if value.output is None:
                raise MalformedMessage("an output item lacks its output")
            return OutputReport(task_id=value.task_id, output=output_from_wire(value.output))
        case v1.Finished():
            return finished_from_wire(value)
        case v1.Drain():
            return DrainNotice()
        case _:
            raise MalformedMessage("an item from the worker is empty or unknown here")


def master_item_to_wire(item: MasterItem) -> v1.MasterItem:
    """The item in its envelope."""
    match item:
        case Welcome():
            return v1.MasterItem(
                welcome=v1.Welcome(
                    lease_s=item.lease_s,
                    heartbeat_s=item.heartbeat_s,
                    held=[
                        v1.OutputHeld(
                            task_id=held.ref.task_id, attempt=held.ref.attempt, offset=held.offset
                        )
                        for held in item.held
                    ],
                    unwanted=[_ref_to_wire(ref) for ref in item.unwanted],
                    epoch=item.epoch,
                    keyring=None if item.keyring is None else _keyring_to_wire(item.keyring),
                )
            )
        case Assignment():
            return v1.MasterItem(
                assign=v1.Assign(
                    task_id=item.ref.task_id,
                    attempt=item.ref.attempt,
                    lease_id=item.lease_id,
                    account=item.account,
                    spec=item.spec,
                    payload=item.payload,
                    payload_to_fetch=item.payload_to_fetch,
                    stdin=item.stdin,
                    stdin_to_fetch=item.stdin_to_fetch,
                    known_as=item.known_as,
                )
            )
        case StopOrder():
            return v1.MasterItem(stop=_ref_to_wire(item.ref))
        case KillOrder():
            return v1.MasterItem(kill=_ref_to_wire(item.ref))
        case Renewed():
            return v1.MasterItem(renewed=v1.Renewed())
        case Acknowledged():
            return v1.MasterItem(
                acknowledged=v1.Acknowledged(
                    task_id=item.ref.task_id, attempt=item.ref.attempt, seq=item.seq
                )
            )
        case DrainNotice():
            return v1.MasterItem(drain=v1.Drain())
        case Keyring():
            return v1.MasterItem(keyring=_keyring_to_wire(item))
        case _:
            assert_never(item)


def master_item_from_wire(wire: v1.MasterItem) -> MasterItem:
    """The item out of its envelope. Raises MalformedMessage for an empty or unknown one."""
    field, value = betterproto2.which_one_of(wire, "item")
    match value:
        case v1.Welcome():
            return Welcome(
                lease_s=value.lease_s,
                heartbeat_s=value.heartbeat_s,
                held=tuple(
                    OutputHeld(AttemptRef(held.task_id, held.attempt), held.offset)
                    for held in value.held
                ),
                unwanted=tuple(_ref_from_wire(ref) for ref in value.unwanted),
                epoch=value.epoch,
                keyring=None if value.keyring is None else _keyring_from_wire(value.keyring),
            )
        case v1.Assign():
            return Assignment(
                ref=AttemptRef(value.task_id, value.attempt),
                lease_id=value.lease_id,
                account=value.account,
                spec=value.spec,
                payload=value.payload,
                payload_to_fetch=value.payload_to_fetch,
                stdin=value.stdin,
                stdin_to_fetch=value.stdin_to_fetch,
                known_as=value.known_as,
            )
        case v1.AttemptRef():
            ref = _ref_from_wire(value)
            return StopOrder(ref) if field == "stop" else KillOrder(ref)
        case v1.Renewed():
            return Renewed()
        case v1.Acknowledged():
            return Acknowledged(AttemptRef(value.task_id, value.attempt), value.seq)
        case v1.Drain():
            return DrainNotice()
        case v1.Keyring():
            return _keyring_from_wire(value)
        case _:
            raise MalformedMessage("an item from the master is empty or unknown here")

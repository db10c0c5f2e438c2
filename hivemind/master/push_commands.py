"""What may be done to the cluster on behalf of nodes that are pushed to; as in ``commands``.

Such a node reports on an attempt without numbering its reports, so the master numbers them, and
what happens is decided by where the attempt stands.
"""

from collections.abc import Collection, Iterator

import attrs

from hivemind.core.events import Finished, KillAttempt, NodeLost, Refused, SendStop, Started
from hivemind.core.ids import is_task_id
from hivemind.core.messages import AttemptRef
from hivemind.core.pushing import capabilities_of
from hivemind.core.records import (
    Attempt,
    Blob,
    Ending,
    Node,
    Outcome,
    Reason,
    RefusalKind,
    Task,
    TaskState,
    Usage,
)
from hivemind.core.registration import Intent, Registration
from hivemind.core.wording import one_line
from hivemind.master.commands import is_under_way
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import denied, exhausted, invalid, taken
from hivemind.rpc.errors import ErrorCode
from hivemind.store.changes import ResultBlob

_MOST_PUSHED = 500
"""Nodes of one account that are pushed to: each is asked over and over whether it is there."""

# --- the nodes ---


def check_registration(turn: Turn, node_id: str, account: str) -> None:
    """Raise CallRefused where the account may not register a node under this id."""
    known = turn.node(node_id)
    if known is not None:
        if known.account != account:
            raise denied(f"node {node_id} is not yours", ErrorCode.NODE_NOT_FOUND)
        if known.registration is None:
            raise taken(
                f"your node {node_id} dials the master by itself; register another under an id of"
                " its own"
            )
        return
    if is_task_id(node_id):
        # A node that was forgotten still believes what is addressed to its id.
        raise invalid(
            f"{node_id} cannot be a node's id here: the pool itself gives out ids of this form;"
            " choose another"
        )
    for node in turn.cluster.nodes.values():
        if node.name == node_id and node.account != account:
            raise denied(f"node {node_id} is not yours", ErrorCode.NODE_NOT_FOUND)
    if turn.pushed_nodes_of(account) >= _MOST_PUSHED:
        raise exhausted(
            f"account {account} has {_MOST_PUSHED} nodes that are pushed to, which is the most;"
            " use another account for more"
        )


def register(turn: Turn, node_id: str, account: str, said: Registration) -> Node:
    """Take a node in, or note what changed of it: its trust, and what it runs, stay."""
    check_registration(turn, node_id, account)
    known = turn.node(node_id)
    if known is None:
        node = Node(
            id=node_id,
            account=account,
            name=node_id,
            public_key=b"",
            enrolled_at=turn.now,
            last_seen_at=turn.now,
            registration=said,
        )
        turn.put_node(node)
        return node
    node = attrs.evolve(known, registration=said, last_seen_at=turn.now)
    turn.put_node(node)
    state = turn.cluster.fleet.nodes.get(node_id)
    if state is not None and known.registration != said:
        turn.join_fleet(node, capabilities_of(said), draining=node.is_drained)
        turn.set_connected(node_id, connected=state.connected)
    return node


def set_intent(turn: Turn, node_id: str, intent: Intent) -> None:
    """The node says whether it takes more. One that leaves loses what it has."""
    node = turn.node(node_id)
    if node is None or node.registration is None:
        is_drained = node is not None and node.is_drained
        turn.set_draining(node_id, draining=is_drained or intent is not Intent.SERVING)
        return
    said = attrs.evolve(node.registration, intent=intent)
    turn.put_node(attrs.evolve(node, registration=said, last_seen_at=turn.now))
    turn.set_draining(node_id, draining=node.is_drained or intent is Intent.DRAINING)
    if intent is Intent.OFFLINE:
        turn.set_connected(node_id, connected=False)
        lose(turn, node_id, f"node {node_id} said that it goes offline")


def present(turn: Turn, node_id: str, pushing: Collection[AttemptRef]) -> None:
    """The node answers: it may be given work.

    An attempt that it was given and that is not being pushed to it, as after a restart of the
    master, is lost unless the node has taken it; stops are repeated.
    """
    node = turn.node(node_id)
    if node is None or node.registration is None or node.registration.intent is Intent.OFFLINE:
        return
    turn.put_node(attrs.evolve(node, last_seen_at=turn.now))
    for task, attempt in _given(turn, node_id):
        ref = AttemptRef(task.id, attempt.number)
        if task.state is TaskState.ASSIGNED and ref not in pushing:
            _lose(turn, attempt, f"node {node_id} may not have been told of it")
        elif task.stop_requested:
            turn.add_effect(
                SendStop(task_id=task.id, attempt=attempt.number, node_id=attempt.node_id)
            )
    draining = node.is_drained or node.registration.intent is Intent.DRAINING
    turn.join_fleet(node, capabilities_of(node.registration), draining=draining)


def lose(turn: Turn, node_id: str, detail: str) -> int:
    """The node's lease is over: everything that it had is lost. Returns how much that was."""
    lost = 0
    for _, attempt in _given(turn, node_id):
        _lose(turn, attempt, detail)
        lost += 1
    turn.leave_fleet(node_id)
    return lost


def lose_attempt(turn: Turn, node_id: str, ref: AttemptRef, detail: str) -> bool:
    """One attempt of the node's is lost, if it is under way; whether it was."""
    attempt = _attempt(turn, node_id, ref)
    if attempt is not None:
        _lose(turn, attempt, detail)
    return attempt is not None


def _lose(turn: Turn, attempt: Attempt, detail: str) -> None:
    turn.step(attempt.task_id, NodeLost(attempt=attempt.number, detail=detail))
    # It may run there all the same.
    turn.add_effect(
        KillAttempt(task_id=attempt.task_id, attempt=attempt.number, node_id=attempt.node_id)
    )


# --- what came of a push ---


def begin(turn: Turn, node_id: str, ref: AttemptRef) -> bool:
    """The node has the attempt. Whether that is still of interest."""
    attempt, task = _attempt(turn, node_id, ref), turn.task(ref.task_id)
    if attempt is None or task is None:
        return False
    if task.state is TaskState.ASSIGNED:
        seq = attempt.report_seq + 1
        turn.step(task.id, Started(attempt=attempt.number, seq=seq, node_id=node_id))
    return True


def refuse(turn: Turn, node_id: str, ref: AttemptRef, detail: str) -> None:
    """The node would not take the attempt. If it has reported on it before, then it failed."""
    attempt, task = _attempt(turn, node_id, ref), turn.task(ref.task_id)
    if attempt is None or task is None:
        return
    if task.state is TaskState.RUNNING:
        _finish(turn, attempt, Outcome.FAILED, detail)
        return
    turn.step(
        task.id,
        Refused(
            attempt=attempt.number,
            seq=attempt.report_seq + 1,
            kind=RefusalKind.BUSY,
            detail=detail,
            node_id=node_id,
        ),
    )


def give_up_push(turn: Turn, node_id: str, ref: AttemptRef, detail: str) -> bool:
    """The node did not answer. Whether it has reported on the attempt, which then goes on."""
    attempt, task = _attempt(turn, node_id, ref), turn.task(ref.task_id)
    if attempt is None or task is None:
        return False
    if task.state is TaskState.RUNNING:
        return True
    _lose(turn, attempt, detail)
    return False


def give_up_stop(turn: Turn, node_id: str, ref: AttemptRef) -> bool:
    """The node did not show that it stopped the attempt, which is over nevertheless."""
    detail = f"node {node_id} did not confirm the stop: unconfirmed"
    return lose_attempt(turn, node_id, ref, detail)


# --- what the node reports ---


@attrs.frozen(kw_only=True)
class Completed:
    """What became of a node's word that an attempt is over."""

    is_applied: bool
    outcome: Outcome | None = None
    """As it stands now; None where the attempt is not known any more."""


def complete(turn: Turn, node_id: str, ref: AttemptRef, *, success: bool) -> Completed:
    """The attempt is over, by its node's word; the first word counts."""
    attempt, task = _attempt(turn, node_id, ref), turn.task(ref.task_id)
    if attempt is None or task is None:
        newest = turn.attempt(ref.task_id)
        is_it = newest is not None and newest.number == ref.attempt
        return Completed(
            is_applied=False, outcome=newest.outcome if newest is not None and is_it else None
        )
    if success:
        outcome, detail = Outcome.SUCCEEDED, ""
    elif task.stop_requested:
        outcome, detail = Outcome.STOPPED, ""
    else:
        outcome, detail = Outcome.FAILED, f"node {node_id} reports that it failed"
    _finish(turn, attempt, outcome, detail)
    return Completed(is_applied=True, outcome=outcome)


def _finish(turn: Turn, attempt: Attempt, outcome: Outcome, detail: str) -> None:
    begun_at = attempt.started_at if attempt.started_at is not None else attempt.assigned_at
    ending = Ending(
        outcome=outcome,
        reason=Reason.STOPPED if outcome is Outcome.STOPPED else Reason.EXITED,
        detail=one_line(detail),
        usage=Usage(wall_s=max(0.0, turn.now - begun_at)),
        result_bytes=attempt.result_bytes,
    )
    turn.step(
        attempt.task_id,
        Finished(
            attempt=attempt.number,
            seq=attempt.report_seq + 1,
            ending=ending,
            node_id=attempt.node_id,
        ),
    )


def keep_result(turn: Turn, node_id: str, ref: AttemptRef, blob: Blob) -> bool:
    """What the node stored as the attempt's result, in the place of what it stored before.

    False: the attempt is over, and nothing was kept.
    """
    if not begin(turn, node_id, ref):
        return False
    attempt = turn.attempt(ref.task_id)
    if attempt is None:
        return False
    turn.put_attempt(attrs.evolve(attempt, result_bytes=blob.size, raw_result=True))
    turn.put_result(ResultBlob(task_id=ref.task_id, attempt=ref.attempt, blob=blob))
    return True


# --- what is under way ---


def _attempt(turn: Turn, node_id: str, ref: AttemptRef) -> Attempt | None:
    """The attempt, if it is under way on this node."""
    task, attempt = turn.task(ref.task_id), turn.attempt(ref.task_id)
    if task is None or attempt is None or not is_under_way(task, ref, node_id):
        return None
    return attempt


def _given(turn: Turn, node_id: str) -> Iterator[tuple[Task, Attempt]]:
    """What is under way on the node."""
    for task_id in tuple(turn.cluster.on_node.get(node_id, ())):
        task, attempt = turn.task(task_id), turn.attempt(task_id)
        if task is not None and attempt is not None and task.node_id == node_id:
            yield task, attempt

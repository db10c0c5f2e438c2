"""What may be done to the cluster: each a function that changes a turn, or raises and changes
nothing.

They check everything that could have changed since their caller looked, because between a look and
a turn others had their turns.
"""

from collections.abc import Sequence

import attrs

from hivemind.core.events import (
    Admit,
    Finished,
    KillAttempt,
    NodeLost,
    Refused,
    Started,
    Stop,
)
from hivemind.core.ledger import grant
from hivemind.core.messages import (
    AttemptRef,
    FinishedReport,
    Hello,
    RefusedReport,
    StartedReport,
)
from hivemind.core.records import (
    Account,
    Blob,
    Ending,
    JoinToken,
    Node,
    RefusalKind,
    RevokedToken,
    Role,
    Task,
)
from hivemind.master import settling
from hivemind.master.charging import charge
from hivemind.master.cluster import UNDER_WAY
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import NamedFault, denied, exhausted, not_now, taken
from hivemind.rpc.errors import ErrorCode
from hivemind.store.api import DuplicateTask
from hivemind.store.changes import NewTask, ResultBlob

_MOST_NODES = 1000
"""Of one account; each is held in memory for good."""

_MOST_SECRETS = 100
"""Unused ones of one account."""


def is_under_way(task: Task, ref: AttemptRef, node_id: str) -> bool:
    """Whether the attempt is the task's newest, given to this node, and not over."""
    return (
        task.state in UNDER_WAY
        and task.id == ref.task_id
        and task.attempt == ref.attempt
        and task.node_id == node_id
    )


# --- tasks ---


def submit(turn: Turn, new: NewTask, *, most_unfinished: int, most_ucpt: int | None = None) -> Task:
    """Take a task, and hold what it can cost. One whose client key was used in this very turn is
    the task made then.

    Raises DuplicateTask for an id that is taken, CallRefused where the account has its most,
    NamedFault where it cannot be paid for, or not without holding more than ``most_ucpt``.
    """
    task = new.task
    if turn.task(task.id) is not None:
        raise DuplicateTask(
            field="id", value=task.id, account=task.account, task_id=task.id, existing=task.id
        )
    if task.client_key:
        twin = turn.find_new(task.account, task.client_key)
        if twin is not None:
            return twin
    check_unfinished(task.account, turn.unfinished_of(task.account), most=most_unfinished)
    turn.add_task(attrs.evolve(new, task=charge(turn, task, most_ucpt=most_ucpt)))
    return turn.step(task.id, Admit()).task


def check_unfinished(account: str, unfinished: int, *, most: int) -> None:
    """Raise CallRefused where the account may have no more tasks."""
    if unfinished >= most:
        raise exhausted(
            f"account {account} has {most} unfinished tasks, which is the most;"
            " wait for some or stop some",
        )


def stop(turn: Turn, task_id: str, by: str) -> Task | None:
    """Ask for the task's end. None: it had ended before this turn."""
    if turn.task(task_id) is None:
        return None
    return turn.step(task_id, Stop(by=by)).task


# --- reports ---


@attrs.frozen(kw_only=True)
class Report:
    """A node's report with the blob of its result, which is on disk already."""

    item: StartedReport | RefusedReport | FinishedReport
    result: Blob | None = None


@attrs.frozen(kw_only=True)
class Reported:
    """What became of a report."""

    is_applied: bool
    """False: it was a repeat, or the attempt is over and its result is not wanted."""
    is_unwanted: bool = False
    """The node should end the attempt, if it still runs it."""


def report_all(turn: Turn, node_id: str, said: Sequence[Report]) -> tuple[Reported, ...]:
    """Apply a node's reports, all or none. Raises LifecycleError for one that cannot be true."""
    return tuple(report(turn, node_id, one) for one in said)


def report(turn: Turn, node_id: str, said: Report) -> Reported:
    """Apply a report of a node. Raises LifecycleError for one that cannot be true."""
    ref = said.item.ref
    if turn.task(ref.task_id) is None:
        # It ended before this turn, or it never was; to the node both are the same.
        return Reported(is_applied=False, is_unwanted=True)
    before = turn.attempt(ref.task_id)
    after = turn.step(ref.task_id, _event(turn, node_id, said.item))
    is_applied = after.attempt is not before
    if is_applied and said.result is not None:
        turn.put_result(ResultBlob(task_id=ref.task_id, attempt=ref.attempt, blob=said.result))
    return Reported(
        is_applied=is_applied,
        is_unwanted=any(isinstance(effect, KillAttempt) for effect in after.effects),
    )


def _event(
    turn: Turn, node_id: str, item: StartedReport | RefusedReport | FinishedReport
) -> Started | Refused | Finished:
    match item:
        case StartedReport():
            return Started(attempt=item.ref.attempt, seq=item.seq, node_id=node_id)
        case RefusedReport():
            return Refused(
                attempt=item.ref.attempt,
                seq=item.seq,
                kind=item.kind,
                detail=item.detail,
                node_id=node_id,
                is_last_hope=item.kind is RefusalKind.POLICY
                and _is_last_hope(turn, item.ref.task_id, node_id),
            )
        case FinishedReport():
            return Finished(
                attempt=item.ref.attempt, seq=item.seq, ending=item.ending, node_id=node_id
            )


def _is_last_hope(turn: Turn, task_id: str, refusing_node_id: str) -> bool:
    """Whether no node of the fleet but those that refused for good could ever run the task."""
    task = turn.task(task_id)
    if task is None:
        return False
    refused = {bar.node_id for bar in turn.cluster.queue.bars_of(task_id) if bar.until is None}
    return not any(
        node.id not in refused
        and node.id != refusing_node_id
        and node.could_ever_run(task.requirements)
        for node in turn.cluster.fleet.nodes.values()
    )


# --- nodes ---


@attrs.frozen(kw_only=True)
class Joined:
    """What a node that said hello must know."""

    wanted: tuple[AttemptRef, ...]
    """Held attempts that go on."""
    unwanted: tuple[AttemptRef, ...]
    """Held attempts that must end without a report."""
    stopping: tuple[AttemptRef, ...]
    """Wanted attempts whose stop was asked for."""


def join(turn: Turn, node_id: str, hello: Hello) -> Joined:
    """A node is here, and holds some attempts; what else was given to it is lost."""
    node = turn.node(node_id)
    if node is None:
        raise NamedFault(ErrorCode.NODE_NOT_FOUND, f"node {node_id} was forgotten; enrol it anew")
    turn.put_node(attrs.evolve(node, last_seen_at=turn.now))
    held = set(hello.held)
    wanted: set[AttemptRef] = set()
    stopping: list[AttemptRef] = []
    for task_id in tuple(turn.cluster.on_node.get(node_id, ())):
        task, attempt = turn.task(task_id), turn.attempt(task_id)
        if task is None or attempt is None or task.node_id != node_id:
            continue
        ref = AttemptRef(task_id, attempt.number)
        if ref in held:
            wanted.add(ref)
            if task.stop_requested:
                stopping.append(ref)
        else:
            turn.step(
                task_id,
                NodeLost(
                    attempt=attempt.number,
                    detail=f"node {node.name} came back without it",
                    is_over=True,
                ),
            )
    # What it had lost may have cost it trust.
    turn.join_fleet(
        turn.node(node_id) or node,
        hello.capabilities,
        draining=hello.draining or node.is_drained,
    )
    return Joined(
        wanted=tuple(ref for ref in hello.held if ref in wanted),
        unwanted=tuple(ref for ref in hello.held if ref not in wanted),
        stopping=tuple(stopping),
    )


def set_away(turn: Turn, node_id: str) -> None:
    """A node's link broke: it is given nothing more, and keeps what it has until its lease ends."""
    turn.set_connected(node_id, connected=False)


def set_draining(turn: Turn, node_id: str, *, draining: bool) -> None:
    """A node takes nothing more, or does again."""
    turn.set_draining(node_id, draining=draining)


def drain(turn: Turn, node_id: str, *, is_drained: bool) -> None:
    """Somebody who may do so wants the node given nothing more, or again; for good.

    Raises NamedFault: it was forgotten, or is not here to be drained.
    """
    node = _known_node(turn, node_id)
    if is_drained and node_id not in turn.cluster.fleet:
        raise NamedFault(
            ErrorCode.NODE_OFFLINE,
            f"node {node.name} is away, so nothing of it can be drained; start its worker, or "
            f"`hivemind node forget {node_id}`",
        )
    turn.put_node(attrs.evolve(node, is_drained=is_drained))
    turn.set_draining(node_id, draining=is_drained)


def forget(turn: Turn, node_id: str) -> None:
    """The node is of this pool no more: what it runs is lost, and run elsewhere.

    Raises NamedFault: it was forgotten already.
    """
    node = _known_node(turn, node_id)
    detail = f"node {node.name} was forgotten"
    _lose_all(turn, node_id, detail)
    turn.leave_fleet(node_id)
    turn.forget_node(node_id)


def _known_node(turn: Turn, node_id: str) -> Node:
    node = turn.node(node_id)
    if node is None:
        raise NamedFault(ErrorCode.NODE_NOT_FOUND, f"node {node_id} is not of this pool any more")
    return node


def end_attempt(turn: Turn, node_id: str, ref: AttemptRef, ending: Ending) -> None:
    """The master itself ends an attempt, because its node sent what no sandbox would let through;
    nothing happens if it is over already.
    """
    task, attempt = turn.task(ref.task_id), turn.attempt(ref.task_id)
    if task is None or attempt is None or not is_under_way(task, ref, node_id):
        return
    event = Finished(
        attempt=ref.attempt, seq=attempt.report_seq + 1, ending=ending, node_id=node_id
    )
    turn.step(ref.task_id, event)
    settling.distrust(turn, node_id)
    turn.add_effect(KillAttempt(task_id=ref.task_id, attempt=ref.attempt, node_id=node_id))


def distrust(turn: Turn, node_id: str) -> None:
    """A node said what cannot be true: it is trusted less."""
    settling.distrust(turn, node_id)


def lose(turn: Turn, node_id: str, detail: str) -> int:
    """A node's lease is over: everything that it had is lost. Returns how much that was.

    One that has come back meanwhile loses nothing.
    """
    state = turn.cluster.fleet.nodes.get(node_id)
    if state is not None and state.connected:
        return 0
    lost = _lose_all(turn, node_id, detail)
    turn.leave_fleet(node_id)
    return lost


def _lose_all(turn: Turn, node_id: str, detail: str) -> int:
    lost = 0
    for task_id in tuple(turn.cluster.on_node.get(node_id, ())):
        attempt = turn.attempt(task_id)
        task = turn.task(task_id)
        if task is None or attempt is None or task.node_id != node_id:
            continue
        turn.step(task_id, NodeLost(attempt=attempt.number, detail=detail))
        lost += 1
    return lost


def enrol(turn: Turn, node: Node, join_digest: bytes | None) -> Node:
    """Take a node in. With a digest the one-time secret of that digest is used up.

    A second enrolment with the same key, as after an answer that was lost, is the same node.
    """
    known = turn.node_with_key(node.public_key)
    if known is not None:
        if known.account != node.account:
            raise taken(
                "this worker's key belongs to another account's node;"
                " give the worker a home of its own",
            )
        return known
    if turn.nodes_of(node.account) >= _MOST_NODES:
        raise exhausted(
            f"account {node.account} has {_MOST_NODES} nodes, which is the most;"
            " use another account for more",
        )
    if join_digest is not None:
        _use(turn, join_digest, "join")
    turn.put_node(node)
    return node


# --- accounts ---


def register(turn: Turn, account: Account, invite_digest: bytes | None) -> None:
    """Make an account, with the pool's grant. A digest is that of the invitation to use up."""
    if turn.account(account.name) is not None:
        raise NamedFault(ErrorCode.USER_EXISTS, f"the name {account.name} is taken; choose another")
    if invite_digest is not None:
        _use(turn, invite_digest, "invite")
    turn.put_account(account)
    endow(turn, account)


def endow(turn: Turn, account: Account) -> None:
    """Give an account what a new one gets."""
    if turn.rules.grant_ucpt:
        turn.books.post(grant(account.name, turn.rules.grant_ucpt, turn.now))


def set_role(turn: Turn, name: str, role: Role) -> Account:
    """Let an account do more, or less. Raises NamedFault, and CallRefused for the last admin."""
    account = turn.account(name)
    if account is None:
        raise NamedFault(
            ErrorCode.USER_NOT_FOUND, f"no account {name[:32]!a} is in this pool; check its name"
        )
    if account.role is Role.ADMIN and role is not Role.ADMIN and turn.admins() == 1:
        raise not_now(f"account {name} is the last admin; make another one first")
    changed = attrs.evolve(account, role=role)
    turn.put_account(changed)
    return changed


def put_join_token(turn: Turn, token: JoinToken) -> None:
    """Make a one-time secret known."""
    if turn.live_join_tokens(token.account) >= _MOST_SECRETS:
        raise exhausted(
            f"account {token.account} has {_MOST_SECRETS} unused join tokens and invitations,"
            " which is the most; use one, or wait until one expires",
        )
    turn.put_join_token(token)


def revoke(turn: Turn, token: RevokedToken) -> None:
    """Let a token no longer be believed."""
    turn.revoke(token)


def _use(turn: Turn, digest: bytes, purpose: str) -> JoinToken:
    token = turn.join_token(digest)
    if (
        token is None
        or token.purpose != purpose
        or token.used_at is not None
        or token.expires_at <= turn.now
    ):
        what = "invitation" if purpose == "invite" else "join token"
        raise denied(
            f"this {what} is unknown, used or expired; ask for a new one",
        )
    turn.put_join_token(attrs.evolve(token, used_at=turn.now))
    return token

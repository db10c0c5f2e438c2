"""Short ways to say what a test of the master is about."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import trio

from hivemind.core.ledger import (
    ISSUER,
    Movement,
    MovementKind,
    escrow_account,
    grant,
    is_escrow,
    replay,
    user_account,
)
from hivemind.core.messages import AttemptRef, FinishedReport, Hello, RefusedReport, StartedReport
from hivemind.core.policy import PoolRules
from hivemind.core.records import (
    Account,
    Capabilities,
    Capacity,
    Ending,
    Node,
    Outcome,
    Reason,
    RefusalKind,
    Requirements,
    Role,
    Task,
    TaskState,
    Usage,
)
from hivemind.master import commands
from hivemind.master.cluster import UNDER_WAY, Cluster, load_cluster
from hivemind.master.payments import transfer
from hivemind.master.reactor import Reactor
from hivemind.master.turn import Turn
from hivemind.store.api import Store
from hivemind.store.changes import NewTask

MIB = 1024 * 1024
RICHES_UCPT = 10**12
SMALL = Requirements(cpu_millis=1000, memory_bytes=MIB, scratch_bytes=0)


def new_task(id_: str, account: str = "ann", **fields: Any) -> NewTask:
    fields.setdefault("requirements", SMALL)
    fields.setdefault("submitted_at", 1.0)
    task = Task(id=id_, account=account, state=TaskState.SUBMITTED, **fields)
    return NewTask(task=task, spec=b"spec of " + id_.encode())


def submit(id_: str, account: str = "ann", *, most: int = 1000, **fields: Any) -> Any:
    new = new_task(id_, account, **fields)
    return lambda turn: commands.submit(turn, new, most_unfinished=most)


def account(name: str, role: Role = Role.USER) -> Account:
    return Account(name=name, role=role, password_hash="", created_at=1.0)


def node(id_: str, owner: str = "ann", key: bytes | None = None) -> Node:
    return Node(
        id=id_, account=owner, name=id_, public_key=key or id_.encode().ljust(32), enrolled_at=1.0
    )


def machine(slots: int = 4, **fields: Any) -> Capabilities:
    fields.setdefault("cpu_millis", 64_000)
    fields.setdefault("memory_bytes", 64 * 1024 * MIB)
    return Capabilities(
        capacity=Capacity(slots=slots, **fields),
        hostname="host",
        version="1",
        limits="cgroup",
        sandbox="enabled",
    )


def hello(slots: int = 4, *held: AttemptRef, draining: bool = False) -> Hello:
    return Hello(capabilities=machine(slots), held=held, draining=draining)


def join(node_id: str, slots: int = 4, *held: AttemptRef) -> Callable[[Turn], commands.Joined]:
    said = hello(slots, *held)
    return lambda turn: commands.join(turn, node_id, said)


def started(task_id: str, attempt: int = 1, seq: int = 1) -> StartedReport:
    return StartedReport(ref=AttemptRef(task_id, attempt), seq=seq)


def finished(
    task_id: str,
    attempt: int = 1,
    seq: int = 2,
    *,
    outcome: Outcome = Outcome.SUCCEEDED,
    reason: Reason = Reason.EXITED,
    exit_code: int | None = 0,
    output_bytes: int = 0,
    result: bytes | None = None,
) -> FinishedReport:
    return FinishedReport(
        ref=AttemptRef(task_id, attempt),
        seq=seq,
        ending=Ending(
            outcome=outcome,
            reason=reason,
            exit_code=exit_code,
            usage=Usage(wall_s=0.5, cpu_s=0.25, memory_peak_bytes=MIB),
            result_bytes=len(result or b""),
        ),
        output_bytes=output_bytes,
        result=result,
    )


def failed(task_id: str, attempt: int = 1, seq: int = 2) -> FinishedReport:
    return finished(task_id, attempt, seq, outcome=Outcome.FAILED, exit_code=1)


def refused(
    task_id: str, attempt: int = 1, seq: int = 1, kind: RefusalKind = RefusalKind.BUSY
) -> RefusedReport:
    return RefusedReport(
        ref=AttemptRef(task_id, attempt), seq=seq, kind=kind, detail="no room for it"
    )


def report(node_id: str, *items: StartedReport | FinishedReport | RefusedReport) -> Any:
    said = [commands.Report(item=item) for item in items]
    return lambda turn: commands.report_all(turn, node_id, said)


def pay(giver: str, receiver: str, amount_ucpt: int) -> Callable[[Turn], int]:
    def command(turn: Turn) -> int:
        movement = Movement(
            at=turn.now,
            kind=MovementKind.TRANSFER,
            debit=user_account(giver),
            credit=user_account(receiver),
            amount_ucpt=amount_ucpt,
        )
        return transfer(turn, movement)

    return command


@asynccontextmanager
async def running(
    store: Store, rules: PoolRules | None = None, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[Reactor]:
    """A reactor that serves until the block ends; ``clock`` tells the time of day."""
    chosen = rules or PoolRules()
    reactor = Reactor(store, rules=lambda: chosen, wall_clock=clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        yield reactor
        nursery.cancel_scope.cancel()


async def people(
    reactor: Reactor,
    *nodes: str,
    accounts: tuple[str, ...] = ("ann",),
    owners: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Accounts that can pay for a lot, and nodes of the first of them but for other ``owners``."""

    def command(turn: Turn) -> None:
        for name in accounts:
            turn.put_account(account(name))
            turn.books.post(grant(name, RICHES_UCPT, turn.now))
        for id_ in nodes:
            turn.put_node(node(id_, owners.get(id_, accounts[0])))

    await reactor.perform(command)


def picture(cluster: Cluster) -> dict[str, Any]:
    """Everything that the cluster knows, to be compared."""
    queue, fleet = cluster.queue, cluster.fleet
    return {
        "tasks": dict(cluster.tasks),
        "attempts": dict(cluster.attempts),
        "accounts": dict(cluster.accounts),
        "nodes": dict(cluster.nodes),
        "join_tokens": dict(cluster.join_tokens),
        "revoked": dict(cluster.revoked),
        "facts": dict(cluster.facts),
        "balances": dict(cluster.balances),
        "escrows": dict(cluster.escrows),
        "held_ucpt_of": dict(cluster.held_ucpt_of),
        "unfinished_of": dict(cluster.unfinished_of),
        "on_node": {id_: set(there) for id_, there in cluster.on_node.items()},
        "waiting": {
            id_: (one.account, one.requirements, one.rank, one.ready_at)
            for id_, one in queue._waiting.items()
        },
        "bars": {id_: set(bars.values()) for id_, bars in queue._bars.items()},
        "barred_from": {id_: set(there) for id_, there in queue._barred_from.items()},
        "claimant": queue.claimant,
        "fleet": dict(fleet.nodes),
        "schedulable": {state.id for state in fleet.schedulable},
        "open": {state.id for state in fleet.open},
        "total": fleet.total,
        "reservations": dict(fleet._reservations),
        "held_by": dict(fleet._held_by_account),
        "held_of": dict(fleet._held_of_node),
    }


async def check(reactor: Reactor, store: Store) -> None:
    """What must hold between any two turns."""
    cluster = reactor.cluster
    under_way = {task for task in cluster.tasks.values() if task.state in UNDER_WAY}
    queued = {task.id for task in cluster.tasks.values() if task.state is TaskState.QUEUED}
    assert {(task.id, task.attempt) for task in under_way} == set(cluster.fleet._reservations)
    assert set(cluster.queue._waiting) == queued
    assert len(under_way) + len(queued) == len(cluster.tasks)
    on_node: dict[str, set[str]] = {}
    for task in under_way:
        on_node.setdefault(task.node_id, set()).add(task.id)
    assert cluster.on_node == on_node
    counts: dict[str, int] = {}
    for task in cluster.tasks.values():
        counts[task.account] = counts.get(task.account, 0) + 1
    assert dict(cluster.unfinished_of) == counts
    assert set(cluster.queue._bars) <= set(cluster.tasks)
    for state in cluster.fleet.nodes.values():
        held = cluster.fleet.reservations_on(state.id)
        assert state.reserved.slots == len(held) <= state.capacity.slots
    await check_ledger(cluster, store)
    seen = load_cluster(await store.load(), 0.0)
    for kept in (
        *("tasks", "attempts", "accounts", "nodes", "facts", "unfinished_of", "on_node"),
        *("balances", "escrows", "held_ucpt_of"),
    ):
        assert getattr(seen, kept) == getattr(cluster, kept), kept
    assert set(seen.fleet._reservations) == set(cluster.fleet._reservations)
    assert set(seen.queue._waiting) == queued


async def every_movement(store: Store) -> list[Movement]:
    """The whole ledger, in order: what was granted, and what else the accounts moved."""
    found: dict[int, Movement] = {}
    for account in (await store.load()).balances:
        cursor = None
        while True:
            page = await store.movements(account, cursor=cursor, limit=10_000)
            found.update((movement.seq, movement) for movement in page.movements)
            cursor = page.next_cursor
            if cursor is None:
                break
    return [found[seq] for seq in sorted(found)]


async def check_ledger(cluster: Cluster, store: Store) -> None:
    """What must hold of the money between any two turns."""
    movements = await every_movement(store)
    assert replay(movements) == cluster.balances
    assert sum(cluster.balances.values()) == 0
    assert all(ucpt >= 0 for account, ucpt in cluster.balances.items() if account != ISSUER)
    # What is held, and nothing else, is in escrow; and only for tasks that have not ended.
    assert set(cluster.escrows) <= set(cluster.tasks)
    assert {account for account in cluster.balances if is_escrow(account)} == {
        escrow_account(task_id) for task_id in cluster.escrows
    }
    for task_id, escrow in cluster.escrows.items():
        assert cluster.balances[escrow_account(task_id)] == escrow.held_ucpt
    # Each task that has ended gave out, once, exactly what was held for it.
    held: dict[str, int] = {}
    given: dict[str, int] = {}
    for movement in movements:
        if movement.kind is MovementKind.HOLD:
            assert movement.task_id not in held
            held[movement.task_id] = movement.amount_ucpt
        elif movement.kind in {MovementKind.PAY, MovementKind.REFUND}:
            assert movement.task_id not in cluster.escrows
            given[movement.task_id] = given.get(movement.task_id, 0) + movement.amount_ucpt
    assert given == {task_id: ucpt for task_id, ucpt in held.items() if task_id in given}
    assert set(held) - set(given) == set(cluster.escrows)

"""Whatever happens, and in whatever order: what must hold between two turns holds."""

from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from hivemind.core.lifecycle import LifecycleError
from hivemind.core.messages import AttemptRef
from hivemind.core.policy import PoolRules
from hivemind.core.records import Outcome, Reason, RefusalKind
from hivemind.master import commands
from hivemind.master.reactor import Reactor
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.errors import CallRefused
from hivemind.store.api import DuplicateTask
from hivemind.store.failing import Fault, Moment
from hivemind.store.memory import MemoryStore
from tests.master.builders import (
    RICHES_UCPT,
    check,
    finished,
    join,
    pay,
    people,
    picture,
    refused,
    report,
    running,
    started,
    submit,
)
from tests.master.gated import GatedStore

RULES = PoolRules(crash_limit=2, retry_backoff_s=2.0, refusal_bar_s=3.0, lease_s=5.0)
NODES = ("n1", "n2", "n3")
TASKS = tuple(f"t{number}" for number in range(8))

tasks = st.sampled_from(TASKS)
nodes = st.sampled_from(NODES)
attempts = st.sampled_from((0, 0, 0, 0, -1, 1))
"""From the newest one."""

submits = st.tuples(
    st.just("submit"),
    tasks,
    st.sampled_from(("ann", "bob")),
    st.sampled_from(("", "", "k1", "k2")),
    st.sampled_from(("", "", "c1")),
    st.integers(0, 2),
)
starts = st.tuples(st.just("started"), tasks, attempts)
ends = st.tuples(
    st.just("finished"), tasks, attempts, st.sampled_from(("ok", "bad", "bad", "stop", "time"))
)
joins = st.tuples(st.just("join"), nodes, st.integers(0, 3), st.booleans())
ops = st.one_of(
    submits,
    submits,
    starts,
    starts,
    ends,
    ends,
    joins,
    joins,
    st.tuples(st.just("stop"), tasks),
    st.tuples(st.just("away"), nodes),
    st.tuples(st.just("away and lose"), nodes),
    st.tuples(st.just("drain"), nodes),
    st.tuples(st.just("refused"), tasks, attempts, st.sampled_from(RefusalKind)),
    st.tuples(st.just("wait"), st.sampled_from((0.5, 2.5, 30.0, 400.0))),
    st.tuples(st.just("fail"), st.sampled_from(Moment)),
    st.tuples(st.just("pay"), st.sampled_from((1, RICHES_UCPT // 2, RICHES_UCPT))),
)
BEGINNING = [
    ("join", "n1", 2, True),
    ("join", "n2", 1, True),
    *(("submit", id_, "ann", "", "", 2) for id_ in TASKS[:5]),
]

ENDINGS: dict[str, dict[str, Any]] = {
    "ok": {},
    "bad": {"outcome": Outcome.FAILED, "exit_code": 1},
    "stop": {"outcome": Outcome.STOPPED, "reason": Reason.STOPPED, "exit_code": None},
    "time": {"outcome": Outcome.TIMED_OUT, "reason": Reason.TIME_LIMIT, "exit_code": None},
}


def command_of(op: tuple[Any, ...], reactor: Reactor) -> Any:
    """The command that an operation is, with the seq that a well-behaved node would use."""
    kind, *rest = op
    match kind:
        case "submit":
            id_, account, key, client_id, retries = rest
            return submit(
                id_, account, client_key=key, client_id=client_id, retries=retries, wall_s=60.0
            )
        case "pay":
            return pay("ann", "bob", rest[0])
        case "stop":
            return lambda turn: commands.stop(turn, rest[0], "ann")
        case "join":
            there = reactor.cluster.on_node.get(rest[0], set())
            held = [AttemptRef(id_, reactor.cluster.tasks[id_].attempt) for id_ in sorted(there)]
            return join(rest[0], rest[1] + len(held), *(held if rest[2] else held[:1]))
        case "away":
            return lambda turn: commands.set_away(turn, rest[0])
        case "away and lose":
            return lambda turn: (
                commands.set_away(turn, rest[0]),
                commands.lose(turn, rest[0], "silence"),
            )
        case "drain":
            return lambda turn: commands.set_draining(turn, rest[0], draining=True)
    task = reactor.cluster.tasks.get(rest[0])
    node_id = (task.node_id if task is not None else "") or "n1"
    attempt = max(1, (task.attempt if task is not None else 1) + rest[1])
    match kind:
        case "started":
            return report(node_id, started(rest[0], attempt))
        case "finished":
            return report(node_id, finished(rest[0], attempt, 2, **ENDINGS[rest[2]]))
        case _:
            return report(node_id, refused(rest[0], attempt, kind=rest[2]))


async def play(sequence: list[tuple[Any, ...]]) -> None:
    store = GatedStore(MemoryStore(clock=lambda: 0.0))
    acknowledged: dict[str, str] = {}
    async with running(store, RULES) as reactor:
        await people(reactor, *NODES, accounts=("ann", "bob"), owners={"n2": "bob"})
        for op in [*BEGINNING, *sequence]:
            if op[0] == "wait":
                await trio.sleep(op[1])
            elif op[0] == "fail":
                store.faults = [Fault(op[1])]
            else:
                before, loaded, cluster = (
                    picture(reactor.cluster),
                    await store.load(),
                    reactor.cluster,
                )
                failing = bool(store.faults)
                try:
                    got = await reactor.perform(command_of(op, reactor))
                except (DuplicateTask, LifecycleError):
                    assert op[0] in {"submit", "started", "finished", "refused"}
                except NamedFault:
                    # Ann gave away what she had.
                    assert op[0] in {"submit", "pay"}
                except CallRefused:
                    assert failing
                    assert not store.faults
                    if await store.load() == loaded and reactor.cluster is cluster:
                        assert picture(reactor.cluster) == before
                else:
                    if op[0] == "submit":
                        acknowledged[got.id] = op[2]
            await wait_all_tasks_blocked()
            await check(reactor, store)
            for id_, account in acknowledged.items():
                kept = await store.task(id_)
                assert kept is not None
                assert kept.account == account
    # A master that starts now knows the same, and can go on.
    async with running(store, RULES) as reactor:
        await check(reactor, store)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.lists(ops, min_size=30, max_size=40))
def test_the_invariants_hold_after_any_sequence(sequence: list[tuple[Any, ...]]) -> None:
    trio.run(play, sequence, clock=MockClock(autojump_threshold=0.0))

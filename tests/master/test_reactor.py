from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hivemind.core.events import Effect, Ended, KillAttempt
from hivemind.core.lifecycle import BadReport
from hivemind.core.policy import PoolRules
from hivemind.core.records import RefusalKind, Requirements, Task, TaskState
from hivemind.master import commands
from hivemind.master.reactor import Reactor
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import NamedFault, Unsettled
from hivemind.rpc.errors import CallRefused
from hivemind.store.api import DuplicateTask, ReadFailed
from hivemind.store.changes import Snapshot
from hivemind.store.failing import Fault, Moment
from hivemind.store.memory import MemoryStore
from hivemind.store.sqlite import open_sqlite_store
from tests.master.builders import (
    account,
    check,
    failed,
    finished,
    hello,
    join,
    machine,
    node,
    pay,
    people,
    picture,
    refused,
    report,
    running,
    started,
    submit,
)
from tests.master.gated import AFTER, BEFORE, GatedStore, together

RULES = PoolRules()


@pytest.fixture
def store() -> GatedStore:
    return GatedStore(MemoryStore(clock=lambda: 0.0))


class Listener:
    """What the reactor tells."""

    def __init__(self, reactor: Reactor) -> None:
        self.effects: list[Effect] = []
        self.tasks: list[Task] = []
        self.reloads = 0
        reactor.on_published = self._published
        reactor.on_reload = self._reloaded

    def _published(self, tasks: Any, effects: Any) -> None:
        self.tasks += tasks
        self.effects += effects

    def _reloaded(self) -> None:
        self.reloads += 1

    def kinds(self) -> list[str]:
        return [type(effect).__name__ for effect in self.effects]


# --- turns ---


async def test_commands_that_arrive_together_share_one_commit(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor)
        store.seen.clear()
        got = await together(reactor, store, *(submit(f"t{number}") for number in range(100)))
        assert [task.id for task in got] == [f"t{number}" for number in range(100)]
        assert [len(changes.new_tasks) for changes in store.seen] == [0, 100]
        await check(reactor, store)


async def test_a_turn_takes_no_more_than_its_share_of_what_waits(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor)
        store.seen.clear()
        await together(reactor, store, *(submit(f"t{number:03}") for number in range(600)))
        assert [len(changes.new_tasks) for changes in store.seen] == [0, 256, 256, 88]


async def test_a_task_is_given_to_a_free_node_in_the_turn_of_its_submit(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1", 1))
        listener = Listener(reactor)
        store.seen.clear()
        first = await reactor.perform(submit("t1"))
        second = await reactor.perform(submit("t2"))
        assert [len(changes.new_tasks) for changes in store.seen] == [1, 1]
        (new,) = store.seen[0].new_tasks
        assert (new.task.state, new.task.node_id) == (TaskState.ASSIGNED, "n1")
        assert store.seen[0].attempts[0].node_id == "n1"
        assert first.state is second.state is TaskState.QUEUED
        assert listener.kinds() == ["Enqueue", "SendAssign", "Enqueue"]
        assert reactor.cluster.tasks["t2"].state is TaskState.QUEUED
        await check(reactor, store)


async def test_one_bad_command_harms_no_other_of_its_turn(store: GatedStore) -> None:
    def breaks(turn: Turn) -> None:
        turn.put_account(account("mallory"))
        turn.put_node(node("evil", "mallory"))
        turn.put_fact("evil", b"yes")
        commands.join(turn, "n1", hello(99))
        commands.lose(turn, "n2", "a lie")
        commands.drain(turn, "n1", is_drained=True)
        commands.forget(turn, "n1")
        commands.stop(turn, "old", "mallory")
        submit("evil")(turn)
        turn.plan(10)
        raise ValueError("and then it breaks")

    async with running(store) as reactor:
        await people(reactor, "n1", "n2")
        await reactor.perform(join("n1", 1))
        await reactor.perform(submit("old"))
        await reactor.perform(submit("waits"))
        got = await together(reactor, store, submit("a"), breaks, submit("b"))
        assert [getattr(one, "id", None) for one in got] == ["a", None, "b"]
        assert isinstance(got[1], ValueError)
        assert set(reactor.cluster.tasks) == {"old", "waits", "a", "b"}
        assert set(reactor.cluster.accounts) == {"ann"}
        assert reactor.cluster.fleet.node("n1").capacity.slots == 1
        assert store.seen[-1].facts == {}
        await check(reactor, store)


async def test_a_duplicate_harms_only_whoever_sent_it(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1", accounts=("ann", "bob"))
        await reactor.perform(join("n1", 2))
        await reactor.perform(submit("t0", client_id="mine", client_key="k0"))
        got = await together(
            reactor,
            store,
            submit("t1"),
            submit("t2", client_id="mine"),
            submit("t3", "bob", client_id="mine"),
            submit("t0"),
            submit("t4", client_key="k0"),
            submit("t5", client_id="new"),
            submit("t6", client_id="new"),
        )
        assert [one.id if isinstance(one, Task) else one.field for one in got] == [
            *("t1", "client_id", "t3", "id", "client_key", "t5", "client_id"),
        ]
        assert all(isinstance(got[number], DuplicateTask) for number in (1, 3, 4, 6))
        assert got[1].existing == "t0"
        assert set(reactor.cluster.tasks) == {"t0", "t1", "t3", "t5"}
        await check(reactor, store)


async def test_a_client_key_used_twice_in_one_turn_is_one_task(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor)
        got = await together(
            reactor, store, submit("t1", client_key="k"), submit("t2", client_key="k")
        )
        assert [task.id for task in got] == ["t1", "t1"]
        assert set(reactor.cluster.tasks) == {"t1"}


async def test_an_account_cannot_pass_its_most_tasks_by_sending_them_together(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await people(reactor)
        orders = [submit(f"t{number}", most=3) for number in range(6)]
        got = await together(reactor, store, *orders)
        assert [isinstance(one, Task) for one in got] == [True] * 3 + [False] * 3
        assert "wait for some or stop some" in str(got[3])


# --- commits that fail ---


async def busy(reactor: Reactor) -> None:
    """A cluster in which every index holds something."""
    await people(
        reactor, "n1", "n2", "n3", accounts=("ann", "bob"), owners={"n2": "bob", "n3": "bob"}
    )
    await reactor.perform(join("n1", 3))
    await reactor.perform(join("n2", 1))
    for number in range(6):
        await reactor.perform(submit(f"t{number}", retries=3))
    for id_ in ("t0", "t1"):
        where = reactor.cluster.tasks[id_].node_id
        await reactor.perform(report(where, started(id_)))
    where = reactor.cluster.tasks["t2"].node_id
    await reactor.perform(report(where, refused("t2")))


def everything(reactor: Reactor) -> list[Any]:
    """One of every command, all of which would change something."""
    at = {task.id: task.node_id for task in reactor.cluster.tasks.values()}
    return [
        submit("new"),
        submit("other", "bob"),
        lambda turn: commands.stop(turn, "t5", "ann"),
        lambda turn: commands.stop(turn, "t0", "ann"),
        report(at["t1"], failed("t1")),
        join("n3", 2),
        join("n1", 7),
        lambda turn: commands.set_away(turn, "n2"),
        lambda turn: commands.lose(turn, "n2", "silence"),
        lambda turn: commands.set_draining(turn, "n1", draining=True),
        lambda turn: commands.enrol(turn, node("n9"), None),
        lambda turn: commands.drain(turn, "n3", is_drained=True),
        lambda turn: commands.forget(turn, "n1"),
        lambda turn: commands.register(turn, account("zoe"), None),
        pay("ann", "bob", 5),
    ]


async def test_a_commit_that_fails_changes_nothing_at_all(store: GatedStore) -> None:
    async with running(store) as reactor:
        await busy(reactor)
        await reactor.perform(lambda turn: turn.put_fact("plug", b"in"))
        before = picture(reactor.cluster)
        held = await store.load()
        listener = Listener(reactor)
        orders = everything(reactor)
        got = await together(reactor, store, *orders, fault=BEFORE)
        assert picture(reactor.cluster) == before
        assert await store.load() == held
        assert listener.kinds() == []
        assert {type(one) for one in got} == {CallRefused}
        (text,) = {str(one) for one in got}
        assert text.startswith("the master could not store this, and nothing was changed; mend")
        assert "\n" not in text
        await check(reactor, store)
        # The master goes on, and the same commands are taken now.
        got = await together(reactor, store, *orders)
        assert not [one for one in got if isinstance(one, Exception)]
        await check(reactor, store)


async def test_a_refusal_that_rests_on_an_uncommitted_command_is_not_told(
    store: GatedStore,
) -> None:
    def register(turn: Turn) -> None:
        commands.register(turn, account("zoe"), None)

    async with running(store) as reactor:
        await people(reactor)
        first, second = await together(reactor, store, register, register, fault=BEFORE)
        assert str(first) == str(second)
        assert "nothing was changed" in str(first)
        first, second = await together(reactor, store, register, register)
        assert first is None
        assert isinstance(second, NamedFault)


async def test_after_a_failed_commit_what_nobody_asks_for_is_done_a_little_later(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store, PoolRules(retry_backoff_s=4.0)) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", retries=1))
        await reactor.perform(report("n1", started("t1"), failed("t1")))
        commits, store.faults = store.commits, [BEFORE] * 3
        await trio.sleep(6.5)
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        assert store.commits == commits + 3  # once a second, and no faster
        await trio.sleep(1)
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED
        await check(reactor, store)


async def test_work_that_a_slow_commit_kept_from_planning_is_still_given_out(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1", 1))
        await reactor.perform(submit("t1"))
        await reactor.perform(submit("t2"))
        store.faults = [BEFORE]
        with pytest.raises(CallRefused):
            await reactor.perform(submit("t3"))
        # Begun before it may plan again, and committed after: it freed the slot that t2 waits for.
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.perform, report("n1", finished("t1")))
            await trio.sleep(2)
            store.gate.set()
        await trio.sleep(1)
        assert reactor.cluster.tasks["t2"].state is TaskState.ASSIGNED


async def test_a_commit_of_unknown_outcome_is_looked_up_and_neither_lost_nor_doubled(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await busy(reactor)
        listener = Listener(reactor)
        old = reactor.cluster
        (error,) = await together(reactor, store, submit("new"), fault=AFTER)
        assert isinstance(error, Unsettled)
        assert "look before you repeat" in str(error)
        assert reactor.cluster is not old
        assert "new" in reactor.cluster.tasks
        assert listener.reloads == 1
        assert not [one for one in listener.effects if getattr(one, "task_id", "") == "new"]
        assert len(reactor.cluster.fleet) == 0
        await check(reactor, store)
        await reactor.perform(submit("newer"))
        await check(reactor, store)


async def test_what_was_under_way_at_an_unknown_outcome_goes_on_when_its_node_returns(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        (error,) = await together(reactor, store, report("n1", started("t1")), fault=AFTER)
        assert isinstance(error, Unsettled)
        ref = commands.AttemptRef("t1", 1)
        joined = await reactor.perform(join("n1", 4, ref))
        assert joined.wanted == (ref,)
        assert reactor.cluster.tasks["t1"].state is TaskState.RUNNING
        await reactor.perform(report("n1", started("t1"), finished("t1")))
        assert "t1" not in reactor.cluster.tasks
        await check(reactor, store)


async def test_answers_leave_only_after_the_commit(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "db") as inner:
        store = GatedStore(inner)
        async with running(store) as reactor:
            await people(reactor)
            store.gate = trio.Event()
            answered = trio.Event()

            async def ask() -> None:
                await reactor.perform(submit("t1"))
                answered.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await wait_all_tasks_blocked(0.05)
                assert not answered.is_set()
                assert "t1" not in reactor.cluster.tasks
                assert await inner.task("t1") is None
                store.gate.set()
            assert (await inner.task("t1")) is not None


async def test_a_reactor_that_breaks_answers_whoever_waits(store: GatedStore) -> None:
    broken = Fault(Moment.BEFORE, RuntimeError("a fault of our own"))
    got: list[Any] = []

    async def ask(reactor: Reactor, id_: str) -> None:
        try:
            await reactor.perform(submit(id_))
        except CallRefused as error:
            got.append(error)

    reactor = Reactor(store, rules=lambda: RULES)
    async with trio.open_nursery() as callers:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="our own")):
            async with trio.open_nursery() as nursery:
                await nursery.start(reactor.run)
                await people(reactor)
                store.gate = trio.Event()
                callers.start_soon(ask, reactor, "t1")
                await wait_all_tasks_blocked()
                for number in range(1500):  # more than the inbox holds
                    callers.start_soon(ask, reactor, f"u{number}")
                await wait_all_tasks_blocked()
                store.faults = [broken]
                store.gate.set()
    assert len(got) == 1501
    assert [type(one) for one in got].count(Unsettled) == 1
    with pytest.raises(CallRefused, match="starting or stopping"):
        await reactor.perform(submit("late"))
    store.gate = None
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        await reactor.perform(submit("again"))
        nursery.cancel_scope.cancel()


async def test_a_store_that_cannot_be_read_ends_the_reactor_with_its_error() -> None:
    class Unreadable(MemoryStore):
        async def load(self) -> Snapshot:
            await trio.lowlevel.checkpoint()
            raise ReadFailed("the disk is gone")

    with pytest.raises(ReadFailed, match="the disk is gone"):
        await Reactor(Unreadable(), rules=lambda: RULES).run()


async def test_a_command_whose_caller_left_before_its_turn_is_left_out(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor)
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.perform, submit("held"))
            await wait_all_tasks_blocked()
            with trio.move_on_after(0.01):
                await reactor.perform(submit("gone"))
            store.gate.set()
        await reactor.perform(submit("next"))
        assert set(reactor.cluster.tasks) == {"held", "next"}


async def test_a_caller_who_must_know_the_outcome_learns_it_though_cancelled(
    store: GatedStore,
) -> None:
    learnt: list[Task] = []

    async with running(store) as reactor:
        await people(reactor)
        store.gate = trio.Event()

        async def ask() -> None:
            learnt.append(await reactor.settle(submit("t1")))
            await trio.lowlevel.checkpoint()
            raise AssertionError("it was cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked_shielded()
            store.gate.set()
        assert [task.id for task in learnt] == ["t1"]


async def wait_all_tasks_blocked_shielded() -> None:
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


# --- time ---


async def test_a_failed_attempt_is_tried_again_when_its_backoff_is_over(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store, PoolRules(retry_backoff_s=4.0)) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", retries=1))
        await reactor.perform(report("n1", started("t1"), failed("t1")))
        await trio.sleep(3.9)
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        await trio.sleep(0.2)
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED
        assert reactor.cluster.attempts["t1"].number == 2


async def test_a_backoff_begins_anew_with_the_master(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    rules = PoolRules(retry_backoff_s=4.0)
    async with running(store, rules) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", retries=1))
        await reactor.perform(report("n1", started("t1"), failed("t1")))
        await trio.sleep(3.9)
    async with running(store, rules) as reactor:
        await reactor.perform(join("n1"))
        await trio.sleep(3.9)
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        await trio.sleep(0.2)
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED


async def test_a_node_that_refused_for_now_is_asked_again_when_its_bar_ends(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        await reactor.perform(report("n1", refused("t1")))
        await trio.sleep(RULES.refusal_bar_s - 0.1)
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        await trio.sleep(0.2)
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED


async def test_a_node_that_refused_for_good_is_asked_again_when_it_comes_anew(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1", "n2")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        await reactor.perform(join("n2"))
        # Somebody else could run it, so that the refusal does not end it; but not now.
        await reactor.perform(lambda turn: commands.set_draining(turn, "n2", draining=True))
        await reactor.perform(report("n1", refused("t1", kind=RefusalKind.POLICY)))
        await wait_all_tasks_blocked()
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        await reactor.perform(join("n1"))
        await wait_all_tasks_blocked()
        assert reactor.cluster.tasks["t1"].node_id == "n1"
        await check(reactor, store)


async def test_a_node_that_keeps_losing_what_it_is_given_is_left_alone_for_a_while(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        await reactor.perform(join("n1"))  # and holds nothing
        await wait_all_tasks_blocked()
        assert reactor.cluster.tasks["t1"].state is TaskState.QUEUED
        await check(reactor, store)


async def test_more_than_a_turn_can_place_is_placed_all_the_same(store: GatedStore) -> None:
    tiny = Requirements(cpu_millis=1, memory_bytes=1, scratch_bytes=0)
    async with running(store) as reactor:
        await people(reactor, "n1")
        for number in range(600):
            await reactor.perform(submit(f"t{number:03}", requirements=tiny))
        store.seen.clear()
        await reactor.perform(join("n1", 10_000))
        await wait_all_tasks_blocked()
        states = {task.state for task in reactor.cluster.tasks.values()}
        assert states == {TaskState.ASSIGNED}
        assert [len(changes.tasks) for changes in store.seen] == [256, 256, 88]
        await check(reactor, store)


async def test_what_no_node_could_run_is_placed_when_one_comes_that_can_however_much_it_is(
    store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind.core.queue.RETURNS_AT_ONCE", 3)
    small = attrs.evolve(hello(), capabilities=machine(4, memory_bytes=1000))
    async with running(store) as reactor:
        await people(reactor, "n1", "n2")
        await reactor.perform(lambda turn: commands.join(turn, "n1", small))
        for number in range(40):
            needs = Requirements(cpu_millis=1, memory_bytes=2000 + number, scratch_bytes=0)
            await reactor.perform(submit(f"t{number:02}", requirements=needs))
        await reactor.perform(join("n2", 100))
        await wait_all_tasks_blocked()
        assert {task.node_id for task in reactor.cluster.tasks.values()} == {"n2"}
        await check(reactor, store)


async def test_the_master_ends_an_attempt_whose_time_limit_passed_unreported(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", wall_s=100.0))
        await trio.sleep(50)
        await reactor.perform(report("n1", started("t1")))
        listener = Listener(reactor)
        await trio.sleep(100 + RULES.time_limit_grace_s - 1)
        assert "t1" in reactor.cluster.tasks
        # Reports that say nothing new do not put it off.
        await reactor.perform(report("n1", started("t1", seq=2)))
        await trio.sleep(2)
        task = await store.task("t1")
        assert task is not None
        assert task.state is TaskState.TIMED_OUT
        assert listener.kinds() == ["KillAttempt", "Release", "Ended"]
        await check(reactor, store)


async def test_an_attempt_that_never_started_is_ended_too(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", wall_s=100.0))
        await trio.sleep(100 + RULES.time_limit_grace_s + 299)
        assert "t1" in reactor.cluster.tasks
        await trio.sleep(2)
        assert "t1" not in reactor.cluster.tasks


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_stop_that_no_node_confirms_ends_the_task_and_says_so(
    autojump_clock: MockClock, store: GatedStore, restarts: bool
) -> None:
    within_s = RULES.stop_grace_s + RULES.lease_s

    async def unanswered(reactor: Reactor, listener: Listener) -> None:
        await trio.sleep(within_s - 1)
        assert "t1" in reactor.cluster.tasks
        await trio.sleep(2)
        task = await store.task("t1")
        assert task is not None
        assert task.state is TaskState.STOPPED
        assert "unconfirmed" in task.detail
        # The node may still run it: it is told to end it, since its room is given to others now.
        assert KillAttempt(task_id="t1", attempt=1, node_id="n1") in listener.effects
        await check(reactor, store)

    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        await reactor.perform(report("n1", started("t1")))
        await reactor.perform(lambda turn: commands.stop(turn, "t1", "ann"))
        if not restarts:
            await unanswered(reactor, Listener(reactor))
    if restarts:
        async with running(store) as reactor:
            await reactor.perform(join("n1", 4, commands.AttemptRef("t1", 1)))
            await unanswered(reactor, Listener(reactor))


async def test_a_backup_whose_commit_fails_is_tried_again(
    autojump_clock: MockClock, store: GatedStore
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", wall_s=10.0))
        await reactor.perform(report("n1", started("t1")))
        commits = store.commits
        store.faults = [BEFORE] * 5
        await trio.sleep(10 + RULES.time_limit_grace_s + 0.5)
        assert "t1" in reactor.cluster.tasks
        await trio.sleep(6)
        assert "t1" not in reactor.cluster.tasks
        assert store.commits == commits + 6
        await check(reactor, store)


async def test_backups_of_tasks_that_ended_are_not_kept(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        for number in range(300):
            id_ = f"t{number}"
            await reactor.perform(submit(id_, wall_s=86400.0))
            await reactor.perform(report("n1", started(id_)))
            for seq in range(2, 5):
                await reactor.perform(report("n1", started(id_, seq=seq)))
            await reactor.perform(report("n1", finished(id_, seq=9)))
        assert len(reactor._backups._due._heap) < 100


# --- reports ---


async def test_reports_are_applied_once_however_often_they_come(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1", retries=2))
        order = report("n1", started("t1"), failed("t1"))
        first = await reactor.perform(order)
        again = await reactor.perform(order)
        assert [one.is_applied for one in (*first, *again)] == [True, True, False, False]
        assert reactor.cluster.tasks["t1"].failures == 1
        await check(reactor, store)


async def test_a_node_cannot_report_on_what_was_given_to_another(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1", "n2")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        with pytest.raises(BadReport):
            await reactor.perform(report("n2", finished("t1")))
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED
        await reactor.perform(report("n1", started("t1")))
        # Of a batch with one lie nothing is taken.
        await reactor.perform(submit("t2"))
        with pytest.raises(BadReport):
            await reactor.perform(report("n2", started("t2"), finished("t1")))
        assert reactor.cluster.tasks["t2"].state is TaskState.ASSIGNED
        await check(reactor, store)


async def test_only_the_last_node_that_could_run_a_task_ends_it_by_refusing(
    store: GatedStore,
) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1", "n2")
        await reactor.perform(join("n1"))
        await reactor.perform(join("n2"))
        await reactor.perform(submit("t1"))
        listener = Listener(reactor)
        first = reactor.cluster.tasks["t1"].node_id
        await reactor.perform(report(first, refused("t1", kind=RefusalKind.POLICY)))
        second = reactor.cluster.tasks["t1"].node_id
        assert {first, second} == {"n1", "n2"}
        order = refused("t1", attempt=2, kind=RefusalKind.POLICY)
        await reactor.perform(report(second, order))
        task = await store.task("t1")
        assert task is not None
        assert task.state is TaskState.FAILED
        assert "refused it: no room for it" in task.detail
        assert Ended(task_id="t1") in listener.effects
        await check(reactor, store)


async def test_a_node_that_came_back_loses_nothing_to_its_old_lease(store: GatedStore) -> None:
    async with running(store) as reactor:
        await people(reactor, "n1")
        await reactor.perform(join("n1"))
        await reactor.perform(submit("t1"))
        assert await reactor.perform(lambda turn: commands.lose(turn, "n1", "late")) == 0
        assert reactor.cluster.tasks["t1"].state is TaskState.ASSIGNED
        assert "n1" in reactor.cluster.fleet


async def test_what_the_store_keeps_is_what_a_new_master_knows(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "db") as store:
        async with running(store) as reactor:
            await busy(reactor)
            await check(reactor, store)
            before = reactor.cluster
        async with running(store) as reactor:
            assert reactor.cluster.tasks == before.tasks
            assert reactor.cluster.attempts == before.attempts
            assert reactor.cluster.on_node == before.on_node
            await check(reactor, store)


async def test_a_commit_failure_of_the_real_store_is_survived(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "db") as store, running(store) as reactor:
        await people(reactor)
        before = picture(reactor.cluster)
        with pytest.raises(CallRefused, match="nothing was changed"):
            await reactor.perform(submit("t1", priority=2**70))
        assert picture(reactor.cluster) == before
        await reactor.perform(submit("t2"))
        await check(reactor, store)

"""A pushed node's questions, leases and deadlines, by a clock that a test owns.

The connection is the fault to be made, so it is a fake here; real ones are in tests/e2e.
"""

import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hivemind.core.messages import AttemptRef
from hivemind.core.policy import PoolRules
from hivemind.core.pushing import push_id
from hivemind.core.records import Attempt, Blob, Outcome, Requirements, Task, TaskState
from hivemind.core.registration import Intent, Registration
from hivemind.master import commands, push_commands
from hivemind.master.authority import Authority
from hivemind.master.founding import found
from hivemind.master.push_tools import PushTools
from hivemind.master.pushes import Pushes
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import InvalidToken
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.contract.push import PushReply
from hivemind.rpc.errors import ConnectFailed, RemoteError, RpcError, Status, Unreachable
from hivemind.store.blobs import BlobFolder
from hivemind.store.memory import MemoryStore
from tests.master.builders import MIB, account, check, new_task
from tests.master.gated import BEFORE, GatedStore

RULES = PoolRules(
    push_probe_s=5.0,
    push_lease_s=60.0,
    push_accept_s=30.0,
    stop_grace_s=10.0,
    refusal_bar_s=1.0,
    time_limit_grace_s=15.0,
)
SAID = Registration(hostname="far", port=1, cpu_cores=4, memory_gb=8)
NEEDS = Requirements(cpu_millis=1000, memory_bytes=MIB, scratch_bytes=0, pushable=True)


TAKEN = PushReply(True, "")


@attrs.define(eq=False)
class FakeNode:
    """The far end: what it does is what a test sets."""

    is_up: bool = True
    answers_checks: bool = True
    reply: PushReply | RpcError | None = TAKEN
    """None: never."""
    answers_stops: bool = True
    took: list[str] = attrs.field(factory=list)
    stopped: list[str] = attrs.field(factory=list)
    connected: list[tuple[str, int, float]] = attrs.field(factory=list)
    closed: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def connect(self, host: str, port: int, owner: str) -> AsyncIterator["FakeNode"]:
        self.connected.append((host, port, trio.current_time()))
        await trio.lowlevel.checkpoint()
        if not self.is_up:
            raise ConnectFailed("nobody listens")
        self.closed = trio.Event()
        yield self
        self.closed.set()

    def hang_up(self, *, is_up: bool = True) -> None:
        self.is_up = is_up
        self.closed.set()

    async def check(self) -> None:
        if not self.answers_checks:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async def execute(
        self,
        task_id: str,
        size: int,
        pieces: AsyncIterator[bytes],
        *,
        token: str,
        on_sending: Callable[[], None],
        on_sent: Callable[[], None],
    ) -> PushReply:
        on_sending()
        assert b"".join([piece async for piece in pieces]) == b"print()"
        on_sent()
        self.took.append(task_id)
        if self.reply is None:
            await self.closed.wait()
            raise Unreachable("it hung up")
        if isinstance(self.reply, RpcError):
            raise self.reply
        return self.reply

    async def stop(self, task_id: str, *, token: str) -> PushReply:
        if not self.answers_stops:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.stopped.append(task_id)
        return PushReply(True, "")


@attrs.define(eq=False)
class World:
    reactor: Reactor
    store: GatedStore
    pushes: Pushes
    far: FakeNode
    authority: Authority

    async def submit(self, name: str, **fields: Any) -> AttemptRef:
        """A task that is given out at once, if it can be."""
        new = attrs.evolve(
            new_task(name, requirements=NEEDS, **fields), payload=Blob(size=7, inline=b"print()")
        )
        await self.reactor.perform(lambda turn: commands.submit(turn, new, most_unfinished=1000))
        return AttemptRef(name, 1)

    def task(self, ref: AttemptRef) -> Task:
        return self.reactor.cluster.tasks[ref.task_id]

    async def attempts(self, ref: AttemptRef) -> tuple[Attempt, ...]:
        return await self.store.attempts(ref.task_id)

    async def ended(self, ref: AttemptRef) -> Task:
        task = await self.store.task(ref.task_id)
        assert task is not None
        assert task.state.is_end, task.state
        return task

    @property
    def is_connected(self) -> bool:
        state = self.reactor.cluster.fleet.nodes.get("far")
        return state is not None and state.connected

    async def report(self, ref: AttemptRef) -> None:
        """Any report on the attempt."""
        self.pushes.heard("far", ref)
        await self.reactor.perform(lambda turn: push_commands.begin(turn, "far", ref))

    async def register(self, node_id: str = "far", owner: str = "ann", **fields: Any) -> None:
        said = attrs.evolve(SAID, **fields)
        await self.reactor.perform(lambda turn: push_commands.register(turn, node_id, owner, said))
        self.pushes.watch(node_id)


async def passes(seconds: float) -> None:
    """Let time pass, and what it brings about happen."""
    await trio.sleep(seconds)
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, GatedStore(MemoryStore())) as made:
        await made.register()
        await passes(0.1)
        yield made
        await check(made.reactor, made.store)


@asynccontextmanager
async def open_world(
    folder: Path, store: GatedStore, connections: int = 64
) -> AsyncIterator[World]:
    reactor = Reactor(store, rules=lambda: RULES, wall_clock=trio.current_time)
    authority = Authority(reactor, clock=trio.current_time, random_bytes=secrets.token_bytes)
    far = FakeNode()
    pushes = Pushes(
        PushTools(
            reactor=reactor,
            store=store,
            blobs=BlobFolder(folder / "blobs", new_name=lambda: "unused"),
            authority=authority,
            rules=lambda: RULES,
            connections=ByteBudget(connections, wait_s=1.0),
            connect=far.connect,
        )
    )
    reactor.on_published = lambda _, effects: pushes.dispatch(effects)
    reactor.on_reload = pushes.reload
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        await found(reactor, clock=trio.current_time, random_bytes=secrets.token_bytes)

        def settle_in(turn: Any) -> None:
            for name in ("ann", "bob"):
                if turn.account(name) is None:
                    turn.put_account(account(name))

        await reactor.perform(settle_in)
        await nursery.start(pushes.run)
        yield World(reactor, store, pushes, far, authority)
        nursery.cancel_scope.cancel()


async def test_a_task_is_given_and_its_acceptance_is_its_start(
    autojump_clock: object, world: World
) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    assert world.far.took == [push_id(ref)]
    assert world.task(ref).state is TaskState.RUNNING


async def test_a_node_that_was_never_reached_is_given_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with open_world(tmp_path, GatedStore(MemoryStore())) as world:
        world.far.is_up = False
        await world.register()
        ref = await world.submit("a")
        await passes(30)
        assert world.task(ref).state is TaskState.QUEUED
        world.far.is_up = True
        await passes(60)
        assert world.task(ref).state is TaskState.RUNNING


async def test_a_node_that_is_away_is_asked_less_and_less_often(
    autojump_clock: object, world: World
) -> None:
    world.far.hang_up(is_up=False)
    await passes(600)
    times = [at for _, _, at in world.far.connected]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert max(gaps[-5:]) <= 60.1
    assert 5 < len(times) < 40


async def test_what_a_silent_node_had_is_lost_with_its_lease_and_stopped_when_it_is_back(
    autojump_clock: object,
    world: World,
) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    world.far.answers_checks = False
    await passes(50)
    assert world.task(ref).state is TaskState.RUNNING
    assert not world.is_connected
    await passes(20)
    assert world.task(ref).state is TaskState.QUEUED
    assert world.task(ref).crashes == 1
    assert "far" not in world.reactor.cluster.fleet
    world.far.reply = PushReply(False, "not now")
    world.far.answers_checks = True
    await passes(130)
    assert world.far.stopped[0] == push_id(ref)


async def test_reports_alone_keep_what_a_node_has(autojump_clock: object, world: World) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    world.far.answers_checks = False
    for _ in range(10):
        await passes(30)
        await world.report(ref)
    assert world.task(ref).state is TaskState.RUNNING
    # It does not answer, so it is given no more.
    assert not world.is_connected


async def test_a_push_that_is_not_answered_is_lost_and_its_attempt_stopped(
    autojump_clock: object, world: World
) -> None:
    world.far.reply = None
    ref = await world.submit("a")
    await passes(29)
    assert world.task(ref).state is TaskState.ASSIGNED
    world.far.reply = PushReply(True, "")
    await passes(10)
    assert world.far.stopped == [push_id(ref)]
    assert (world.task(ref).attempt, world.task(ref).crashes) == (2, 0)
    assert [one.outcome for one in await world.attempts(ref)] == [Outcome.LOST, None]


async def test_one_that_reports_meanwhile_may_take_its_time_to_answer(
    autojump_clock: object, world: World
) -> None:
    world.far.reply = None
    ref = await world.submit("a", wall_s=3600.0)
    await passes(10)
    await world.report(ref)
    await passes(1000)
    assert world.task(ref).state is TaskState.RUNNING
    assert (await world.attempts(ref))[0].outcome is None


async def test_after_its_connection_broke_an_attempt_must_show_itself(
    autojump_clock: object, world: World
) -> None:
    quiet, loud = await world.submit("quiet"), await world.submit("loud")
    await passes(0.1)
    world.far.hang_up()
    for _ in range(3):
        await passes(25)
        await world.report(loud)
    assert world.task(loud).attempt == 1
    assert world.task(quiet).attempt == 2
    assert push_id(quiet) in world.far.stopped


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (PushReply(False, "full\nof it"), Outcome.REFUSED),
        (RemoteError(Status.RESOURCE_EXHAUSTED, None, "full"), Outcome.REFUSED),
        (RemoteError(Status.UNIMPLEMENTED, None, "what?"), Outcome.REFUSED),
        (RemoteError(Status.UNAVAILABLE, None, "gone"), Outcome.LOST),
        (Unreachable("cut off"), Outcome.LOST),
    ],
)
async def test_whoever_will_not_take_a_task_is_not_asked_again_for_a_while(
    autojump_clock: object, world: World, reply: PushReply | RpcError, outcome: Outcome
) -> None:
    world.far.reply = reply
    ref = await world.submit("a")
    await passes(0.5)
    (attempt,) = await world.attempts(ref)
    assert attempt.outcome is outcome
    assert "\n" not in attempt.detail
    assert world.task(ref).state is TaskState.QUEUED
    world.far.reply = PushReply(True, "")
    await passes(8)
    assert world.task(ref).state is TaskState.RUNNING


async def test_a_node_that_answers_no_push_is_tried_less_and_less_often(
    autojump_clock: object, world: World
) -> None:
    world.far.reply = None
    await world.submit("a")
    await passes(1000)
    # At first after 30 s and a short rest; in the end after 30 s and a minute's.
    assert 9 <= len(world.far.took) <= 16
    assert world.task(AttemptRef("a", 1)).crashes == 0


async def test_a_refusal_after_reports_is_a_failure(autojump_clock: object, world: World) -> None:
    world.far.reply = None
    ref = await world.submit("a")
    await passes(1)
    await world.report(ref)
    await world.reactor.perform(lambda turn: push_commands.refuse(turn, "far", ref, "it broke"))
    assert (await world.ended(ref)).state is TaskState.FAILED


async def test_a_stop_that_is_not_shown_is_unconfirmed_and_the_node_must_answer_first(
    autojump_clock: object,
    world: World,
) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    world.far.answers_stops = world.far.answers_checks = False
    await world.reactor.perform(lambda turn: commands.stop(turn, "a", "ann"))
    await passes(9)
    assert world.task(ref).state is TaskState.RUNNING
    await passes(2)
    end = await world.ended(ref)
    assert (end.state, end.unconfirmed) == (TaskState.STOPPED, True)
    assert (await world.attempts(ref))[0].unconfirmed
    assert world.reactor.cluster.nodes["far"].unconfirmed == 1
    assert not world.is_connected
    world.far.answers_stops = world.far.answers_checks = True
    await passes(20)
    assert world.is_connected
    assert world.far.stopped == [push_id(ref)]


async def test_a_stop_that_is_shown_is_confirmed(autojump_clock: object, world: World) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    await world.reactor.perform(lambda turn: commands.stop(turn, "a", "ann"))
    await passes(1)
    await world.reactor.perform(
        lambda turn: push_commands.complete(turn, "far", ref, success=False)
    )
    await passes(20)
    end = await world.ended(ref)
    assert (end.state, end.unconfirmed) == (TaskState.STOPPED, False)
    assert world.is_connected


async def test_the_time_limit_is_the_masters_to_keep(autojump_clock: object, world: World) -> None:
    ref = await world.submit("a", wall_s=20.0)
    await passes(34)
    assert world.task(ref).state is TaskState.RUNNING
    await passes(2)
    end = await world.ended(ref)
    assert (end.state, end.unconfirmed) == (TaskState.TIMED_OUT, True)
    assert world.far.stopped == [push_id(ref)]


async def test_a_changed_address_is_where_the_node_is_from_then_on(
    autojump_clock: object, world: World
) -> None:
    ref = await world.submit("a")
    await passes(0.1)
    await world.register(hostname="elsewhere", port=2, cpu_cores=2)
    await passes(10)
    assert world.far.connected[-1][:2] == ("elsewhere", 2)
    assert world.task(ref).state is TaskState.RUNNING
    state = world.reactor.cluster.fleet.nodes["far"]
    assert (state.capacity.slots, state.running, state.trust) == (2, 1, 50)


async def test_addresses_that_change_all_the_time_are_called_once_in_a_while(
    autojump_clock: object, world: World
) -> None:
    world.far.is_up = False
    begun_at = trio.current_time()
    for port in range(1, 101):
        said = attrs.evolve(SAID, port=port)
        await world.reactor.perform(
            lambda turn, s=said: push_commands.register(turn, "n", "ann", s)
        )
        world.pushes.watch("n")
        await trio.sleep(0.1)
    assert trio.current_time() - begun_at < 11
    assert 9 <= len(world.far.connected) <= 11


async def test_a_node_that_is_offline_by_its_own_word_is_not_asked(
    autojump_clock: object, world: World
) -> None:
    await world.reactor.perform(lambda turn: push_commands.set_intent(turn, "far", Intent.OFFLINE))
    world.pushes.watch("far")
    await passes(1)
    before = len(world.far.connected)
    await passes(300)
    assert len(world.far.connected) == before
    assert not world.is_connected
    await world.register()
    await passes(10)
    assert world.is_connected


async def test_after_a_restart_what_the_node_may_not_know_of_is_given_anew(
    tmp_path: Path, autojump_clock: object
) -> None:
    store = GatedStore(MemoryStore())
    async with open_world(tmp_path, store) as world:
        await world.register()
        await passes(0.1)
        known = await world.submit("known")
        await passes(0.1)
        world.far.reply = None
        asked = await world.submit("asked")
        await passes(0.1)
        assert world.task(asked).state is TaskState.ASSIGNED
    async with open_world(tmp_path, store) as world:
        await passes(2)
        assert (world.task(known).state, world.task(known).attempt) == (TaskState.RUNNING, 1)
        assert (world.task(asked).state, world.task(asked).attempt) == (TaskState.RUNNING, 2)
        assert world.far.stopped == [push_id(asked)]


async def test_what_the_store_would_not_take_is_said_again(
    autojump_clock: object, world: World
) -> None:
    world.far.reply = None
    ref = await world.submit("a")
    await passes(1)
    world.far.reply = PushReply(True, "")
    world.store.faults = [BEFORE, BEFORE, BEFORE]
    await passes(40)
    assert world.task(ref).attempt == 2


async def test_an_account_with_many_nodes_leaves_connections_to_others(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with open_world(tmp_path, GatedStore(MemoryStore()), connections=4) as world:
        for number in range(6):
            await world.register(f"a{number}")
        await passes(10)
        await world.register("b", owner="bob")
        await passes(100)
        here = [node.account for node in world.reactor.cluster.fleet.nodes.values()]
        assert sorted(here) == ["ann", "ann", "bob"]


async def test_what_the_master_shows_a_node_is_believed_by_that_node_alone(
    autojump_clock: object, world: World
) -> None:
    token = world.authority.push_token(world.reactor.cluster.nodes["far"], 60.0)
    with pytest.raises(InvalidToken):
        world.authority.principal(token)
    own = attrs.evolve(world.reactor.cluster.nodes["far"], id="hivemind-master")
    with pytest.raises(ValueError, match="called"):
        world.authority.push_token(own, 60.0)

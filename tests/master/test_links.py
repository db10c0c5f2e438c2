from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from hivemind.core.admission import Ask
from hivemind.core.messages import (
    Acknowledged,
    Assignment,
    AttemptRef,
    DrainNotice,
    KillOrder,
    OutputHeld,
    Renewed,
    StopOrder,
    Welcome,
)
from hivemind.core.policy import PoolRules
from hivemind.core.records import Outcome, PayloadKind, Reason, Task, TaskState, Vitals
from hivemind.master.session import GiveOrder, Session
from hivemind.rpc.channel import Channel
from hivemind.rpc.contract.link import LinkClient
from hivemind.rpc.contract.specs import decode_spec
from hivemind.rpc.contract.tasks import TasksClient
from hivemind.rpc.errors import ErrorCode, RemoteError
from hivemind.store.failing import Fault
from hivemind.store.sqlite import open_sqlite_store
from tests.master.builders import check, failed, finished, hello, refused, started
from tests.master.gated import AFTER, BEFORE, GatedStore
from tests.master.pool import (
    Link,
    Pool,
    chunks,
    open_link,
    open_pool,
    output,
    submission,
    submit,
    until,
)

MIB = 1024 * 1024
VITALS = Vitals(
    cpu_percent=1,
    memory_used_bytes=1,
    memory_total_bytes=2,
    load_1m=0,
    disk_free_bytes=1,
    running=0,
)
QUICK = PoolRules(lease_s=0.3, heartbeat_s=0.05)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path) as made:
        yield made


def task_of(pool: Pool, task_id: str) -> Task:
    return pool.reactor.cluster.tasks[task_id]


async def ended(pool: Pool, task_id: str) -> Task:
    await until(lambda: task_id not in pool.reactor.cluster.tasks)
    task = await pool.store.task(task_id)
    assert task is not None
    return task


async def given(pool: Pool, link: Link, **fields: Any) -> str:
    """A task that the link's worker was given."""
    async with pool.tasks_of("ann") as client:
        task_id = await submit(client, **fields)
    got = await link.hear(Assignment)
    assert got.ref.task_id == task_id
    return task_id


async def printed(pool: Pool, task_id: str, attempt: int = 1) -> bytes:
    place = (await pool.output.log(task_id, attempt)).follow()
    return b"".join([chunk.data for chunk in await place.next_batch()])


# --- a task's way over the link ---


async def test_a_task_is_given_run_and_its_end_acknowledged(pool: Pool) -> None:
    async with pool.link("n1") as link, pool.tasks_of("bob") as client:
        welcome = await link.join()
        assert (welcome.lease_s, welcome.heartbeat_s, welcome.epoch) == (15.0, 2.0, 1)
        submitted = await client.submit(
            submission(PayloadKind.SCRIPT, has_stdin=True), chunks(b"print(1)", b"in")
        )
        got = await link.hear(Assignment)
        ref = AttemptRef(submitted.task_id, 1)
        assert (got.ref, got.account, got.payload, got.stdin) == (ref, "bob", b"print(1)", b"in")
        assert (got.payload_to_fetch, got.stdin_to_fetch) == (0, 0)
        assert decode_spec(got.spec).kind is PayloadKind.SCRIPT
        await link.say(started(ref.task_id), output(ref.task_id, 0, b"hel"))
        await link.say(
            output(ref.task_id, 3, b"lo"), finished(ref.task_id, output_bytes=5, result=b"tar")
        )
        assert await link.hear(Acknowledged) == Acknowledged(ref, 2)
        task = await ended(pool, ref.task_id)
        assert task.state is TaskState.SUCCEEDED
        assert await printed(pool, ref.task_id) == b"hello"
        blob = await pool.store.result(ref.task_id, 1)
        assert blob is not None
        assert blob.inline == b"tar"
        await check(pool.reactor, pool.store)


async def test_large_inputs_are_fetched_by_whom_they_were_given_to(pool: Pool) -> None:
    payload, stdin = b"#!/bin/sh\n" + bytes(300_000), bytes(200_000)
    async with pool.link("n1") as link, pool.tasks_of("ann") as client:
        await link.join()
        submitted = await client.submit(
            submission(PayloadKind.SCRIPT, has_stdin=True), chunks(payload, stdin)
        )
        got = await link.hear(Assignment)
        assert (got.payload, got.payload_to_fetch) == (None, len(payload))
        assert (got.stdin, got.stdin_to_fetch) == (None, len(stdin))
        assert (
            b"".join([c async for c in link.client.fetch_payload(got.ref, stdin=False)]) == payload
        )
        assert b"".join([c async for c in link.client.fetch_payload(got.ref, stdin=True)]) == stdin
        async with pool.channel(pool.node_token("n2")) as other:
            with pytest.raises(RemoteError) as refusal:
                await anext(LinkClient(other).fetch_payload(got.ref, stdin=False))
        assert refusal.value.code is ErrorCode.TASK_NOT_FOUND
        with pytest.raises(RemoteError):
            await anext(link.client.fetch_payload(AttemptRef(submitted.task_id, 2), stdin=False))


async def test_an_avalanche_of_assignments_comes_in_messages_that_can_be_read(pool: Pool) -> None:
    async with pool.link("n1") as link, pool.tasks_of("ann") as client:
        body = b"#" * 60_000
        for _ in range(100):
            await client.submit(submission(PayloadKind.SCRIPT, has_stdin=True), chunks(body, body))
        await link.say(hello(1000))
        await link.hear(Welcome)
        refs = {(await link.hear(Assignment)).ref for _ in range(64)}  # what 64 GB of memory take
        assert len(refs) == 64


async def test_stop_reaches_the_node_and_its_report_ends_the_task(pool: Pool) -> None:
    async with pool.link("n1") as link, pool.tasks_of("ann") as client:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id))
        await client.stop(task_id)
        assert await link.hear(StopOrder) == StopOrder(AttemptRef(task_id, 1))
        await link.say(
            finished(task_id, outcome=Outcome.STOPPED, reason=Reason.STOPPED, exit_code=None)
        )
        await link.hear(Acknowledged)
        assert (await ended(pool, task_id)).state is TaskState.STOPPED


async def test_a_refused_task_goes_elsewhere(pool: Pool) -> None:
    async with pool.link("n1") as one, pool.link("n2") as two:
        await one.join(1)
        task_id = await given(pool, one)
        await two.join(1)
        await one.say(refused(task_id))
        await one.hear(Acknowledged)
        assert (await two.hear(Assignment)).ref == AttemptRef(task_id, 2)


async def test_a_draining_node_is_given_nothing_more(pool: Pool) -> None:
    async with pool.link("n1") as link, pool.tasks_of("ann") as client:
        await link.join()
        await link.say(DrainNotice())
        await until(lambda: pool.reactor.cluster.fleet.node("n1").draining)
        await submit(client)
        await link.hear_nothing()


async def test_each_heartbeat_is_answered(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        await link.say(VITALS)
        await link.hear(Renewed)
        session = pool.links.session("n1")
        assert session is not None
        assert session.vitals == VITALS


# --- coming back ---


async def test_a_node_that_comes_back_goes_on_with_what_it_holds(
    pool: Pool, tmp_path: Path
) -> None:
    async with pool.link("n1") as link:
        await link.join()
        kept, lost = await given(pool, link), await given(pool, link)
        stopped = await given(pool, link)
        for id_ in (kept, lost, stopped):
            await link.say(started(id_), output(id_, 0, b"12345"))
        await until(lambda: task_of(pool, stopped).state is TaskState.RUNNING)
        await until(lambda: (tmp_path / "output" / stopped / "1.log").exists())
    async with pool.tasks_of("ann") as client:
        await client.stop(stopped)
    async with pool.link("n1") as link:
        stranger = AttemptRef("01arz3ndektsv4rrffq69g5fav", 1)
        refs = [AttemptRef(kept, 1), AttemptRef(stopped, 1)]
        welcome = await link.join(4, *refs, stranger)
        assert welcome.held == tuple(OutputHeld(ref, 5) for ref in refs)
        assert welcome.unwanted == (stranger,)
        assert await link.hear(StopOrder) == StopOrder(refs[1])
        # It holds the third no longer, so that was lost while it ran, and is tried again.
        assert (await link.hear(Assignment)).ref == AttemptRef(lost, 2)
        assert task_of(pool, lost).crashes == 1
        await link.say(output(kept, 0, b"1234567"), finished(kept, output_bytes=7))
        await link.hear(Acknowledged)
        assert await printed(pool, kept) == b"1234567"
        await check(pool.reactor, pool.store)


async def test_a_final_report_that_waited_for_the_link_is_taken(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
    async with pool.link("n1") as link:
        ref = AttemptRef(task_id, 1)
        # All in one message, right behind the hello.
        await link.say(hello(4, ref), output(task_id, 0, b"x"), finished(task_id, output_bytes=1))
        await link.hear(Welcome)
        assert await link.hear(Acknowledged) == Acknowledged(ref, 2)
        assert (await ended(pool, task_id)).state is TaskState.SUCCEEDED


async def test_a_report_that_comes_again_is_acknowledged_again(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id), finished(task_id))
        await link.hear(Acknowledged)
        for _ in range(3):
            await link.say(started(task_id), finished(task_id))
            assert await link.hear(KillOrder) == KillOrder(AttemptRef(task_id, 1))
            assert await link.hear(Acknowledged) == Acknowledged(AttemptRef(task_id, 1), 2)


async def test_what_a_silent_node_had_is_lost_when_its_lease_ends(tmp_path: Path) -> None:
    async with open_pool(tmp_path, rules=QUICK) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
            await link.say(started(task_id))
            await until(lambda: task_of(pool, task_id).state is TaskState.RUNNING)
            assert isinstance(error := await link.end(), RemoteError)
            assert "the lease ended" in str(error)
        await until(lambda: task_of(pool, task_id).state is TaskState.QUEUED)
        task = task_of(pool, task_id)
        assert task.crashes == 1
        assert "silent for 0.3 s" in task.detail
        assert "n1" not in pool.reactor.cluster.fleet
        await check(pool.reactor, pool.store)
        # What it still says of the attempt when it is back is not wanted.
        async with pool.link("n1") as link:
            welcome = await link.join(0, AttemptRef(task_id, 1))
            assert welcome.unwanted == (AttemptRef(task_id, 1),)
            await link.say(output(task_id, 0, b"late"))
            assert await link.hear(KillOrder) == KillOrder(AttemptRef(task_id, 1))
            assert await printed(pool, task_id) == b""


async def test_a_node_that_comes_back_within_its_lease_loses_nothing(tmp_path: Path) -> None:
    async with open_pool(tmp_path, rules=PoolRules(lease_s=0.6, heartbeat_s=0.05)) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
            await link.say(started(task_id))
            await until(lambda: task_of(pool, task_id).state is TaskState.RUNNING)
        await until(lambda: not pool.reactor.cluster.fleet.node("n1").connected)
        async with pool.link("n1") as link:
            await link.join(4, AttemptRef(task_id, 1))
            for _ in range(16):  # well beyond the end of the old lease
                await link.say(VITALS)
                await link.hear(Renewed)
                await trio.sleep(0.05)
            assert task_of(pool, task_id).state is TaskState.RUNNING
            assert pool.reactor.cluster.fleet.node("n1").is_schedulable


async def test_a_link_without_a_hello_gains_no_time(tmp_path: Path) -> None:
    async with open_pool(tmp_path, rules=QUICK) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
            await link.say(started(task_id))
            await until(lambda: task_of(pool, task_id).state is TaskState.RUNNING)
        links = 0
        with trio.fail_after(5):
            while task_of(pool, task_id).crashes == 0:
                async with pool.link("n1") as link:
                    links += 1
                    with trio.move_on_after(0.05):
                        await link.hear(Welcome)
        assert links > 1


async def test_nodes_that_had_work_when_the_master_stopped_get_a_lease(tmp_path: Path) -> None:
    async with (
        open_pool(tmp_path, rules=QUICK) as pool,
        pool.link("n1") as one,
        pool.link("n2") as two,
        pool.tasks_of("ann") as client,
    ):
        await one.join(1)
        await two.join(1)
        ids = [await submit(client), await submit(client)]
        mine = (await one.hear(Assignment)).ref
        theirs = (await two.hear(Assignment)).ref
        await one.say(started(mine.task_id))
        await two.say(started(theirs.task_id))
        await until(lambda: {task_of(pool, id_).state for id_ in ids} == {TaskState.RUNNING})
        store = pool.store
    async with (
        open_pool(tmp_path, rules=QUICK, store=store) as pool,
        pool.link("n1") as one,
    ):
        welcome = await one.join(1, mine)
        assert [held.ref for held in welcome.held] == [mine]
        assert welcome.epoch == 2
        with trio.fail_after(5):
            while task_of(pool, theirs.task_id).state is TaskState.RUNNING:
                await one.say(VITALS)
                await trio.sleep(0.05)
        assert task_of(pool, mine.task_id).state is TaskState.RUNNING
        await check(pool.reactor, pool.store)


async def test_a_newer_link_of_a_node_ends_the_older(pool: Pool) -> None:
    async with pool.link("n1") as older:
        await older.join()
        task_id = await given(pool, older)
        async with pool.link("n1") as newer:
            await newer.join(4, AttemptRef(task_id, 1))
            error = await older.end()
            assert isinstance(error, RemoteError)
            assert error.status.name == "ABORTED"
            await newer.say(started(task_id), finished(task_id))
            await newer.hear(Acknowledged)


async def test_links_that_overlap_leave_one_that_works(tmp_path: Path) -> None:
    rules = PoolRules(lease_s=0.4, heartbeat_s=0.05)
    async with open_pool(tmp_path, rules=rules) as pool:
        for _ in range(5):

            async def connect() -> None:
                async with pool.link("n1") as link:
                    await link.say(hello())
                    await link.end()

            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(connect)
                await until(lambda: pool.links.session("n1") is not None)
                await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
            await link.say(started(task_id))
            for _ in range(14):  # longer than any lease that an older link left behind
                await link.say(VITALS)
                await link.hear(Renewed)
                await trio.sleep(0.05)
            assert task_of(pool, task_id).state is TaskState.RUNNING
            assert pool.reactor.cluster.fleet.node("n1").is_schedulable
            assert pool.links._leases == {}
            assert set(pool.links._sessions) == {"n1"}


async def test_a_node_that_left_while_its_hello_was_stored_is_known_to_be_away(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
    await until(lambda: not pool.reactor.cluster.fleet.node("n1").connected)
    pool.store.gate = trio.Event()
    async with pool.link("n1") as link, trio.open_nursery() as nursery:
        await link.say(hello())
        nursery.start_soon(link.end)  # it reads, and hears nothing
        await until(lambda: pool.store.is_held)
        nursery.cancel_scope.cancel()
    await until(lambda: pool.links.session("n1") is None)
    pool.store.gate.set()
    seen = pool.reactor.cluster.nodes["n1"].last_seen_at
    await until(lambda: pool.reactor.cluster.nodes["n1"].last_seen_at > seen)
    await until(lambda: not pool.reactor.cluster.fleet.node("n1").connected)
    assert set(pool.links._leases) == {"n1"}


async def test_an_attempt_that_is_over_is_not_given_out_though_none_followed_it(
    tmp_path: Path,
) -> None:
    async with open_pool(tmp_path, rules=QUICK) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
        await until(lambda: task_of(pool, task_id).state is TaskState.QUEUED)
        session = Session("n1", pool.links._tools, on_joined=lambda: None)
        session.is_welcome = True
        session.order(GiveOrder(AttemptRef(task_id, 1)))
        session.order(Renewed())
        async with aclosing(session.orders()) as orders:
            assert await anext(orders) == (Renewed(),)


# --- what may not be said ---


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ((VITALS,), "begin with a hello"),
        ((), "begin with a hello"),
        ((hello(), hello()), "one hello"),
    ],
)
async def test_a_link_that_begins_otherwise_is_cut(pool: Pool, items: Any, text: str) -> None:
    async with pool.link("n1") as link:
        await link.say(*items)
        error = await link.end()
        assert isinstance(error, RemoteError)
        assert text in str(error)


async def test_repeated_output_is_skipped_and_a_gap_cuts_the_link(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id), output(task_id, 0, b"abc"))
        await link.say(output(task_id, 0, b"abc"), output(task_id, 2, b"cde"))
        await link.say(output(task_id, 9, b"gap"))
        error = await link.end()
        assert isinstance(error, RemoteError)
        assert "goes on at byte 9; 5 are known" in str(error)
    async with pool.link("n1") as link:
        welcome = await link.join(4, AttemptRef(task_id, 1))
        assert welcome.held == (OutputHeld(AttemptRef(task_id, 1), 5),)


async def test_a_final_report_before_all_its_output_cuts_the_link(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id), output(task_id, 0, b"abc"))
        await link.say(finished(task_id, output_bytes=9))
        assert "9 bytes of output, and 3 came" in str(await link.end())
    assert task_of(pool, task_id).state is TaskState.RUNNING


async def test_a_node_has_no_say_over_what_another_was_given(pool: Pool) -> None:
    async with pool.link("n1") as one, pool.link("n2") as two:
        await one.join()
        task_id = await given(pool, one)
        await two.join(0)
        await two.say(output(task_id, 0, b"forged"))
        assert await two.hear(KillOrder) == KillOrder(AttemptRef(task_id, 1))
        await two.say(finished(task_id))
        assert "which was given to node n1" in str(await two.end())
        assert task_of(pool, task_id).state is TaskState.ASSIGNED
        assert await printed(pool, task_id) == b""
        with pytest.raises(RemoteError) as refusal:
            await two.client.finish_with_result(finished(task_id), Large())
        assert refusal.value.code is ErrorCode.TASK_NOT_FOUND
        assert pool.files() == []
        # Nor does it get to hold it by saying that it does.
        async with pool.link("n2") as again:
            welcome = await again.join(0, AttemptRef(task_id, 1))
            assert welcome.unwanted == (AttemptRef(task_id, 1),)
        await one.say(started(task_id), finished(task_id))
        await one.hear(Acknowledged)


async def test_a_task_that_prints_too_much_ends_alone(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        loud = await given(pool, link, ask=Ask(policy="tight"))
        other = await given(pool, link)
        await link.say(started(loud), started(other), output(loud, 0, b"x" * 900))
        await link.say(output(loud, 900, b"y" * 200), output(other, 0, b"fine"))
        assert await link.hear(KillOrder) == KillOrder(AttemptRef(loud, 1))
        task = await ended(pool, loud)
        assert (task.state, task.reason) == (TaskState.FAILED, Reason.OUTPUT_LIMIT)
        assert "more than 1000 bytes of output" in task.detail
        assert await printed(pool, loud) == b"x" * 900
        await link.say(finished(other, output_bytes=4))
        await link.hear(Acknowledged)
        await check(pool.reactor, pool.store)


async def test_a_node_that_lets_a_task_print_more_than_it_may_is_trusted_less(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        loud = await given(pool, link, ask=Ask(output_bytes=1000))
        other = await given(pool, link)
        piece = b"x" * (MIB // 2)
        for task_id in (loud, other):
            await link.say(started(task_id), output(task_id, 0, piece))
            await link.say(output(task_id, len(piece), piece))
        # A sandbox's last piece is taken whole.
        await link.say(output(loud, MIB, b"y" * 1000), output(other, MIB, b"y" * 1001))
        await link.say(output(loud, MIB + 1000, b"z"))
        assert await link.hear(KillOrder) == KillOrder(AttemptRef(loud, 1))
        assert (await ended(pool, loud)).reason is Reason.OUTPUT_LIMIT
        assert pool.reactor.cluster.nodes["n1"].trust < 50
        await link.say(finished(other, output_bytes=MIB + 1001))
        await link.hear(Acknowledged)


async def test_a_result_too_large_for_a_report_is_refused_there(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(finished(task_id, result=bytes(70_000)))
        assert "comes apart" in str(await link.end())


@pytest.mark.parametrize("seq", [2**63, 2**62 + 1])
async def test_a_number_that_no_store_keeps_cuts_only_its_link(pool: Pool, seq: int) -> None:
    async with pool.link("n1") as link, pool.tasks_of("ann") as client:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id, seq=seq))
        assert "more than this pool counts to" in str(await link.end())
        await submit(client)


async def test_the_highest_number_leaves_the_master_one_to_end_the_attempt_with(
    tmp_path: Path,
) -> None:
    async with (
        open_sqlite_store(tmp_path / "master.db") as store,
        open_pool(tmp_path, store=GatedStore(store)) as pool,
        pool.link("n1") as link,
    ):
        await link.join()
        loud = await given(pool, link, ask=Ask(policy="tight"))
        await link.say(started(loud, seq=2**62))
        await link.say(output(loud, 0, b"x" * 1900))
        assert await link.hear(KillOrder) == KillOrder(AttemptRef(loud, 1))
        assert (await ended(pool, loud)).reason is Reason.OUTPUT_LIMIT


async def test_a_node_that_takes_no_orders_is_cut_off_and_holds_nobody_up(pool: Pool) -> None:
    async with pool.channel(pool.node_token("n1")) as channel, pool.link("n2") as good:
        # It never reads: its orders pile up at the master, up to a limit.
        welcome = trio.Event()

        class Flood:
            is_begun = False

            def __aiter__(self) -> "Flood":
                return self

            async def __anext__(self) -> tuple[Any, ...]:
                if not self.is_begun:
                    self.is_begun = True
                    return (hello(0),)
                await welcome.wait()
                # Each is answered, and the answers are as long as the names that it makes up.
                return (VITALS, *[finished(f"{number}" * 2000) for number in range(100)])

        replies = LinkClient(channel).connect(Flood())
        await anext(replies)
        welcome.set()
        await until(lambda: pool.links.session("n1") is None)
        await good.join()
        task_id = await given(pool, good)
        await good.say(started(task_id), finished(task_id))
        await good.hear(Acknowledged)
        await replies.aclose()


async def test_a_slow_link_delays_no_other(pool: Pool) -> None:
    async with pool.link("n1") as slow, pool.link("n2") as good, pool.tasks_of("ann") as client:
        await slow.join(30)
        body = b"#" * 60_000
        for _ in range(30):  # more than its window, and it reads nothing
            await client.submit(submission(PayloadKind.SCRIPT, has_stdin=True), chunks(body, body))
        await good.join(40)
        with trio.fail_after(5):
            for _ in range(20):
                task_id = await given(pool, good)
                await good.say(started(task_id), finished(task_id))
                await good.hear(Acknowledged)


async def test_a_worker_that_vanishes_is_no_fault(pool: Pool) -> None:
    with capture_logs() as logs:
        async with pool.link("n1") as link:
            await link.join()
        await until(lambda: pool.links.session("n1") is None)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


# --- results that come apart ---


BYTES = b"".join(bytes([number]) * 100_000 for number in range(3))


class Large:
    """A large result in pieces; nothing is left of it when nobody reads it to its end."""

    def __init__(self) -> None:
        self._left = BYTES

    def __aiter__(self) -> "Large":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StopAsyncIteration
        piece, self._left = self._left[:100_000], self._left[100_000:]
        return piece


async def test_a_result_that_comes_apart_is_kept_once_however_often_it_comes(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id), output(task_id, 0, b"out"))
        report = finished(task_id, output_bytes=3)
        for _ in range(3):  # as after answers that were lost
            await link.client.finish_with_result(report, Large())
            (file,) = pool.files()
        task = await ended(pool, task_id)
        assert task.state is TaskState.SUCCEEDED
        (attempt,) = await pool.store.attempts(task_id)
        assert attempt.result_bytes == 300_000
        blob = await pool.store.result(task_id, 1)
        assert blob is not None
        assert file == f"blobs/{blob.file}"
        assert await pool.blobs.read(blob) == BYTES


async def test_the_same_result_sent_twice_at_once_leaves_one_file(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        report = finished(task_id)

        async def send() -> None:
            async with pool.channel(pool.node_token("n1")) as channel:
                await LinkClient(channel).finish_with_result(report, Large())

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(send)
        assert len(pool.files()) == 1


async def test_a_report_on_an_attempt_that_is_over_is_answered_and_dropped(tmp_path: Path) -> None:
    async with open_pool(tmp_path, rules=QUICK) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
        await until(lambda: task_of(pool, task_id).state is TaskState.QUEUED)
        async with pool.channel(pool.node_token("n1")) as channel:
            await LinkClient(channel).finish_with_result(finished(task_id), Large())
            with pytest.raises(RemoteError):
                await LinkClient(channel).finish_with_result(finished(task_id, attempt=2), Large())
        assert task_of(pool, task_id).state is TaskState.QUEUED
        assert pool.files() == []


async def test_a_result_waits_for_its_output(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        await link.say(started(task_id), output(task_id, 0, b"ab"))
        async with trio.open_nursery() as nursery:
            report = finished(task_id, output_bytes=4)
            nursery.start_soon(link.client.finish_with_result, report, Large())
            await trio.sleep(0.1)
            assert task_of(pool, task_id).state is TaskState.RUNNING
            await link.say(output(task_id, 2, b"cd"))
        assert (await ended(pool, task_id)).state is TaskState.SUCCEEDED


async def test_a_result_over_its_limit_is_refused_and_leaves_no_file(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        pool.links._most_result_bytes = lambda policy: 200_000
        with pytest.raises(RemoteError) as refusal:
            await link.client.finish_with_result(finished(task_id), Large())
        assert refusal.value.status.name == "INVALID_ARGUMENT"
        assert pool.files() == []
        assert task_of(pool, task_id).state is TaskState.ASSIGNED


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
async def test_a_result_whose_commit_fails_is_neither_lost_nor_doubled(
    tmp_path: Path, fault: Fault
) -> None:
    async with open_pool(tmp_path) as pool:
        async with pool.link("n1") as link:
            await link.join()
            task_id = await given(pool, link)
            pool.store.faults = [fault]
            with pytest.raises(RemoteError):
                await link.client.finish_with_result(finished(task_id), Large())
            files = pool.files()
            assert len(files) == (0 if fault is BEFORE else 1)
        async with pool.channel(pool.node_token("n1")) as channel:
            if fault is BEFORE:
                with trio.fail_after(5):
                    await LinkClient(channel).finish_with_result(finished(task_id), Large())
            else:
                await LinkClient(channel).finish_with_result(finished(task_id), Large())
        assert (await ended(pool, task_id)).state is TaskState.SUCCEEDED
        blob = await pool.store.result(task_id, 1)
        assert blob is not None
        assert pool.files() == [f"blobs/{blob.file}"]


async def test_a_sender_that_vanishes_leaves_no_file(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)

        async def stuck() -> AsyncIterator[bytes]:
            yield bytes(200_000)
            await trio.sleep_forever()

        with trio.move_on_after(0.2):
            await link.client.finish_with_result(finished(task_id), stuck())
    await until(lambda: pool.files() == [])


# --- when something else breaks ---


async def test_a_commit_that_fails_cuts_the_link_and_the_report_comes_again(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        pool.store.faults = [BEFORE]
        await link.say(started(task_id), finished(task_id))
        assert "nothing was changed" in str(await link.end())
    async with pool.link("n1") as link:
        await link.join(4, AttemptRef(task_id, 1))
        await link.say(started(task_id), finished(task_id))
        await link.hear(Acknowledged)
        await check(pool.reactor, pool.store)


async def test_an_unknown_outcome_cuts_every_link_and_all_come_back(pool: Pool) -> None:
    async with pool.link("n1") as one, pool.link("n2") as two:
        await one.join(1)
        await two.join(0)
        task_id = await given(pool, one)
        pool.store.faults = [AFTER]
        await one.say(started(task_id))
        assert isinstance(await one.end(), RemoteError)
        assert "connect again" in str(await two.end())
    async with pool.link("n1") as one, pool.link("n2") as two:
        welcome = await one.join(1, AttemptRef(task_id, 1))
        assert [held.ref for held in welcome.held] == [AttemptRef(task_id, 1)]
        await two.join(1)
        assert task_of(pool, task_id).state is TaskState.RUNNING
        await one.say(started(task_id), failed(task_id))
        await one.hear(Acknowledged)
        await check(pool.reactor, pool.store)


async def test_a_disk_that_takes_no_output_cuts_the_link_and_says_why(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    async with pool.link("n1") as link:
        await link.join()
        task_id = await given(pool, link)
        with monkeypatch.context() as patched:
            patched.setattr("hivemind.master.output._write_at", full)
            await link.say(output(task_id, 0, b"x"))
            assert "No space left on device" in str(await link.end())
    async with pool.link("n1") as link:
        await link.join(4, AttemptRef(task_id, 1))
        await link.say(output(task_id, 0, b"x"), finished(task_id, output_bytes=1))
        await link.hear(Acknowledged)


async def test_when_the_service_of_links_ends_every_link_does(pool: Pool) -> None:
    async with pool.link("n1") as link:
        await link.join()
        pool.links_scope.cancel()
        await link.end()
        await until(lambda: pool.links.session("n1") is None)
        with pytest.raises(RemoteError, match="not ready"):
            async with pool.link("n1") as again:
                await again.join()


async def test_an_account_cannot_connect_as_a_node_nor_a_node_act_as_an_account(pool: Pool) -> None:
    async def refused_by(call: Any) -> RemoteError:
        with pytest.raises(RemoteError) as refusal:
            await call
        return refusal.value

    async def open_as(channel: Channel) -> None:
        async with open_link(LinkClient(channel)) as link:
            await link.join()

    async with pool.channel(pool.account_token("ann")) as channel:
        error = await refused_by(open_as(channel))
        assert (error.status.name, error.code) == ("PERMISSION_DENIED", ErrorCode.INVALID_SESSION)
        link = LinkClient(channel)
        await refused_by(link.finish_with_result(finished("t"), Large()))
        await refused_by(anext(link.fetch_payload(AttemptRef("t", 1), stdin=False)))
    async with pool.channel(pool.node_token("n1")) as channel:
        error = await refused_by(TasksClient(channel).get("t"))
        assert (error.status.name, error.code) == ("PERMISSION_DENIED", ErrorCode.INVALID_SESSION)

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hivemind.core.messages import (
    AttemptRef,
    DrainNotice,
    FinishedReport,
    Hello,
    OutputHeld,
    OutputReport,
    RefusedReport,
    StartedReport,
    Welcome,
    WorkerItem,
)
from hivemind.core.records import (
    Capabilities,
    Capacity,
    Ending,
    Outcome,
    OutputStream,
    Reason,
    RefusalKind,
    Vitals,
)
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.conversation import BATCH_BYTES, Conversation
from hivemind.worker.held import HeldAttempt, HeldAttempts
from hivemind.worker.outbox import AttemptFolder, FinalReport
from tests.worker.recording_master import new_ref

HELLO = Hello(
    capabilities=Capabilities(
        capacity=Capacity(slots=1, cpu_millis=1000, memory_bytes=1),
        hostname="attic",
        version="1",
        limits="cgroup",
        sandbox="enabled",
    )
)
VITALS = Vitals(
    cpu_percent=1.0,
    memory_used_bytes=1,
    memory_total_bytes=2,
    load_1m=0.5,
    disk_free_bytes=3,
    running=0,
)
WELCOME = Welcome(lease_s=15.0, heartbeat_s=2.0)


class Talk:
    """A conversation that has begun, over attempts that a test makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held = HeldAttempts()
        self.delivered: list[HeldAttempt] = []
        self.conversation = self.begin()

    def begin(self) -> Conversation:
        return Conversation(HELLO, self.held, measure=lambda: VITALS, deliver=self.delivered.append)

    async def welcome(self, welcome: Welcome = WELCOME) -> None:
        assert await anext(self.conversation) == (HELLO,)
        self.conversation.on_welcome(welcome)

    async def again(self, *held: OutputHeld) -> None:
        """Another connection, to a master that has this much."""
        self.conversation = self.begin()
        await self.welcome(Welcome(lease_s=15.0, heartbeat_s=2.0, held=held))

    def attempt(self) -> HeldAttempt:
        ref = new_ref()
        folder = AttemptFolder(self.root / ref.task_id, ref)
        folder.path.mkdir()
        attempt = HeldAttempt(
            ref=ref, folder=folder, log=AttemptLog.create(folder.output), started=True
        )
        self.held.add(attempt)
        return attempt

    def end(self, attempt: HeldAttempt, result: bytes = b"") -> None:
        assert attempt.log is not None
        attempt.log.seal()
        attempt.folder.result.write_bytes(result)
        ending = Ending(
            outcome=Outcome.SUCCEEDED, reason=Reason.EXITED, exit_code=0, result_bytes=len(result)
        )
        attempt.report = FinalReport(ref=attempt.ref, seq=2, ending=ending)
        self.held.note_change()

    async def said(self) -> list[WorkerItem]:
        """The next message; fails where there is nothing to say."""
        with trio.fail_after(1):
            return list(await anext(self.conversation))

    async def is_silent(self) -> bool:
        async with trio.open_nursery() as nursery:
            heard: list[object] = []

            async def listen() -> None:
                heard.append(await anext(self.conversation))

            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return not heard


@pytest.fixture
async def talk(tmp_path: Path) -> Talk:
    talk = Talk(tmp_path)
    await talk.welcome()
    return talk


def output_of(items: list[WorkerItem], ref: AttemptRef) -> Iterator[tuple[int, bytes]]:
    for item in items:
        if isinstance(item, OutputReport) and item.task_id == ref.task_id:
            yield item.output.chunk.offset, item.output.chunk.data


async def test_nothing_is_said_before_the_welcome(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    talk.attempt()
    talk.conversation.beat()
    assert await anext(talk.conversation) == (HELLO,)
    assert await talk.is_silent()


async def test_an_attempts_story_is_told_in_order(talk: Talk) -> None:
    attempt = talk.attempt()
    assert await talk.said() == [StartedReport(ref=attempt.ref, seq=1)]
    assert attempt.log is not None
    attempt.log.append(OutputStream.STDOUT, b"one", 1.0)
    talk.held.note_change()
    assert list(output_of(await talk.said(), attempt.ref)) == [(0, b"one")]
    attempt.log.append(OutputStream.STDERR, b"two", 2.0)
    talk.end(attempt, b"tar")
    *output, final = await talk.said()
    assert list(output_of(output, attempt.ref)) == [(3, b"two")]
    assert isinstance(final, FinishedReport)
    assert (final.seq, final.output_bytes, final.result) == (2, 6, b"tar")
    assert await talk.is_silent()


async def test_everything_that_waits_goes_in_one_message(talk: Talk) -> None:
    attempts = [talk.attempt() for _ in range(3)]
    talk.conversation.beat()
    talk.held.refuse(
        RefusedReport(ref=new_ref(), seq=1, kind=RefusalKind.BUSY, detail="no free slot")
    )
    items = await talk.said()
    assert {type(item) for item in items} == {Vitals, RefusedReport, StartedReport}
    assert len(items) == 2 + len(attempts)


async def test_a_message_is_bounded_and_a_loud_task_does_not_starve_a_quiet_one(
    talk: Talk,
) -> None:
    loud, quiet = talk.attempt(), talk.attempt()
    assert loud.log is not None
    assert quiet.log is not None
    for _ in range(40):
        loud.log.append(OutputStream.STDOUT, b"x" * 60_000, 1.0)
    quiet.log.append(OutputStream.STDOUT, b"psst", 1.0)
    heard: list[tuple[int, bytes]] = []
    sizes = []
    for _ in range(2):
        items = await talk.said()
        heard += output_of(items, quiet.ref)
        sizes.append(sum(len(data) for _, data in output_of(items, loud.ref)))
    assert heard == [(0, b"psst")]
    assert 0 < max(sizes) <= BATCH_BYTES


async def test_after_a_reconnect_output_goes_on_where_the_master_is(talk: Talk) -> None:
    attempt = talk.attempt()
    assert attempt.log is not None
    attempt.log.append(OutputStream.STDOUT, b"abcdef", 1.0)
    await talk.said()
    await talk.again(OutputHeld(attempt.ref, 4))
    items = await talk.said()
    assert list(output_of(items, attempt.ref)) == [(4, b"ef")]
    assert StartedReport(ref=attempt.ref, seq=1) in items


async def test_a_master_without_a_word_on_an_attempt_gets_all_of_it(talk: Talk) -> None:
    attempt = talk.attempt()
    assert attempt.log is not None
    attempt.log.append(OutputStream.STDOUT, b"abcdef", 1.0)
    await talk.said()
    await talk.again()
    assert list(output_of(await talk.said(), attempt.ref)) == [(0, b"abcdef")]


async def test_an_unacknowledged_end_is_told_again_on_the_next_connection(talk: Talk) -> None:
    attempt = talk.attempt()
    talk.end(attempt)
    first = (await talk.said())[-1]
    assert isinstance(first, FinishedReport)
    assert await talk.is_silent()
    await talk.again(OutputHeld(attempt.ref, 0))
    assert await talk.said() == [first]


async def test_a_large_result_takes_another_way(talk: Talk) -> None:
    attempt = talk.attempt()
    talk.end(attempt, bytes(64 * 1024 + 1))
    assert await talk.is_silent()
    assert talk.delivered == [attempt]


async def test_one_heartbeat_at_a_time_is_under_way(talk: Talk) -> None:
    talk.conversation.beat()
    assert await talk.said() == [VITALS]
    talk.conversation.beat()
    assert await talk.is_silent()
    talk.conversation.on_renewed()
    assert await talk.said() == [VITALS]


async def test_an_answer_dates_from_its_heartbeat(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    talk = Talk(tmp_path)
    await talk.welcome()
    talk.conversation.beat()
    await talk.said()
    sent_at = trio.current_time()
    await trio.sleep(5)
    assert talk.conversation.on_renewed() == sent_at
    assert talk.conversation.on_renewed() == trio.current_time()


async def test_a_drain_is_announced_before_anything_else(talk: Talk) -> None:
    talk.attempt()
    talk.conversation.announce_drain()
    assert (await talk.said())[0] == DrainNotice()


async def test_what_is_held_no_longer_is_not_spoken_of(talk: Talk) -> None:
    attempt = talk.attempt()
    talk.held.remove(attempt.ref)
    assert await talk.is_silent()

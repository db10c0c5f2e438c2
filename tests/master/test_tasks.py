import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hivemind.core.admission import Ask
from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.messages import (
    Acknowledged,
    Assignment,
    AttemptOutput,
    ListQuery,
    UploadChunk,
    UploadPart,
    WatchQuery,
)
from hivemind.core.policy import MIB, PoolRules
from hivemind.core.records import PayloadKind, Task, TaskState
from hivemind.rpc.contract.link import LinkClient
from hivemind.rpc.contract.specs import decode_spec
from hivemind.rpc.contract.tasks import TasksClient
from hivemind.rpc.errors import ErrorCode, RemoteError
from tests.master.builders import check, failed, finished, started
from tests.master.gated import AFTER, BEFORE
from tests.master.pool import (
    Link,
    Pool,
    chunks,
    open_pool,
    output,
    submission,
    submit,
    until,
)
from tests.master.test_tars import add, tar_of

RULES = PoolRules(payload_bytes=300_000, retry_backoff_s=0.05, queue_per_account=50)
SCRIPT = b"print('hi')\n"
LARGE = b"#!/bin/sh\n" + b"x" * 200_000


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path, rules=RULES) as made:
        yield made


async def refusal_of(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refusal:
        await call
    return refusal.value


async def all_of(items: Any) -> list[Any]:
    with trio.fail_after(10):
        async with aclosing(items):
            return [item async for item in items]


def watch(client: TasksClient, task_id: str, **fields: Any) -> Any:
    return client.watch(WatchQuery(task_id=task_id, **fields))


def text_of(items: list[Any], attempt: int | None = None) -> bytes:
    return b"".join(
        item.chunk.data
        for item in items
        if isinstance(item, AttemptOutput) and attempt in {None, item.attempt}
    )


def states_of(items: list[Any]) -> list[str]:
    return [item.state.value for item in items if isinstance(item, Task)]


@pytest.mark.parametrize("part", ["payload", "stdin"])
async def test_more_than_the_pool_takes_is_refused_when_it_is_announced(
    pool: Pool, part: str
) -> None:
    async def chunks() -> AsyncIterator[UploadChunk]:
        # Little enough: what is refused is what was to come.
        yield UploadChunk(UploadPart.PAYLOAD, SCRIPT)

    async with pool.tasks_of("ann") as ann:
        announced = {"payload_bytes": 300_000, "stdin_bytes": 300_000} | {f"{part}_bytes": 300_001}
        error = await refusal_of(ann.submit(submission(has_stdin=True, **announced), chunks()))
        assert error.status.name == "RESOURCE_EXHAUSTED"
        assert f"the {part} has 300001 bytes, and the pool takes 300000 at most" in str(error)


async def run(pool: Pool, link: Link, client: TasksClient, *data: bytes, **fields: Any) -> str:
    """A task that printed something and succeeded."""
    task_id = await submit(client, **fields)
    await link.hear(Assignment)
    await link.say(started(task_id))
    offset = 0
    for piece in data:
        await link.say(output(task_id, offset, piece))
        offset += len(piece)
    await link.say(finished(task_id, output_bytes=offset))
    await link.hear(Acknowledged)
    return task_id


# --- accounts that do not trust each other ---


async def test_nobody_touches_a_task_of_somebody_else(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.tasks_of("bob") as bob:
        task_id = await submit(ann)
        for call in (
            bob.get(task_id),
            bob.stop(task_id),
            bob.explain(task_id),
            all_of(watch(bob, task_id)),
            all_of(bob.download(task_id)),
        ):
            error = await refusal_of(call)
            assert error.status.name == "PERMISSION_DENIED"
            assert error.code is ErrorCode.TASK_NOT_FOUND
            assert "ann" not in str(error)
        assert (await bob.list(ListQuery(include_ended=True))).tasks == ()
        for account in ("ann", "*"):
            error = await refusal_of(bob.list(ListQuery(account=account)))
            assert error.status.name == "PERMISSION_DENIED"
        assert not (await ann.get(task_id)).task.stop_requested
        assert len((await ann.list(ListQuery())).tasks) == 1


async def test_an_admin_sees_and_stops_any_task(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.tasks_of("root") as root:
        task_id = await submit(ann)
        assert (await root.get(task_id)).task.account == "ann"
        assert [t.id for t in (await root.list(ListQuery(account="*"))).tasks] == [task_id]
        assert (await root.list(ListQuery(account="ann"))).tasks != ()
        assert (await root.list(ListQuery())).tasks == ()
        stopped = await root.stop(task_id)
        assert (stopped.state, stopped.stopped_by) == (TaskState.STOPPED, "root")


@pytest.mark.parametrize("task_id", ["", "nothing", "01arz3ndektsv4rrffq69g5fav", "../x", "a\nb"])
async def test_an_unknown_task_is_not_found(pool: Pool, task_id: str) -> None:
    async with pool.tasks_of("ann") as ann:
        for call in (
            ann.get(task_id),
            ann.stop(task_id),
            ann.explain(task_id),
            all_of(watch(ann, task_id)),
            all_of(ann.download(task_id)),
        ):
            error = await refusal_of(call)
            assert (error.status.name, error.code) == ("NOT_FOUND", ErrorCode.TASK_NOT_FOUND)
            assert "\n" not in str(error)


async def test_a_stranger_without_a_token_is_let_in_nowhere(pool: Pool) -> None:
    async with pool.channel() as channel:
        client = TasksClient(channel)
        for call in (submit(client), client.get("x"), all_of(watch(client, "x"))):
            error = await refusal_of(call)
            assert (error.status.name, error.code) == (
                "UNAUTHENTICATED",
                ErrorCode.INVALID_SESSION,
            )


async def test_an_id_of_ones_own_means_ones_own_task(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.tasks_of("bob") as bob:
        hers, his = await submit(ann, client_id="nightly"), await submit(bob, client_id="nightly")
        assert (await ann.get("nightly")).task.id == hers
        assert (await bob.get("nightly")).task.id == his
        # Even one that looks like the pool's own, and is another account's task.
        mine = await submit(bob, client_id=hers)
        assert (await bob.get(hers)).task.id == mine
        assert (await ann.get(hers)).task.id == hers
        error = await refusal_of(submit(ann, client_id="nightly"))
        assert error.status.name == "ALREADY_EXISTS"
        assert hers in str(error)


# --- submit ---


async def test_the_same_key_is_the_same_task_also_after_its_end(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.tasks_of("bob") as bob:
        first = await ann.submit(submission(client_key="k"), chunks())
        assert not first.repeated
        again = await ann.submit(submission(client_key="k"), chunks())
        assert (again.task_id, again.repeated) == (first.task_id, True)
        await ann.stop(first.task_id)
        again = await ann.submit(submission(client_key="k"), chunks())
        assert (again.task_id, again.repeated) == (first.task_id, True)
        other = await bob.submit(submission(client_key="k"), chunks())
        assert (other.task_id != first.task_id, other.repeated) == (True, False)


async def test_the_same_key_at_once_is_one_task_and_one_file(pool: Pool) -> None:
    got: list[Any] = []

    async def ask() -> None:
        async with pool.tasks_of("ann") as client:
            got.append(
                await client.submit(
                    submission(PayloadKind.SCRIPT, client_key="k", client_id="c"), chunks(LARGE)
                )
            )

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask)
    assert len({one.task_id for one in got}) == 1
    assert [one.repeated for one in got].count(False) == 1
    assert len(pool.files()) == 1
    await check(pool.reactor, pool.store)


async def test_what_was_submitted_is_what_is_kept(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        sent = await ann.submit(
            submission(PayloadKind.SCRIPT, has_stdin=True, name="mine", env={"A": "b"}),
            chunks(LARGE, b"line\n"),
        )
        stored = await pool.store.spec(sent.task_id)
        assert stored is not None
        assert stored.payload is not None
        assert stored.stdin is not None
        assert await pool.blobs.read(stored.payload) == LARGE
        assert stored.stdin.inline == b"line\n"
        assert pool.files() == [f"blobs/{stored.payload.file}"]
        empty = await ann.submit(submission(has_stdin=True), chunks())
        stored = await pool.store.spec(empty.task_id)
        assert stored is not None
        assert stored.stdin is not None
        assert (stored.stdin.size, stored.payload) == (0, None)


@pytest.mark.parametrize(
    ("fields", "payload", "text"),
    [
        ({"kind": PayloadKind.SCRIPT}, b"", "nothing to run"),
        ({"kind": PayloadKind.SCRIPT}, b"PK\x03\x04zip", "archive"),
        ({"kind": PayloadKind.ARCHIVE}, SCRIPT, "script"),
        ({"kind": PayloadKind.SCRIPT}, b"\x7fELF\0\0\0", "neither a script nor an archive"),
        ({}, SCRIPT, "brings no payload"),
        ({"argv": ()}, b"", "no command"),
        ({"ask": Ask(policy="none")}, b"", "choose one of admins, boxed, default, tight"),
        ({"ask": Ask(policy="admins")}, b"", "may not use policy admins"),
        ({"ask": Ask(memory_bytes=2**60)}, b"", "allows at most"),
        ({"ask": Ask(wall_s=float("nan"))}, b"", "time"),
        ({"ask": Ask(location="x" * 10_000)}, b"", "at most"),
        ({"env": {"A=B": "x"}}, b"", "environment"),
        ({"filename": "../x"}, b"", "bare name"),
        ({"client_id": "a\nb"}, b"", "do not print"),
        ({"client_key": "k" * 1000}, b"", "at most"),
        ({"name": " x"}, b"", "space"),
    ],
)
async def test_what_cannot_be_right_is_refused_and_leaves_nothing(
    pool: Pool, fields: dict[str, Any], payload: bytes, text: str
) -> None:
    async with pool.tasks_of("ann") as ann:
        error = await refusal_of(ann.submit(submission(**fields), chunks(payload)))
    assert error.status.name == "INVALID_ARGUMENT"
    assert text in str(error)
    assert pool.reactor.cluster.tasks == {}
    assert pool.files() == []


async def test_the_spec_says_how_the_task_is_shut_in_and_under_which_name(pool: Pool) -> None:
    ask = Ask(policy="boxed", network=Network.NONE, tmp_bytes=MIB, cpu_s=9.0)
    async with pool.tasks_of("ann") as ann:
        sent = await ann.submit(
            submission(ask=ask, name="nightly", env={"MODE": "mine"}), chunks(b"")
        )
        stored = await pool.store.spec(sent.task_id)
        refused = await refusal_of(
            ann.submit(submission(ask=Ask(network=Network.FULL)), chunks(b""))
        )
    assert stored is not None
    spec = decode_spec(stored.spec)
    assert (spec.name, spec.policy, spec.cpu_s) == ("nightly", "boxed", 9.0)
    assert spec.confinement.network is Network.NONE
    assert spec.confinement.seccomp is Seccomp.ALLOW_LIST
    assert spec.confinement.reuse is Reuse.ACCOUNT
    assert spec.confinement.tmp_bytes == MIB
    # A variable of the policy, and one that the task sets itself.
    assert spec.env == {"TZ": "UTC", "MODE": "mine"}
    assert "network full was asked for and policy default allows at most loopback" in str(refused)


async def test_a_script_is_judged_though_its_head_ends_within_a_letter(pool: Pool) -> None:
    body = b"#" + "ß".encode() * 60_000
    async with pool.tasks_of("ann") as ann:
        await ann.submit(submission(PayloadKind.SCRIPT), chunks(body))


async def parts(*found: tuple[UploadPart, bytes]) -> AsyncIterator[UploadChunk]:
    for part, data in found:
        yield UploadChunk(part, data)


async def test_chunks_in_disorder_or_unannounced_are_refused(pool: Pool) -> None:
    payload, stdin = UploadPart.PAYLOAD, UploadPart.STDIN
    async with pool.tasks_of("ann") as ann:
        error = await refusal_of(
            ann.submit(
                submission(PayloadKind.SCRIPT, has_stdin=True),
                parts((payload, LARGE), (stdin, b"x"), (payload, b"y")),
            )
        )
        assert "before standard input" in str(error)
        error = await refusal_of(
            ann.submit(submission(PayloadKind.SCRIPT), parts((payload, LARGE), (stdin, b"x")))
        )
        assert "not announced" in str(error)
        # Empty chunks are nothing.
        await ann.submit(
            submission(PayloadKind.SCRIPT), parts((payload, b""), (payload, SCRIPT), (payload, b""))
        )
    assert pool.files() == []


@pytest.mark.parametrize("with_stdin", [False, True])
async def test_an_upload_over_the_limit_leaves_no_file(pool: Pool, with_stdin: bool) -> None:
    payload, stdin = (LARGE, bytes(300_001)) if with_stdin else (LARGE * 2, b"")
    async with pool.tasks_of("ann") as ann:
        error = await refusal_of(
            ann.submit(submission(PayloadKind.SCRIPT, has_stdin=with_stdin), chunks(payload, stdin))
        )
    assert error.status.name == "RESOURCE_EXHAUSTED"
    assert "300000 bytes" in str(error)
    await until(lambda: pool.files() == [])
    assert pool.reactor.cluster.tasks == {}


class Stuck:
    """A client that sends some of its bytes, and then nothing."""

    def __init__(self, *items: UploadChunk) -> None:
        self._items = list(items)
        self.is_stuck = trio.Event()

    def __aiter__(self) -> "Stuck":
        return self

    async def __anext__(self) -> UploadChunk:
        if self._items:
            return self._items.pop(0)
        self.is_stuck.set()
        await trio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("also_stdin", [False, True])
async def test_a_client_that_vanishes_in_an_upload_leaves_no_file(
    pool: Pool, also_stdin: bool
) -> None:
    sent = [UploadChunk(UploadPart.PAYLOAD, LARGE)]
    if also_stdin:
        sent.append(UploadChunk(UploadPart.STDIN, LARGE))
    stuck = Stuck(*sent)
    async with pool.tasks_of("ann") as ann, trio.open_nursery() as nursery:
        nursery.start_soon(ann.submit, submission(PayloadKind.SCRIPT, has_stdin=True), stuck)
        await stuck.is_stuck.wait()
        await until(lambda: len(pool.files()) == 1 + also_stdin)
        nursery.cancel_scope.cancel()
    await until(lambda: pool.files() == [])


async def test_a_client_that_sends_nothing_more_is_given_up(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind.master.uploads._SILENCE_S", 0.2)
    stuck = Stuck(UploadChunk(UploadPart.PAYLOAD, LARGE))
    async with pool.tasks_of("ann") as ann, trio.open_nursery() as nursery:
        nursery.start_soon(ann.submit, submission(PayloadKind.SCRIPT), stuck)
        await until(lambda: len(pool.files()) == 1)
        await until(lambda: pool.files() == [])
        await submit(ann)
        nursery.cancel_scope.cancel()


async def test_a_commit_that_fails_leaves_no_file(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        pool.store.faults = [BEFORE]
        error = await refusal_of(
            ann.submit(submission(PayloadKind.SCRIPT, client_key="k"), chunks(LARGE))
        )
        assert "nothing was changed" in str(error)
        assert pool.files() == []
        with trio.fail_after(5):
            await ann.submit(submission(PayloadKind.SCRIPT, client_key="k"), chunks(LARGE))
        assert len(pool.files()) == 1


async def test_a_commit_of_unknown_outcome_keeps_the_file_that_its_row_may_name(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        pool.store.faults = [AFTER]
        error = await refusal_of(
            ann.submit(submission(PayloadKind.SCRIPT, client_key="k"), chunks(LARGE))
        )
        assert error.status.name == "UNAVAILABLE"
        again = await ann.submit(submission(PayloadKind.SCRIPT, client_key="k"), chunks(LARGE))
        assert again.repeated
        stored = await pool.store.spec(again.task_id)
        assert stored is not None
        assert stored.payload is not None
        assert await pool.blobs.read(stored.payload) == LARGE
        assert len(pool.files()) == 1


async def test_a_client_that_vanishes_at_the_commit_leaves_a_whole_task(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        pool.store.gate = trio.Event()
        with trio.move_on_after(0.2):
            await ann.submit(submission(PayloadKind.SCRIPT), chunks(LARGE))
        await trio.sleep(0.05)
        pool.store.gate.set()
        await until(lambda: len(pool.reactor.cluster.tasks) == 1)
        (task,) = pool.reactor.cluster.tasks.values()
        stored = await pool.store.spec(task.id)
        assert stored is not None
        assert stored.payload is not None
        assert await pool.blobs.read(stored.payload) == LARGE


async def test_an_account_has_its_most_tasks_and_others_have_theirs(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.tasks_of("bob") as bob:
        ids = [await submit(ann) for _ in range(50)]
        error = await refusal_of(submit(ann))
        assert error.status.name == "RESOURCE_EXHAUSTED"
        assert "wait for some or stop some" in str(error)
        await submit(bob)
        await ann.stop(ids[0])
        await submit(ann)


@pytest.mark.parametrize("is_announced", [True, False])
async def test_an_account_fills_its_part_of_the_disk_and_no_others(
    tmp_path: Path, is_announced: bool
) -> None:
    rules = attrs.evolve(RULES, kept_bytes_per_account=500_000)
    size = len(LARGE) if is_announced else 0
    script = submission(PayloadKind.SCRIPT, payload_bytes=size)
    async with (
        open_pool(tmp_path, rules=rules) as pool,
        pool.tasks_of("ann") as ann,
        pool.tasks_of("bob") as bob,
    ):
        first = attrs.evolve(script, client_key="first")
        known = await ann.submit(first, chunks(LARGE))
        await ann.submit(script, chunks(LARGE))
        files = pool.files()
        error = await refusal_of(ann.submit(script, chunks(LARGE)))
        assert error.status.name == "RESOURCE_EXHAUSTED"
        assert "ann has 392.9K of programs and results here and 488.3K is the most" in str(error)
        await until(lambda: pool.files() == files)
        # That it has ended gives no room back as long as it is kept; nor is a repeat something new.
        await ann.stop(known.task_id)
        assert (await refusal_of(ann.submit(script, chunks(LARGE)))).status == error.status
        assert (await ann.submit(first, chunks(LARGE))).task_id == known.task_id
        await bob.submit(script, chunks(LARGE))


# --- look ---


async def test_tasks_are_listed_in_pages_newest_first(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        ids = [await submit(ann) for _ in range(7)]
        await ann.stop(ids[3])
        first = await ann.list(ListQuery(limit=4, include_ended=True))
        rest = await ann.list(ListQuery(limit=4, include_ended=True, cursor=first.next_cursor))
        assert [task.id for task in (*first.tasks, *rest.tasks)] == ids[::-1]
        assert rest.next_cursor == ""
        open_ones = await ann.list(ListQuery())
        assert [task.id for task in open_ones.tasks] == [*ids[:3], *ids[4:]][::-1]
        for cursor in ("x", "-1", "9" * 40, "1 OR 1=1"):
            error = await refusal_of(ann.list(ListQuery(cursor=cursor)))
            assert error.status.name == "INVALID_ARGUMENT"


async def test_a_task_tells_of_all_its_attempts_and_why_it_waits(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann, ask=Ask(retries=1))
        assert "no node" in (await ann.explain(task_id)).headline
        async with pool.link("n1") as link:
            await link.join()
            await link.hear(Assignment)
            await link.say(started(task_id), failed(task_id))
            await link.hear(Acknowledged)
            assert (await link.hear(Assignment)).ref.attempt == 2
            detail = await ann.get(task_id)
            assert [attempt.number for attempt in detail.attempts] == [1, 2]
            assert detail.attempts[0].exit_code == 1
            assert detail.attempts[0].lease_id == ""
            assert detail.task.failures == 1


async def test_a_stop_can_be_asked_for_again_and_at_any_time(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann)
        for _ in range(2):
            stopped = await ann.stop(task_id)
            assert (stopped.state, stopped.stopped_by) == (TaskState.STOPPED, "ann")


# --- watch ---


async def test_a_watch_shows_every_change_and_all_output_as_it_comes(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.link("n1") as link:
        task_id = await submit(ann)
        async with aclosing(watch(ann, task_id)) as items:
            assert (await anext(items)).state is TaskState.QUEUED
            await link.join()
            await link.hear(Assignment)
            assert (await anext(items)).state is TaskState.ASSIGNED
            await link.say(started(task_id))
            assert (await anext(items)).state is TaskState.RUNNING
            for number, data in enumerate((b"one", b"two", b"end")):
                await link.say(output(task_id, 3 * number, data))
                with trio.fail_after(5):
                    got = await anext(items)
                assert (got.attempt, got.chunk.offset, got.chunk.data) == (1, 3 * number, data)
            await link.say(finished(task_id, output_bytes=9))
            last = [item async for item in items]
            assert states_of(last) == ["succeeded"]
    assert pool.bells._bells == {}


async def test_a_watch_after_the_end_shows_all_that_was(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.link("n1") as link:
        await link.join()
        task_id = await run(pool, link, ann, b"one", b"two")
        items = await all_of(watch(ann, task_id))
        assert text_of(items) == b"onetwo"
        assert states_of(items) == ["succeeded"]
        assert isinstance(items[-1], Task)
        assert text_of(await all_of(watch(ann, task_id, offset=4))) == b"wo"
        assert text_of(await all_of(watch(ann, task_id, offset=99))) == b""
        assert text_of(await all_of(watch(ann, task_id, output=False))) == b""
        assert text_of(await all_of(watch(ann, task_id, attempt=7))) == b""
        assert states_of(await all_of(watch(ann, task_id, until_now=True))) == ["succeeded"]


async def test_a_watch_goes_on_across_a_retry(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.link("n1") as link:
        await link.join()
        task_id = await submit(ann, ask=Ask(retries=1))
        await link.hear(Assignment)
        got: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                got.extend(await all_of(watch(ann, task_id)))

            nursery.start_soon(follow)
            await link.say(started(task_id), output(task_id, 0, b"first"))
            await link.say(attrs.evolve(failed(task_id), output_bytes=5))
            await link.hear(Acknowledged)
            await link.hear(Assignment)
            await link.say(started(task_id, 2), output(task_id, 0, b"second", attempt=2))
            await link.say(finished(task_id, 2, output_bytes=6))
        assert text_of(got, 1) == b"first"
        assert text_of(got, 2) == b"second"
        assert states_of(got)[-1] == "succeeded"
        # From the middle of the first attempt, and the second whole.
        again = await all_of(watch(ann, task_id, attempt=1, offset=3))
        assert text_of(again) == b"stsecond"
        assert text_of(await all_of(watch(ann, task_id))) == b"second"


async def test_a_watch_until_now_ends_at_once(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann, pool.link("n1") as link:
        await link.join()
        task_id = await submit(ann)
        await link.hear(Assignment)
        await link.say(started(task_id), output(task_id, 0, b"so far"))
        await until(lambda: pool.reactor.cluster.tasks[task_id].state is TaskState.RUNNING)
        items = await all_of(watch(ann, task_id, until_now=True))
        assert text_of(items) == b"so far"
        assert states_of(items) == ["running"]


async def test_a_watch_ends_when_the_master_shuts_down(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann)
        async with aclosing(watch(ann, task_id)) as items:
            await anext(items)
            pool.tasks.shut_down()
            with trio.fail_after(5), pytest.raises(RemoteError, match="watch again"):
                await anext(items)


async def test_a_watcher_that_vanishes_leaves_nothing_behind(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann)
        for _ in range(3):
            async with pool.tasks_of("ann") as other:
                items = watch(other, task_id)
                await anext(items)
                assert len(pool.bells._bells[task_id]) >= 1
                await items.aclose()
        await until(lambda: pool.bells._bells == {})


async def test_a_slow_watcher_slows_neither_the_task_nor_others(pool: Pool) -> None:
    data = b"x" * 50_000
    async with (
        pool.tasks_of("ann") as ann,
        pool.tasks_of("ann") as slow,
        pool.link("n1") as link,
    ):
        await link.join()
        task_id = await submit(ann)
        await link.hear(Assignment)
        async with aclosing(watch(slow, task_id)) as items:
            await anext(items)  # and no more, for now
            await link.say(started(task_id))
            for number in range(60):
                await link.say(output(task_id, number * len(data), data))
            with trio.fail_after(10):
                await link.say(finished(task_id, output_bytes=60 * len(data)))
                await link.hear(Acknowledged)
                assert len(text_of(await all_of(watch(ann, task_id)))) == 3_000_000
            assert len(text_of([item async for item in items])) == 3_000_000


async def test_a_watch_outlives_a_commit_of_unknown_outcome(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann)
        async with aclosing(watch(ann, task_id)) as items:
            await anext(items)
            pool.store.faults = [AFTER]
            await refusal_of(ann.stop(task_id))
            # The stop was stored all the same: whoever watches learns it from what was read anew.
            with trio.fail_after(5):
                assert states_of([item async for item in items]) == ["stopped"]


# --- download ---


async def test_a_result_is_fetched_byte_for_byte(pool: Pool) -> None:
    data = tar_of(lambda tar: add(tar, "a", b"1" * 200_000))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    async with pool.tasks_of("ann") as ann, pool.link("n1") as link:
        await link.join()
        task_id = await submit(ann)
        await link.hear(Assignment)
        error = await refusal_of(all_of(ann.download(task_id)))
        assert (error.status.name, "wait for its end" in str(error)) == (
            "FAILED_PRECONDITION",
            True,
        )
        await link.say(started(task_id), output(task_id, 0, b"said"))
        async with pool.channel(pool.node_token("n1")) as channel:
            await LinkClient(channel).finish_with_result(
                finished(task_id, output_bytes=4), pieces()
            )
        first = b"".join(await all_of(ann.download(task_id)))
        assert b"".join(await all_of(ann.download(task_id))) == first
        with zipfile.ZipFile(io.BytesIO(first)) as archive:
            assert archive.read("output/a") == b"1" * 200_000
            assert archive.read("stdout.txt") == b"said"
            assert json.loads(archive.read("result.json"))["state"] == "succeeded"


async def test_a_task_that_was_stopped_while_it_waited_has_a_result(pool: Pool) -> None:
    async with pool.tasks_of("ann") as ann:
        task_id = await submit(ann)
        await ann.stop(task_id)
        with zipfile.ZipFile(io.BytesIO(b"".join(await all_of(ann.download(task_id))))) as archive:
            assert archive.namelist() == ["result.json"]

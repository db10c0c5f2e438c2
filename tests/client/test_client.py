"""The client against a real server: what it sends, what it survives, and what it says."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hivemind.client import Client, open_client
from hivemind.client.connection import Patience
from hivemind.client.errors import (
    BadProgram,
    BadResult,
    ClientError,
    LostConnection,
    NoMaster,
    NoSuchTask,
    NotLoggedIn,
    Refused,
)
from hivemind.core.admission import Ask
from hivemind.core.messages import AttemptOutput, TaskList, WatchItem, WatchQuery
from hivemind.core.records import OutputStream, PayloadKind, TaskState
from hivemind.supervision import Backoff
from tests.client.fake_master import QUOTE, TOKEN, FakeMaster, open_fake_master, output, task

PATIENCE = Patience(within_s=5.0, backoff=Backoff(first_s=0.01, most_s=0.05))
END = task(TaskState.SUCCEEDED, exit_code=0)


@pytest.fixture
async def master() -> AsyncIterator[FakeMaster]:
    async with open_fake_master() as master:
        yield master


@contextlib.asynccontextmanager
async def _client(master: FakeMaster, **changes: Any) -> AsyncIterator[Client]:
    wanted: dict[str, Any] = {"address": master.address, "token": TOKEN, "patience": PATIENCE}
    async with open_client(**{**wanted, **changes}) as client:
        yield client


async def _items(
    client: Client, *, seen: dict[int, trio.Event] | None = None, **options: Any
) -> list[WatchItem]:
    """All items; ``seen`` holds what to set when so many were received."""
    found: list[WatchItem] = []
    async with aclosing(client.watch("t1", **options)) as items:
        async for item in items:
            found.append(item)
            if seen is not None and len(found) in seen:
                seen[len(found)].set()
    return found


def _bytes(items: list[WatchItem], attempt: int = 1) -> bytes:
    return b"".join(
        item.chunk.data
        for item in items
        if isinstance(item, AttemptOutput) and item.attempt == attempt
    )


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- submit -------------------------------------------------------------------------------------


async def test_a_submit_sends_the_program_then_its_input(
    master: FakeMaster, tmp_path: Path
) -> None:
    script = tmp_path / "a.py"
    script.write_bytes(b"#" * 700_000)
    async with _client(master) as client:
        assert await client.submit(script, args=["x"], stdin=b"in" * 200_000) == "t1"
    ((submission, payload, stdin),) = master.submits
    assert (submission.kind, submission.argv) == (PayloadKind.SCRIPT, ("x",))
    assert submission.has_stdin
    assert (submission.payload_bytes, submission.stdin_bytes) == (700_000, 400_000)
    assert payload == script.read_bytes()
    assert stdin == b"in" * 200_000


async def test_a_submit_whose_answer_is_lost_is_repeated_and_stays_one_task(
    master: FakeMaster,
) -> None:
    master.break_after_submit = 2
    async with _client(master) as client:
        assert await client.submit(command=["true"]) == "t1"
    assert len(master.submits) == 3
    assert len({submission.client_key for submission, _, _ in master.submits}) == 1
    assert list(master.keys.values()) == ["t1"]


async def test_two_submits_are_two_tasks(master: FakeMaster) -> None:
    async with _client(master) as client:
        assert [await client.submit(command=["true"]) for _ in range(2)] == ["t1", "t2"]


async def test_a_file_that_shrinks_under_the_submit_is_told_and_not_repeated(
    master: FakeMaster, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("print(1)")
    (tmp_path / "data").write_text("12345")
    from hivemind.client.programs import program_from_path
    from hivemind.core.admission import Ask

    program = program_from_path(tmp_path, ask=Ask(), env={})
    (tmp_path / "data").write_text("1")
    async with _client(master) as client:
        with pytest.raises(BadProgram, match="changed while it was sent"):
            await client.submit_program(program)
    assert master.keys == {}


# --- watch --------------------------------------------------------------------------------------


async def test_a_watch_gives_all_output_and_the_end(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()
        yield output(b"ab", 0)
        yield output(b"cd", 2, stream=OutputStream.STDERR)
        yield END

    master.watch_as = watch
    async with _client(master) as client:
        items = await _items(client)
    assert _bytes(items) == b"abcd"
    assert items[-1] == END


async def test_a_broken_watch_goes_on_where_it_was_without_losing_or_repeating(
    master: FakeMaster,
) -> None:
    text = bytes(range(256)) * 40

    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()
        assert query.attempt in {0, 1}
        # As a master may: from a little before where the client was.
        start = max(0, query.offset - 3)
        for at in range(start, min(len(text), start + 3000), 500):
            yield output(text[at : at + 500], at)
        if start + 3000 < len(text):
            master.nursery.start_soon(master.restart)
            await trio.sleep_forever()
        yield END

    master.watch_as = watch
    async with _client(master) as client:
        items = await _items(client)
    assert _bytes(items) == text
    assert len(master.watches) > 2
    assert [query.offset for query in master.watches] == sorted(
        query.offset for query in master.watches
    )


async def test_a_new_attempt_begins_at_its_own_first_byte(master: FakeMaster) -> None:
    three = trio.Event()

    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        if not query.attempt:
            yield task()
            yield output(b"first", 0)
            yield output(b"again", 0, attempt=2)
            await three.wait()
            master.nursery.start_soon(master.restart)
            await trio.sleep_forever()
        yield output(b" and on", 5, attempt=2)
        yield END

    master.watch_as = watch
    async with _client(master) as client:
        items = await _items(client, seen={3: three})
    assert (_bytes(items, 1), _bytes(items, 2)) == (b"first", b"again and on")
    assert (master.watches[1].attempt, master.watches[1].offset) == (2, 5)


async def test_a_watch_that_breaks_before_any_output_asks_for_the_attempt_it_knows(
    master: FakeMaster,
) -> None:
    one = trio.Event()

    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task(attempt=3)
        if len(master.watches) == 1:
            await one.wait()
            master.nursery.start_soon(master.restart)
            await trio.sleep_forever()
        yield END

    master.watch_as = watch
    async with _client(master) as client:
        await _items(client, seen={1: one})
    assert (master.watches[1].attempt, master.watches[1].offset) == (3, 0)


async def test_a_stream_that_ends_before_the_task_does_is_taken_up_again(
    master: FakeMaster,
) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()
        if len(master.watches) == 3:
            yield END

    master.watch_as = watch
    async with _client(master) as client:
        assert await client.wait("t1") == END
    assert len(master.watches) == 3


async def test_a_master_that_never_says_more_uses_up_the_patience(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()

    master.watch_as = watch
    short = Patience(within_s=0.3, backoff=Backoff(first_s=0.05, most_s=0.1))
    async with _client(master, patience=short) as client:
        with pytest.raises(LostConnection, match="did not come back"):
            await client.wait("t1")


async def test_a_master_that_went_away_for_good_is_told(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()
        master.kill()
        await trio.sleep_forever()

    master.watch_as = watch
    short = Patience(within_s=0.3, backoff=Backoff(first_s=0.05, most_s=0.1))
    async with _client(master, patience=short) as client:
        with pytest.raises(LostConnection, match=f"{master.address} went away"):
            await client.wait("t1")


async def test_what_is_known_now_ends_a_watch_that_wants_no_more(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        assert query.until_now
        yield task()
        yield output(b"so far", 0)

    master.watch_as = watch
    async with _client(master) as client:
        assert _bytes(await _items(client, until_now=True)) == b"so far"
    assert len(master.watches) == 1


# --- run ----------------------------------------------------------------------------------------


async def test_run_gives_the_output_of_the_last_attempt(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield output(b"failed", 0)
        yield output(b"out", 0, attempt=2)
        yield output(b"err", 3, attempt=2, stream=OutputStream.STDERR)
        yield END

    master.watch_as = watch
    async with _client(master) as client:
        finished = await client.run(command=["true"])
    assert (finished.task, finished.stdout, finished.stderr) == (END, b"out", b"err")


async def test_a_cancelled_run_stops_its_task(master: FakeMaster) -> None:
    async def watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        yield task()
        scope.cancel()
        await trio.sleep_forever()

    master.watch_as = watch
    with trio.CancelScope() as scope:
        async with _client(master) as client:
            await client.run(command=["sleep", "9"])
    assert scope.cancelled_caught
    assert master.stops == ["t1"]


# --- listing and fetching -----------------------------------------------------------------------


async def test_a_list_follows_the_pages_to_the_last(master: FakeMaster) -> None:
    tasks = [task(id=f"t{number}") for number in range(5)]
    master.pages = {
        "": TaskList(tasks=tuple(tasks[:2]), next_cursor="a"),
        "a": TaskList(tasks=tuple(tasks[2:4]), next_cursor="b"),
        "b": TaskList(tasks=tuple(tasks[4:])),
    }
    async with _client(master) as client:
        assert [task async for task in client.list(include_ended=True)] == tasks


async def test_a_download_is_whole_although_the_connection_broke(
    master: FakeMaster, tmp_path: Path
) -> None:
    whole = bytes(range(256)) * 5000
    tries = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        tries.append(1)
        yield whole[:300_000]
        if len(tries) == 1:
            master.nursery.start_soon(master.restart)
            await trio.sleep_forever()
        for at in range(300_000, len(whole), 250_000):
            yield whole[at : at + 250_000]

    master.pieces = pieces
    async with _client(master) as client:
        await client.download("t1", tmp_path / "r.zip")
    assert (tmp_path / "r.zip").read_bytes() == whole
    assert _names(tmp_path) == ["r.zip"]


async def test_a_download_that_fails_leaves_what_was_there(
    master: FakeMaster, tmp_path: Path
) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"half"
        await trio.testing.wait_all_tasks_blocked(0.01)
        master.kill()
        await trio.sleep_forever()

    master.pieces = pieces
    (tmp_path / "r.zip").write_bytes(b"old")
    async with _client(master, patience=Patience(within_s=0.1)) as client:
        with pytest.raises(LostConnection):
            await client.download("t1", tmp_path / "r.zip")
    assert _names(tmp_path) == ["r.zip"]
    assert (tmp_path / "r.zip").read_bytes() == b"old"


async def test_a_download_to_where_nothing_can_be_written_is_told(
    master: FakeMaster, tmp_path: Path
) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"x"

    master.pieces = pieces
    async with _client(master) as client:
        with pytest.raises(BadResult, match="cannot be written"):
            await client.download("t1", tmp_path / "no/such/r.zip")


# --- what it says -------------------------------------------------------------------------------


async def test_a_master_that_is_not_there_is_said_at_once_with_what_to_do() -> None:
    async with open_client("127.0.0.1:1", TOKEN) as client:
        with pytest.raises(NoMaster) as caught:
            await client.whoami()
    assert str(caught.value) == (
        "no master answers at 127.0.0.1:1; start one with `hivemind up`, or set HIVEMIND_MASTER"
    )


async def test_without_a_token_nothing_is_asked(
    master: FakeMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HIVEMIND_TOKEN", raising=False)
    async with open_client(master.address, home=tmp_path) as client:
        with pytest.raises(NotLoggedIn, match="hivemind account login"):
            await client.get("t1")


async def test_a_token_that_is_no_longer_good_says_so(master: FakeMaster) -> None:
    async with _client(master, token="old") as client:
        with pytest.raises(NotLoggedIn) as caught:
            await client.whoami()
    assert str(caught.value) == (
        f"the token has expired; log in to {master.address} with "
        "`hivemind account login NAME`, or set HIVEMIND_TOKEN"
    )


async def test_an_unknown_task_and_a_refusal_are_told_in_the_masters_words(
    master: FakeMaster,
) -> None:
    async with _client(master) as client:
        with pytest.raises(NoSuchTask, match="no task 't9'"):
            await client.get("t9")
        with pytest.raises(Refused, match=r"^only an admin may invite; ask one$"):
            await client.create_invite()
        with pytest.raises(Refused, match=r"^the name bob is taken; choose another$"):
            await client.register("bob", "password")
        with pytest.raises(Refused, match=r"^wrong name or password; try again$"):
            await client.login("ann", "wrong")
        assert await client.login("ann", "right password") == TOKEN


async def test_a_call_goes_on_over_a_new_connection(master: FakeMaster) -> None:
    async with _client(master) as client:
        assert (await client.whoami()).account == "ann"
        await master.restart()
        assert (await client.whoami()).account == "ann"


async def test_what_the_block_raises_comes_out_bare(master: FakeMaster) -> None:
    with pytest.raises(ClientError):
        async with _client(master) as client:
            await client.get("t9")


async def test_a_transfer_whose_answer_is_lost_is_repeated_and_stays_one(
    master: FakeMaster,
) -> None:
    async with _client(master) as client:
        await client.balance()
        master.break_after_transfer = 1
        done = await client.transfer("bob", 3, memo="for tea")
        await client.transfer("bob", 3, memo="for tea")
    assert done.repeated
    # One key for each transfer, and none for two.
    assert list(master.transfers.values()) == [("bob", 3, "for tea")] * 2


async def test_a_quote_sends_what_is_asked_for_and_no_bytes(
    master: FakeMaster, tmp_path: Path
) -> None:
    script = tmp_path / "s.py"
    script.write_text("# /// script\n# [tool.hivemind]\n# trust = 'high'\n# max_cpt = 1.5\n# ///\n")
    async with _client(master) as client:
        assert await client.quote(script, ask=Ask(wall_s=60.0)) == QUOTE
    (asked,) = master.quoted
    assert (asked.ask.wall_s, asked.ask.least_trust, asked.ask.max_ucpt) == (60.0, 80, 1_500_000)
    assert master.submits == []

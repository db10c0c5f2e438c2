from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from hivemind.core.messages import AttemptRef, DrainNotice, KillOrder, StopOrder
from hivemind.core.records import Outcome, Reason, RefusalKind
from hivemind.worker.app import Worker
from tests.worker.recording_master import RecordingMaster, Session, new_ref
from tests.worker.running import gone, lasting, processes_with, running, script, shell


@pytest.fixture
async def worker(master: RecordingMaster, tmp_path: Path) -> AsyncIterator[Worker]:
    async with running(master, tmp_path) as worker:
        yield worker


async def start_sleeper(master: RecordingMaster) -> tuple[AttemptRef, list[int]]:
    """A task that would run for long, and its processes."""
    marker = new_ref().task_id
    ref = master.assign(shell(f"echo up; {lasting(marker)}"))
    await master.until(lambda: master.of(ref).stdout == b"up\n")
    pids = processes_with(marker)
    assert pids
    return ref, pids


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def remove_result(home: Path) -> None:
    (tar,) = home.rglob("result.tar")
    tar.unlink()


async def next_session(master: RecordingMaster, last: Session) -> Session:
    await master.until(lambda: master.sessions and master.sessions[-1] is not last)
    return master.sessions[-1]


async def shorten_lease(master: RecordingMaster) -> Session:
    """Welcome the worker anew, with a lease that is soon over and is not renewed."""
    last = master.sessions[-1]
    master.lease_s, master.renews = 0.6, False
    master.cut()
    return await next_session(master, last)


async def test_output_is_resumed_after_each_cut_without_gap_or_repeat(
    master: RecordingMaster, worker: Worker
) -> None:
    task, payload = script(
        "import sys, time\n"
        "for i in range(3000):\n"
        "    print(i, file=sys.stderr if i % 3 else sys.stdout)\n"
        "    if i % 30 == 0: time.sleep(0.01)\n"
    )
    ref = master.assign(task, payload)
    for size in (500, 4000, 9000):
        await master.until(lambda size=size: master.of(ref).size > size)  # type: ignore[misc]
        last = master.sessions[-1]
        master.cut()
        session = await next_session(master, last)
        assert session.hello.held == (ref,)
    ending = await master.until_ended(ref)
    assert ending.outcome is Outcome.SUCCEEDED
    lines = [f"{i}\n".encode() for i in range(3000)]
    assert master.of(ref).stdout == b"".join(lines[::3])
    assert master.of(ref).stderr == b"".join(line for i, line in enumerate(lines) if i % 3)


async def test_a_task_outlasts_a_restart_of_the_master(
    master: RecordingMaster, worker: Worker
) -> None:
    ref = master.assign(shell("echo before; sleep 0.7; echo after"))
    await master.until(lambda: master.of(ref).started)
    await master.close()
    await master.open()
    ending = await master.until_ended(ref)
    assert ending.outcome is Outcome.SUCCEEDED
    assert master.of(ref).stdout == b"before\nafter\n"


async def test_an_end_is_reported_again_until_it_is_acknowledged(
    master: RecordingMaster, worker: Worker
) -> None:
    master.acknowledges = False
    ref = master.assign(shell("echo done"))
    await master.until_ended(ref)
    last = master.sessions[-1]
    master.acknowledges = True
    master.cut()
    session = await next_session(master, last)
    assert session.hello.held == (ref,)
    await master.until(lambda: len(master.of(ref).endings) == 2)
    assert master.of(ref).stdout == b"done\n"
    last = master.sessions[-1]
    await master.run(shell("true"))
    master.cut()
    assert (await next_session(master, last)).hello.held == ()


async def test_a_lease_that_is_not_renewed_ends_everything_and_tells_nobody(
    master: RecordingMaster, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        async with running(master, tmp_path):
            ref, pids = await start_sleeper(master)
            last = await shorten_lease(master)
            assert last.hello.held == (ref,)
            for pid in pids:
                await gone(pid)
            master.lease_s, master.renews = 15.0, True
            await master.until(lambda: any(s.hello.held == () for s in master.sessions))
            await master.run(shell("true"))
    assert master.of(ref).endings == []
    expired = [log for log in logs if log["event"] == "lease_expired"]
    assert (expired[0]["lease_s"], expired[0]["attempts_ended"]) == (0.6, 1)


async def test_a_lease_runs_out_without_a_connection_too(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path):
        _, pids = await start_sleeper(master)
        await shorten_lease(master)
        await master.close()
        for pid in pids:
            await gone(pid)
        master.lease_s, master.renews = 15.0, True
        await master.open()
        session = await master.until_connected()
        assert session.hello.held == ()


async def test_a_master_that_reads_nothing_does_not_hold_up_a_task(
    master: RecordingMaster, tmp_path: Path
) -> None:
    master.lease_s = 120.0
    async with running(master, tmp_path):
        marker = new_ref().task_id
        size = 12_000_000
        task = shell(f": {marker}; echo up; sleep 0.3; head -c {size} /dev/zero; exit 7")
        ref = master.assign(task)
        await master.until(lambda: master.of(ref).stdout == b"up\n")
        master.reading_allowed = trio.Event()
        pids = processes_with(marker)
        assert pids
        for pid in pids:
            await gone(pid)
        assert master.of(ref).size < size
        master.reading_allowed.set()
        ending = await master.until_ended(ref)
        assert ending.exit_code == 7
        assert master.of(ref).size == size + 3


async def test_heartbeats_carry_vitals(master: RecordingMaster, worker: Worker) -> None:
    await start_sleeper(master)
    seen = len(master.vitals)
    await master.until(lambda: len(master.vitals) >= seen + 3)
    vitals = master.vitals[-1]
    assert vitals.running == 1
    assert 0 < vitals.memory_used_bytes < vitals.memory_total_bytes
    assert vitals.disk_free_bytes > 0


async def test_what_the_master_no_longer_wants_ends_at_the_welcome(
    master: RecordingMaster, worker: Worker
) -> None:
    ref, pids = await start_sleeper(master)
    master.unwanted.add(ref)
    last = master.sessions[-1]
    master.cut()
    for pid in pids:
        await gone(pid)
    await next_session(master, last)
    await master.run(shell("true"))
    assert master.of(ref).endings == []


async def test_orders_about_strangers_change_nothing(
    master: RecordingMaster, worker: Worker
) -> None:
    master.sessions[-1].send(StopOrder(new_ref()), KillOrder(new_ref()))
    assert (await master.run(shell("echo fine"))).stdout == b"fine\n"
    assert len(master.hellos) == 1


async def test_an_id_that_would_be_a_path_breaks_the_link_alone(
    master: RecordingMaster, worker: Worker, tmp_path: Path
) -> None:
    last = master.sessions[-1]
    master.assign(shell("true"), ref=AttemptRef("../../../escaped", 1))
    await next_session(master, last)
    assert (await master.run(shell("echo fine"))).stdout == b"fine\n"
    assert names_below(tmp_path).isdisjoint({"escaped", "escaped.1"})


async def test_a_lease_that_no_heartbeat_could_keep_is_not_accepted(
    master: RecordingMaster, worker: Worker
) -> None:
    master.lease_s = 0.1
    with capture_logs() as logs:
        master.cut()
        await master.until(lambda: len(master.hellos) >= 3)
        master.lease_s = 15.0
        await master.until(lambda: any(s.number > 3 for s in master.sessions))
        assert (await master.run(shell("echo fine"))).stdout == b"fine\n"
    assert [log["event"] for log in logs if log["event"].startswith("link_")] == [
        "link_down",
        "link_up",
    ]


async def test_a_master_that_is_away_for_long_is_logged_once(
    master: RecordingMaster, worker: Worker
) -> None:
    with capture_logs() as logs:
        await master.close()
        await trio.sleep(0.5)  # time for several tries; that there were few would be no fault
        await master.open()
        await master.until_connected()
        await master.run(shell("true"))
    events = [log["event"] for log in logs if log["event"].startswith("link_")]
    assert events == ["link_down", "link_up"]


async def test_a_drain_that_the_master_orders_lasts_as_long_as_the_link(
    master: RecordingMaster, worker: Worker
) -> None:
    last = master.sessions[-1]
    last.send(DrainNotice())
    refusal = await master.until_refused(master.assign(shell("true")))
    assert refusal.kind is RefusalKind.BUSY
    master.cut()
    await next_session(master, last)
    assert (await master.run(shell("echo fine"))).stdout == b"fine\n"


async def test_a_forgotten_token_is_replaced_on_the_way(
    master: RecordingMaster, worker: Worker
) -> None:
    last = master.sessions[-1]
    master.tokens.clear()
    master.cut()
    await next_session(master, last)
    assert (await master.run(shell("echo fine"))).stdout == b"fine\n"


LARGE_RESULT = "head -c 300000 /dev/zero >output/large"


async def test_a_result_that_the_master_will_never_take_fails_the_attempt(
    master: RecordingMaster, worker: Worker
) -> None:
    master.most_result_bytes = 200_000
    seen = await master.run(shell(f"echo done; {LARGE_RESULT}"))
    (ending,) = seen.endings
    assert (ending.outcome, ending.reason) == (Outcome.FAILED, Reason.BAD_RESULT)
    assert "refused it" in ending.detail
    assert "over the limit of 200000 bytes" in ending.detail
    assert (ending.exit_code, ending.result_bytes, seen.stdout) == (0, 0, b"done\n")
    last = master.sessions[-1]
    await master.run(shell("true"))
    master.cut()
    assert (await next_session(master, last)).hello.held == ()


async def test_a_lost_result_of_a_failed_attempt_leaves_its_own_reason(
    master: RecordingMaster, worker: Worker
) -> None:
    master.most_result_bytes = 200_000
    (ending,) = (await master.run(shell(f"{LARGE_RESULT}; exit 3"))).endings
    assert (ending.outcome, ending.reason, ending.exit_code) == (Outcome.FAILED, Reason.EXITED, 3)
    assert ending.detail.startswith("exit status 3; its result cannot be kept")


@pytest.mark.parametrize("size", [300_000, 300])
async def test_a_result_that_vanished_from_the_disk_fails_the_attempt(
    master: RecordingMaster, worker: Worker, tmp_path: Path, size: int
) -> None:
    await master.run(shell("true"))
    last = master.sessions[-1]
    await master.close()
    master.acknowledges = False
    master.broken_deliveries = 10**6
    await master.open()
    await next_session(master, last)
    ref = master.assign(shell(f"head -c {size} /dev/zero >output/data"))
    await master.until(lambda: master.of(ref).endings or master.of(ref).result_bytes)
    remove_result(tmp_path)
    master.acknowledges = True
    last = master.sessions[-1]
    master.cut()
    await next_session(master, last)
    await master.until(
        lambda: master.of(ref).endings[-1:] and not master.of(ref).endings[-1].result_bytes
    )
    ending = master.of(ref).endings[-1]
    assert (ending.outcome, ending.reason) == (Outcome.FAILED, Reason.BAD_RESULT)
    assert "the node cannot read it: No such file" in ending.detail

from pathlib import Path

import pytest
import trio

from hivemind.core.messages import FinishedReport
from hivemind.core.records import Ending, Outcome, Reason
from hivemind.supervision import Backoff
from hivemind.worker.dial import Dial
from hivemind.worker.identity import IdentityFolder, join
from hivemind.worker.transfers import NotWanted, RefusedForGood, TransferFailed, Transfers
from tests.worker.recording_master import RecordingMaster, new_ref

ENDING = Ending(outcome=Outcome.SUCCEEDED, reason=Reason.EXITED, exit_code=0)


@pytest.fixture
async def transfers(master: RecordingMaster, tmp_path: Path) -> Transfers:
    dial = Dial(host=master.host, port=master.port)
    identity = await join(dial, IdentityFolder(tmp_path), name="attic", join_token="join-me")
    return Transfers(dial, identity, backoff=Backoff(first_s=0.01, most_s=0.01))


async def test_a_payload_arrives_byte_for_byte(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path
) -> None:
    ref = new_ref()
    data = bytes(range(256)) * 4000
    master.blobs[ref, False] = data
    await transfers.fetch(ref, stdin=False, size=len(data), into=tmp_path / "payload")
    assert (tmp_path / "payload").read_bytes() == data


@pytest.mark.parametrize("announced", [999, 1001])
async def test_a_payload_of_another_size_than_announced_is_not_used(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path, announced: int
) -> None:
    ref = new_ref()
    master.blobs[ref, True] = bytes(1000)
    with pytest.raises(TransferFailed, match=f"announced {announced} bytes of stdin"):
        await transfers.fetch(ref, stdin=True, size=announced, into=tmp_path / "stdin")


async def test_an_attempt_that_is_not_ours_is_not_asked_for_again(
    transfers: Transfers, tmp_path: Path
) -> None:
    with pytest.raises(NotWanted):
        await transfers.fetch(new_ref(), stdin=False, size=1, into=tmp_path / "payload")


async def test_a_fetch_outlasts_a_restart_of_the_master(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path
) -> None:
    ref = new_ref()
    master.blobs[ref, False] = b"payload"
    await master.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(master.open)
        with trio.fail_after(10):
            await transfers.fetch(ref, stdin=False, size=7, into=tmp_path / "payload")
    assert (tmp_path / "payload").read_bytes() == b"payload"


async def test_a_token_that_the_master_forgot_is_replaced(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path
) -> None:
    ref = new_ref()
    master.blobs[ref, False] = b"payload"
    master.tokens.clear()
    with trio.fail_after(10):
        await transfers.fetch(ref, stdin=False, size=7, into=tmp_path / "payload")


async def test_a_delivery_is_repeated_until_the_master_has_it(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path
) -> None:
    tar = tmp_path / "result.tar"
    tar.write_bytes(bytes(range(256)) * 4000)
    report = FinishedReport(ref=new_ref(), seq=2, ending=ENDING, output_bytes=0)
    master.broken_deliveries = 2
    with trio.fail_after(10):
        await transfers.deliver(report, tar)
    assert master.of(report.ref).endings == [ENDING]
    assert master.of(report.ref).result == tar.read_bytes()


async def test_a_delivery_that_the_master_will_never_take_is_not_repeated(
    master: RecordingMaster, transfers: Transfers, tmp_path: Path
) -> None:
    tar = tmp_path / "result.tar"
    tar.write_bytes(bytes(500_000))
    report = FinishedReport(ref=new_ref(), seq=2, ending=ENDING, output_bytes=0)
    master.most_result_bytes = 400_000
    with trio.fail_after(10), pytest.raises(RefusedForGood, match="over the limit of 400000"):
        await transfers.deliver(report, tar)


@pytest.mark.parametrize("unreadable", ["/proc/self/mem", "nowhere"])
async def test_a_result_that_this_disk_does_not_give_is_not_tried_again(
    transfers: Transfers, tmp_path: Path, unreadable: str
) -> None:
    report = FinishedReport(ref=new_ref(), seq=2, ending=ENDING, output_bytes=0)
    with trio.fail_after(10), pytest.raises(OSError):
        await transfers.deliver(report, tmp_path / unreadable)

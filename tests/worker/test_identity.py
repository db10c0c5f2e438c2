import stat
from pathlib import Path

import pytest

from hivemind.rpc.errors import ConnectFailed
from hivemind.worker.dial import Dial, NoSuchHost
from hivemind.worker.identity import (
    EnrolmentRefused,
    IdentityFolder,
    NotAccepted,
    NotEnrolled,
    UnreadableIdentity,
    join,
)
from tests.worker.recording_master import RecordingMaster, open_recording_master


def dial_to(master: RecordingMaster) -> Dial:
    return Dial(host=master.host, port=master.port)


async def test_a_join_token_makes_a_node_that_proves_itself_from_then_on(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    first = await join(dial_to(master), folder, name="attic", join_token="join-me")
    master.join_tokens.clear()
    again = await join(dial_to(master), folder, name="attic", join_token=None)
    assert again.membership == first.membership
    assert list(master.nodes) == [first.membership.node_id]
    assert first.membership.account == "alice"
    assert await again.token() in master.tokens


async def test_the_key_is_its_owners_alone(master: RecordingMaster, tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    await join(dial_to(master), folder, name="attic", join_token="join-me")
    assert stat.S_IMODE(folder.key_path.stat().st_mode) == 0o600
    assert list(master.nodes.values()) == [folder.load_or_make_key().verify_key.encode()]


async def test_a_token_is_kept_while_it_is_good_and_renewed_before_it_expires(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    identity = await join(dial_to(master), folder, name="attic", join_token="join-me")
    assert await identity.token() == await identity.token()
    assert master.proofs == 1
    identity.forget_token()
    master.token_ttl_s = 0.0
    assert await identity.token() != await identity.token()
    assert master.proofs == 3


async def test_without_a_token_a_new_worker_says_how_to_get_one(
    master: RecordingMaster, tmp_path: Path
) -> None:
    with pytest.raises(NotEnrolled, match=r"--join TOKEN, which `hivemind node token` prints"):
        await join(dial_to(master), IdentityFolder(tmp_path), name="attic", join_token=None)


async def test_a_refused_token_is_the_end_of_it(master: RecordingMaster, tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    with pytest.raises(EnrolmentRefused, match="unknown, used or expired") as refused:
        await join(dial_to(master), folder, name="attic", join_token="stale")
    assert "\n" not in str(refused.value)
    assert folder.load_membership() is None


async def test_a_home_of_another_pool_is_not_taken_over(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    await join(dial_to(master), folder, name="attic", join_token="join-me")
    before = folder.load_membership()
    async with open_recording_master() as other:
        with pytest.raises(NotAccepted, match="enrolled with the master at") as refused:
            await join(dial_to(other), folder, name="attic", join_token="join-me")
    assert master.address in str(refused.value)
    assert other.address in str(refused.value)
    assert folder.load_membership() == before
    assert other.nodes == {}


async def test_a_master_that_moved_is_known_by_its_accepting_the_node(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    first = await join(dial_to(master), folder, name="attic", join_token="join-me")
    async with open_recording_master() as moved:
        moved.nodes = master.nodes
        again = await join(dial_to(moved), folder, name="attic", join_token=None)
    assert again.membership.node_id == first.membership.node_id
    assert again.membership.master == moved.address
    assert folder.load_membership() == again.membership


async def test_a_forgotten_node_is_told_how_to_come_back(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    await join(dial_to(master), folder, name="attic", join_token="join-me")
    master.nodes.clear()
    with pytest.raises(NotAccepted, match="enrol with --join"):
        await join(dial_to(master), folder, name="attic", join_token="join-me")


async def test_a_master_that_is_away_changes_nothing(
    master: RecordingMaster, tmp_path: Path
) -> None:
    folder = IdentityFolder(tmp_path)
    await master.close()
    with pytest.raises(ConnectFailed):
        await join(dial_to(master), folder, name="attic", join_token="join-me")
    assert folder.load_membership() is None
    await master.open()
    await join(dial_to(master), folder, name="attic", join_token="join-me")


@pytest.mark.parametrize("name", ["node.key", "node.json"])
async def test_a_damaged_identity_is_not_replaced(
    master: RecordingMaster, tmp_path: Path, name: str
) -> None:
    folder = IdentityFolder(tmp_path)
    await join(dial_to(master), folder, name="attic", join_token="join-me")
    (tmp_path / name).write_bytes(b"\xff damaged")
    with pytest.raises(UnreadableIdentity, match=name):
        await join(dial_to(master), folder, name="attic", join_token="join-me")
    assert (tmp_path / name).read_bytes() == b"\xff damaged"


async def test_a_name_that_means_nothing_is_told_at_once() -> None:
    with pytest.raises(NoSuchHost, match=r"no\.such\.host\.invalid.*check --master"):
        await Dial(host="no.such.host.invalid", port=1).check_name()

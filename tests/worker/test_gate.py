"""Who is let in, by tokens that are made here; those of a real master are in tests/e2e."""

import stat
import time
from pathlib import Path

import attrs
import pytest
import trio
from nacl.signing import SigningKey
from structlog.testing import capture_logs

from hivemind.core.messages import Keyring
from hivemind.core.records import RevokedToken
from hivemind.rpc.auth import InvalidToken, Principal
from hivemind.rpc.tokens import MASTER_AUDIENCE, Claims, sign_token
from hivemind.worker.gate import LOCAL, BadLocalToken, Gate, open_gate
from hivemind.worker.identity import IdentityFolder, Membership

OLD_KEY, NEW_KEY = SigningKey(b"o" * 32), SigningKey(b"n" * 32)
MEMBERSHIP = Membership(node_id="node-1", account="alice", master="there:1")
BOTH = Keyring(verify_keys=(OLD_KEY.verify_key.encode(), NEW_KEY.verify_key.encode()))


def token(key: SigningKey = NEW_KEY, **claims: object) -> str:
    given: dict[str, object] = {
        "subject": "bob",
        "role": "user",
        "kind": "direct",
        "audience": "node-1",
        "token_id": "node/node-1.1",
        "issued_at": time.time(),
        "expires_at": time.time() + 60,
        **claims,
    }
    return sign_token(Claims(**given), key)  # type: ignore[arg-type]


@pytest.fixture
async def gate(tmp_path: Path) -> Gate:
    gate = await open_gate(tmp_path)
    gate.belong(MEMBERSHIP)
    gate.take(BOTH)
    return gate


async def refused(gate: Gate, text: str) -> str:
    with pytest.raises(InvalidToken) as error:
        await gate.verify(text, "peer")
    assert "\n" not in str(error.value)
    return str(error.value)


async def admitted(gate: Gate, text: str) -> Principal:
    return await gate.verify(text, "peer")


@pytest.mark.parametrize("key", [OLD_KEY, NEW_KEY])
async def test_a_token_by_any_key_of_the_pool_is_believed(gate: Gate, key: SigningKey) -> None:
    caller = await admitted(gate, token(key))
    assert (caller.account, caller.kind) == ("bob", "direct")
    assert not gate.is_owner(caller)
    assert gate.is_owner(await admitted(gate, token(key, subject="alice")))


async def test_a_push_is_let_in_and_is_never_the_owner(gate: Gate) -> None:
    assert not gate.is_owner(await admitted(gate, token(kind="push", subject="alice")))


async def test_the_owners_own_token_is_believed_and_nobody_elses(gate: Gate) -> None:
    owners = token(kind="account", audience=MASTER_AUDIENCE, subject="alice")
    assert gate.is_owner(await admitted(gate, owners))
    strangers = token(kind="account", audience=MASTER_AUDIENCE, role="admin")
    assert "hivemind account token --node node-1" in await refused(gate, strangers)


@pytest.mark.parametrize(
    "claims",
    [
        {"audience": "node-2"},
        {"kind": "account"},
        {"kind": "node"},
        {"kind": "local"},
        {"kind": "node", "audience": MASTER_AUDIENCE, "subject": "alice"},
        {"kind": "direct", "audience": MASTER_AUDIENCE, "subject": "alice"},
        {"kind": "push", "audience": MASTER_AUDIENCE, "subject": "alice"},
        {"expires_at": time.time() - 1},
        {"issued_at": time.time() + 3600},
    ],
)
async def test_what_is_not_meant_for_it_opens_nothing(
    gate: Gate, claims: dict[str, object]
) -> None:
    await refused(gate, token(**claims))


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é\ud800", "." * 9, "x" * 100_000])
async def test_any_text_is_refused_and_nothing_worse(gate: Gate, text: str) -> None:
    await refused(gate, text)


async def test_another_pools_token_opens_nothing(gate: Gate) -> None:
    assert "not signed" in await refused(gate, token(SigningKey(b"x" * 32)))


async def test_what_is_revoked_opens_nothing(gate: Gate) -> None:
    text = token()
    await admitted(gate, text)
    gate.take(attrs.evolve(BOTH, revoked=(RevokedToken(token_id="node/node-1.1", expires_at=9e9),)))
    assert "revoked" in await refused(gate, text)
    await admitted(gate, token(token_id="node/node-1.2"))


async def test_where_more_is_revoked_than_is_told_what_expires_early_opens_nothing(
    gate: Gate,
) -> None:
    until = time.time() + 100
    gate.take(attrs.evolve(BOTH, distrust_until=until))
    await refused(gate, token(expires_at=until))
    await refused(gate, token(expires_at=until - 50))
    await admitted(gate, token(expires_at=until + 50))


async def test_a_key_that_the_pool_gave_up_signs_nothing_any_more(gate: Gate) -> None:
    gate.take(Keyring(verify_keys=(NEW_KEY.verify_key.encode(),)))
    await refused(gate, token(OLD_KEY))
    await admitted(gate, token(NEW_KEY))


async def test_without_a_pool_the_homes_own_token_alone_opens_it(tmp_path: Path) -> None:
    gate = await open_gate(tmp_path)
    assert "local-token" in await refused(gate, token())
    own = (tmp_path / "local-token").read_text().strip()
    caller = await admitted(gate, own)
    assert (caller.account, caller.kind) == (LOCAL, LOCAL)
    assert gate.is_owner(caller)
    await refused(gate, own[:-1])
    await refused(gate, own + "0")


async def test_the_homes_own_token_acts_for_the_owner(gate: Gate, tmp_path: Path) -> None:
    caller = await admitted(gate, (tmp_path / "local-token").read_text().strip())
    assert (caller.account, gate.is_owner(caller)) == ("alice", True)


async def test_its_own_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    await open_gate(tmp_path)
    path = tmp_path / "local-token"
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.strip()) >= 50
    await open_gate(tmp_path)
    assert path.read_text() == first


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("short\n", 0o600), ("é" * 60, 0o600)])
async def test_a_damaged_token_is_not_used(tmp_path: Path, text: str, mode: int) -> None:
    (tmp_path / "local-token").write_text(text)
    (tmp_path / "local-token").chmod(mode)
    with pytest.raises(BadLocalToken, match="remove it"):
        await open_gate(tmp_path)


async def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    await open_gate(tmp_path)
    (tmp_path / "local-token").chmod(0o644)
    with pytest.raises(BadLocalToken, match="others"):
        await open_gate(tmp_path)


async def test_what_the_master_told_outlasts_a_restart_for_the_same_node_alone(
    gate: Gate, tmp_path: Path
) -> None:
    IdentityFolder(tmp_path).save_membership(MEMBERSHIP)
    gate.take(attrs.evolve(BOTH, revoked=(RevokedToken(token_id="node/node-1.1", expires_at=9e9),)))
    async with trio.open_nursery() as nursery:
        await nursery.start(gate.run)
        with trio.fail_after(10):
            while not (tmp_path / "keyring.json").exists():  # noqa: ASYNC110 - the file is all there is to see
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    again = await open_gate(tmp_path)
    assert "revoked" in await refused(again, token())
    await admitted(again, token(token_id="node/node-1.2"))
    # The same node, as it is told once it has proved itself.
    again.belong(attrs.evolve(MEMBERSHIP, master="elsewhere:1"))
    await admitted(again, token(token_id="node/node-1.2"))

    IdentityFolder(tmp_path).save_membership(attrs.evolve(MEMBERSHIP, node_id="node-2"))
    moved = await open_gate(tmp_path)
    assert "no pool's keys" in await refused(moved, token(audience="node-2"))


async def test_a_damaged_keyring_is_as_good_as_none(tmp_path: Path) -> None:
    IdentityFolder(tmp_path).save_membership(MEMBERSHIP)
    (tmp_path / "keyring.json").write_text('{"node_id": "node-1"')
    with capture_logs() as logs:
        gate = await open_gate(tmp_path)
    assert [entry["event"] for entry in logs] == ["keyring_unreadable"]
    await refused(gate, token())
    await admitted(gate, (tmp_path / "local-token").read_text().strip())

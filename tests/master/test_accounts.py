import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from hivemind.core.messages import Enrolment
from hivemind.core.policy import PoolRules
from hivemind.core.records import Role
from hivemind.master import passwords
from hivemind.master.accounts import Accounts
from hivemind.master.enrolment import ENROL_CONTEXT, PROVE_CONTEXT
from hivemind.master.passwords import Passwords
from hivemind.master.rates import RateLimiter
from hivemind.master.secrets import OneTimeSecrets
from hivemind.rpc.contract.accounts import AccountsClient
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.contract.link import LinkClient
from hivemind.rpc.contract.nodes import NodesClient
from hivemind.rpc.errors import CallRefused, ErrorCode, RemoteError
from tests.master.builders import account, check
from tests.master.gated import BEFORE
from tests.master.pool import Pool, key_of, open_link, open_pool

RULES = PoolRules(logins_per_minute=1000)
PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash as it is stored takes 64 MiB and tens of milliseconds: the least there is will do."""
    least = passwords.nacl.pwhash.argon2id
    monkeypatch.setattr(least, "OPSLIMIT_INTERACTIVE", least.OPSLIMIT_MIN)
    monkeypatch.setattr(least, "MEMLIMIT_INTERACTIVE", least.MEMLIMIT_MIN)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path, rules=RULES) as made:
        yield made


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path, rules=RULES, is_open=False) as made:
        yield made


async def refusal_of(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refusal:
        await call
    return refusal.value


async def fault_of(call: Any) -> NamedFault:
    with pytest.raises(NamedFault) as fault:
        await call
    return fault.value


async def test_an_account_is_made_logs_in_and_is_known(pool: Pool) -> None:
    async with pool.channel() as channel:
        client = AccountsClient(channel)
        await client.register("zoe", PASSWORD)
        token = await client.login("zoe", PASSWORD)
    async with pool.channel(token) as channel:
        identity = await AccountsClient(channel).whoami()
    assert (identity.account, identity.role) == ("zoe", Role.USER)
    assert identity.expires_at == pytest.approx(pool.clock() + RULES.token_ttl_s, abs=5)
    stored = pool.reactor.cluster.accounts["zoe"].password_hash
    assert stored.startswith("$argon2id$")
    await check(pool.reactor, pool.store)


async def test_an_unknown_name_and_a_wrong_password_get_the_same_answer(pool: Pool) -> None:
    async with pool.channel() as channel:
        client = AccountsClient(channel)
        await client.register("zoe", PASSWORD)
        faults = [
            await fault_of(client.login(name, password))
            for name, password in (
                ("zoe", "wrong horse"),
                ("nobody", PASSWORD),
                ("root", ""),
                ("zoe", "x" * 2000),
                ("", ""),
                ("zoe", "correct\0horse"),
            )
        ]
    assert {fault.named_code for fault in faults} == {ErrorCode.INVALID_PASSWORD}
    assert len({str(fault) for fault in faults}) == 1


async def test_an_unknown_name_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    hash_, verify = passwords._hash, passwords._verify
    monkeypatch.setattr(passwords, "_hash", lambda password: done.append("hash") or hash_(password))
    monkeypatch.setattr(
        passwords,
        "_verify",
        lambda known, password: done.append("verify") or verify(known, password),
    )
    work = Passwords()
    stored = await work.hash(PASSWORD)
    done.clear()
    assert await work.matches(stored, PASSWORD)
    assert not await work.matches(stored, "other")
    assert not await work.matches("", PASSWORD)
    # A check is a hash that is compared.
    assert done == ["verify", "verify", "hash"]


@pytest.mark.parametrize("name", ["", "A", "a", "../x", "a" * 33, "-a", "ann\n", "ünï", "a b"])
async def test_a_name_that_no_account_may_have_is_refused(pool: Pool, name: str) -> None:
    async with pool.channel() as channel:
        error = await refusal_of(AccountsClient(channel).register(name, PASSWORD))
    assert error.status.name == "INVALID_ARGUMENT"
    assert name not in pool.reactor.cluster.accounts


@pytest.mark.parametrize("password", ["", "short", "x" * 1025, "ü" * 513])
async def test_a_password_has_its_bounds(pool: Pool, password: str) -> None:
    async with pool.channel() as channel:
        error = await refusal_of(AccountsClient(channel).register("zoe", password))
    assert "8 characters or more" in str(error)


async def test_a_name_is_given_once_however_many_ask_at_once(pool: Pool) -> None:
    made: list[str] = []
    refused: list[ErrorCode | None] = []

    async def ask(number: int) -> None:
        async with pool.channel() as channel:
            client = AccountsClient(channel)
            try:
                await client.register("zoe", f"{PASSWORD} {number}")
            except NamedFault as fault:
                refused.append(fault.named_code)
            else:
                made.append(await client.login("zoe", f"{PASSWORD} {number}"))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, number)
    assert len(made) == 1
    assert refused == [ErrorCode.USER_EXISTS] * 5


async def test_a_registration_that_could_not_be_stored_leaves_nothing(pool: Pool) -> None:
    async with pool.channel() as channel:
        client = AccountsClient(channel)
        pool.store.faults = [BEFORE]
        error = await refusal_of(client.register("zoe", PASSWORD))
        assert "nothing was changed" in str(error)
        await client.register("zoe", PASSWORD)


async def test_a_logout_ends_that_token_alone(pool: Pool) -> None:
    one, other = pool.account_token("ann"), pool.account_token("ann")
    async with pool.channel(one) as channel:
        client = AccountsClient(channel)
        await client.logout()
        error = await refusal_of(client.whoami())
    assert (error.status.name, error.code) == ("UNAUTHENTICATED", ErrorCode.INVALID_SESSION)
    assert "revoked" in str(error)
    async with pool.channel(other) as channel:
        await AccountsClient(channel).whoami()
    await check(pool.reactor, pool.store)


async def test_revoked_tokens_are_forgotten_once_they_have_expired(pool: Pool) -> None:
    for _ in range(5):
        async with pool.channel(pool.account_token("ann", ttl_s=50.0)) as channel:
            await AccountsClient(channel).logout()
    assert len(pool.reactor.cluster.revoked) == 5
    pool.clock.ahead_s = 60.0
    async with pool.channel(pool.account_token("ann", ttl_s=50.0)) as channel:
        await AccountsClient(channel).logout()
    assert len(pool.reactor.cluster.revoked) == 1


async def test_a_token_that_expired_or_whose_account_is_unknown_is_refused(pool: Pool) -> None:
    token = pool.account_token("ann", ttl_s=50.0)
    async with pool.channel(token) as channel:
        await AccountsClient(channel).whoami()
        pool.clock.ahead_s = 51.0
        assert "expired" in str(await refusal_of(AccountsClient(channel).whoami()))
    stranger = pool.authority.account_token(account("ghost", Role.ADMIN), 50.0)
    async with pool.channel(stranger) as channel:
        assert "not of this pool" in str(await refusal_of(AccountsClient(channel).whoami()))


async def test_a_token_has_the_role_that_the_account_has_now(pool: Pool) -> None:
    token = pool.account_token("root")
    await pool.reactor.perform(lambda turn: turn.put_account(account("root", Role.USER)))
    async with pool.channel(token) as channel:
        client = AccountsClient(channel)
        assert (await client.whoami()).role is Role.USER
        assert (await refusal_of(client.create_invite())).status.name == "PERMISSION_DENIED"


# --- how often one may try ---


async def test_tries_are_counted_by_address_and_by_account(tmp_path: Path) -> None:
    rules = PoolRules(logins_per_minute=3)
    async with open_pool(tmp_path, rules=rules) as pool, pool.channel() as channel:
        client = AccountsClient(channel)
        for name in ("x1", "x2", "x3"):
            await fault_of(client.login(name, PASSWORD))
        error = await refusal_of(client.login("x4", PASSWORD))
        assert error.status.name == "RESOURCE_EXHAUSTED"
        assert "wait 20 s" in str(error)
        # Registering is counted apart.
        await client.register("zoe", PASSWORD)


async def test_one_stranger_cannot_keep_an_accounts_owner_out(tmp_path: Path) -> None:
    rules = PoolRules(logins_per_minute=3)
    async with open_pool(tmp_path, rules=rules) as pool:
        async with pool.channel() as channel:
            await AccountsClient(channel).register("zoe", PASSWORD)
        accounts = Accounts(
            pool.reactor,
            pool.authority,
            OneTimeSecrets(
                pool.reactor,
                clock=pool.clock,
                random_bytes=secrets.token_bytes,
                default_ttl_s=lambda: 60.0,
            ),
            rules=lambda: rules,
            clock=pool.clock,
            rates=RateLimiter(lambda: rules.logins_per_minute),
            is_open=lambda: True,
        )
        # Whoever has one address of an IPv6 network has all of them.
        for number in range(3):
            await accounts.register(f"[2001:db8::{number}]:4000", f"six-{number}", PASSWORD, "")
        with pytest.raises(CallRefused, match="too many tries"):
            await accounts.register("[2001:db8::ffff]:4000", "six-four", PASSWORD, "")
        refused = 0
        for _ in range(30):
            try:
                await accounts.login("192.0.2.1:4000", "zoe", "not the password")
            except NamedFault:
                continue
            except CallRefused:
                refused += 1
        assert refused == 27
        assert await accounts.login("192.0.2.2:4000", "zoe", PASSWORD)
        # Many strangers together are slowed, whoever is meant.
        for number in range(26):
            with pytest.raises(NamedFault):
                await accounts.login(f"198.51.100.{number}:4000", "zoe", "not the password")
        with pytest.raises(CallRefused, match="too many tries"):
            await accounts.login("198.51.100.99:4000", "zoe", "not the password")


# --- invitations ---


async def test_a_closed_pool_takes_whoever_was_invited_once(closed: Pool) -> None:
    async with closed.channel(closed.account_token("root")) as channel:
        invite = await AccountsClient(channel).create_invite()
        join = await AccountsClient(channel).create_join_token()
    async with closed.channel() as channel:
        client = AccountsClient(channel)
        for code in ("", "guess", join.text, invite.text.upper()):
            error = await refusal_of(client.register("zoe", PASSWORD, code))
            assert error.status.name == "PERMISSION_DENIED"
        await client.register("zoe", PASSWORD, invite.text)
        error = await refusal_of(client.register("eve", PASSWORD, invite.text))
        assert "used or expired" in str(error)
    assert invite.text not in str(closed.reactor.cluster)


async def test_an_invitation_serves_one_of_many_who_use_it_at_once(closed: Pool) -> None:
    async with closed.channel(closed.account_token("root")) as channel:
        invite = await AccountsClient(channel).create_invite()
    made: list[str] = []
    refused: list[str] = []

    async def ask(name: str) -> None:
        async with closed.channel() as channel:
            try:
                await AccountsClient(channel).register(name, PASSWORD, invite.text)
            except RemoteError as error:
                refused.append(str(error))
            else:
                made.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, f"guest{number}")
    assert len(made) == 1
    assert len(refused) == 4
    assert all("used or expired" in text for text in refused)


async def test_secrets_have_their_time_and_their_number(closed: Pool) -> None:
    async with closed.channel(closed.account_token("root")) as channel:
        client = AccountsClient(channel)
        for bad in (-1.0, 31 * 86400.0, float("nan"), float("inf")):
            assert "30 days" in str(await refusal_of(client.create_join_token(bad)))
        invite = await client.create_invite(60.0)
        closed.clock.ahead_s = 61.0
    async with closed.channel() as channel:
        error = await refusal_of(AccountsClient(channel).register("zoe", PASSWORD, invite.text))
        assert "expired" in str(error)
    async with closed.channel(closed.account_token("ann")) as channel:
        client = AccountsClient(channel)
        assert (await refusal_of(client.create_invite())).status.name == "PERMISSION_DENIED"
        for _ in range(100):
            await client.create_join_token(60.0)
        assert "which is the most" in str(await refusal_of(client.create_join_token()))
        closed.clock.ahead_s = 130.0
        await client.create_join_token()
    assert len(closed.reactor.cluster.join_tokens) == 1


# --- enrolment ---


def enrolment(token: str, seed: int = 1, **fields: Any) -> Enrolment:
    key = key_of(seed)
    return Enrolment(
        join_token=token,
        public_key=fields.get("public_key", bytes(key.verify_key)),
        name=fields.get("name", "box"),
        signature=fields.get("signature", key.sign(ENROL_CONTEXT + token.encode()).signature),
    )


async def join_token(pool: Pool, name: str = "ann") -> str:
    async with pool.channel(pool.account_token(name)) as channel:
        return (await AccountsClient(channel).create_join_token()).text


async def test_a_worker_enrols_proves_itself_and_connects(pool: Pool) -> None:
    token = await join_token(pool)
    async with pool.channel() as channel:
        client = LinkClient(channel)
        enrolled = await client.enrol(enrolment(token))
        assert enrolled.account == "ann"
        nonce = await client.challenge(enrolled.node_id)
        signature = key_of(1).sign(PROVE_CONTEXT + nonce).signature
        node_token = await client.prove(enrolled.node_id, nonce, signature)
        assert node_token.expires_in_s == RULES.node_token_ttl_s
        # The same answer again is worth nothing.
        error = await refusal_of(client.prove(enrolled.node_id, nonce, signature))
        assert "used or expired" in str(error)
    async with pool.channel(node_token.text) as channel:
        async with open_link(LinkClient(channel)) as link:
            await link.join()
        for call in (
            AccountsClient(channel).whoami(),
            AccountsClient(channel).create_join_token(),
            AccountsClient(channel).logout(),
            NodesClient(channel).list_nodes(),
        ):
            assert (await refusal_of(call)).status.name == "PERMISSION_DENIED"
        # Nor does it bring another node in.
        error = await refusal_of(LinkClient(channel).enrol(enrolment(node_token.text, seed=2)))
        assert "cannot enrol another node" in str(error)


async def test_a_join_token_serves_once(pool: Pool) -> None:
    token = await join_token(pool)
    async with pool.channel() as channel:
        client = LinkClient(channel)
        first = await client.enrol(enrolment(token))
        # Its answer may have been lost: the same key is the same node.
        assert await client.enrol(enrolment(token)) == first
        error = await refusal_of(client.enrol(enrolment(token, seed=2)))
        assert "hivemind node token" in str(error)
    await check(pool.reactor, pool.store)


async def test_the_same_key_at_once_is_one_node(pool: Pool) -> None:
    tokens = [await join_token(pool) for _ in range(5)]
    ids: list[str] = []

    async def ask(token: str) -> None:
        async with pool.channel() as channel:
            ids.append((await LinkClient(channel).enrol(enrolment(token))).node_id)

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(ask, token)
    assert len(ids) == 5
    assert len(set(ids)) == 1


async def test_an_accounts_token_serves_as_a_join_token_again_and_again(pool: Pool) -> None:
    token = pool.account_token("bob")
    async with pool.channel() as channel:
        client = LinkClient(channel)
        ids = {(await client.enrol(enrolment(token, seed))).node_id for seed in range(1, 20)}
        assert len(ids) == 19
        assert {pool.reactor.cluster.nodes[id_].account for id_ in ids} == {"bob"}
        # A key that is bob's node is not ann's.
        error = await refusal_of(client.enrol(enrolment(pool.account_token("ann"), 1)))
        assert "home of its own" in str(error)
        pool.clock.ahead_s = 601.0
        error = await refusal_of(client.enrol(enrolment(token, 50)))
        assert error.status.name == "UNAUTHENTICATED"


async def test_an_enrolment_must_be_signed_with_the_key_that_it_names(pool: Pool) -> None:
    token = await join_token(pool)
    async with pool.channel() as channel:
        client = LinkClient(channel)
        stranger = key_of(2).sign(ENROL_CONTEXT + token.encode()).signature
        for bad in (
            enrolment(token, signature=stranger),
            enrolment(token, signature=b""),
            enrolment(token, signature=bytes(64)),
            enrolment(token, public_key=b"short"),
            enrolment(token, public_key=bytes(32)),
            enrolment(token, name=""),
            enrolment(token, name="a\nb"),
        ):
            assert (await refusal_of(client.enrol(bad))).status.name in {
                "PERMISSION_DENIED",
                "INVALID_ARGUMENT",
            }
        await client.enrol(enrolment(token))


async def test_a_proof_is_for_one_node_one_nonce_and_a_minute(pool: Pool) -> None:
    async with pool.channel() as channel:
        client = LinkClient(channel)
        mine = (await client.enrol(enrolment(await join_token(pool), 1))).node_id
        other = (await client.enrol(enrolment(await join_token(pool), 2))).node_id

        async def prove(node_id: str, nonce: bytes, seed: int = 1) -> Any:
            signature = key_of(seed).sign(PROVE_CONTEXT + nonce).signature
            return await client.prove(node_id, nonce, signature)

        nonce = await client.challenge(mine)
        assert (await refusal_of(prove(mine, nonce, seed=2))).status.name == "UNAUTHENTICATED"
        for node_id, bad in (
            (other, nonce),
            (mine, b""),
            (mine, bytes(32)),
            (mine, nonce[:-1]),
            (mine, nonce + b"x"),
            (mine, bytes([nonce[0] ^ 1]) + nonce[1:]),
        ):
            assert "ask for a new challenge" in str(await refusal_of(prove(node_id, bad)))
        pool.clock.ahead_s = 61.0
        assert "expired" in str(await refusal_of(prove(mine, nonce)))
        ghost = await client.challenge("nobody")
        error = await refusal_of(prove("nobody", ghost))
        assert error.code is ErrorCode.NODE_NOT_FOUND
        await prove(mine, await client.challenge(mine))


async def test_strangers_who_ask_for_nonces_keep_no_worker_out(pool: Pool) -> None:
    enroller = pool.links._enroller
    async with pool.channel() as channel:
        client = LinkClient(channel)
        node_id = (await client.enrol(enrolment(await join_token(pool)))).node_id
        nonce = await client.challenge(node_id)
        for number in range(20_000):
            enroller.challenge(f"stranger{number}")
        signature = key_of(1).sign(PROVE_CONTEXT + nonce).signature
        assert (await client.prove(node_id, nonce, signature)).text
    assert len(enroller._last_serials) == 1


# --- nodes as people see them ---


async def test_nodes_are_listed_in_pages_with_how_they_are(pool: Pool) -> None:
    async with pool.channel(pool.account_token("bob")) as channel, pool.link("n1") as link:
        await link.join(3)
        client = NodesClient(channel)
        page = await client.list_nodes(limit=1)
        assert [view.id for view in page.nodes] == ["n1"]
        (view,) = page.nodes
        assert (view.status, view.capacity.slots, view.account) == ("online", 3, "ann")
        assert view.last_seen_at == pytest.approx(pool.clock(), abs=5)
        page = await client.list_nodes(cursor=page.next_cursor, limit=1000)
        assert [(view.id, view.status) for view in page.nodes] == [("n2", "offline")]
        assert page.next_cursor == ""

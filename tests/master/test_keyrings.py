from typing import Any

from hivemind.core.messages import MOST_REVOKED
from hivemind.core.records import RevokedToken
from hivemind.master.keyrings import keyring_of, new_token_id, of_account, of_node
from hivemind.master.revocations import Revocations

KEYS = (b"k" * 32,)
WHOSE = (of_node("n1"), of_account("alice"))


def ids(whose: str, count: int) -> list[str]:
    return [new_token_id(whose, lambda size, i=i: i.to_bytes(size, "big")) for i in range(count)]


def ring(revoked: dict[str, float], whose: Any = WHOSE) -> Any:
    tokens = [RevokedToken(token_id=id_, expires_at=until) for id_, until in revoked.items()]
    return keyring_of(whose, keys=KEYS, revoked=Revocations(tokens))


def test_a_node_hears_of_its_own_tokens_and_its_owners_and_of_nobody_elses() -> None:
    others = [*ids(of_account("bob"), 3), *ids(of_node("n2"), 3), "from-before"]
    mine = [*ids(of_account("alice"), 2), *ids(of_node("n1"), 2)]
    got = ring(dict.fromkeys([*others, *mine], 10.0))
    assert sorted(token.token_id for token in got.revoked) == sorted(mine)
    assert (got.verify_keys, got.distrust_until) == (KEYS, 0.0)
    assert ring(dict.fromkeys(mine, 10.0), ()).revoked == ()


def test_an_account_that_is_called_like_a_node_is_not_that_node() -> None:
    assert ring(dict.fromkeys(ids(of_account("n1"), 3), 10.0)).revoked == ()


def test_what_there_is_no_room_for_is_distrusted_altogether() -> None:
    revoked = {text: float(at) for at, text in enumerate(ids(of_node("n1"), MOST_REVOKED + 50))}
    got = ring(revoked)
    assert len(got.revoked) == MOST_REVOKED
    named = {token.token_id for token in got.revoked}
    assert all(text in named or at <= got.distrust_until for text, at in revoked.items())
    assert got.distrust_until == 49.0


def test_the_same_tokens_are_the_same_keyring_and_new_ones_are_seen() -> None:
    one, two = ids(of_node("n1"), 2)
    first = ring({one: 1.0, two: 2.0})
    assert ring({two: 2.0, one: 1.0}) == first
    assert ring({one: 1.0}) != first

"""Revoked tokens: known until they expire, at a cost that their number does not change."""

import time

from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.records import RevokedToken
from hivemind.master.revocations import Revocations


def token(whose: str, number: int, until: float) -> RevokedToken:
    return RevokedToken(token_id=f"{whose}.{number:024x}", expires_at=until)


STEPS = st.lists(
    st.tuples(
        st.lists(st.builds(token, st.sampled_from("ab"), st.integers(0, 5), st.just(7.0))),
        st.floats(0, 3),
    ),
    max_size=6,
)


@given(STEPS, st.lists(st.builds(token, st.sampled_from("ab"), st.integers(6, 9), st.floats(0, 9))))
def test_it_knows_what_a_plain_dictionary_would(
    steps: list[tuple[list[RevokedToken], float]], before: list[RevokedToken]
) -> None:
    revoked = Revocations(before)
    model: dict[str, float] = {}
    for one in before:
        model.setdefault(one.token_id, one.expires_at)
    now = 0.0
    for tokens, passed_s in steps:
        now += passed_s
        revoked.put(tokens, now)
        model = {id_: until for id_, until in model.items() if until > now}
        for one in tokens:
            model.setdefault(one.token_id, one.expires_at)
        assert dict(revoked) == model
        assert len(revoked) == len(model)
        for whose in "ab":
            theirs = {one.token_id: one.expires_at for one in revoked.of(whose)}
            assert theirs == {id_: at for id_, at in model.items() if id_.startswith(whose)}


def test_one_more_costs_no_more_where_there_are_many() -> None:
    def cost_s(count: int) -> float:
        revoked = Revocations(token("mallory", number, 1e9) for number in range(count))
        best = 1.0
        for number in range(20):
            began = time.thread_time()
            revoked.put([token("alice", number, 1e9)], 5.0)
            assert len(list(revoked.of("alice"))) == number + 1
            best = min(best, time.thread_time() - began)
        return best

    assert cost_s(100_000) < 20 * cost_s(100)

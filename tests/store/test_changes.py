import attrs
import pytest

from hivemind.core.ledger import Escrow, hold
from hivemind.core.records import Account, Blob, JoinToken, Node, RevokedToken, Role
from hivemind.store.api import Store
from hivemind.store.changes import Changes, ResultBlob
from hivemind.store.memory import MemoryStore
from tests.store.records import attempt, new_task, submit

ESCROW = Escrow(task_id="a", account="ann", held_ucpt=5, rate_ucpt=1)
HELD = hold(ESCROW, at=1.0)
NODE = Node(id="n", account="ann", name="x", public_key=b"k", enrolled_at=1)


def filled() -> Changes:
    return Changes(
        new_tasks=(new_task("a"),),
        tasks=(new_task("a").task,),
        attempts=(attempt("a"),),
        results=(ResultBlob(task_id="a", attempt=1, blob=Blob(size=1, inline=b"x")),),
        accounts=(Account(name="ann", role=Role.USER, password_hash="", created_at=1),),
        nodes=(NODE,),
        forgotten_nodes=("gone",),
        join_tokens=(JoinToken(digest=b"d", account="ann", purpose="join", expires_at=1),),
        revoked_tokens=(RevokedToken(token_id="r", expires_at=1),),
        facts={"epoch": b"1"},
        removed_tasks=("over",),
        stale_before=5.0,
        movements=(HELD,),
        escrows=(ESCROW,),
        closed_escrows=("gone",),
    )


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Changes)])
def test_changes_are_empty_only_if_every_field_is(field: str) -> None:
    assert Changes().is_empty
    assert not attrs.evolve(Changes(), **{field: getattr(filled(), field)}).is_empty


def test_merging_loses_nothing_and_nothing_is_neutral() -> None:
    assert filled().merge(Changes()) == filled()
    assert Changes().merge(filled()) == filled()
    later = attrs.evolve(filled(), facts={"epoch": b"2", "key": b"k"})
    merged = filled().merge(later)
    for field in attrs.fields(Changes):
        if field.name not in {"facts", "stale_before"}:
            assert len(getattr(merged, field.name)) == 2
    assert merged.facts == {"epoch": b"2", "key": b"k"}
    assert filled().merge(attrs.evolve(filled(), stale_before=4.0)).stale_before == 5.0


async def state_after(*turns: Changes) -> object:
    store: Store = MemoryStore(clock=lambda: 0.0)
    for changes in turns:
        await store.commit(changes)
    return await store.load()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Changes(nodes=(NODE,)), Changes(forgotten_nodes=("n",))),
        (Changes(forgotten_nodes=("n",)), Changes(nodes=(NODE,))),
        (Changes(nodes=(NODE,)), Changes(nodes=(attrs.evolve(NODE, trust=1),))),
        (submit(new_task("a")), Changes(attempts=(attempt("a"),))),
        (submit(new_task("a")), Changes(tasks=(new_task("a", name="later").task,))),
    ],
)
async def test_merged_changes_do_what_the_two_do_one_after_the_other(
    first: Changes, second: Changes
) -> None:
    assert await state_after(first.merge(second)) == await state_after(first, second)

import time

from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.ordered import Ordered

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "discard", "first"]),
        st.integers(min_value=0, max_value=9),
        st.integers(min_value=0, max_value=4),
    ),
    max_size=120,
)


@given(OPERATIONS)
def test_it_behaves_as_a_sorted_list_of_what_was_put_and_not_discarded(
    operations: list[tuple[str, int, int]],
) -> None:
    ordered: Ordered[int] = Ordered()
    model: dict[int, int] = {}
    for what, item, key in operations:
        if what == "put":
            ordered.put(item, (key, item))
            model[item] = key
        elif what == "discard":
            ordered.discard(item)
            model.pop(item, None)
        expected = sorted(model, key=lambda known: (model[known], known))
        if what == "first":
            assert ordered.first() == (expected[0] if expected else None)
        assert list(ordered.in_order()) == expected
        assert len(ordered) == len(model)
        assert (item in ordered) == (item in model)


def test_items_of_the_same_key_come_in_the_order_in_which_they_were_put() -> None:
    ordered: Ordered[str] = Ordered()
    for item in "cab":
        ordered.put(item, (1,))
    assert list(ordered.in_order()) == ["c", "a", "b"]


def test_an_item_that_was_discarded_while_iterating_is_passed_over() -> None:
    ordered: Ordered[int] = Ordered()
    for item in range(50):
        ordered.put(item, (item,))
    seen = []
    for item in ordered.in_order():
        seen.append(item)
        ordered.discard(item + 1)
    assert seen == list(range(0, 50, 2))


def test_what_was_discarded_does_not_pile_up() -> None:
    ordered: Ordered[int] = Ordered()
    ordered.put(-1, (-1,))
    for item in range(10_000):
        ordered.put(item, (item,))
        ordered.discard(item)
    assert len(ordered._heap) < 50


def test_what_went_from_the_front_is_passed_over_once_and_not_by_every_iterator() -> None:
    ordered: Ordered[int] = Ordered()
    for item in range(60_000):
        ordered.put(item, (item,))
    for item in range(25_000):
        ordered.discard(item)

    def first_of_an_iterator_s() -> float:
        began = time.thread_time()
        assert next(ordered.in_order()) == 25_000
        return time.thread_time() - began

    once_s = first_of_an_iterator_s()
    assert min(first_of_an_iterator_s() for _ in range(5)) < once_s / 20

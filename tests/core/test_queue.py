import math

import pytest

from hivemind.core.ordered import Key
from hivemind.core.queue import RETURNS_AT_ONCE, AlreadyQueued, Bar, NotQueued, TaskQueue
from tests.core.builders import queue_of, queued, wants

BIG = wants(cpus=64)


def order(queue: TaskQueue, account: str = "alice") -> list[str]:
    """The account's ready tasks, best first."""
    line = queue.line_of(account)
    if line is None:
        return []
    ready = [task_id for group in line.groups.in_order() for task_id in group.ready.in_order()]
    return sorted(ready, key=queue.rank)


def shapes(queue: TaskQueue) -> int:
    """How many groups all lines have together."""
    return sum(len(line.by_shape) for line in queue.lines)


def test_within_an_account_the_highest_priority_comes_first_then_the_oldest_then_the_id() -> None:
    queue = queue_of(
        queued("young", submitted_at=3),
        queued("b", submitted_at=1),
        queued("a", submitted_at=1, needs=BIG),
        queued("urgent", submitted_at=9, priority=5),
        queued("lazy", submitted_at=0, priority=-5),
    )
    queue.wake(0.0, 0)
    assert order(queue) == ["urgent", "a", "b", "young", "lazy"]


def test_a_delayed_task_is_not_ready_before_its_time() -> None:
    queue = TaskQueue()
    queue.add(queued("t"), ready_at=10.0)
    queue.wake(9.9, 0)
    assert (order(queue), queue.next_wake(), len(queue)) == ([], 10.0, 1)
    queue.wake(10.0, 0)
    assert (order(queue), queue.next_wake()) == (["t"], None)


def test_a_removed_task_is_gone_whether_ready_or_delayed() -> None:
    queue = queue_of(queued("ready"))
    queue.add(queued("delayed"), ready_at=10.0)
    queue.wake(0.0, 0)
    queue.remove("ready")
    queue.remove("delayed")
    queue.wake(11.0, 0)
    assert (len(queue), order(queue), list(queue.lines), queue.next_wake()) == (0, [], [], None)


def test_a_task_cannot_wait_twice() -> None:
    queue = queue_of(queued("t"))
    with pytest.raises(AlreadyQueued, match="task t is in the queue already"):
        queue.add(queued("t"), ready_at=0.0)


def test_a_task_that_does_not_wait_cannot_be_removed() -> None:
    with pytest.raises(NotQueued, match="task t is not in the queue"):
        TaskQueue().remove("t")


def test_a_task_may_come_back() -> None:
    queue = queue_of(queued("t"))
    queue.wake(0.0, 0)
    queue.remove("t")
    queue.add(queued("t"), ready_at=1.0)
    queue.wake(1.0, 0)
    assert order(queue) == ["t"]


def test_tasks_that_need_the_same_form_one_group() -> None:
    queue = queue_of(*(queued(f"t{n}") for n in range(50)), queued("big", needs=BIG))
    queue.wake(0.0, 0)
    assert shapes(queue) == 2


def test_a_bar_moves_a_task_into_a_group_of_its_own_until_it_ends() -> None:
    queue = queue_of(queued("a"), queued("b"))
    queue.wake(0.0, 0)
    queue.bar("a", "n1", until=10.0, detail="no free slot")
    assert shapes(queue) == 2
    assert queue.bars_of("a") == (Bar("n1", 10.0, "no free slot"),)
    assert queue.next_wake() == 10.0
    queue.wake(10.0, 0)
    assert (shapes(queue), queue.bars_of("a")) == (1, ())


def test_a_bar_may_come_before_its_task_and_stays_while_the_task_is_away() -> None:
    queue = TaskQueue()
    queue.bar("t", "n1", until=None)
    queue.add(queued("t"), ready_at=0.0)
    queue.wake(0.0, 0)
    queue.remove("t")
    assert [bar.node_id for bar in queue.bars_of("t")] == ["n1"]
    queue.forget("t")
    assert queue.bars_of("t") == ()


@pytest.mark.parametrize(("first", "second"), [(None, 5.0), (5.0, None), (9.0, 5.0), (5.0, 9.0)])
def test_of_two_bars_for_the_same_node_the_longer_one_counts(
    first: float | None, second: float | None
) -> None:
    queue = queue_of(queued("t"))
    queue.bar("t", "n1", until=first)
    queue.bar("t", "n1", until=second)
    queue.wake(8.0, 0)
    assert len(queue.bars_of("t")) == 1
    queue.wake(9.0, 0)
    assert len(queue.bars_of("t")) == (0 if None not in {first, second} else 1)


def test_bars_for_good_end_when_the_node_goes_or_comes_anew() -> None:
    queue = queue_of(queued("a"), queued("b"))
    queue.bar("a", "n1", until=None)
    queue.bar("a", "n2", until=None)
    queue.bar("b", "n1", until=5.0)
    queue.lift_bars("n1")
    assert [bar.node_id for bar in queue.bars_of("a")] == ["n2"]
    assert queue.bars_of("b") == ()
    queue.wake(6.0, 0)
    assert shapes(queue) == 2


def test_a_parked_group_returns_when_the_fleet_has_changed() -> None:
    queue = queue_of(queued("t"), queued("other", needs=BIG))
    queue.wake(0.0, membership=1)
    line = queue.line_of("alice")
    assert line is not None
    group = line.groups.first()
    assert group is not None
    queue.park(group)
    queue.wake(1.0, membership=1)
    assert len(line.groups) == 1
    queue.wake(2.0, membership=2)
    assert len(line.groups) == 2


def test_many_parked_groups_return_a_part_at_a_time_and_those_that_end_meanwhile_do_not() -> None:
    count = 2 * RETURNS_AT_ONCE + 10
    tasks = [queued(f"t{n}", needs=wants(memory_bytes=n + 1)) for n in range(count)]
    queue = queue_of(*tasks)
    queue.wake(0.0, 0)
    line = queue.line_of("alice")
    assert line is not None
    groups = list(line.by_shape.values())
    for group in groups:
        queue.park(group)
    assert (len(order(queue)), queue.next_wake()) == (0, None)
    queue.wake(1.0, 1)
    assert (len(order(queue)), queue.next_wake()) == (RETURNS_AT_ONCE, -math.inf)
    for task, group in list(zip(tasks, groups, strict=True)):
        if group.is_parked:
            queue.remove(task.id)
            break
    # Those that have been parked again wait for the next change.
    (first, *_) = (group for group in groups if not group.is_parked)
    queue.park(first)
    queue.wake(2.0, 1)
    queue.wake(3.0, 1)
    assert (len(order(queue)), queue.next_wake()) == (count - 2, None)
    queue.wake(4.0, 2)
    assert len(order(queue)) == count - 1


def test_a_task_that_joins_a_parked_group_waits_with_it_and_may_leave_it() -> None:
    queue = queue_of(queued("t", needs=BIG))
    queue.wake(0.0, membership=1)
    line = queue.line_of("alice")
    assert line is not None
    group = line.groups.first()
    assert group is not None
    queue.park(group)
    queue.add(queued("u", needs=BIG), ready_at=0.0)
    queue.wake(1.0, membership=1)
    assert order(queue) == []
    queue.remove("t")
    queue.remove("u")
    queue.wake(2.0, membership=2)
    assert list(queue.lines) == []


def test_how_many_are_ahead_counts_the_accounts_own_ready_tasks_up_to_a_bound() -> None:
    queue = queue_of(*(queued(f"t{n}", submitted_at=n) for n in range(20)))
    queue.add(queued("bob", "bob", submitted_at=-1), ready_at=0.0)
    queue.add(queued("soon", submitted_at=-1), ready_at=99.0)
    queue.add(queued("big", submitted_at=5.5, needs=BIG), ready_at=0.0)
    queue.wake(0.0, 0)
    assert queue.ahead_of("t0", most=100) == 0
    assert queue.ahead_of("big", most=100) == 6
    assert queue.ahead_of("t19", most=100) == 20
    assert queue.ahead_of("t19", most=7) == 7


def test_counting_who_is_ahead_looks_at_no_group_behind() -> None:
    queue = queue_of(
        queued("mine", submitted_at=5),
        queued("ahead", submitted_at=1, needs=BIG),
        *(queued(f"t{n}", submitted_at=10 + n, needs=wants(cpus=n)) for n in range(2, 2000)),
    )
    queue.wake(0.0, 0)
    looked_at: list[str] = []
    rank = queue.rank

    def counted(task_id: str) -> Key:
        looked_at.append(task_id)
        return rank(task_id)

    queue.rank = counted  # type: ignore[method-assign]
    assert queue.ahead_of("mine", most=1000) == 1
    assert len(looked_at) < 10


def test_a_parked_task_keeps_nobody_waiting() -> None:
    queue = queue_of(queued("mine", submitted_at=5), queued("parked", submitted_at=1, needs=BIG))
    queue.wake(0.0, 0)
    line = queue.line_of("alice")
    assert line is not None
    group = line.groups.first()
    assert group is not None
    queue.park(group)
    assert queue.ahead_of("mine", most=10) == 0
    assert queue.ahead_of("parked", most=10) == 0


def test_nothing_of_a_task_stays_behind_once_it_is_gone() -> None:
    queue = TaskQueue()
    for number in range(200):
        task_id = f"t{number}"
        queue.add(queued(task_id, f"account{number}", needs=wants(cpus=number)), ready_at=0.0)
        queue.wake(0.0, number)
        queue.bar(task_id, f"n{number}", until=float(number))
        queue.remove(task_id)
        queue.forget(task_id)
    queue.wake(1000.0, 1)
    leftovers = {
        name: value
        for name, value in vars(queue).items()
        if hasattr(value, "__len__") and len(value)
    }
    assert leftovers == {}

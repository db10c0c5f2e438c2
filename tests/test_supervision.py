from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from hivemind.supervision import (
    Backoff,
    EventKind,
    Restart,
    ReturnedEarly,
    Service,
    ServiceEvent,
    StartFailed,
    StartTooSlow,
    State,
    TooManyRestarts,
    open_supervisor,
)

NO_WAIT = Backoff(first_s=0.0)


class Story:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[ServiceEvent] = []

    def on_event(self, event: ServiceEvent) -> None:
        self.events.append(event)

    def kinds(self, service: str) -> list[EventKind]:
        return [event.kind for event in self.events if event.service == service]

    def errors(self) -> list[str]:
        return [str(event.error) for event in self.events if event.error is not None]

    def steady(self, name: str, value: object = None, **options: Any) -> Service:
        """A service that runs until it is cancelled."""

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            self.lines.append(f"{name} starts")
            try:
                await trio.sleep(1)
                task_status.started(value)
                self.lines.append(f"{name} is usable")
                await trio.sleep_forever()
            finally:
                self.lines.append(f"{name} ends")

        return Service(name=name, run=run, **options)


def failing(
    name: str, *, after_s: float = 0.0, times: float = float("inf"), **options: Any
) -> Service:
    """A service that becomes usable and then raises, so many times."""
    runs = 0

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal runs
        runs += 1
        task_status.started()
        if runs > times:
            await trio.sleep_forever()
        await trio.sleep(after_s)
        raise ValueError(f"fault {runs} of {name}")

    return Service(name=name, run=run, **options)


def once(name: str, run: Callable[..., Awaitable[None]], **options: Any) -> Service:
    return Service(name=name, run=run, **options)


async def test_services_start_in_order_and_stop_in_reverse(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    services = [story.steady("store"), story.steady("reactor"), story.steady("server", "here")]
    async with open_supervisor(services, on_event=story.on_event) as supervisor:
        assert not supervisor.ready.is_set()
        await supervisor.ready.wait()
        assert [health.state for health in supervisor.health()] == [State.RUNNING] * 3
        assert supervisor.value("server") == "here"
    assert story.lines == [
        "store starts", "store is usable",
        "reactor starts", "reactor is usable",
        "server starts", "server is usable",
        "server ends", "reactor ends", "store ends",
    ]  # fmt: skip
    assert story.kinds("store") == [EventKind.STARTED, EventKind.ENDED]
    assert [health.state for health in supervisor.health()] == [State.ENDED] * 3


async def test_cancelling_the_block_stops_in_reverse_order_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    with trio.move_on_after(10) as scope:
        async with open_supervisor(
            [story.steady("a"), story.steady("b")], on_event=story.on_event
        ) as supervisor:
            await supervisor.ready.wait()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert story.lines[-2:] == ["b ends", "a ends"]


async def test_what_the_block_raises_comes_out_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with open_supervisor([story.steady("a")], on_event=story.on_event):
            raise error
    assert caught.value is error


async def test_a_service_that_fails_is_restarted_and_its_failure_reported_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [failing("link", times=2)], on_event=story.on_event, jitter=lambda: 0.0
    ) as supervisor:
        await trio.sleep(5)
        (health,) = supervisor.health()
        assert (health.state, health.restarts) == (State.RUNNING, 2)
        assert health.last_error == "ValueError: fault 2 of link"
        # Half of 0.1 s and half of 0.2 s of backoff came before the last start.
        assert trio.current_time() - health.since == pytest.approx(5 - 0.15)
    assert story.errors() == ["fault 1 of link", "fault 2 of link"]
    assert [event.delay_s for event in story.events if event.error] == [0.05, 0.1]
    assert [event.run for event in story.events] == [1, 1, 2, 2, 3, 3]


async def test_a_failure_beside_which_the_others_run_on_does_not_stop_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [story.steady("a"), failing("b", times=3), story.steady("c")], on_event=story.on_event
    ) as supervisor:
        await trio.sleep(20)
        assert [health.restarts for health in supervisor.health()] == [0, 3, 0]
        assert "a ends" not in story.lines
        assert "c ends" not in story.lines


async def test_too_many_restarts_fail_upward_with_the_cause_and_stop_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    with pytest.raises(
        TooManyRestarts, match=r"link failed.*ValueError: fault 4 of link"
    ) as caught:
        async with open_supervisor(
            [story.steady("a"), failing("link", after_s=0.1), story.steady("c")],
            on_event=story.on_event,
            intensity=3,
            period_s=60,
        ):
            await trio.sleep_forever()
    assert caught.value.service == "link"
    assert isinstance(caught.value.__cause__, ValueError)
    assert story.lines[-1] == "a ends"
    assert story.events[-1] == ServiceEvent(kind=EventKind.ENDED, service="a", run=1)
    assert story.errors() == [f"fault {n} of link" for n in (1, 2, 3, 4)]


async def test_restarts_that_are_far_enough_apart_go_on_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [failing("link", after_s=25, times=50)],
        on_event=story.on_event,
        intensity=3,
        period_s=60,
        backoff=NO_WAIT,
    ) as supervisor:
        await trio.sleep(25 * 60)
        assert supervisor.health()[0].restarts == 50


async def test_the_backoff_begins_anew_after_a_service_has_run_for_a_period(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [failing("link", after_s=61, times=4)],
        on_event=story.on_event,
        period_s=60,
        jitter=lambda: 0.0,
    ):
        await trio.sleep(300)
    assert {event.delay_s for event in story.events if event.error} == {0.05}


async def test_a_first_start_that_fails_fails_upward_at_once_and_stops_what_had_started(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("port 50051 is in use")

    with pytest.raises(StartFailed, match="server could not be started: OSError: port 50051"):
        async with open_supervisor(
            [story.steady("a"), once("server", run), story.steady("c")], on_event=story.on_event
        ) as supervisor:
            await trio.sleep_forever()
    assert story.lines == ["a starts", "a is usable", "a ends"]
    assert not supervisor.ready.is_set()
    assert [health.state for health in supervisor.health()] == [
        State.ENDED,
        State.FAILED,
        State.ENDED,
    ]


async def test_a_start_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    with pytest.raises(StartFailed, match="not usable after 7 s") as caught:
        async with open_supervisor(
            [once("slow", run, start_within_s=7)], on_event=Story().on_event
        ):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, StartTooSlow)
    assert trio.current_time() == pytest.approx(7)


async def test_a_permanent_service_may_not_return(autojump_clock: trio.testing.MockClock) -> None:
    story = Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    with pytest.raises(TooManyRestarts) as caught:
        async with open_supervisor(
            [once("short", run)], on_event=story.on_event, intensity=2, backoff=NO_WAIT
        ):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ReturnedEarly)
    assert story.kinds("short").count(EventKind.FAILED) == 3


async def test_a_transient_service_is_restarted_when_it_raises_and_not_when_it_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    runs = 0

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal runs
        runs += 1
        task_status.started()
        if runs == 1:
            raise ValueError("again")

    async with open_supervisor(
        [once("sweep", run, restart=Restart.TRANSIENT)], on_event=story.on_event
    ) as supervisor:
        await trio.sleep(60)
        assert supervisor.health()[0].state is State.ENDED
    assert runs == 2
    assert story.kinds("sweep") == [
        EventKind.STARTED, EventKind.FAILED, EventKind.STARTED, EventKind.ENDED,
    ]  # fmt: skip


async def test_a_temporary_service_is_never_restarted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [failing("probe", restart=Restart.TEMPORARY), story.steady("b")], on_event=story.on_event
    ) as supervisor:
        await trio.sleep(60)
        assert [health.state for health in supervisor.health()] == [State.FAILED, State.RUNNING]
    assert story.kinds("probe") == [EventKind.STARTED, EventKind.FAILED]


async def test_a_drain_lets_work_in_progress_finish_before_the_service_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    done = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await done.wait()
        story.lines.append("served the last one")

    async def drain() -> None:
        await trio.sleep(3)
        done.set()
        await trio.testing.wait_all_tasks_blocked()

    async with open_supervisor(
        [once("server", run, drain=drain)], on_event=story.on_event
    ) as supervisor:
        await supervisor.ready.wait()
    assert story.lines == ["served the last one"]
    assert story.kinds("server") == [EventKind.STARTED, EventKind.ENDED]


async def test_a_drain_that_hangs_or_fails_is_cut_off_and_the_stop_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def broken() -> None:
        raise OSError("cannot drain")

    services = [
        story.steady("a", drain=trio.sleep_forever, stop_grace_s=4),
        story.steady("b", drain=broken),
    ]
    async with open_supervisor(services, on_event=story.on_event) as supervisor:
        await supervisor.ready.wait()
        began = trio.current_time()
        await supervisor.stop()
        assert trio.current_time() - began == pytest.approx(4)
    assert story.lines[-2:] == ["b ends", "a ends"]
    assert story.kinds("b") == [EventKind.STARTED, EventKind.DRAIN_FAILED, EventKind.ENDED]


async def test_a_service_that_will_not_end_does_not_keep_the_others_from_being_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 100):
                await trio.sleep(50)
            story.lines.append("stubborn ends")

    async with open_supervisor(
        [story.steady("a"), once("stubborn", run, stop_grace_s=5)], on_event=story.on_event
    ) as supervisor:
        await supervisor.ready.wait()
    assert story.lines[-2:] == ["a ends", "stubborn ends"]
    assert story.kinds("stubborn") == [
        EventKind.STARTED, EventKind.STOP_OVERDUE, EventKind.ENDED,
    ]  # fmt: skip


async def test_a_stop_during_the_start_starts_nothing_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    async with open_supervisor(
        [story.steady("a"), story.steady("b"), story.steady("c")], on_event=story.on_event
    ) as supervisor:
        await trio.sleep(1.5)
        await supervisor.stop()
        await trio.sleep(10)
        assert not supervisor.ready.is_set()
    assert story.lines == ["a starts", "a is usable", "b starts", "b ends", "a ends"]
    assert [health.state for health in supervisor.health()] == [State.ENDED] * 3


async def test_a_stop_during_a_backoff_does_not_wait_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_supervisor(
        [failing("link")], on_event=Story().on_event, backoff=Backoff(first_s=1000, most_s=1000)
    ) as supervisor:
        await trio.sleep(1)
        assert supervisor.health()[0].state is State.BACKING_OFF
        await supervisor.stop()
        assert trio.current_time() == pytest.approx(1)


async def test_stop_goes_through_when_its_caller_is_cancelled_and_all_callers_wait_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    service = story.steady("a", drain=trio.sleep_forever, stop_grace_s=8)
    async with open_supervisor([service], on_event=story.on_event) as supervisor:
        await supervisor.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert trio.current_time() == pytest.approx(1 + 8)
        await supervisor.stop()
        assert story.lines[-1] == "a ends"


async def test_stop_now_cuts_short_a_stop_that_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()
    services = [story.steady(name, drain=trio.sleep_forever, stop_grace_s=60) for name in "abc"]
    async with open_supervisor(services, on_event=story.on_event) as supervisor:
        await supervisor.ready.wait()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop)
            await trio.sleep(2)
            supervisor.stop_now()
        assert trio.current_time() - began == pytest.approx(2)
    assert sorted(story.lines[-3:]) == ["a ends", "b ends", "c ends"]


async def test_an_error_in_a_stopping_service_is_reported_and_does_not_restart_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("could not tidy up")

    async with open_supervisor([once("a", run)], on_event=story.on_event) as supervisor:
        await supervisor.ready.wait()
    assert story.kinds("a") == [EventKind.STARTED, EventKind.FAILED]
    assert story.errors() == ["could not tidy up"]


async def test_an_error_beside_a_cancel_does_not_swallow_the_cancel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def untidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("could not tidy up")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as children:
            children.start_soon(untidy)
            children.start_soon(trio.sleep_forever)
            task_status.started()

    async with open_supervisor([once("a", run)], on_event=story.on_event) as supervisor:
        await supervisor.ready.wait()
    assert story.errors() == ["could not tidy up"]
    assert supervisor.health()[0].restarts == 0


async def test_an_interrupt_in_a_service_is_not_absorbed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    story = Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_supervisor([story.steady("a"), once("b", run)], on_event=story.on_event):
            await trio.sleep_forever()
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert story.lines[-1] == "a ends"


async def test_a_failure_above_and_in_the_block_are_both_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def block() -> None:
        async with open_supervisor([failing("link")], on_event=Story().on_event, intensity=0):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert [type(error) for error in caught.value.exceptions] == [TooManyRestarts, KeyError]


async def test_supervisors_nest(autojump_clock: trio.testing.MockClock) -> None:
    outer, inner = Story(), Story()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with open_supervisor(
            [failing("leaf")], on_event=inner.on_event, intensity=1
        ) as supervisor:
            await supervisor.ready.wait()
            task_status.started()
            await trio.sleep_forever()

    with pytest.raises(TooManyRestarts, match=r"branch failed.*leaf failed.*fault"):
        async with open_supervisor([once("branch", run)], on_event=outer.on_event, intensity=2):
            await trio.sleep_forever()
    assert len(inner.errors()) == 3 * 2
    assert len(outer.errors()) == 3


def test_two_services_may_not_share_a_name() -> None:
    async def main() -> None:
        async with open_supervisor(
            [failing("a"), failing("a")], on_event=Story().on_event
        ):  # pragma: no cover
            pass

    with pytest.raises(ValueError, match="same name"):
        trio.run(main)


@pytest.mark.parametrize(("failures", "most_s"), [(1, 0.1), (2, 0.2), (5, 1.6), (10_000, 30.0)])
def test_a_backoff_doubles_up_to_its_most_and_is_jittered_by_half(
    failures: int, most_s: float
) -> None:
    backoff = Backoff()
    assert backoff.delay_s(failures, 0.0) == pytest.approx(most_s / 2)
    assert backoff.delay_s(failures, 0.999_999) == pytest.approx(most_s, rel=1e-5)

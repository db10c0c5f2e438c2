"""What a node may be given that is told a task's bytes alone."""

from typing import Any

import attrs
import pytest

from hivemind.core.explain import explain
from hivemind.core.explanation import CauseKind
from hivemind.core.messages import AttemptRef
from hivemind.core.placement import plan
from hivemind.core.pushing import capabilities_of, is_pushable, push_id, pushed_ref
from hivemind.core.records import PayloadKind, TaskSpec
from hivemind.core.registration import Registration
from hivemind.core.resources import offered
from tests.core.builders import fleet_of, queue_of, queued, wants

SAID = Registration(hostname="h", port=1, cpu_cores=4, memory_gb=8, location="lab")
PLAIN = TaskSpec(kind=PayloadKind.SCRIPT, filename="a.py", policy="default")


def is_it(spec: TaskSpec = PLAIN, payload_bytes: int = 10, stdin_bytes: int = 0) -> bool:
    return is_pushable(spec, payload_bytes=payload_bytes, stdin_bytes=stdin_bytes)


def test_a_script_or_an_archive_needs_nothing_but_its_bytes() -> None:
    assert is_it()
    assert is_it(attrs.evolve(PLAIN, kind=PayloadKind.ARCHIVE))
    assert is_it(payload_bytes=100_000_000)


@pytest.mark.parametrize(
    "more",
    [
        {"kind": PayloadKind.COMMAND, "argv": ("true",)},
        {"argv": ("x",)},
        {"command": ("sh",)},
        {"env": {"A": "b"}},
        {"outputs": ("out",)},
    ],
)
def test_a_task_that_needs_more_is_not_pushed(more: dict[str, Any]) -> None:
    assert not is_it(attrs.evolve(PLAIN, **more))


def test_neither_is_one_with_an_input_or_too_many_bytes() -> None:
    assert not is_it(stdin_bytes=1)
    assert not is_it(payload_bytes=100_000_001)
    assert not is_it(payload_bytes=0)


def test_an_attempts_id_names_it_and_nothing_else_does() -> None:
    ref = AttemptRef("01m88hk6tgdcm364ab82ygep4g", 12)
    assert pushed_ref(push_id(ref)) == ref
    for text in (
        "",
        "x",
        ref.task_id,
        f"{ref.task_id}.0",
        f"{ref.task_id}.01",
        f"{ref.task_id}.1x",
    ):
        assert pushed_ref(text) is None


def test_the_fleet_counts_with_what_a_node_registered() -> None:
    has = capabilities_of(attrs.evolve(SAID, gpu_name="RTX", gpu_memory_gb=8)).capacity
    assert (has.slots, has.cpu_millis, has.memory_bytes) == (4, 4000, 8 * 1024**3)
    assert (has.gpus, has.gpu_memory_bytes, has.gpu_name) == (1, 8 * 1024**3, "RTX")
    assert offered(capabilities_of(SAID).capacity).gpus == 0


def test_a_pushed_node_is_planned_for_pushable_tasks_alone_and_the_others_are_told_why() -> None:
    needs = wants()
    plain = queued("plain", needs=attrs.evolve(needs, pushable=True))
    more = queued("more", needs=needs)
    fleet, queue = fleet_of(node=capabilities_of(SAID)), queue_of(plain, more)
    assert [placed.task_id for placed in plan(queue, fleet, 0.0, 10)] == ["plain"]
    (cause,) = explain(more, fleet, queue, 0.0).causes
    assert (cause.kind, cause.count) == (CauseKind.UNSUITED, 1)

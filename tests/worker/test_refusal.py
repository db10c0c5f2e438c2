from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from hivemind.core.policy import Bound, Profile
from hivemind.core.records import Capacity, PayloadKind, RefusalKind, Requirements, TaskSpec
from hivemind.core.resources import NOTHING, Amounts, needed
from hivemind.worker.refusal import Refusal, judge
from tests.worker.running import MIB, spec

CAPACITY = Capacity(slots=2, cpu_millis=2000, memory_bytes=1024 * MIB, location="attic")
TASK = spec(PayloadKind.COMMAND, argv=("true",))


def judged(
    task: TaskSpec = TASK,
    *,
    account: str = "alice",
    profile: Profile | None = None,
    profiles: Mapping[str, Profile] | None = None,
    reserved: Amounts = NOTHING,
) -> Refusal | None:
    if profiles is None:
        profiles = {"default": profile or Profile(name="default")}
    return judge(task, account, profiles=profiles, capacity=CAPACITY, reserved=reserved)


def with_needs(**needs: Any) -> TaskSpec:
    return attrs.evolve(TASK, requirements=attrs.evolve(TASK.requirements, **needs))


def test_what_fits_is_run() -> None:
    assert judged() is None


def test_a_stricter_policy_of_its_own_names_the_key_and_both_values() -> None:
    strict = Profile(name="default", memory=Bound(default=64 * MIB, most=64 * MIB))
    refusal = judged(profile=strict)
    assert refusal is not None
    assert refusal.kind is RefusalKind.POLICY
    for part in ("memory", "128M", "64M"):
        assert part in refusal.detail


def test_a_policy_that_the_machine_lacks_is_refused() -> None:
    assert judged(attrs.evolve(TASK, policy="gpu")) == Refusal(
        RefusalKind.POLICY, "this machine has no policy 'gpu'"
    )


@pytest.mark.parametrize(
    ("accounts", "is_run"),
    [(("*",), True), (("alice",), True), (("bob",), False), ((), False), (("role:admin",), True)],
)
def test_a_machine_may_be_for_some_accounts_alone(accounts: tuple[str, ...], is_run: bool) -> None:
    refusal = judged(profile=Profile(name="default", accounts=accounts))
    assert (refusal is None) is is_run
    if refusal is not None:
        assert refusal.kind is RefusalKind.POLICY
        assert "alice" in refusal.detail


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (with_needs(memory_bytes=2048 * MIB), ("memory", "2.1G", "1G")),
        (with_needs(cpu_millis=3000), ("cpus", "3", "2")),
        (with_needs(location="cellar"), ("location", "cellar", "attic")),
    ],
)
def test_what_the_machine_has_not_is_refused_for_good(
    task: TaskSpec, words: tuple[str, ...]
) -> None:
    refusal = judged(task)
    assert refusal is not None
    assert refusal.kind is RefusalKind.POLICY
    for word in words:
        assert word in refusal.detail


def test_what_does_not_fit_beside_the_others_may_come_again() -> None:
    reserved = needed(TASK.requirements).plus(needed(TASK.requirements))
    refusal = judged(reserved=reserved)
    assert refusal is not None
    assert refusal.kind is RefusalKind.BUSY
    big = needed(Requirements(memory_bytes=900 * MIB, scratch_bytes=0, cpu_millis=100))
    refusal = judged(reserved=big)
    assert refusal is not None
    assert refusal.kind is RefusalKind.BUSY

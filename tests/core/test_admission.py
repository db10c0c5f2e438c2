"""Given a policy, when somebody asks for something, then this is what the task gets."""

import math
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.admission import (
    ALL_ARGUMENTS_BYTES,
    ARGUMENT_BYTES,
    Admitted,
    Ask,
    MalformedSpec,
    PolicyRefused,
    SpecRefused,
    admit,
    check_form,
    check_spec,
    may_use,
)
from hivemind.core.policy import Bound, PoolRules, Profile
from hivemind.core.records import Account, PayloadKind, Requirements, Role, TaskSpec
from tests.core.builders import GIB, MIB

RULES = PoolRules(queue_per_account=100)
ALICE = Account(name="alice", role=Role.USER, password_hash="", created_at=0.0)
POLICY = Profile(
    name="default",
    memory=Bound(default=512 * MIB, most=4 * GIB),
    scratch=Bound(default=256 * MIB, most=2 * GIB),
    cpus=Bound(default=1, most=8),
    gpus=Bound(default=0, most=2),
    wall=Bound(default=60, most=3600),
    pids=Bound(default=64, most=512),
    output=Bound(default=MIB, most=16 * MIB),
    result=Bound(default=8 * MIB, most=64 * MIB),
    retries=Bound(default=1, most=5),
    priority=Bound(default=0, most=10),
)


def admitted(**asked: Any) -> Admitted:
    return admit(Ask(**asked), POLICY, ALICE, RULES)


def test_whoever_asks_for_nothing_gets_the_defaults() -> None:
    assert admitted() == Admitted(
        policy="default",
        requirements=Requirements(memory_bytes=512 * MIB, scratch_bytes=256 * MIB, cpu_millis=1000),
        wall_s=60,
        cpu_s=None,
        pids=64,
        output_bytes=MIB,
        result_bytes=8 * MIB,
        retries=1,
        priority=0,
    )


def test_whoever_asks_for_the_most_of_everything_gets_it() -> None:
    assert admitted(
        memory_bytes=4 * GIB,
        scratch_bytes=2 * GIB,
        cpu_millis=8000,
        gpus=2,
        gpu_memory_bytes=80 * GIB,
        gpu_name="H100",
        location="Taipei",
        wall_s=3600.0,
        cpu_s=7200.0,
        pids=512,
        output_bytes=16 * MIB,
        result_bytes=64 * MIB,
        retries=5,
        priority=-10,
    ) == Admitted(
        policy="default",
        requirements=Requirements(
            memory_bytes=4 * GIB,
            scratch_bytes=2 * GIB,
            cpu_millis=8000,
            gpus=2,
            gpu_memory_bytes=80 * GIB,
            gpu_name="H100",
            location="Taipei",
        ),
        wall_s=3600.0,
        cpu_s=7200.0,
        pids=512,
        output_bytes=16 * MIB,
        result_bytes=64 * MIB,
        retries=5,
        priority=-10,
    )


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            {"memory_bytes": 64 * GIB},
            "memory 64G was asked for and policy default allows at most 4G",
        ),
        ({"memory_bytes": 4 * GIB + 1}, "memory 4294967297 was asked for .* at most 4G"),
        ({"memory_bytes": 0}, "memory 0 was asked for and policy default allows no less than 16M"),
        ({"memory_bytes": 16 * MIB - 1}, "memory 16777215 was asked for .* no less than 16M: ask"),
        ({"scratch_bytes": 3 * GIB}, "scratch 3G .* at most 2G"),
        ({"scratch_bytes": -1}, "scratch -1 .* no less than 0"),
        ({"cpu_millis": 8001}, "cpus 8.001 .* at most 8"),
        ({"cpu_millis": 0}, "cpus 0 .* no less than 0.001"),
        ({"gpus": 3}, "gpus 3 .* at most 2"),
        ({"gpus": -1}, "gpus -1 .* no less than 0"),
        ({"wall_s": 7200.0}, "time 2h .* at most 1h: ask for less"),
        ({"wall_s": 0.0}, "time 0s .* no less than 0.001s"),
        ({"wall_s": math.inf}, "time infs .* at most 1h"),
        ({"wall_s": math.nan}, "time nans .* no less than"),
        ({"pids": 513}, "pids 513 .* at most 512"),
        ({"pids": 0}, "pids 0 .* no less than 1"),
        ({"output_bytes": 17 * MIB}, "output 17M .* at most 16M"),
        ({"result_bytes": GIB}, "result 1G .* at most 64M"),
        ({"retries": 6}, "retries 6 .* at most 5"),
        ({"retries": -1}, "retries -1 .* no less than 0"),
        ({"priority": 11}, "priority 11 .* at most 10"),
        ({"priority": -11}, "priority -11 .* no less than -10"),
        ({"gpu_name": "H100"}, "a kind of GPU was asked for but no GPU: ask for --gpus 1"),
        ({"gpu_memory_bytes": GIB}, "GPU memory was asked for but no GPU: ask for --gpus 1"),
        ({"gpus": 1, "gpu_memory_bytes": -1}, "GPU memory of -1 bytes cannot be had"),
        ({"cpu_s": 0.0}, "a CPU time limit of 0 s cannot be kept"),
        ({"cpu_s": math.nan}, "a CPU time limit of nan s cannot be kept"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_with_what_was_asked_and_what_is_allowed(
    asked: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PolicyRefused, match=complaint) as caught:
        admitted(**asked)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("accounts", "role", "may"),
    [
        (("*",), Role.USER, True),
        ((), Role.ADMIN, False),
        (("alice",), Role.USER, True),
        (("bob", "carol"), Role.USER, False),
        (("role:admin",), Role.ADMIN, True),
        (("role:admin",), Role.USER, False),
        (("role:admin",), Role.PROVIDER, False),
        (("role:provider", "bob"), Role.PROVIDER, True),
        (("alic", "alice2", "role:alice"), Role.USER, False),
    ],
)
def test_a_policy_is_for_the_accounts_and_roles_that_it_names(
    accounts: tuple[str, ...], role: Role, may: bool
) -> None:
    profile = attrs.evolve(POLICY, name="gpu", accounts=accounts)
    account = attrs.evolve(ALICE, role=role)
    assert may_use(profile, account) is may
    if may:
        assert admit(Ask(), profile, account, RULES).policy == "gpu"
    else:
        with pytest.raises(PolicyRefused, match="account alice may not use policy gpu: choose"):
            admit(Ask(), profile, account, RULES)


def test_an_account_that_has_too_many_unfinished_tasks_waits() -> None:
    assert admit(Ask(), POLICY, ALICE, RULES, unfinished=99)
    with pytest.raises(PolicyRefused, match="has 100 unfinished tasks and the pool allows 100"):
        admit(Ask(), POLICY, ALICE, RULES, unfinished=100)


AMOUNT = st.none() | st.integers(min_value=-2, max_value=5 * GIB)


@given(AMOUNT, AMOUNT, st.none() | st.integers(-5, 9000), st.none() | st.integers(-11, 11))
def test_nobody_gets_less_than_was_asked_nor_more_than_is_allowed(
    memory: int | None, scratch: int | None, cpus: int | None, priority: int | None
) -> None:
    ask = Ask(memory_bytes=memory, scratch_bytes=scratch, cpu_millis=cpus, priority=priority)
    try:
        got = admit(ask, POLICY, ALICE, RULES)
    except PolicyRefused:
        return
    for asked, given_, bound in (
        (memory, got.requirements.memory_bytes, POLICY.memory),
        (scratch, got.requirements.scratch_bytes, POLICY.scratch),
        (cpus, got.requirements.cpu_millis, Bound(default=1000, most=8000)),
        (priority, got.priority, POLICY.priority),
    ):
        assert given_ == (bound.default if asked is None else asked)
        assert given_ <= bound.most


# --- the worker's own policy ---------------------------------------------------------------------

SPEC = TaskSpec(
    kind=PayloadKind.SCRIPT,
    filename="job.py",
    argv=("--fast",),
    env={"MODE": "1"},
    requirements=Requirements(memory_bytes=GIB, scratch_bytes=GIB, cpu_millis=500),
    wall_s=60.0,
    pids=64,
    output_bytes=MIB,
    result_bytes=MIB,
)


def test_a_worker_takes_what_fits_its_own_policy() -> None:
    check_spec(SPEC, POLICY)


@pytest.mark.parametrize(
    ("needs", "key"),
    [
        ({"memory_bytes": 8 * GIB}, "memory: the task asks for 8G and .* default gives 16M to 4G"),
        ({"memory_bytes": 0}, "memory: the task asks for 0"),
        ({"scratch_bytes": 4 * GIB}, "scratch: the task asks for 4G"),
        ({"cpu_millis": 9000}, "cpus: the task asks for 9 and"),
        ({"gpus": 3}, "gpus: the task asks for 3"),
        ({"gpu_memory_bytes": -1}, "gpu memory: -1"),
    ],
)
def test_a_worker_refuses_needs_beyond_its_own_policy(needs: dict[str, Any], key: str) -> None:
    spec = attrs.evolve(SPEC, requirements=attrs.evolve(SPEC.requirements, **needs))
    with pytest.raises(SpecRefused, match=key):
        check_spec(spec, POLICY)


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({"wall_s": 7200.0}, "time: the task asks for 2h and .* gives 0.001s to 1h"),
        ({"wall_s": math.nan}, "time: "),
        ({"wall_s": math.inf}, "time: "),
        ({"pids": 1000}, "pids: the task asks for 1000"),
        ({"pids": 0}, "pids: the task asks for 0"),
        ({"output_bytes": GIB}, "output: the task asks for 1G"),
        ({"result_bytes": GIB}, "result: the task asks for 1G"),
        ({"cpu_s": -1.0}, "cpu time: a limit of -1 s"),
        ({"policy": "gpu"}, "the task is for policy gpu and not for default"),
    ],
)
def test_a_worker_refuses_limits_beyond_its_own_policy(limits: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecRefused, match=key):
        check_spec(attrs.evolve(SPEC, **limits), POLICY)


def malformed() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"kind": PayloadKind.COMMAND, "argv": ()}, "there is no command to run"
    for name in ("../job.py", "/etc/passwd", "a/b", ".", ".."):
        yield {"filename": name}, "is not a file's bare name"
    for path in ("/etc", "a/../..", "output", "a/"):
        yield {"outputs": (path,)}, "^output '"
    for name in ("", "A=B", "1A", "A B", "A\0", "Ä"):
        yield {"env": {name: "x"}}, "cannot name an environment variable"
    yield {"env": {"A": "\0"}}, "zero byte"
    yield {"argv": ("a\0b",)}, "zero byte"
    yield {"command": ("a\0b",)}, "zero byte"
    yield {"filename": "a\0"}, "zero byte"
    yield {"argv": ("\ud800",)}, "not valid text"
    yield {"argv": ("x" * ARGUMENT_BYTES,)}, "has 131073 bytes and 131072 is the most"
    yield {"env": {"A": "x" * ARGUMENT_BYTES}}, "131075 bytes"
    yield {"argv": ("x" * 1000,) * 1100}, f"bytes together and {ALL_ARGUMENTS_BYTES}"


@pytest.mark.parametrize(("fields", "complaint"), list(malformed()))
def test_a_spec_that_could_not_be_started_is_refused_whatever_the_policy(
    fields: dict[str, Any], complaint: str
) -> None:
    spec = attrs.evolve(SPEC, **fields)
    with pytest.raises(MalformedSpec, match=complaint) as caught:
        check_form(spec)
    assert str(caught.value).isprintable()
    with pytest.raises(MalformedSpec):
        check_spec(spec, POLICY)


def test_a_command_an_archive_and_a_script_are_well_formed() -> None:
    check_form(attrs.evolve(SPEC, kind=PayloadKind.COMMAND, filename="", argv=("wc", "-c")))
    check_form(attrs.evolve(SPEC, kind=PayloadKind.ARCHIVE, filename="", command=("sh", "run.sh")))
    check_form(attrs.evolve(SPEC, argv=("x" * (ARGUMENT_BYTES - 1), "")))

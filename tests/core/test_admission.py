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
    working_folder_bytes,
)
from hivemind.core.confinement import Confinement, Mode, Network, Reuse, Seccomp
from hivemind.core.policy import Bound, PoolRules, Profile
from hivemind.core.records import Account, PayloadKind, Requirements, Role, TaskSpec
from tests.core.builders import GIB, MIB

KIB = 1024

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
    scratch_inodes=Bound(default=1000, most=5000),
    tmp=Bound(default=16 * MIB, most=GIB),
    tmp_inodes=Bound(default=2000, most=9000),
    shm=Bound(default=8 * MIB, most=GIB),
    shm_inodes=Bound(default=3000, most=9000),
    cpu_time=Bound(default=120, most=7200),
    file_size=Bound(default=GIB, most=2 * GIB),
    open_files=Bound(default=100, most=200),
    network=Network.LOOPBACK,
    seccomp=Seccomp.DENY_LIST,
    reuse=Reuse.JOB,
    warm_python=True,
    env={"TZ": "UTC"},
)
CONFINEMENT = Confinement(
    tmp_bytes=16 * MIB,
    shm_bytes=8 * MIB,
    scratch_inodes=1000,
    tmp_inodes=2000,
    shm_inodes=2048,  # one for each 4 KiB
    file_bytes=GIB,
    open_files=100,
    network=Network.LOOPBACK,
    seccomp=Seccomp.DENY_LIST,
    reuse=Reuse.JOB,
    warm_python=True,
)


def admitted(**asked: Any) -> Admitted:
    return admit(Ask(**asked), POLICY, ALICE, RULES)


def test_whoever_asks_for_nothing_gets_the_defaults() -> None:
    assert admitted() == Admitted(
        policy="default",
        requirements=Requirements(memory_bytes=512 * MIB, scratch_bytes=256 * MIB, cpu_millis=1000),
        wall_s=60,
        cpu_s=120,
        pids=64,
        output_bytes=MIB,
        result_bytes=8 * MIB,
        retries=1,
        priority=0,
        confinement=CONFINEMENT,
        env={"TZ": "UTC"},
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
        tmp_bytes=GIB,
        shm_bytes=GIB - 64 * KIB,
        scratch_inodes=5000,
        tmp_inodes=9000,
        shm_inodes=9000,
        file_bytes=2 * GIB,
        open_files=200,
        network=Network.LOOPBACK,
        seccomp=Seccomp.DENY_LIST,
        reuse=Reuse.JOB,
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
        confinement=Confinement(
            tmp_bytes=GIB,
            shm_bytes=GIB - 64 * KIB,
            scratch_inodes=5000,
            tmp_inodes=9000,
            shm_inodes=9000,
            file_bytes=2 * GIB,
            open_files=200,
            network=Network.LOOPBACK,
            seccomp=Seccomp.DENY_LIST,
            reuse=Reuse.JOB,
            warm_python=True,
        ),
        env={"TZ": "UTC"},
    )


def test_whoever_asks_for_less_gets_less() -> None:
    got = admitted(
        tmp_bytes=64 * KIB,
        shm_bytes=64 * KIB,
        scratch_inodes=16,
        tmp_inodes=16,
        shm_inodes=16,
        file_bytes=4 * KIB,
        open_files=64,
        pids=8,
        cpu_s=0.5,
        network=Network.NONE,
        seccomp=Seccomp.ALLOW_LIST,
        reuse=Reuse.NEVER,
    )
    assert (got.pids, got.cpu_s) == (8, 0.5)
    assert got.confinement == Confinement(
        tmp_bytes=64 * KIB,
        shm_bytes=64 * KIB,
        scratch_inodes=16,
        tmp_inodes=16,
        shm_inodes=16,
        file_bytes=4 * KIB,
        open_files=64,
        network=Network.NONE,
        seccomp=Seccomp.ALLOW_LIST,
        reuse=Reuse.NEVER,
        warm_python=True,
    )


def test_a_policy_without_a_limit_on_cpu_time_admits_any_and_none() -> None:
    free = attrs.evolve(POLICY, cpu_time=Bound(default=math.inf, most=math.inf))
    assert admit(Ask(), free, ALICE, RULES).cpu_s is None
    assert admit(Ask(cpu_s=1e9), free, ALICE, RULES).cpu_s == 1e9
    assert admit(Ask(cpu_s=math.inf), free, ALICE, RULES).cpu_s is None


@pytest.mark.parametrize("mode", [Network, Seccomp, Reuse])
@given(data=st.data())
def test_a_mode_is_given_as_asked_or_refused(mode: type[Mode], data: st.DataObject) -> None:
    most, asked = data.draw(st.sampled_from(mode)), data.draw(st.sampled_from(mode))
    key = mode.__name__.lower()
    profile = attrs.evolve(POLICY, **{key: most})
    if list(mode).index(asked) <= list(mode).index(most):
        got = admit(Ask(**{key: asked}), profile, ALICE, RULES)
        assert getattr(got.confinement, key) is asked
    else:
        with pytest.raises(PolicyRefused, match=f"{key} {asked} was asked for .* at most {most}"):
            admit(Ask(**{key: asked}), profile, ALICE, RULES)
    assert getattr(admit(Ask(), profile, ALICE, RULES).confinement, key) is most


def test_modes_go_from_the_strictest_to_the_widest() -> None:
    assert list(Network) == ["none", "loopback", "full"]
    assert list(Seccomp) == ["allow-list", "deny-list"]
    assert list(Reuse) == ["never", "job", "account"]


@given(
    st.integers(192 * KIB, 2 * GIB),
    st.none() | st.integers(64 * KIB, GIB),
    st.none() | st.integers(64 * KIB, GIB),
)
def test_scratch_is_shared_out_and_each_folder_has_room(
    scratch: int, tmp: int | None, shm: int | None
) -> None:
    ask = {"scratch_bytes": scratch, "tmp_bytes": tmp, "shm_bytes": shm}
    # What nobody asked for is small enough to leave room, where any is left.
    if (tmp or 64 * KIB) + (shm or 64 * KIB) > scratch - 64 * KIB:
        with pytest.raises(PolicyRefused, match="are parts of scratch"):
            admitted(**ask)
        return
    got = admitted(**ask)
    shares = got.confinement
    assert shares.tmp_bytes == tmp or tmp is None
    assert shares.shm_bytes == shm or shm is None
    spec = attrs.evolve(SPEC, requirements=got.requirements, confinement=shares)
    folder_bytes = working_folder_bytes(spec)
    assert folder_bytes >= 64 * KIB
    assert folder_bytes + shares.tmp_bytes + shares.shm_bytes == scratch
    if tmp is None and shm is None:
        assert folder_bytes >= scratch * 3 // 4 or scratch < MIB
    check_spec(spec, POLICY)


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
        ({"scratch_bytes": -1}, "scratch -1 .* no less than 192K"),
        ({"cpu_millis": 8001}, "cpus 8.001 .* at most 8"),
        ({"cpu_millis": 0}, "cpus 0 .* no less than 0.001"),
        ({"gpus": 3}, "gpus 3 .* at most 2"),
        ({"gpus": -1}, "gpus -1 .* no less than 0"),
        ({"wall_s": 7200.0}, "time 2h .* at most 1h: ask for less"),
        ({"wall_s": 0.0}, "time 0s .* no less than 0.001s"),
        ({"wall_s": math.inf}, "time unlimited .* at most 1h"),
        ({"wall_s": math.nan}, "time nans .* no less than"),
        ({"pids": 513}, "pids 513 .* at most 512"),
        ({"pids": 7}, "pids 7 .* no less than 8"),
        ({"scratch_bytes": 192 * KIB - 1}, "scratch 196607 .* no less than 192K"),
        ({"scratch_inodes": 5001}, "scratch_inodes 5001 .* at most 5000"),
        ({"scratch_inodes": 15}, "scratch_inodes 15 .* no less than 16"),
        ({"tmp_bytes": 2 * GIB}, "tmp 2G .* at most 1G"),
        ({"tmp_bytes": 4 * KIB}, "tmp 4K .* no less than 64K"),
        ({"tmp_bytes": -GIB}, "tmp -1G .* no less than 64K"),
        ({"tmp_bytes": 256 * MIB}, "tmp 256M and shm 64K are parts of scratch, and of 256M they"),
        ({"tmp_inodes": 9001}, "tmp_inodes 9001 .* at most 9000"),
        ({"tmp_inodes": 1}, "tmp_inodes 1 .* no less than 16"),
        ({"shm_bytes": 2 * GIB}, "shm 2G .* at most 1G"),
        ({"shm_bytes": 0}, "shm 0 .* no less than 64K"),
        ({"shm_inodes": 9001}, "shm_inodes 9001 .* at most 9000"),
        ({"shm_inodes": 1}, "shm_inodes 1 .* no less than 16"),
        ({"file_bytes": 3 * GIB}, "file_size 3G .* at most 2G"),
        ({"file_bytes": 1}, "file_size 1 .* no less than 4K"),
        ({"open_files": 201}, "open_files 201 .* at most 200"),
        ({"open_files": 63}, "open_files 63 .* no less than 64"),
        ({"network": Network.FULL}, "network full .* at most loopback: ask for less, or choose"),
        ({"reuse": Reuse.ACCOUNT}, "reuse account .* at most job: ask for less, or choose"),
        ({"output_bytes": 17 * MIB}, "output 17M .* at most 16M"),
        ({"result_bytes": GIB}, "result 1G .* at most 64M"),
        ({"retries": 6}, "retries 6 .* at most 5"),
        ({"retries": -1}, "retries -1 .* no less than 0"),
        ({"priority": 11}, "priority 11 .* at most 10"),
        ({"priority": -11}, "priority -11 .* no less than -10"),
        ({"gpu_name": "H100"}, "a kind of GPU was asked for but no GPU: ask for one GPU"),
        ({"gpu_memory_bytes": GIB}, "GPU memory was asked for but no GPU: ask for one GPU"),
        ({"gpus": 1, "gpu_memory_bytes": -1}, "GPU memory of -1 bytes cannot be had"),
        ({"cpu_s": 0.0}, "cpu_time 0s .* no less than 0.001s"),
        ({"cpu_s": 7201.0}, "cpu_time 7201s .* at most 2h"),
        ({"cpu_s": math.inf}, "cpu_time unlimited .* at most 2h"),
        ({"cpu_s": math.nan}, "cpu_time nans .* no less than 0.001s"),
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
    cpu_s=30.0,
    confinement=CONFINEMENT,
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
        ({"pids": 7}, "pids: the task asks for 7 and .* gives 8 to 512"),
        ({"output_bytes": GIB}, "output: the task asks for 1G"),
        ({"result_bytes": GIB}, "result: the task asks for 1G"),
        ({"cpu_s": -1.0}, "cpu_time: the task asks for -1s and .* gives 0.001s to 2h"),
        ({"cpu_s": math.nan}, "cpu_time: "),
        ({"cpu_s": None}, "cpu_time: the task asks for unlimited and .* gives 0.001s to 2h"),
        ({"policy": "gpu"}, "the task is for policy gpu and not for default"),
    ],
)
def test_a_worker_refuses_limits_beyond_its_own_policy(limits: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecRefused, match=key):
        check_spec(attrs.evolve(SPEC, **limits), POLICY)


@pytest.mark.parametrize(
    ("given_", "key"),
    [
        ({"tmp_bytes": 2 * GIB}, "tmp: the task asks for 2G and .* gives 64K to 1G"),
        ({"shm_bytes": 0}, "shm: the task asks for 0"),
        ({"scratch_inodes": 5001}, "scratch_inodes: the task asks for 5001"),
        ({"tmp_inodes": 9001}, "tmp_inodes: the task asks for 9001"),
        ({"shm_inodes": 0}, "shm_inodes: the task asks for 0 and .* gives 16 to 9000"),
        ({"file_bytes": 3 * GIB}, "file_size: the task asks for 3G"),
        ({"open_files": 201}, "open_files: the task asks for 201"),
        ({"network": Network.FULL}, "network: the task asks for full and .* loopback at most"),
        ({"tmp_bytes": GIB, "shm_bytes": 0}, "shm: the task asks for 0"),
        ({"tmp_bytes": GIB}, "scratch: 1G leaves no room for the working folder"),
    ],
)
def test_a_worker_refuses_a_wider_sandbox_than_its_own_policy_has(
    given_: dict[str, Any], key: str
) -> None:
    spec = attrs.evolve(SPEC, confinement=attrs.evolve(CONFINEMENT, **given_))
    with pytest.raises(SpecRefused, match=key) as caught:
        check_spec(spec, POLICY)
    assert str(caught.value).isprintable()


def test_a_worker_whose_filter_is_stricter_refuses_what_was_promised_more() -> None:
    strict = attrs.evolve(POLICY, seccomp=Seccomp.ALLOW_LIST)
    with pytest.raises(SpecRefused, match=r"seccomp: the task asks for deny-list .* allow-list"):
        check_spec(SPEC, strict)
    asked = attrs.evolve(CONFINEMENT, seccomp=Seccomp.ALLOW_LIST)
    check_spec(attrs.evolve(SPEC, confinement=asked), strict)
    check_spec(attrs.evolve(SPEC, confinement=asked), POLICY)


def test_a_worker_that_reuses_less_or_keeps_no_warm_interpreter_takes_the_task() -> None:
    check_spec(SPEC, attrs.evolve(POLICY, reuse=Reuse.NEVER, warm_python=False))


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

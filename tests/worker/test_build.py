from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sandbox
from hivemind.core.admission import Ask, admit
from hivemind.core.confinement import Confinement, Network, Reuse, Seccomp
from hivemind.core.messages import AttemptRef
from hivemind.core.policy import LEAST, SYSTEM_FOLDERS, Bound, Mount, PoolRules, Profile
from hivemind.core.records import Account, PayloadKind, Requirements, Role, TaskSpec
from hivemind.worker.build import (
    BadPayload,
    Order,
    build_archive,
    build_command,
    build_script,
    tenant_of,
)
from sandbox.spec import _RESERVED
from tests.worker.running import MIB, confined, shell, spec

REF = AttemptRef("01hzzzzzzzzzzzzzzzzzzzzzzz", 3)
PAYLOAD = Path("/home/payload")
PROFILE = Profile(name="default")
ALICE = Account(name="alice", role=Role.USER, password_hash="", created_at=0.0)


def order(task: TaskSpec, **changes: Any) -> Order:
    given: dict[str, Any] = {"ref": REF, "account": "alice", "profile": PROFILE, **changes}
    return Order(spec=task, **given)


def built(task: TaskSpec, profile: Profile = PROFILE) -> sandbox.Spec:
    return build_command(order(task, profile=profile), argv=task.argv, stdin=None)


def script_argv(head: bytes, **changes: object) -> tuple[str, ...]:
    task = spec(PayloadKind.SCRIPT, argv=("a", "b"), **changes)
    return build_script(order(task), payload=PAYLOAD, head=head, stdin=None).argv


def test_a_script_is_python_under_its_own_name() -> None:
    assert script_argv(b"im", filename="hello.py") == ("python3", "hello.py", "a", "b")


def test_a_script_that_names_its_interpreter_is_executed() -> None:
    task = spec(PayloadKind.SCRIPT, filename="hello", argv=("x",))
    script = build_script(order(task), payload=PAYLOAD, head=b"#!", stdin=None)
    assert script.argv == ("./hello", "x")
    assert script.files == (sandbox.StagedFile(source=PAYLOAD, name="hello", mode=0o755),)


def test_a_name_with_a_dash_is_no_option_of_python() -> None:
    assert script_argv(b"im", filename="-c") == ("python3", "./-c", "a", "b")


def test_a_script_without_a_name_gets_one() -> None:
    assert script_argv(b"im") == ("python3", "script", "a", "b")


def test_a_script_cannot_take_the_result_folders_name() -> None:
    with pytest.raises(BadPayload, match="folder for results"):
        script_argv(b"im", filename="output")


def test_a_command_is_started_as_it_is() -> None:
    task = spec(PayloadKind.COMMAND, argv=("wc", "-c"))
    command = build_command(order(task), argv=task.argv, stdin=Path("/home/stdin"))
    assert command.argv == ("wc", "-c")
    assert command.stdin == Path("/home/stdin")


def test_an_archives_entry_comes_before_the_arguments() -> None:
    task = spec(PayloadKind.ARCHIVE, argv=("-v",))
    archived = build_archive(order(task), payload=PAYLOAD, entry=("sh", "run.sh"), stdin=None)
    assert archived.argv == ("sh", "run.sh", "-v")
    assert archived.archive is not None
    assert archived.archive.source == PAYLOAD


def test_a_task_cannot_override_what_says_who_it_is() -> None:
    task = spec(
        PayloadKind.COMMAND,
        argv=("env",),
        env={"HIVEMIND_TASK_ID": "another", "HIVEMIND_PARAM_X": "1", "PYTHONUNBUFFERED": ""},
    )
    env = built(task).env
    assert env == {
        "HIVEMIND_TASK_ID": REF.task_id,
        "HIVEMIND_ATTEMPT": "3",
        "HIVEMIND_OUTPUT": "/task/output",
        "HIVEMIND_PARAM_X": "1",
        "PYTHONUNBUFFERED": "",
    }


def test_the_machines_variables_are_there_unless_the_task_sets_them_itself() -> None:
    profile = attrs.evolve(PROFILE, env={"TZ": "UTC", "MODE": "slow", "PYTHONUNBUFFERED": "0"})
    env = built(shell("env", env={"MODE": "fast"}), profile).env
    assert (env["TZ"], env["MODE"], env["PYTHONUNBUFFERED"]) == ("UTC", "fast", "0")
    assert env["HIVEMIND_TASK_ID"] == REF.task_id


@pytest.mark.parametrize("scratch_mib", [1, 64, 512, 10_000])
def test_memory_and_scratch_together_are_what_was_reserved(scratch_mib: int) -> None:
    ask = Ask(
        memory_bytes=256 * MIB, scratch_bytes=scratch_mib * MIB, cpu_millis=500, cpu_s=5.0, wall_s=9
    )
    got = admit(ask, PROFILE, ALICE, PoolRules())
    task = shell(
        "true",
        requirements=got.requirements,
        confinement=got.confinement,
        cpu_s=got.cpu_s,
        wall_s=got.wall_s,
    )
    limits = built(task).limits
    needs = got.requirements
    assert limits.cgroup_memory_bytes == needs.memory_bytes + needs.scratch_bytes
    assert limits.scratch_bytes >= needs.scratch_bytes * 3 // 4
    assert limits.file_bytes == limits.scratch_bytes
    assert (limits.cpus, limits.cpu_s, limits.wall_s) == (0.5, 5.0, 9)


def test_every_limit_of_the_spec_is_the_sandboxs() -> None:
    confinement = Confinement(
        tmp_bytes=2 * MIB,
        shm_bytes=MIB,
        scratch_inodes=100,
        tmp_inodes=200,
        shm_inodes=300,
        file_bytes=5 * MIB,
        open_files=400,
    )
    needs = Requirements(memory_bytes=32 * MIB, scratch_bytes=10 * MIB, cpu_millis=1500)
    task = shell(
        "true",
        requirements=needs,
        confinement=confinement,
        pids=9,
        cpu_s=2.0,
        wall_s=3.0,
        output_bytes=4,
    )
    assert built(task).limits == sandbox.Limits(
        memory_bytes=32 * MIB,
        scratch_bytes=7 * MIB,
        scratch_inodes=100,
        tmp_bytes=2 * MIB,
        tmp_inodes=200,
        shm_bytes=MIB,
        shm_inodes=300,
        pids=9,
        cpus=1.5,
        cpu_s=2.0,
        wall_s=3.0,
        output_bytes=4,
        file_bytes=5 * MIB,
        open_files=400,
    )


# -- what the machine's own policy says ----------------------------------------------------------


def test_root_and_mounts_are_the_machines_own() -> None:
    assert (built(shell("true")).root, built(shell("true")).binds) == (None, ())
    profile = attrs.evolve(
        PROFILE, root="/srv/root", mounts=(Mount("/srv/data", "/data"), Mount("/srv/x", "/opt/x"))
    )
    made = built(shell("true"), profile)
    assert made.root == Path("/srv/root")
    assert made.binds == (
        sandbox.ReadOnlyBind(source=Path("/srv/data"), target=PurePosixPath("/data")),
        sandbox.ReadOnlyBind(source=Path("/srv/x"), target=PurePosixPath("/opt/x")),
    )


@pytest.mark.parametrize("network", Network)
@pytest.mark.parametrize("seccomp", Seccomp)
def test_network_and_filter_are_the_specs(network: Network, seccomp: Seccomp) -> None:
    confinement = confined(network=network, seccomp=seccomp)
    wide = attrs.evolve(PROFILE, network=Network.FULL)
    made = built(shell("true", confinement=confinement), wide)
    assert (made.network, made.seccomp) == (network.value, seccomp.value)


@pytest.mark.parametrize(
    ("asked", "own", "warm"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_warm_interpreter_takes_the_pools_and_the_machines_leave(
    asked: bool, own: bool, warm: bool
) -> None:
    task = shell("true", confinement=confined(warm_python=asked))
    assert built(task, attrs.evolve(PROFILE, warm_python=own)).warm_python is warm


def tenant(
    asked: Reuse = Reuse.ACCOUNT,
    own: Reuse = Reuse.ACCOUNT,
    *,
    account: str = "alice",
    policy: str = "default",
    name: str = "",
    ref: AttemptRef = REF,
) -> str | None:
    task = shell("true", confinement=confined(reuse=asked), policy=policy, name=name)
    profile = Profile(name=policy, reuse=own)
    return tenant_of(order(task, account=account, profile=profile, ref=ref))


@pytest.mark.parametrize(
    ("asked", "own", "whose"),
    [
        (Reuse.NEVER, Reuse.ACCOUNT, None),
        (Reuse.ACCOUNT, Reuse.NEVER, None),
        (Reuse.JOB, Reuse.ACCOUNT, "alice/default/name=n"),
        (Reuse.ACCOUNT, Reuse.JOB, "alice/default/name=n"),
        (Reuse.ACCOUNT, Reuse.ACCOUNT, "alice/default"),
    ],
)
def test_the_stricter_of_what_task_and_machine_say_of_reuse_counts(
    asked: Reuse, own: Reuse, whose: str | None
) -> None:
    assert tenant(asked, own, name="n") == whose
    task = shell("true", confinement=confined(reuse=asked), name="n")
    spec = built(task, attrs.evolve(PROFILE, reuse=own, parked=0))
    assert (spec.tenant, spec.reuse) == (whose, whose is not None)


def test_without_reuse_a_sandbox_that_was_made_ahead_may_serve_once() -> None:
    task = shell("true", confinement=confined(reuse=Reuse.NEVER))
    spec = built(task, attrs.evolve(PROFILE, reuse=Reuse.ACCOUNT, parked=1))
    assert (spec.tenant, spec.reuse) == ("alice/default", False)


def test_a_task_without_a_name_shares_with_its_own_retries_alone() -> None:
    first = tenant(Reuse.JOB)
    assert first == f"alice/default/task={REF.task_id}"
    assert tenant(Reuse.JOB, ref=AttemptRef(REF.task_id, 4)) == first
    assert tenant(Reuse.JOB, ref=AttemptRef("another", 3)) != first
    assert tenant(Reuse.JOB, name=REF.task_id, ref=AttemptRef("another", 3)) != first


parts = st.text("ab/=%n", min_size=1, max_size=4) | st.just("task=" + REF.task_id)


@given(st.tuples(parts, parts, parts), st.tuples(parts, parts, parts))
def test_two_accounts_policies_or_jobs_never_share_a_sandbox(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    def whose(reuse: Reuse, parts: tuple[str, str, str]) -> str | None:
        return tenant(reuse, account=parts[0], policy=parts[1], name=parts[2])

    assert (whose(Reuse.JOB, one) == whose(Reuse.JOB, other)) is (one == other)
    assert (whose(Reuse.ACCOUNT, one) == whose(Reuse.ACCOUNT, other)) is (one[:2] == other[:2])
    assert whose(Reuse.JOB, one) != whose(Reuse.ACCOUNT, other)


# -- where policies and the sandbox must agree ---------------------------------------------------


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("memory", "memory_bytes"),
        ("scratch_inodes", "scratch_inodes"),
        ("tmp_inodes", "tmp_inodes"),
        ("shm_inodes", "shm_inodes"),
        ("pids", "pids"),
        ("file_size", "file_bytes"),
        ("open_files", "open_files"),
    ],
)
def test_the_least_that_is_admitted_is_the_least_that_a_sandbox_takes(key: str, field: str) -> None:
    least = int(LEAST[key])
    assert getattr(sandbox.Limits(**{field: least}), field) == least
    with pytest.raises(sandbox.BadSpec, match=field):
        sandbox.Limits(**{field: least - 1})


def test_the_least_of_everything_makes_a_sandbox() -> None:
    tight = {key: Bound(default=least, most=least) for key, least in LEAST.items()}
    got = admit(Ask(), attrs.evolve(PROFILE, **tight), ALICE, PoolRules())
    task = shell(
        "true",
        requirements=got.requirements,
        confinement=got.confinement,
        pids=got.pids,
        wall_s=got.wall_s,
        cpu_s=got.cpu_s,
    )
    assert built(task).limits.cgroup_memory_bytes == LEAST["memory"] + LEAST["scratch"]


def test_the_folders_that_a_policy_cannot_mount_in_are_the_sandboxs_own() -> None:
    for folder in SYSTEM_FOLDERS:
        with pytest.raises(sandbox.BadSpec, match="folder of the system"):
            sandbox.ReadOnlyBind(source=Path("/"), target=PurePosixPath(f"/{folder}/x"))
    assert SYSTEM_FOLDERS == _RESERVED

from pathlib import Path

import pytest

import sandbox
from hivemind.core.admission import LEAST_MEMORY_BYTES
from hivemind.core.messages import AttemptRef
from hivemind.core.records import PayloadKind, Requirements, TaskSpec
from hivemind.worker.build import BadPayload, build_archive, build_command, build_script
from tests.worker.running import MIB, spec

REF = AttemptRef("01hzzzzzzzzzzzzzzzzzzzzzzz", 3)
PAYLOAD = Path("/home/payload")


def script_argv(head: bytes, **changes: object) -> tuple[str, ...]:
    task = spec(PayloadKind.SCRIPT, argv=("a", "b"), **changes)
    return build_script(task, REF, payload=PAYLOAD, head=head, stdin=None).argv


def test_a_script_is_python_under_its_own_name() -> None:
    assert script_argv(b"im", filename="hello.py") == ("python3", "hello.py", "a", "b")


def test_a_script_that_names_its_interpreter_is_executed() -> None:
    task = spec(PayloadKind.SCRIPT, filename="hello", argv=("x",))
    built = build_script(task, REF, payload=PAYLOAD, head=b"#!", stdin=None)
    assert built.argv == ("./hello", "x")
    assert built.files == (sandbox.StagedFile(source=PAYLOAD, name="hello", mode=0o755),)


def test_a_name_with_a_dash_is_no_option_of_python() -> None:
    assert script_argv(b"im", filename="-c") == ("python3", "./-c", "a", "b")


def test_a_script_without_a_name_gets_one() -> None:
    assert script_argv(b"im") == ("python3", "script", "a", "b")


def test_a_script_cannot_take_the_result_folders_name() -> None:
    with pytest.raises(BadPayload, match="folder for results"):
        script_argv(b"im", filename="output")


def test_a_command_is_started_as_it_is() -> None:
    task = spec(PayloadKind.COMMAND, argv=("wc", "-c"))
    built = build_command(task, REF, argv=task.argv, stdin=Path("/home/stdin"))
    assert built.argv == ("wc", "-c")
    assert built.stdin == Path("/home/stdin")


def test_an_archives_entry_comes_before_the_arguments() -> None:
    task = spec(PayloadKind.ARCHIVE, argv=("-v",))
    built = build_archive(task, REF, payload=PAYLOAD, entry=("sh", "run.sh"), stdin=None)
    assert built.argv == ("sh", "run.sh", "-v")
    assert built.archive is not None
    assert built.archive.source == PAYLOAD


def test_a_task_cannot_override_what_says_who_it_is() -> None:
    task = spec(
        PayloadKind.COMMAND,
        argv=("env",),
        env={"HIVEMIND_TASK_ID": "another", "HIVEMIND_PARAM_X": "1", "PYTHONUNBUFFERED": ""},
    )
    env = build_command(task, REF, argv=task.argv, stdin=None).env
    assert env == {
        "HIVEMIND_TASK_ID": REF.task_id,
        "HIVEMIND_ATTEMPT": "3",
        "HIVEMIND_OUTPUT": "/task/output",
        "HIVEMIND_PARAM_X": "1",
        "PYTHONUNBUFFERED": "",
    }


@pytest.mark.parametrize("scratch_mib", [1, 64, 512, 10_000])
def test_memory_and_scratch_together_are_what_was_reserved(scratch_mib: int) -> None:
    needs = Requirements(memory_bytes=256 * MIB, scratch_bytes=scratch_mib * MIB, cpu_millis=500)
    task = spec(PayloadKind.COMMAND, argv=("true",), requirements=needs, cpu_s=5.0)
    limits = build_command(task, REF, argv=task.argv, stdin=None).limits
    assert limits.cgroup_memory_bytes == needs.memory_bytes + needs.scratch_bytes
    assert limits.scratch_bytes >= needs.scratch_bytes * 3 // 4
    assert (limits.cpus, limits.cpu_s, limits.wall_s) == (0.5, 5.0, 60.0)


def test_the_least_memory_that_is_admitted_is_the_least_that_a_sandbox_takes() -> None:
    def build(memory_bytes: int) -> sandbox.Spec:
        needs = Requirements(memory_bytes=memory_bytes)
        task = TaskSpec(kind=PayloadKind.COMMAND, argv=("true",), requirements=needs)
        return build_command(task, REF, argv=task.argv, stdin=None)

    assert build(LEAST_MEMORY_BYTES).limits.memory_bytes == LEAST_MEMORY_BYTES
    with pytest.raises(sandbox.BadSpec, match="memory_bytes"):
        build(LEAST_MEMORY_BYTES - 1)

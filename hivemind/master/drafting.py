"""What becomes of a submission: a task and its spec, within the policy that it asks for."""

from collections.abc import Callable, Mapping

import attrs

from hivemind.core.admission import admit, check_form
from hivemind.core.entry import payload_kind
from hivemind.core.errors import CoreError
from hivemind.core.ids import (
    check_client_id,
    check_client_key,
    check_node_name,
    check_task_name,
    make_task_id,
)
from hivemind.core.messages import Submission
from hivemind.core.policy import PoolRules, Profile
from hivemind.core.pushing import is_pushable
from hivemind.core.records import Account, PayloadKind, Task, TaskSpec, TaskState
from hivemind.master.uploads import Uploaded
from hivemind.rpc.contract.faults import invalid


def draft(
    account: Account,
    submission: Submission,
    *,
    profiles: Mapping[str, Profile],
    rules: PoolRules,
    now: float,
    random_bytes: Callable[[int], bytes],
) -> tuple[Task, TaskSpec]:
    """The task and its spec. Raises CallRefused for what no policy allows, or makes no sense.

    Args:
        account: whose task it is to be.
        submission: what is asked for.
        profiles: the policies by name.
        rules: the pool's.
        now: seconds since the epoch.
        random_bytes: for the task's id.
    """
    profile = _profile(submission.ask.policy or "default", profiles)
    try:
        _check_names(submission)
        admitted = admit(submission.ask, profile, account, rules)
        spec = TaskSpec(
            kind=submission.kind,
            filename=submission.filename,
            argv=submission.argv,
            command=submission.command,
            env={**admitted.env, **submission.env},
            policy=admitted.policy,
            requirements=admitted.requirements,
            wall_s=admitted.wall_s,
            cpu_s=admitted.cpu_s,
            pids=admitted.pids,
            output_bytes=admitted.output_bytes,
            result_bytes=admitted.result_bytes,
            has_stdin=submission.has_stdin,
            outputs=submission.outputs,
            confinement=admitted.confinement,
            name=submission.name,
        )
        check_form(spec)
    except CoreError as error:
        raise invalid(str(error)) from error
    task = Task(
        id=make_task_id(int(now * 1000), random_bytes(10)),
        account=account.name,
        state=TaskState.SUBMITTED,
        client_id=submission.client_id,
        client_key=submission.client_key,
        name=submission.name,
        policy=admitted.policy,
        priority=admitted.priority,
        requirements=admitted.requirements,
        wall_s=admitted.wall_s,
        retries=admitted.retries,
        submitted_at=now,
    )
    return task, spec


def marked(task: Task, spec: TaskSpec, uploaded: Uploaded) -> tuple[Task, TaskSpec]:
    """Both, with word of whether a node may have the task that is told its bytes alone."""
    payload, stdin = uploaded.payload.blob, uploaded.stdin.blob
    pushable = is_pushable(
        spec,
        payload_bytes=0 if payload is None else payload.size,
        stdin_bytes=0 if stdin is None else stdin.size,
    )
    needs = attrs.evolve(task.requirements, pushable=pushable)
    return attrs.evolve(task, requirements=needs), attrs.evolve(spec, requirements=needs)


def check_payload(kind: PayloadKind, head: bytes) -> None:
    """Whether the bytes are what the submission says. Raises CallRefused."""
    if kind is PayloadKind.COMMAND:
        if head:
            raise invalid("a command brings no payload; submit a script or an archive")
        return
    if not head:
        raise invalid(f"the {kind} is empty; there is nothing to run")
    try:
        actual = payload_kind(head).kind
    except CoreError as error:
        raise invalid(str(error)) from error
    if actual is not kind:
        raise invalid(f"this was submitted as a {kind}, and its bytes are a {actual}")


def _profile(name: str, profiles: Mapping[str, Profile]) -> Profile:
    profile = profiles.get(name)
    if profile is None:
        known = ", ".join(sorted(profiles))
        raise invalid(f"policy {name!a} is not known here; choose one of {known}")
    return profile


def _check_names(submission: Submission) -> None:
    if submission.client_id:
        check_client_id(submission.client_id)
    if submission.client_key:
        check_client_key(submission.client_key)
    if submission.name:
        check_task_name(submission.name)
    # These stay in memory with the task for as long as it waits.
    for wish in (submission.ask.location, submission.ask.gpu_name):
        if wish:
            check_node_name(wish)

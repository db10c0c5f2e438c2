"""Records survive the wire, and what is not one is refused as such."""

import contextlib
import math
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind._pb.hivemind import v1
from hivemind.core.admission import Ask
from hivemind.core.confinement import Confinement, Network, Reuse, Seccomp
from hivemind.core.messages import (
    Acknowledged,
    Assignment,
    AttemptOutput,
    AttemptRef,
    DrainNotice,
    FinishedReport,
    Hello,
    Keyring,
    KillOrder,
    OutputHeld,
    OutputReport,
    RefusedReport,
    Renewed,
    StartedReport,
    StopOrder,
    Submission,
    Welcome,
)
from hivemind.core.records import (
    Attempt,
    Capabilities,
    Capacity,
    Ending,
    Outcome,
    OutputChunk,
    OutputStream,
    PayloadKind,
    Reason,
    RefusalKind,
    Requirements,
    RevokedToken,
    Task,
    TaskSpec,
    TaskState,
    Usage,
    Vitals,
)
from hivemind.rpc._wire import Malformed, check_message
from hivemind.rpc.contract.faults import MalformedMessage, NamedFault, Unsettled
from hivemind.rpc.contract.link_messages import (
    finished_from_wire,
    master_item_from_wire,
    master_item_to_wire,
    worker_item_from_wire,
    worker_item_to_wire,
)
from hivemind.rpc.contract.specs import decode_spec, encode_spec
from hivemind.rpc.contract.task_messages import (
    attempt_from_wire,
    attempt_to_wire,
    output_from_wire,
    output_to_wire,
    submission_from_wire,
    submission_to_wire,
    task_from_wire,
    task_to_wire,
)
from hivemind.rpc.errors import ErrorCode
from hivemind.store.api import CommitFailed
from hivemind.store.changes import Changes, NewTask
from hivemind.store.memory import MemoryStore

MIB = 1024 * 1024
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
labels = st.text("abc XYZ-09", max_size=20)
u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
u64 = st.integers(0, 2**64 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
floats = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
blobs = st.binary(max_size=20)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


requirements = st.builds(
    Requirements,
    cpu_millis=u32,
    memory_bytes=u64,
    scratch_bytes=u64,
    gpus=u32,
    gpu_memory_bytes=u64,
    gpu_name=texts,
    location=texts,
    only_account=texts,
    least_trust=u32,
)
refs = st.builds(AttemptRef, texts, u32)
usages = st.builds(
    Usage, wall_s=floats, cpu_s=floats, memory_peak_bytes=u63, gpu_memory_peak_bytes=u63
)
tasks = st.builds(
    Task,
    id=texts,
    account=texts,
    state=st.sampled_from(TaskState),
    client_id=texts,
    client_key=st.just(""),
    name=texts,
    policy=texts,
    priority=i32,
    requirements=requirements,
    wall_s=floats,
    attempt=u32,
    stop_requested=st.booleans(),
    stopped_by=texts,
    retries=u32,
    failures=u32,
    crashes=u32,
    backoff_s=st.just(0.0),
    node_id=texts,
    reason=maybe(st.sampled_from(Reason)),
    detail=texts,
    exit_code=maybe(i32),
    submitted_at=floats,
    started_at=maybe(floats),
    finished_at=maybe(floats),
)
attempts = st.builds(
    Attempt,
    task_id=st.just("t1"),
    number=u32,
    node_id=texts,
    lease_id=st.just(""),
    assigned_at=floats,
    started_at=maybe(floats),
    ended_at=maybe(floats),
    outcome=maybe(st.sampled_from(Outcome)),
    reason=maybe(st.sampled_from(Reason)),
    detail=texts,
    exit_code=maybe(i32),
    usage=usages,
    report_seq=st.just(0),
    refusal=st.none(),
    result_bytes=u63,
)
outputs = st.builds(
    AttemptOutput,
    attempt=u32,
    chunk=st.builds(
        OutputChunk, stream=st.sampled_from(OutputStream), offset=u64, data=blobs, at=floats
    ),
)
asks = st.builds(
    Ask,
    policy=maybe(texts.filter(bool)),
    memory_bytes=maybe(u64),
    scratch_bytes=maybe(u64),
    cpu_millis=maybe(u32),
    gpus=maybe(u32),
    gpu_memory_bytes=maybe(u64),
    gpu_name=maybe(texts.filter(bool)),
    location=maybe(texts.filter(bool)),
    wall_s=maybe(floats),
    cpu_s=maybe(floats),
    pids=maybe(u32),
    output_bytes=maybe(u64),
    result_bytes=maybe(u64),
    retries=maybe(u32),
    priority=maybe(i32),
    tmp_bytes=maybe(u64),
    shm_bytes=maybe(u64),
    scratch_inodes=maybe(u32),
    tmp_inodes=maybe(u32),
    shm_inodes=maybe(u32),
    file_bytes=maybe(u64),
    open_files=maybe(u32),
    network=maybe(st.sampled_from(Network)),
    seccomp=maybe(st.sampled_from(Seccomp)),
    reuse=maybe(st.sampled_from(Reuse)),
    least_trust=maybe(u32),
    max_ucpt=maybe(u64),
)
confinements = st.builds(
    Confinement,
    tmp_bytes=u64,
    shm_bytes=u64,
    scratch_inodes=u32,
    tmp_inodes=u32,
    shm_inodes=u32,
    file_bytes=u64,
    open_files=u32,
    network=st.sampled_from(Network),
    seccomp=st.sampled_from(Seccomp),
    reuse=st.sampled_from(Reuse),
    warm_python=st.booleans(),
)
words = st.lists(texts, max_size=3).map(tuple)
submissions = st.builds(
    Submission,
    kind=st.sampled_from(PayloadKind),
    ask=asks,
    filename=texts,
    argv=words,
    command=words,
    env=st.dictionaries(texts, texts, max_size=3),
    name=texts,
    client_id=texts,
    client_key=texts,
    has_stdin=st.booleans(),
    outputs=words,
    payload_bytes=u64,
    stdin_bytes=u64,
)
specs = st.builds(
    TaskSpec,
    kind=st.sampled_from(PayloadKind),
    filename=texts,
    argv=words,
    command=words,
    env=st.dictionaries(texts, texts, max_size=3),
    policy=texts,
    requirements=requirements,
    wall_s=floats,
    cpu_s=maybe(floats),
    pids=u32,
    output_bytes=u64,
    result_bytes=u64,
    has_stdin=st.booleans(),
    outputs=words,
    confinement=confinements,
    name=texts,
)
capacities = st.builds(
    Capacity,
    slots=u32,
    cpu_millis=u32,
    memory_bytes=u64,
    gpus=u32,
    gpu_memory_bytes=u64,
    gpu_name=labels,
    location=labels,
)
results = maybe(blobs)
endings = st.builds(
    Ending,
    outcome=st.sampled_from(sorted(set(Outcome) - {Outcome.LOST, Outcome.REFUSED})),
    reason=st.sampled_from(sorted(set(Reason) - {Reason.NODE_LOST, Reason.REFUSED})),
    exit_code=maybe(st.integers(-64, 255)),
    detail=texts,
    usage=usages,
)


@st.composite
def finished_reports(draw: st.DrawFn) -> FinishedReport:
    result = draw(results)
    ending = draw(endings)
    ending = Ending(
        outcome=ending.outcome,
        reason=ending.reason,
        exit_code=ending.exit_code,
        detail=ending.detail,
        usage=ending.usage,
        result_bytes=len(result or b""),
    )
    return FinishedReport(
        ref=draw(refs), seq=draw(u63), ending=ending, output_bytes=draw(u64), result=result
    )


worker_items = st.one_of(
    st.builds(
        Hello,
        capabilities=st.builds(
            Capabilities,
            capacity=capacities,
            hostname=labels,
            version=labels,
            limits=labels,
            sandbox=labels,
            address=labels,
        ),
        held=st.lists(refs, max_size=3).map(tuple),
        draining=st.booleans(),
    ),
    st.builds(
        Vitals,
        cpu_percent=finite,
        memory_used_bytes=u64,
        memory_total_bytes=u64,
        load_1m=finite,
        disk_free_bytes=u64,
        running=u32,
        gpu_percent=finite,
        gpu_memory_used_bytes=u64,
    ),
    st.builds(StartedReport, ref=refs, seq=u63),
    st.builds(RefusedReport, ref=refs, seq=u63, kind=st.sampled_from(RefusalKind), detail=texts),
    st.builds(OutputReport, task_id=texts, output=outputs),
    finished_reports(),
    st.just(DrainNotice()),
)
keyrings = st.builds(
    Keyring,
    verify_keys=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
    revoked=st.lists(st.builds(RevokedToken, token_id=texts, expires_at=finite), max_size=3).map(
        tuple
    ),
    distrust_until=finite,
)
master_items = st.one_of(
    st.builds(
        Welcome,
        lease_s=floats,
        heartbeat_s=floats,
        held=st.lists(st.builds(OutputHeld, refs, u64), max_size=3).map(tuple),
        unwanted=st.lists(refs, max_size=3).map(tuple),
        epoch=u64,
        keyring=maybe(keyrings),
    ),
    keyrings,
    st.builds(
        Assignment,
        ref=refs,
        lease_id=texts,
        account=texts,
        spec=blobs,
        payload=maybe(blobs),
        payload_to_fetch=u64,
        stdin=maybe(blobs),
        stdin_to_fetch=u64,
    ),
    st.builds(StopOrder, refs),
    st.builds(KillOrder, refs),
    st.just(Renewed()),
    st.builds(Acknowledged, refs, u64),
    st.just(DrainNotice()),
)


def over_the_wire(message: Any) -> Any:
    return type(message).parse(bytes(message))


@given(tasks)
def test_tasks_survive_the_wire(task: Task) -> None:
    assert task_from_wire(over_the_wire(task_to_wire(task))) == task


@given(attempts)
def test_attempts_survive_the_wire(attempt: Attempt) -> None:
    assert attempt_from_wire("t1", over_the_wire(attempt_to_wire(attempt))) == attempt


@given(outputs)
def test_output_survives_the_wire(output: AttemptOutput) -> None:
    assert output_from_wire(over_the_wire(output_to_wire(output))) == output


@given(submissions)
def test_submissions_survive_the_wire(submission: Submission) -> None:
    assert submission_from_wire(over_the_wire(submission_to_wire(submission))) == submission


@given(specs)
def test_specs_survive_being_stored(spec: TaskSpec) -> None:
    assert decode_spec(encode_spec(spec)) == spec


def test_a_spec_stored_before_there_was_a_confinement_gets_what_it_had_then() -> None:
    old = v1.TaskSpec(
        kind=v1.PayloadKind.COMMAND,
        argv=["true"],
        requirements=v1.Requirements(memory_bytes=MIB, scratch_bytes=64 * MIB),
    )
    assert decode_spec(bytes(old)).confinement == Confinement(
        tmp_bytes=8 * MIB, shm_bytes=8 * MIB, tmp_inodes=2048, shm_inodes=2048
    )


@pytest.mark.parametrize("key", ["network", "seccomp", "reuse"])
def test_a_mode_that_is_unknown_here_is_refused(key: str) -> None:
    words = {"network": "none", "seccomp": "deny-list", "reuse": "never", key: "some"}
    spec = v1.TaskSpec(kind=v1.PayloadKind.COMMAND, confinement=v1.Confinement(**words))
    with pytest.raises(MalformedMessage, match=f"{key} 'some' is unknown; .* are known"):
        decode_spec(bytes(spec))
    header = v1.SubmitHeader(kind=v1.PayloadKind.COMMAND, ask=v1.Ask(**{key: "some"}))
    with pytest.raises(MalformedMessage, match=f"{key} 'some' is unknown"):
        submission_from_wire(header)


@given(worker_items)
def test_what_a_worker_says_survives_the_wire(item: Any) -> None:
    assert worker_item_from_wire(over_the_wire(worker_item_to_wire(item))) == item


@given(master_items)
def test_what_the_master_says_survives_the_wire(item: Any) -> None:
    assert master_item_from_wire(over_the_wire(master_item_to_wire(item))) == item


# --- what is not what it should be ---


@given(st.binary(max_size=60))
def test_bytes_that_are_no_spec_are_refused_as_such(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        decode_spec(data)


@given(specs, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3))
def test_a_spec_with_bytes_changed_is_read_or_refused(
    spec: TaskSpec, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(encode_spec(spec))
    for place, value in changes:
        raw[place % len(raw)] = value
    with contextlib.suppress(MalformedMessage):
        decode_spec(bytes(raw))


@pytest.mark.parametrize(
    "item",
    [
        v1.WorkerItem(),
        v1.WorkerItem(output=v1.TaskOutput(task_id="t")),
        v1.WorkerItem(output=v1.TaskOutput(task_id="t", output=v1.Output(attempt=1))),
        v1.WorkerItem(refused=v1.Refused(task_id="t", attempt=1, seq=1, kind="lazy")),
        v1.WorkerItem(started=v1.Started(task_id="t", attempt=1, seq=2**63)),
        v1.WorkerItem(hello=v1.Hello(hostname="x" * 201)),
        v1.WorkerItem(hello=v1.Hello(version="a\nb")),
        v1.WorkerItem(hello=v1.Hello(capacity=v1.Capacity(gpu_name="\x1b[2J"))),
        v1.WorkerItem(hello=v1.Hello(capacity=v1.Capacity(location="x" * 5000))),
        v1.WorkerItem(finished=v1.Finished(task_id="t", attempt=1, seq=1)),
    ],
)
def test_an_item_that_makes_no_sense_is_refused(item: v1.WorkerItem) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        worker_item_from_wire(item)
    assert refusal.value.status.name == "INVALID_ARGUMENT"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("", "exited"),
        ("succeeded", ""),
        ("lost", "node_lost"),
        ("refused", "refused"),
        ("failed", "node_lost"),
        ("won", "exited"),
        ("failed", "bored"),
    ],
)
def test_a_final_report_says_how_it_ended(outcome: str, reason: str) -> None:
    with pytest.raises(MalformedMessage):
        finished_from_wire(
            v1.Finished(
                task_id="t", attempt=1, seq=1, ending=v1.Ending(outcome=outcome, reason=reason)
            )
        )


@pytest.mark.parametrize("exit_code", [256, -65, 2**31 - 1, -(2**31)])
def test_a_node_cannot_report_an_exit_status_that_a_shell_would_read_as_another(
    exit_code: int,
) -> None:
    ending = v1.Ending(outcome="failed", reason="exited", exit_code=exit_code)
    with pytest.raises(MalformedMessage, match="no program exits"):
        finished_from_wire(v1.Finished(task_id="t", attempt=1, seq=1, ending=ending))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_vitals_that_no_listing_could_show_are_refused(number: float) -> None:
    for vitals in (
        v1.Vitals(cpu_percent=number),
        v1.Vitals(load_1m=number),
        v1.Vitals(gpu_percent=number),
    ):
        with pytest.raises(MalformedMessage, match="not numbers"):
            worker_item_from_wire(v1.WorkerItem(vitals=vitals))


def test_an_enum_of_a_newer_peer_is_refused_by_name() -> None:
    with pytest.raises(MalformedMessage, match="task state 77"):
        task_from_wire(v1.Task(id="t", state=v1.TaskState(77)))
    with pytest.raises(MalformedMessage, match="payload kind 9"):
        submission_from_wire(v1.SubmitHeader(kind=v1.PayloadKind(9)))
    with pytest.raises(MalformedMessage, match="lacks its task"):
        task_from_wire(None)
    with pytest.raises(MalformedMessage, match="empty or unknown"):
        master_item_from_wire(v1.MasterItem())


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_from_a_worker_are_an_item_or_refused(data: bytes) -> None:
    try:
        check_message(data, v1.WorkerMessage, max_fields=1000)  # as the transport does
    except Malformed:
        return
    message = v1.WorkerMessage.parse(data)
    for item in message.items:
        with contextlib.suppress(MalformedMessage):
            worker_item_from_wire(item)


@given(worker_items)
def test_every_report_that_is_let_in_can_be_stored(item: Any) -> None:
    """One that could not would fail the turn of everybody else's commands."""
    if not isinstance(item, FinishedReport):
        return
    attempt = Attempt(
        task_id="t1",
        number=1,
        node_id="n1",
        lease_id="l",
        assigned_at=1.0,
        report_seq=item.seq,
        outcome=item.ending.outcome,
        reason=item.ending.reason,
        exit_code=item.ending.exit_code,
        usage=item.ending.usage,
        result_bytes=item.ending.result_bytes,
        detail=item.ending.detail,
    )
    task = Task(id="t1", account="ann", state=TaskState.RUNNING)

    async def store() -> None:
        try:
            await MemoryStore().commit(
                Changes(new_tasks=(NewTask(task=task, spec=b""),), attempts=(attempt,))
            )
        except CommitFailed as error:
            raise AssertionError(f"{item} cannot be stored") from error

    trio.run(store)


def test_faults_name_their_code_and_find_it_again() -> None:
    fault = NamedFault(ErrorCode.USER_EXISTS, "the name zoe is taken; choose another")
    assert str(fault) == "USER_EXISTS: the name zoe is taken; choose another"
    again = NamedFault.from_message(str(fault))
    assert (again.named_code, str(again)) == (fault.named_code, str(fault))
    odd = NamedFault.from_message("something else: entirely")
    assert odd.named_code is ErrorCode.INVALID_SESSION
    assert Unsettled("who knows").status.name == "UNAVAILABLE"

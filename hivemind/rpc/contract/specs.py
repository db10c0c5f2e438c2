"""A task's spec as the bytes that the store keeps and the link forwards unread."""

from typing import TypeVar

from hivemind._pb.hivemind import v1
from hivemind.core.confinement import Confinement, Mode, Network, Reuse, Seccomp
from hivemind.core.records import PayloadKind, Requirements, TaskSpec
from hivemind.rpc._wire import check_message
from hivemind.rpc.contract.faults import MalformedMessage

_KIND_TO_WIRE = {
    PayloadKind.SCRIPT: v1.PayloadKind.SCRIPT,
    PayloadKind.ARCHIVE: v1.PayloadKind.ARCHIVE,
    PayloadKind.COMMAND: v1.PayloadKind.COMMAND,
}
_MOST_FIELDS = 100_000
_OLD_SHARE_BYTES = 64 * 1024 * 1024
_OLD_LEAST_SHARE_BYTES = 64 * 1024
_KIND_FROM_WIRE = {wire: kind for kind, wire in _KIND_TO_WIRE.items()}

M = TypeVar("M", bound=Mode)


def kind_to_wire(kind: PayloadKind) -> v1.PayloadKind:
    """The wire's value for a payload kind."""
    return _KIND_TO_WIRE[kind]


def kind_from_wire(wire: v1.PayloadKind) -> PayloadKind:
    """The record's value. Raises MalformedMessage for one that is unknown here."""
    kind = _KIND_FROM_WIRE.get(wire)
    if kind is None:
        raise MalformedMessage(
            f"payload kind {int(wire)} is unknown; script, archive and command are known"
        )
    return kind


def requirements_to_wire(needs: Requirements) -> v1.Requirements:
    """Field by field."""
    return v1.Requirements(
        cpu_millis=needs.cpu_millis,
        memory_bytes=needs.memory_bytes,
        scratch_bytes=needs.scratch_bytes,
        gpus=needs.gpus,
        gpu_memory_bytes=needs.gpu_memory_bytes,
        gpu_name=needs.gpu_name,
        location=needs.location,
        only_account=needs.only_account,
        least_trust=needs.least_trust,
        pushable=needs.pushable,
    )


def requirements_from_wire(wire: v1.Requirements | None) -> Requirements:
    """Field by field; absent is the record's default."""
    if wire is None:
        return Requirements()
    return Requirements(
        cpu_millis=wire.cpu_millis,
        memory_bytes=wire.memory_bytes,
        scratch_bytes=wire.scratch_bytes,
        gpus=wire.gpus,
        gpu_memory_bytes=wire.gpu_memory_bytes,
        gpu_name=wire.gpu_name,
        location=wire.location,
        only_account=wire.only_account,
        least_trust=wire.least_trust,
        pushable=wire.pushable,
    )


def mode_from_wire(modes: type[M], text: str) -> M:
    """The mode of that name. Raises MalformedMessage for one that is unknown here."""
    try:
        return modes(text)
    except ValueError as error:
        known = ", ".join(modes)
        raise MalformedMessage(
            f"{modes.__name__.lower()} {text[:40]!a} is unknown; {known} are known"
        ) from error


def _confinement_to_wire(confinement: Confinement) -> v1.Confinement:
    return v1.Confinement(
        tmp_bytes=confinement.tmp_bytes,
        shm_bytes=confinement.shm_bytes,
        scratch_inodes=confinement.scratch_inodes,
        tmp_inodes=confinement.tmp_inodes,
        shm_inodes=confinement.shm_inodes,
        file_bytes=confinement.file_bytes,
        open_files=confinement.open_files,
        network=confinement.network.value,
        seccomp=confinement.seccomp.value,
        reuse=confinement.reuse.value,
        warm_python=confinement.warm_python,
    )


def _confinement_from_wire(wire: v1.Confinement) -> Confinement:
    return Confinement(
        tmp_bytes=wire.tmp_bytes,
        shm_bytes=wire.shm_bytes,
        scratch_inodes=wire.scratch_inodes,
        tmp_inodes=wire.tmp_inodes,
        shm_inodes=wire.shm_inodes,
        file_bytes=wire.file_bytes,
        open_files=wire.open_files,
        network=mode_from_wire(Network, wire.network),
        seccomp=mode_from_wire(Seccomp, wire.seccomp),
        reuse=mode_from_wire(Reuse, wire.reuse),
        warm_python=wire.warm_python,
    )


def encode_spec(spec: TaskSpec) -> bytes:
    """The spec as bytes; ``decode_spec`` gives it back."""
    return bytes(
        v1.TaskSpec(
            kind=kind_to_wire(spec.kind),
            filename=spec.filename,
            argv=list(spec.argv),
            command=list(spec.command),
            env=dict(spec.env),
            policy=spec.policy,
            requirements=requirements_to_wire(spec.requirements),
            wall_s=spec.wall_s,
            cpu_s=spec.cpu_s,
            pids=spec.pids,
            output_bytes=spec.output_bytes,
            result_bytes=spec.result_bytes,
            has_stdin=spec.has_stdin,
            outputs=list(spec.outputs),
            confinement=_confinement_to_wire(spec.confinement),
            name=spec.name,
        )
    )


def decode_spec(data: bytes) -> TaskSpec:
    """The spec of some bytes. Raises MalformedMessage where they are not one.

    A spec without a confinement was stored before there was one: it gets what it had then.
    """
    try:
        check_message(data, v1.TaskSpec, max_fields=_MOST_FIELDS)
        wire = v1.TaskSpec.parse(data)
    except (ValueError, TypeError, IndexError, KeyError, EOFError) as error:
        raise MalformedMessage("a task's spec cannot be read") from error
    return TaskSpec(
        kind=kind_from_wire(wire.kind),
        filename=wire.filename,
        argv=tuple(wire.argv),
        command=tuple(wire.command),
        env=dict(wire.env),
        policy=wire.policy,
        requirements=requirements_from_wire(wire.requirements),
        wall_s=wire.wall_s,
        cpu_s=wire.cpu_s,
        pids=wire.pids,
        output_bytes=wire.output_bytes,
        result_bytes=wire.result_bytes,
        has_stdin=wire.has_stdin,
        outputs=tuple(wire.outputs),
        confinement=_confinement_of(wire),
        name=wire.name,
    )


def _confinement_of(wire: v1.TaskSpec) -> Confinement:
    if wire.confinement is not None:
        return _confinement_from_wire(wire.confinement)
    needs = requirements_from_wire(wire.requirements)
    small = max(_OLD_LEAST_SHARE_BYTES, min(_OLD_SHARE_BYTES, needs.scratch_bytes // 8))
    return Confinement(
        tmp_bytes=small, shm_bytes=small, tmp_inodes=small // 4096, shm_inodes=small // 4096
    )

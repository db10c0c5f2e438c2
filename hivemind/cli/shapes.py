"""The JSON documents of every listing. Their keys are promised: they may grow, never change.

Sizes are bytes, ``*_s`` are seconds, ``*_millis`` are thousandths, ``*_ucpt`` millionths of a CPT,
and ``*_at`` seconds since the epoch; what is not known, or has not happened, is null.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hivemind.core.explanation import Explanation
    from hivemind.core.messages import (
        Balance,
        HistoryEntry,
        Identity,
        NodeView,
        Secret,
        TaskDetail,
    )
    from hivemind.core.records import Attempt, Task
    from hivemind.settings.origins import Setting
    from sandbox import Finding

Document = dict[str, Any]


def task_shape(task: "Task") -> Document:
    """One task of ``ps``; ``show`` adds its attempts."""
    needs = task.requirements
    return {
        "id": task.id,
        "name": task.name,
        "account": task.account,
        "client_id": task.client_id,
        "state": task.state.value,
        "reason": None if task.reason is None else task.reason.value,
        "detail": task.detail,
        "exit_code": task.exit_code,
        "policy": task.policy,
        "priority": task.priority,
        "requirements": {
            "cpu_millis": needs.cpu_millis,
            "memory_bytes": needs.memory_bytes,
            "scratch_bytes": needs.scratch_bytes,
            "gpus": needs.gpus,
            "gpu_memory_bytes": needs.gpu_memory_bytes,
            "gpu_name": needs.gpu_name,
            "location": needs.location,
            "only_account": needs.only_account,
            "least_trust": needs.least_trust,
            "pushable": needs.pushable,
        },
        "wall_s": task.wall_s,
        "attempt": task.attempt,
        "retries": task.retries,
        "failures": task.failures,
        "crashes": task.crashes,
        "stop_requested": task.stop_requested,
        "stopped_by": task.stopped_by,
        "node_id": task.node_id,
        "submitted_at": task.submitted_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "unconfirmed": task.unconfirmed,
    }


def _attempt_shape(attempt: "Attempt") -> Document:
    return {
        "number": attempt.number,
        "node_id": attempt.node_id,
        "outcome": None if attempt.outcome is None else attempt.outcome.value,
        "reason": None if attempt.reason is None else attempt.reason.value,
        "detail": attempt.detail,
        "exit_code": attempt.exit_code,
        "usage": {
            "wall_s": attempt.usage.wall_s,
            "cpu_s": attempt.usage.cpu_s,
            "memory_peak_bytes": attempt.usage.memory_peak_bytes,
            "gpu_memory_peak_bytes": attempt.usage.gpu_memory_peak_bytes,
        },
        "result_bytes": attempt.result_bytes,
        "assigned_at": attempt.assigned_at,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "raw_result": attempt.raw_result,
        "unconfirmed": attempt.unconfirmed,
    }


def detail_shape(detail: "TaskDetail") -> Document:
    """``show``."""
    return task_shape(detail.task) | {"attempts": [_attempt_shape(a) for a in detail.attempts]}


def node_shape(node: "NodeView") -> Document:
    """One node of ``nodes``."""
    capacity = node.capacity
    vitals = node.vitals
    return {
        "id": node.id,
        "name": node.name,
        "account": node.account,
        "status": node.status,
        "draining": node.draining,
        "limits": node.limits,
        "sandbox": node.sandbox,
        "trust": node.trust,
        "hostname": node.hostname,
        "port": node.port,
        "version": node.version,
        "address": node.address or None,
        "unconfirmed": node.unconfirmed,
        "running": node.running,
        "capacity": {
            "slots": capacity.slots,
            "cpu_millis": capacity.cpu_millis,
            "memory_bytes": capacity.memory_bytes,
            "gpus": capacity.gpus,
            "gpu_memory_bytes": capacity.gpu_memory_bytes,
            "gpu_name": capacity.gpu_name,
            "location": capacity.location,
        },
        "reserved": {
            "cpu_millis": node.cpu_millis_reserved,
            "memory_bytes": node.memory_bytes_reserved,
        },
        "vitals": None
        if vitals is None
        else {
            "cpu_percent": vitals.cpu_percent,
            "memory_used_bytes": vitals.memory_used_bytes,
            "memory_total_bytes": vitals.memory_total_bytes,
            "load_1m": vitals.load_1m,
            "disk_free_bytes": vitals.disk_free_bytes,
            "running": vitals.running,
            "gpu_percent": vitals.gpu_percent,
            "gpu_memory_used_bytes": vitals.gpu_memory_used_bytes,
        },
        "last_seen_at": node.last_seen_at,
    }


def identity_shape(identity: "Identity", address: str) -> Document:
    """``whoami``."""
    return {
        "account": identity.account,
        "role": identity.role.value,
        "email": identity.email,
        "created_at": identity.created_at,
        "token_expires_at": identity.expires_at,
        "master": address,
    }


def balance_shape(balance: "Balance") -> Document:
    """``balance``."""
    return {
        "account": balance.account,
        "balance_ucpt": balance.balance_ucpt,
        "held_ucpt": balance.held_ucpt,
    }


def movement_shape(entry: "HistoryEntry") -> Document:
    """One movement of ``history``; ``account`` is the other side's, or empty for the pool."""
    return {
        "seq": entry.seq,
        "at": entry.at,
        "kind": entry.kind.value,
        "change_ucpt": entry.change_ucpt,
        "account": entry.other,
        "task_id": entry.task_id,
        "attempt": entry.attempt,
        "memo": entry.memo,
    }


def explanation_shape(task_id: str, explanation: "Explanation") -> Document:
    """``explain``."""
    return {
        "id": task_id,
        "headline": explanation.headline,
        "causes": [
            {"kind": cause.kind, "text": cause.text, "count": cause.count}
            for cause in explanation.causes
        ],
    }


def findings_shape(findings: "Sequence[Finding]") -> Document:
    """``doctor``."""
    return {
        "can_run_tasks": all(finding.ok for finding in findings),
        "findings": [
            {
                "name": finding.name,
                "ok": finding.ok,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }


def secret_shape(key: str, secret: "Secret") -> Document:
    """``node token`` and ``account invite``: the secret under its own name."""
    return {key: secret.text, "expires_at": secret.expires_at}


def policies_shape(policies: "Mapping[str, Sequence[Setting]]") -> Document:
    """``policy show``: each value and the file that says it or ``built-in``; unlimited is null."""
    return {
        "policies": {
            name: {
                setting.key: {
                    "value": _policy_value(setting.value),
                    "from": setting.said_by,
                }
                for setting in settings
            }
            for name, settings in policies.items()
        }
    }


def _policy_value(value: object) -> object:
    from hivemind.core.policy import Mount

    if value == math.inf:
        return None
    if isinstance(value, Mount):
        return {"source": value.source, "target": value.target}
    return [_policy_value(item) for item in value] if isinstance(value, tuple) else value

"""Records with everything that a test does not care about filled in."""

from typing import Any

from hivemind.core.records import Attempt, Task, TaskState
from hivemind.store.changes import Changes, NewTask


def new_task(id_: str, account: str = "ann", **fields: Any) -> NewTask:
    fields.setdefault("state", TaskState.QUEUED)
    return NewTask(task=Task(id=id_, account=account, **fields), spec=b"spec of " + id_.encode())


def submit(*tasks: NewTask) -> Changes:
    return Changes(new_tasks=tasks)


def attempt(task_id: str, number: int = 1, **fields: Any) -> Attempt:
    fields.setdefault("node_id", "node")
    return Attempt(
        task_id=task_id, number=number, lease_id=f"lease {number}", assigned_at=1.5, **fields
    )

"""What to say of a task that waits for what its pool does not have."""

from typing import TYPE_CHECKING

import trio

from hivemind.cli.faults import complain
from hivemind.client.errors import ClientError
from hivemind.core.explanation import CauseKind, Explanation

if TYPE_CHECKING:
    from hivemind.client import Client

FIRST_LOOK_S = 2.0
"""A task that is going to run has begun by then, as a rule."""
LOOK_AGAIN_S = 15.0

_REMEDIES = {
    CauseKind.NO_NODE: "start a worker",
    CauseKind.TOO_SMALL: "ask for less, or add a node that has it",
    CauseKind.NOT_OWN: "get CPT, or start a node of your own",
    CauseKind.UNSUITED: "add a worker that dials this master",
    CauseKind.DISTRUSTED: "ask for less trust",
}
"""By what keeps every node of the pool from running it, however little there is to do."""


def complaint_on(task_id: str, explanation: Explanation) -> str | None:
    """What to tell of a task that no node could run as things are; None where one could."""
    if not explanation.causes:
        return None
    remedy = _REMEDIES.get(explanation.causes[0].kind)
    if remedy is None:
        return None
    return (
        f"task {task_id} waits: {explanation.headline}; {remedy},"
        f" or end it with `hivemind stop {task_id}`"
    )


async def tell_why_it_waits(client: "Client", task_id: str) -> None:
    """Complain of a wait that may have no end, and again when its reason is another.

    Returns once the task has begun, or the master does not answer: whoever watches it, tells that.
    """
    told: str | None = None
    await trio.sleep(FIRST_LOOK_S)
    try:
        while True:
            task = (await client.get(task_id)).task
            if task.attempt or task.state.is_end:
                return
            said = complaint_on(task_id, await client.explain(task_id))
            if said is not None and said != told:
                complain(said)
            told = said
            await trio.sleep(LOOK_AGAIN_S)
    except ClientError:
        return

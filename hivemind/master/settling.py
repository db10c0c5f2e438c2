"""What follows from the end of an attempt, and of a task, in the very turn in which it ends: what
the node's owner has earned, how far the node is trusted, and who gets what was held.
"""

from typing import TYPE_CHECKING

import attrs

from hivemind.core.ledger import Due, earned_ucpt, with_due
from hivemind.core.lifecycle import Step
from hivemind.core.records import Attempt, Node, Outcome, Task
from hivemind.core.trust import trust_after, trust_after_contradiction

if TYPE_CHECKING:
    from hivemind.master.turn import Turn


def follow(turn: "Turn", before: Attempt | None, after: Step) -> None:
    """Do what follows from a step. A repeat of what was known is no step, and nothing follows."""
    over = after.attempt
    if over is not None and over.outcome is not None and _was_under_way(before, over):
        node = turn.node(over.node_id)
        _earn(turn, after.task, over, node)
        if node is not None:
            _judge(turn, after.task, over, node)
    if after.task.state.is_end:
        turn.books.empty_escrow(after.task.id, turn.now)


def distrust(turn: "Turn", node_id: str) -> None:
    """A node's report contradicts what is known, or had to be refused."""
    node = turn.node(node_id)
    if node is not None:
        _put_trust(turn, node, trust_after_contradiction(node.trust))


def _was_under_way(before: Attempt | None, over: Attempt) -> bool:
    return before is not None and before.number == over.number and before.outcome is None


def _earn(turn: "Turn", task: Task, over: Attempt, node: Node | None) -> None:
    escrow = turn.books.escrow(task.id)
    if escrow is None or node is None:
        return
    earned = earned_ucpt(escrow, over, node.account, wall_s=task.wall_s, now=turn.now)
    due = Due(attempt=over.number, account=node.account, amount_ucpt=earned)
    richer = with_due(escrow, due)
    if richer is not escrow:
        turn.books.put_escrow(richer)


def _judge(turn: "Turn", task: Task, over: Attempt, node: Node) -> None:
    """What a node loses in one turn it lost at once, as by a power cut: that counts once, or a
    machine with many slots would be finished by its first.
    """
    published = turn.cluster.nodes.get(node.id)
    if over.outcome is Outcome.LOST and published is not None and node.trust < published.trust:
        return
    state = turn.cluster.fleet.nodes.get(node.id)
    trust = trust_after(
        over,
        node.trust,
        is_own=task.account == node.account,
        is_handing_back=state is not None and state.draining,
    )
    _put_trust(turn, node, trust)


def _put_trust(turn: "Turn", node: Node, trust: int) -> None:
    if trust != node.trust:
        turn.put_node(attrs.evolve(node, trust=trust))
        turn.set_trust(node.id, trust)

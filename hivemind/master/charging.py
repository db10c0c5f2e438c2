"""What a task costs, before it is taken: its quote, and what its submit holds."""

from collections.abc import Iterable

import attrs

from hivemind.core.ledger import Escrow, hold, user_account
from hivemind.core.policy import PoolRules
from hivemind.core.prices import Means, Payer, Quote, TooDear, check_affordable, quote
from hivemind.core.records import Account, Node, Role, Task
from hivemind.master.cluster import Cluster
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.errors import ErrorCode


def payer_of(account: Account, balance_ucpt: int, nodes: Iterable[Node]) -> Payer:
    """What of the account and the pool decides how its tasks are paid for."""
    has_own = has_others = False
    for node in nodes:
        if node.account == account.name:
            has_own = True
        else:
            has_others = True
        if has_own and has_others:
            break
    return Payer(
        account=account.name,
        balance_ucpt=balance_ucpt,
        owns_a_node=has_own,
        owns_every_node=has_own and not has_others,
        is_admin=account.role is Role.ADMIN,
    )


def quote_now(cluster: Cluster, task: Task, rules: PoolRules) -> Quote:
    """What the task would cost if it were submitted now."""
    balance = cluster.balances.get(user_account(task.account), 0)
    payer = payer_of(cluster.accounts[task.account], balance, cluster.nodes.values())
    return _quote(task, payer, rules)


def refusal_of(offer: Quote, task: Task, *, most_ucpt: int | None) -> NamedFault | None:
    """Why the task may not be submitted at this price; None: it may."""
    try:
        check_affordable(offer, account=task.account, most_ucpt=most_ucpt)
    except TooDear as error:
        return NamedFault(ErrorCode.INSUFFICIENT_RESOURCES, str(error))
    return None


def charge(turn: Turn, task: Task, *, most_ucpt: int | None) -> Task:
    """Hold what the task can cost at most; the task as it is to be taken.

    One that costs nothing, because it is for nodes of its own account, is confined to those.

    Raises NamedFault where it cannot be paid for, or not for so little.
    """
    account = turn.account(task.account)
    if account is None:
        raise NamedFault(ErrorCode.USER_NOT_FOUND, f"no account {task.account} is in this pool")
    balance = turn.books.balance(user_account(account.name))
    offer = _quote(task, payer_of(account, balance, turn.nodes()), turn.rules)
    refusal = refusal_of(offer, task, most_ucpt=most_ucpt)
    if refusal is not None:
        raise refusal
    if offer.means is Means.OWN_NODES:
        needs = attrs.evolve(task.requirements, only_account=account.name)
        return attrs.evolve(task, requirements=needs)
    if offer.hold_ucpt:
        escrow = Escrow(
            task_id=task.id,
            account=account.name,
            held_ucpt=offer.hold_ucpt,
            rate_ucpt=offer.rate_ucpt,
        )
        turn.books.post(hold(escrow, turn.now))
        turn.books.put_escrow(escrow)
    return task


def _quote(task: Task, payer: Payer, rules: PoolRules) -> Quote:
    return quote(
        task.requirements, wall_s=task.wall_s, retries=task.retries, payer=payer, rules=rules
    )

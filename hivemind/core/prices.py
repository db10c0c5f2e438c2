"""What a task costs: its reserved resources times wall time, at the policy's rates.

All of it is computed exactly in whole numbers, or fractions of them, and rounded up once.
"""

import enum
import math
from fractions import Fraction

import attrs

from hivemind.core.cpt import show_cpt
from hivemind.core.errors import CoreError
from hivemind.core.policy import GIB, PoolRules
from hivemind.core.records import Requirements
from hivemind.core.sizes import format_duration

MINUTE_S = 60


class TooDear(CoreError):
    """A task that its account cannot, or does not want to, pay for; nothing was changed."""


class Means(enum.Enum):
    """How a task is paid for."""

    HOLD = "hold"
    """The most that it can cost is held in escrow; it may run anywhere."""
    OWN_NODES = "own_nodes"
    """Nothing is held, and it runs on its account's own nodes alone."""
    NONE = "none"
    """The balance does not cover it: it would be refused."""


@attrs.frozen(kw_only=True)
class Payer:
    """What of an account, and of the pool, decides how its tasks are paid for."""

    account: str
    balance_ucpt: int
    owns_a_node: bool
    owns_every_node: bool
    """There is a node, and none is another account's."""
    is_admin: bool = False


@attrs.frozen(kw_only=True)
class Quote:
    """What a task would cost, and how that would be paid."""

    rate_ucpt: int
    """For a minute on another account's node."""
    most_ucpt: int
    """For its whole time limit, with every retry."""
    wall_s: float
    retries: int
    balance_ucpt: int
    means: Means

    @property
    def hold_ucpt(self) -> int:
        """What a submit holds of the balance."""
        return self.most_ucpt if self.means is Means.HOLD else 0


def rate_ucpt(needs: Requirements, rules: PoolRules) -> int:
    """What a minute costs. Memory and scratch space are both reserved, and so both are paid."""
    total = (
        Fraction(needs.cpu_millis * rules.price_cpu_ucpt, 1000)
        + Fraction((needs.memory_bytes + needs.scratch_bytes) * rules.price_memory_gb_ucpt, GIB)
        + needs.gpus * rules.price_gpu_ucpt
        + Fraction(needs.gpu_memory_bytes * rules.price_gpu_memory_gb_ucpt, GIB)
    )
    return max(rules.price_least_ucpt, math.ceil(total))


def cost_ucpt(rate: int, seconds: float, times: int = 1) -> int:
    """What so long costs, so many times, at a rate for each minute."""
    return math.ceil(rate * times * Fraction(seconds) / MINUTE_S)


def quote(
    needs: Requirements, *, wall_s: float, retries: int, payer: Payer, rules: PoolRules
) -> Quote:
    """What a task would cost, and how it would be paid for.

    On a pool whose every node is one's own nothing costs anything. Otherwise what a task can cost
    is held; where the balance is too small for that, whoever has a node, or is an admin, may still
    use nodes of their own.
    """
    rate = rate_ucpt(needs, rules)
    most = cost_ucpt(rate, wall_s, retries + 1)
    if payer.owns_every_node:
        means = Means.OWN_NODES
    elif payer.balance_ucpt >= most:
        # A task that costs nothing has nothing to hold, and may run anywhere.
        means = Means.HOLD
    elif payer.owns_a_node or payer.is_admin:
        means = Means.OWN_NODES
    else:
        means = Means.NONE
    return Quote(
        rate_ucpt=rate,
        most_ucpt=most,
        wall_s=wall_s,
        retries=retries,
        balance_ucpt=payer.balance_ucpt,
        means=means,
    )


def show_rate(offer: Quote) -> str:
    """The price of a minute, and for how many at most: ``2 CPT a minute for up to 10m``."""
    times = f", up to {offer.retries + 1} times" if offer.retries else ""
    return f"{show_cpt(offer.rate_ucpt)} a minute for up to {format_duration(offer.wall_s)}{times}"


def check_affordable(offer: Quote, *, account: str, most_ucpt: int | None) -> None:
    """Whether a task with this quote may be submitted.

    Args:
        offer: its quote.
        account: who pays.
        most_ucpt: the most that the submitter wants held; None: whatever it is.

    Raises:
        TooDear: one line: what it could cost, what there is, what to do.
    """
    could = f"it could cost {show_cpt(offer.most_ucpt)} ({show_rate(offer)})"
    if offer.means is Means.NONE:
        raise TooDear(
            f"{could} and {account} has {show_cpt(offer.balance_ucpt)}: shorten its time, ask for "
            "less, or get more CPT"
        )
    if most_ucpt is not None and offer.hold_ucpt > most_ucpt:
        raise TooDear(
            f"{could} and max-cpt allows {show_cpt(most_ucpt)}: shorten its time, ask for less, "
            "or allow more"
        )

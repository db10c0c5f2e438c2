"""The ledger alone, and a life of it: whatever happens, nothing is lost, made or paid twice."""

from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivemind.core.ledger import (
    ISSUER,
    Due,
    Escrow,
    LedgerError,
    Movement,
    MovementKind,
    Overdrawn,
    earned_ucpt,
    escrow_account,
    grant,
    hold,
    is_escrow,
    post,
    replay,
    settle,
    user_account,
    user_of,
    with_due,
)
from hivemind.core.records import Attempt, Outcome, Reason

ESCROW = Escrow(task_id="t", account="ann", held_ucpt=1000, rate_ucpt=60)
RUNNING = Attempt(
    task_id="t", number=1, node_id="n", lease_id="l", assigned_at=5.0, started_at=100.0
)


def due(attempt: int, amount: int, account: str = "bob") -> Due:
    return Due(attempt=attempt, account=account, amount_ucpt=amount)


def transfer(giver: str, receiver: str, amount: int, key: str = "") -> Movement:
    return Movement(
        at=1.0,
        kind=MovementKind.TRANSFER,
        debit=user_account(giver),
        credit=user_account(receiver),
        amount_ucpt=amount,
        key=key,
    )


def given_out(*dues: Due) -> list[tuple[str, int]]:
    """To whom an escrow of 1000 goes, in order."""
    movements = settle(attrs.evolve(ESCROW, dues=dues), at=9.0)
    assert sum(movement.amount_ucpt for movement in movements) == 1000
    return [(user_of(movement.credit), movement.amount_ucpt) for movement in movements]


# --- posting ---


@pytest.mark.parametrize(
    ("movement", "error"),
    [
        (transfer("ann", "bob", 6), Overdrawn),
        (transfer("bob", "ann", 1), Overdrawn),
        (transfer("ann", "bob", 0), LedgerError),
        (transfer("ann", "bob", -1), LedgerError),
        (transfer("ann", "ann", 1), LedgerError),
    ],
)
def test_what_cannot_be_posted_changes_nothing(
    movement: Movement, error: type[LedgerError]
) -> None:
    balances = replay([grant("ann", 5, 1.0)])
    before = dict(balances)
    with pytest.raises(error):
        post(balances, movement)
    assert balances == before


def test_only_the_issuer_is_below_zero_and_an_empty_escrow_is_gone() -> None:
    escrow = attrs.evolve(ESCROW, held_ucpt=5)
    movements = [grant("ann", 5, 1.0), hold(escrow, 2.0)]
    assert replay(movements) == {ISSUER: -5, "user/ann": 0, "escrow/t": 5}
    assert replay([*movements, *settle(escrow, 3.0)]) == {ISSUER: -5, "user/ann": 5}


def test_names_cannot_be_taken_for_other_accounts() -> None:
    assert user_of(user_account("issuer")) == "issuer"
    assert user_account("issuer") != ISSUER
    assert (user_of(ISSUER), user_of(escrow_account("t"))) == ("", "")
    assert is_escrow(escrow_account("t"))
    assert not is_escrow(user_account("escrow"))


# --- what an attempt earns ---


@pytest.mark.parametrize(
    ("changes", "now", "earned"),
    [
        ({}, 130.0, 30),
        ({}, 130.5, 31),
        ({}, 90.0, 0),
        ({}, 1e9, 300),
        ({"started_at": None}, 130.0, 0),
        ({"ended_at": 110.0, "outcome": Outcome.SUCCEEDED}, 1e9, 10),
        ({"ended_at": 110.0, "outcome": Outcome.FAILED}, 1e9, 10),
        ({"ended_at": 110.0, "outcome": Outcome.STOPPED}, 1e9, 10),
        ({"ended_at": 500.0, "outcome": Outcome.TIMED_OUT}, 1e9, 300),
        ({"ended_at": 219.9, "outcome": Outcome.LOST}, 1e9, 60),
        ({"ended_at": 159.0, "outcome": Outcome.LOST}, 1e9, 0),
        ({"ended_at": 110.0, "outcome": Outcome.REFUSED}, 1e9, 0),
        (
            {"ended_at": 110.0, "outcome": Outcome.FAILED, "reason": Reason.SANDBOX_FAILED},
            1e9,
            0,
        ),
    ],
    ids=[
        *("running", "rounded up", "the clock went back", "the time limit", "not started"),
        *("succeeded", "failed", "stopped", "timed out", "lost", "lost in its first minute"),
        *("refused", "no sandbox"),
    ],
)
def test_what_an_attempt_has_earned(changes: dict[str, Any], now: float, earned: int) -> None:
    attempt = attrs.evolve(RUNNING, **changes)
    assert earned_ucpt(ESCROW, attempt, "bob", wall_s=300.0, now=now) == earned


@pytest.mark.parametrize(("escrow", "provider"), [(None, "bob"), (ESCROW, "ann"), (ESCROW, "")])
def test_nothing_is_earned_for_nothing_on_ones_own_node_and_on_nobodys(
    escrow: Escrow | None, provider: str
) -> None:
    assert earned_ucpt(escrow, RUNNING, provider, wall_s=300.0, now=130.0) == 0


def test_no_attempt_earns_more_than_is_held() -> None:
    poor = attrs.evolve(ESCROW, held_ucpt=7)
    assert earned_ucpt(poor, RUNNING, "bob", wall_s=300.0, now=130.0) == 7


def test_an_attempt_is_due_once() -> None:
    once = with_due(ESCROW, due(1, 5))
    assert once.dues == (due(1, 5),)
    assert with_due(once, due(1, 9)) is once
    assert with_due(once, due(2, 0)) is once


# --- what becomes of what is held ---


def test_what_nobody_earned_goes_back() -> None:
    assert given_out() == [("ann", 1000)]


def test_the_newest_is_paid_first_then_the_others_in_order_and_never_more_than_is_held() -> None:
    assert given_out(due(1, 10), due(2, 20), due(3, 30)) == [
        ("bob", 30),
        ("bob", 10),
        ("bob", 20),
        ("ann", 940),
    ]
    assert given_out(due(1, 600), due(2, 700, "eve")) == [("eve", 700), ("bob", 300)]
    assert given_out(due(1, 600), due(2, 1000, "eve")) == [("eve", 1000)]


# --- a life of it ---

PEOPLE = ("ann", "bob", "eve")
amounts = st.integers(min_value=1, max_value=400)


class LedgerLife(RuleBasedStateMachine):
    """Submits, attempts, ends, transfers, repeats and crashes in any order.

    A crash forgets everything but the movements and the escrows, as a master's does; a turn that is
    not committed forgets what it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.movements: list[Movement] = [grant(name, 1000, 0.0) for name in PEOPLE]
        self.balances = replay(self.movements)
        self.escrows: dict[str, Escrow] = {}
        self.ended: dict[str, Escrow] = {}
        self.serial = 0

    def enter(self, *movements: Movement) -> None:
        for movement in movements:
            post(self.balances, movement)
            self.movements.append(movement)

    @rule(account=st.sampled_from(PEOPLE), held=amounts, rate=amounts)
    def submit(self, account: str, held: int, rate: int) -> None:
        self.serial += 1
        escrow = Escrow(task_id=f"t{self.serial}", account=account, held_ucpt=held, rate_ucpt=rate)
        try:
            self.enter(hold(escrow, 1.0))
        except Overdrawn:
            assert self.balances[user_account(account)] < held
        else:
            self.escrows[escrow.task_id] = escrow

    @precondition(lambda self: self.escrows)
    @rule(
        data=st.data(),
        provider=st.sampled_from((*PEOPLE, "")),
        number=st.integers(1, 4),
        outcome=st.sampled_from(Outcome),
        ran_s=st.floats(-10, 700),
    )
    def end_attempt(
        self, data: st.DataObject, provider: str, number: int, outcome: Outcome, ran_s: float
    ) -> None:
        escrow = self.escrows[data.draw(st.sampled_from(sorted(self.escrows)))]
        over = attrs.evolve(RUNNING, number=number, outcome=outcome, ended_at=100.0 + ran_s)
        earned = earned_ucpt(escrow, over, provider, wall_s=500.0, now=1e9)
        assert 0 <= earned <= escrow.held_ucpt
        earns = Due(attempt=number, account=provider, amount_ucpt=earned)
        self.escrows[escrow.task_id] = with_due(escrow, earns)

    @precondition(lambda self: self.escrows)
    @rule(data=st.data())
    def end_task(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.escrows)))
        self.ended[task_id] = self.escrows.pop(task_id)
        self.enter(*settle(self.ended[task_id], 2.0))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        """Whoever forgot that it was settled finds nothing to give."""
        again = settle(self.ended[data.draw(st.sampled_from(sorted(self.ended)))], 3.0)
        with pytest.raises(Overdrawn):
            self.enter(*again[:1])

    @rule(giver=st.sampled_from(PEOPLE), receiver=st.sampled_from(PEOPLE), amount=amounts)
    def transfer(self, giver: str, receiver: str, amount: int) -> None:
        had = self.balances[user_account(giver)]
        if giver != receiver and had >= amount:
            self.enter(transfer(giver, receiver, amount))
            return
        with pytest.raises(LedgerError):
            self.enter(transfer(giver, receiver, amount))

    @rule()
    def crash(self) -> None:
        self.balances = replay(self.movements)

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        assert sum(self.balances.values()) == 0

    @invariant()
    def only_the_issuer_owes(self) -> None:
        assert min(ucpt for name, ucpt in self.balances.items() if name != ISSUER) >= 0

    @invariant()
    def the_movements_give_the_balances(self) -> None:
        assert replay(self.movements) == self.balances

    @invariant()
    def what_is_held_is_there_and_what_ended_is_empty(self) -> None:
        held = {name: ucpt for name, ucpt in self.balances.items() if is_escrow(name)}
        assert held == {
            escrow_account(task_id): escrow.held_ucpt for task_id, escrow in self.escrows.items()
        }
        for task_id, escrow in self.ended.items():
            out = [one.amount_ucpt for one in self.movements if one.debit == f"escrow/{task_id}"]
            assert sum(out) == escrow.held_ucpt


LedgerLife.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, derandomize=True, deadline=None
)
TestLedgerLife = LedgerLife.TestCase

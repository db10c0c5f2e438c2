"""What a pool must have before it can serve: its epoch, its signing key and its first admin."""

from collections.abc import Callable

from hivemind.core.ledger import user_account
from hivemind.core.records import Account, Role
from hivemind.master.commands import endow
from hivemind.master.reactor import Reactor
from hivemind.master.signing import SIGNING_KEY_FACT
from hivemind.master.turn import Turn

EPOCH_FACT = "epoch"
"""The name under which the store counts the starts of a master; every lease carries the count."""

LEDGER_FACT = "ledger"
"""Whether every account that is older than the ledger has been given what a new one gets."""

FIRST_ADMIN = "admin"


async def found(
    reactor: Reactor, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes]
) -> Account:
    """Begin a new epoch, and make what is missing. Returns the first admin.

    The first admin has no password: it is whoever can read the home's credentials.
    """
    key = random_bytes(32)
    created_at = clock()

    def command(turn: Turn) -> Account:
        facts = turn.cluster.facts
        turn.put_fact(EPOCH_FACT, str(int(facts.get(EPOCH_FACT, b"0")) + 1).encode())
        if SIGNING_KEY_FACT not in facts:
            turn.put_fact(SIGNING_KEY_FACT, key)
        admin = turn.account(FIRST_ADMIN)
        if admin is None:
            admin = Account(
                name=FIRST_ADMIN, role=Role.ADMIN, password_hash="", created_at=created_at
            )
            turn.put_account(admin)
            endow(turn, admin)
        if LEDGER_FACT not in facts:
            turn.put_fact(LEDGER_FACT, b"1")
            for account in turn.cluster.accounts.values():
                if user_account(account.name) not in turn.cluster.balances:
                    endow(turn, account)
        return admin

    return await reactor.perform(command)

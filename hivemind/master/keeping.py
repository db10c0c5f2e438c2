"""How much of the master's disk an account's tasks may take, those that have ended included.

A task that is stopped before it runs costs nothing, and what has ended is kept as long as the
pool's rule says; so without a limit of its own any account could fill the disk for everybody.
"""

from hivemind.core.policy import PoolRules
from hivemind.core.sizes import show_size
from hivemind.rpc.contract.faults import exhausted
from hivemind.rpc.errors import CallRefused
from hivemind.store.api import Store


async def too_much_kept(
    store: Store, rules: PoolRules, account: str, more_bytes: int
) -> CallRefused | None:
    """Why the account's tasks may not take so much more; None: they may.

    Uploads that are under way do not count before they are stored, and have limits of their own.
    """
    most = rules.kept_bytes_per_account
    kept = await store.kept_bytes(account)
    if kept + more_bytes <= most:
        return None
    return exhausted(
        f"account {account} has {show_size(kept)} of programs and results here and "
        f"{show_size(most)} is the most, so {show_size(more_bytes)} more cannot be taken; ask an "
        "admin to raise kept_bytes_per_account, or to have retention_s remove what is old"
    )

"""How long sandboxes are kept on this machine: one rule for all of its policies."""

from collections.abc import Iterable

import sandbox
from hivemind.core.confinement import Reuse
from hivemind.core.policy import Profile

_MOST_PARKED = 64
"""However many a policy wants made ahead: each takes some 10 MB of memory."""


def plan_cells(profiles: Iterable[Profile]) -> sandbox.CellRules:
    """The strictest of what the policies say of sandboxes that are reused.

    A pool has one rule for all that it keeps. Of those made ahead it has as many as any policy
    wants.
    """
    known = list(profiles)
    reusing = [profile for profile in known if profile.reuse is not Reuse.NEVER]
    usual = sandbox.CellRules()
    return sandbox.CellRules(
        max_runs=min((profile.cell_runs for profile in reusing), default=usual.max_runs),
        max_age_s=min((profile.cell_age for profile in reusing), default=usual.max_age_s),
        parked=min(_MOST_PARKED, max((profile.parked for profile in known), default=0)),
    )

"""How long sandboxes are kept on this machine: one rule for all of its policies."""

from collections.abc import Iterable

import attrs

from hivemind.core.confinement import Reuse
from hivemind.core.policy import Profile


@attrs.frozen(kw_only=True)
class CellPlan:
    """What a pool of sandboxes is told of those that it keeps."""

    max_runs: int
    max_age_s: float
    parked: int


def plan_cells(profiles: Iterable[Profile]) -> CellPlan | None:
    """The strictest of what the policies with reuse say; None where no policy has any.

    A pool has one rule for all that it keeps. Of those made ahead it has as many as any policy
    wants.
    """
    reusing = [profile for profile in profiles if profile.reuse is not Reuse.NEVER]
    if not reusing:
        return None
    return CellPlan(
        max_runs=min(profile.cell_runs for profile in reusing),
        max_age_s=min(profile.cell_age for profile in reusing),
        parked=max(profile.parked for profile in reusing),
    )

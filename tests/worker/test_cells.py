from hivemind.core.confinement import Reuse
from hivemind.core.policy import Profile
from hivemind.worker.cells import CellPlan, plan_cells


def test_where_no_policy_reuses_sandboxes_none_is_kept() -> None:
    assert plan_cells([]) is None
    assert plan_cells([Profile(name="a", parked=9), Profile(name="b")]) is None


def test_the_strictest_of_those_that_reuse_counts_and_no_other() -> None:
    profiles = [
        Profile(name="a", reuse=Reuse.ACCOUNT, cell_runs=50, cell_age=600.0, parked=1),
        Profile(name="b", reuse=Reuse.JOB, cell_runs=80, cell_age=60.0, parked=3),
        Profile(name="c", reuse=Reuse.NEVER, cell_runs=1, cell_age=1.0, parked=99),
    ]
    assert plan_cells(profiles) == CellPlan(max_runs=50, max_age_s=60.0, parked=3)

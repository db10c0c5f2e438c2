import sandbox
from hivemind.core.confinement import Reuse
from hivemind.core.policy import Profile
from hivemind.worker.cells import plan_cells


def test_without_policies_none_is_made_ahead() -> None:
    assert plan_cells([]) == sandbox.CellRules(parked=0)


def test_as_many_are_made_ahead_as_any_policy_wants_within_reason() -> None:
    assert plan_cells([Profile(name="a", parked=9), Profile(name="b", parked=0)]).parked == 9
    assert plan_cells([Profile(name="a", parked=9999)]).parked == 64


def test_the_strictest_of_those_that_reuse_counts_for_how_long_one_is_used() -> None:
    profiles = [
        Profile(name="a", reuse=Reuse.ACCOUNT, cell_runs=50, cell_age=600.0, parked=1),
        Profile(name="b", reuse=Reuse.JOB, cell_runs=80, cell_age=60.0, parked=3),
        Profile(name="c", reuse=Reuse.NEVER, cell_runs=1, cell_age=1.0, parked=2),
    ]
    assert plan_cells(profiles) == sandbox.CellRules(max_runs=50, max_age_s=60.0, parked=3)

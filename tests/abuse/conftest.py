"""One arena for each case, in each mode, checked when the case is over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

pytest.register_assert_rewrite("tests.abuse.arena")

from tests.abuse.arena import CASE_S, Arena, open_arena  # noqa: E402
from tests.abuse.modes import MODES, choose_limits, mode_named  # noqa: E402


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a cgroup where this user may write none; root must have one."""
    mark = item.get_closest_marker("needs_cgroup")
    if mark is not None and choose_limits() != "cgroup":
        pytest.skip(f"no cgroup that this user may write: {mark.args[0]}")


@pytest.fixture(params=MODES)
async def arena(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Arena]:
    how = choose_limits()
    with trio.fail_after(2 * CASE_S):
        async with open_arena(
            mode_named(request.param), tmp_path_factory.mktemp("given"), how
        ) as opened:
            yield opened
            await opened.check()

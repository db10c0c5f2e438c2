"""Every way to start Python in the sandbox does what a cold start of the real interpreter does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
import pytest
import trio

import sandbox
from tests.conformance.case import Case, Outcome, code, settled
from tests.conformance.table import CASES
from tests.conformance.test_warm import EXECUTED
from tests.sandbox.conftest import config_for, needs_cgroup

Mode = Literal["cold", "cold again", "warm"]
_SLOTS = 2
_WALL_S = 60.0


def spec_for(case: Case, folder: Path, mode: Mode) -> sandbox.Spec:
    staged = tuple(
        sandbox.StagedFile(source=folder / str(number), name=name)
        for number, name in enumerate(case.files)
    )
    for number, data in enumerate(case.files.values()):
        (folder / str(number)).write_bytes(data)
    stdin = None
    if case.stdin is not None:
        stdin = folder / "stdin"
        stdin.write_bytes(case.stdin)
    spec = sandbox.Spec(
        argv=("python3", *case.argv),
        env=dict(case.env),
        files=staged,
        stdin=stdin,
        limits=sandbox.Limits(wall_s=_WALL_S, cpus=2.0),
    )
    return attrs.evolve(spec, tenant="conformance", warm_python=True) if mode == "warm" else spec


def began_well(case: Case, mode: Mode, start: sandbox.Start) -> bool:
    """Whether two ways to start are compared at all, and not one with itself."""
    if mode != "warm":
        return start is sandbox.Start.COLD
    return start is sandbox.Start.WARM or (case.name in EXECUTED and start is sandbox.Start.CELL)


async def run_all(wanted: list[tuple[Case, Mode]], top: Path) -> dict[tuple[str, Mode], Outcome]:
    """Run what was asked for, in one pool; a case's runs follow each other."""
    outcomes: dict[tuple[str, Mode], Outcome] = {}
    left = iter(enumerate(wanted))

    async def work(pool: sandbox.Pool) -> None:
        for number, (case, mode) in left:
            folder = top / str(number)
            folder.mkdir()
            written = dict.fromkeys(sandbox.Stream, b"")
            async with pool.open_run(spec_for(case, folder, mode)) as run:
                assert began_well(case, mode, run.started), (case.name, run.started)
                async for chunk in run.chunks():
                    written[chunk.stream] += chunk.data
                result = await run.wait()
            outcomes[case.name, mode] = Outcome(
                result.reason.value,
                result.exit_code,
                result.signal,
                settled(written[sandbox.Stream.STDOUT]),
                settled(written[sandbox.Stream.STDERR]),
            )

    async with (
        sandbox.open_pool(config_for("cgroup", _SLOTS)) as pool,
        trio.open_nursery() as slots,
    ):
        for _ in range(_SLOTS):
            slots.start_soon(work, pool)
    return outcomes


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, Mode], Outcome]:
    """The runs that the selected tests need, all made in one pool."""
    needs_cgroup()
    wanted = dict.fromkeys(
        (item.callspec.params["case"], mode)
        for item in request.session.items
        if item.parent is request.node and "case" in getattr(item, "fixturenames", ())
        for mode in ("cold", item.callspec.params["mode"])
    )
    return trio.run(run_all, list(wanted), tmp_path_factory.mktemp("cases"))


def _rows() -> list[object]:
    """All rows; those not marked slow, which CI runs, are a part: test_warm runs nearly all."""
    return [
        pytest.param(
            case,
            id=case.name,
            marks=() if not case.heavy and (case.lone or number % 4 == 0) else pytest.mark.slow,
        )
        for number, case in enumerate(CASES)
    ]


def check(case: Case, mode: Mode, outcomes: dict[tuple[str, Mode], Outcome]) -> None:
    reference = outcomes[case.name, "cold"]
    assert case.exit_code in (None, reference.exit_code), reference
    assert outcomes[case.name, mode] == reference


@pytest.mark.parametrize("mode", ["warm"])
@pytest.mark.parametrize("case", _rows())
def test_a_warm_start_is_a_cold_start(
    case: Case, mode: Mode, outcomes: dict[tuple[str, Mode], Outcome]
) -> None:
    check(case, mode, outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cold again"])
@pytest.mark.parametrize("case", _rows())
def test_a_cold_start_is_another_cold_start(
    case: Case, mode: Mode, outcomes: dict[tuple[str, Mode], Outcome]
) -> None:
    check(case, mode, outcomes)


async def test_a_later_warm_task_finds_the_modules_that_a_cold_one_does(tmp_path: Path) -> None:
    needs_cgroup()
    source = (
        "import sys; print(sorted(sys.modules)); print(sys.path, list(sys.path_importer_cache))"
    )
    async with sandbox.open_pool(config_for("cgroup", _SLOTS)) as pool:
        seen = []
        for mode in ("cold", "warm", "warm", "warm"):
            spec = spec_for(code("modules", source), tmp_path, mode)  # type: ignore[arg-type]
            seen.append((await sandbox.run_in(pool, spec)).stdout)
    assert seen == [seen[0]] * 4


_RANDOM = """
import os, random, secrets, tempfile, uuid
print(random.random(), random.SystemRandom().random(), uuid.uuid4(), os.urandom(8).hex())
print(secrets.token_hex(8), tempfile.mktemp(), random.Random().random())
"""


async def test_two_warm_tasks_are_dealt_different_randomness(tmp_path: Path) -> None:
    needs_cgroup()
    spec = spec_for(code("random", _RANDOM), tmp_path, "warm")
    async with sandbox.open_pool(config_for("cgroup", _SLOTS)) as pool:
        first = (await sandbox.run_in(pool, spec)).stdout.split()
        second = (await sandbox.run_in(pool, spec)).stdout.split()
    assert len(first) == len(second) == 7
    assert not set(first) & set(second)

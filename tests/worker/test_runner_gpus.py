"""Attempts with GPUs, in real sandboxes; the GPUs are fakes, their nodes real devices."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from hivemind.core.messages import AttemptRef, KillOrder, StopOrder
from hivemind.core.records import Outcome, PayloadKind, Reason, RefusalKind, Requirements, TaskSpec
from hivemind.worker import app, gpus
from hivemind.worker.app import Worker
from hivemind.worker.execution import Execution
from hivemind.worker.gpus import open_gpus
from sandbox.gpu import GpuGrant, Places, grant_gpus
from tests.sandbox.fake_gpus import made_nodes, make_places, uuid_of
from tests.worker.fake_nvml import GIB, FakeGpu, fake_nvml
from tests.worker.recording_master import PATIENCE_S, RecordingMaster, Seen
from tests.worker.running import MIB, running, script, shell, spec

NEEDS = Requirements(memory_bytes=128 * MIB, scratch_bytes=64 * MIB, gpus=1)
ALLOWED = "gpus = { default = 0, most = 2 }\n"
SEEN = """
import glob, json, os
nodes = [path for path in glob.glob("/dev/**", recursive=True) if "nvidia" in path]
for path in nodes:
    open(path, "r+b").close()
print(json.dumps([sorted(map(os.path.basename, nodes)), os.environ["CUDA_VISIBLE_DEVICES"]]))
"""


@attrs.define
class Bench:
    """A machine with two fake GPUs, whose worker is opened by ``running``."""

    fakes: list[FakeGpu]
    places: Places
    running: Callable[[], AbstractAsyncContextManager[Worker]]


@pytest.fixture
async def bench(
    master: RecordingMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    # Index and node are crossed, as they may be on a real machine.
    fakes = [FakeGpu(minor=1), FakeGpu(minor=0, name="NVIDIA T4", total_bytes=16 * GIB)]
    home = tmp_path / "home"
    (home / "policies").mkdir(mode=0o700, parents=True)
    (home / "policies" / "default.toml").write_text(ALLOWED)

    @asynccontextmanager
    async def run() -> AsyncIterator[Worker]:
        async with running(master, home, slots=4, memory_bytes=1024 * MIB) as worker:
            yield worker

    with made_nodes() as dev:
        places = make_places(tmp_path, dev)
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*fakes))
        monkeypatch.setattr(app, "open_gpus", lambda: open_gpus(places))
        yield Bench(fakes, places, run)


def with_gpus(task: TaskSpec, **needs: object) -> TaskSpec:
    return attrs.evolve(task, requirements=attrs.evolve(NEEDS, **needs))


async def hold(master: RecordingMaster, **needs: object) -> AttemptRef:
    """An attempt that has begun, and lasts."""
    ref = master.assign(with_gpus(shell("echo up; sleep 600"), **needs))
    await master.until(lambda: master.of(ref).stdout == b"up\n")
    return ref


async def test_gpus_are_offered_with_their_names_and_memory(
    master: RecordingMaster, bench: Bench
) -> None:
    async with bench.running():
        capacity = master.hellos[0].capabilities.capacity
    assert (capacity.gpus, capacity.gpu_memory_bytes) == (2, 96 * GIB)
    assert capacity.gpu_name == "NVIDIA H100, NVIDIA T4"


async def test_an_attempt_opens_its_own_gpu_and_no_other(
    master: RecordingMaster, bench: Bench
) -> None:
    task, payload = script(SEEN)
    async with bench.running():
        for name, minor, index in (("h100", 1, 0), ("T4", 0, 1)):
            seen = await master.run(with_gpus(task, gpu_name=name), payload)
            assert seen.endings[0].outcome is Outcome.SUCCEEDED, seen
            assert json.loads(seen.stdout) == [
                ["nvidia-uvm", f"nvidia{minor}", "nvidiactl"],
                uuid_of(index),
            ]


async def run_when_free(master: RecordingMaster, task: TaskSpec, payload: bytes = b"") -> Seen:
    """Run the task, asking again for as long as it is refused."""
    with trio.fail_after(PATIENCE_S):
        while True:
            seen = master.of(master.assign(task, payload))
            await master.until(lambda it=seen: it.endings or it.refusal)  # type: ignore[misc]
            if seen.endings:
                return seen


async def test_gpus_are_free_again_however_an_attempt_ends(
    master: RecordingMaster, bench: Bench
) -> None:
    both = {"gpus": 2}
    async with bench.running():
        ref = await hold(master, **both)
        refusal = await master.until_refused(master.assign(with_gpus(shell("true"))))
        assert refusal.kind is RefusalKind.BUSY
        assert "2 of 2 GPUs are taken" in refusal.detail
        master.sessions[-1].send(StopOrder(ref))
        await master.until_ended(ref)
        ref = await hold(master, **both)
        master.sessions[-1].send(KillOrder(ref))  # it holds its GPUs until it is gone
        seen = await run_when_free(master, with_gpus(shell("exit 3"), **both))
        assert seen.endings[0].exit_code == 3
        bad = with_gpus(spec(PayloadKind.ARCHIVE), **both)
        seen = await run_when_free(master, bad, b"not an archive")
        assert seen.endings[0].reason is Reason.BAD_PAYLOAD
        seen = await run_when_free(master, with_gpus(shell("sleep 60", wall_s=0.3), **both))
        assert seen.endings[0].outcome is Outcome.TIMED_OUT
        seen = await run_when_free(master, with_gpus(shell("kill -9 $$"), **both))
        assert seen.endings[0].reason is Reason.SIGNALLED
        await run_when_free(master, with_gpus(shell("true"), **both))


async def test_a_fault_of_the_worker_frees_its_gpus(
    master: RecordingMaster, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fault(self: object, _: object) -> None:
        raise RuntimeError("a fault that a test made")

    both = {"gpus": 2}
    async with bench.running():
        with monkeypatch.context() as broken, capture_logs():
            broken.setattr(Execution, "_add_gpus", fault)
            seen = await master.run(with_gpus(shell("true"), **both))
        assert seen.endings[0].reason is Reason.SANDBOX_FAILED
        seen = await run_when_free(master, with_gpus(shell("true"), **both))
        assert seen.endings[0].outcome is Outcome.SUCCEEDED


async def test_a_node_that_went_away_is_a_refusal_and_keeps_no_gpu(
    master: RecordingMaster, bench: Bench
) -> None:
    async with bench.running():
        node = bench.places.dev / "nvidia1"
        node.rename(node.with_name("elsewhere"))
        for _ in range(2):
            refusal = await master.until_refused(
                master.assign(with_gpus(shell("true"), gpu_name="H100"))
            )
            assert refusal.kind is RefusalKind.BUSY
            assert "nvidia1 is not there" in refusal.detail
        node.with_name("elsewhere").rename(node)
        seen = await master.run(with_gpus(shell("true"), gpu_name="H100"))
        assert seen.endings[0].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("root", ["host", "another"])
async def test_the_drivers_libraries_are_shown_where_the_task_has_another_usr(
    master: RecordingMaster,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: str,
) -> None:
    seen: list[bool] = []

    def grant(*gpus: object, sees_usr: bool, **more: Any) -> GpuGrant:
        seen.append(sees_usr)
        return grant_gpus(*gpus, sees_usr=sees_usr, **more)  # type: ignore[arg-type]

    if root == "another":
        # A folder without a system in it: what is granted is worked out before that is refused.
        policy = tmp_path / "home" / "policies" / "default.toml"
        policy.write_text(f"{ALLOWED}root = '{tmp_path}'\n")
    async with bench.running():
        monkeypatch.setattr(gpus, "grant_gpus", grant)
        ref = master.assign(with_gpus(shell("true")))
        if root == "host":
            await master.until_ended(ref)
        else:
            assert "root file system" in (await master.until_refused(ref)).detail
    assert seen == [root == "host"]


async def test_what_no_gpu_here_has_is_refused_for_good(
    master: RecordingMaster, bench: Bench
) -> None:
    async with bench.running():
        asked = with_gpus(shell("true"), gpu_name="T4", gpu_memory_bytes=17 * GIB)
        refusal = await master.until_refused(master.assign(asked))
    assert refusal.kind is RefusalKind.POLICY
    assert "a GPU called T4 with 17G of memory" in refusal.detail


async def test_more_gpu_memory_than_asked_for_ends_the_attempt(
    master: RecordingMaster, bench: Bench
) -> None:
    bench.fakes[0].used_bytes = GIB  # somebody else's
    async with bench.running():
        ref = await hold(master, gpu_name="H100", gpu_memory_bytes=2 * GIB)
        bench.fakes[0].used_bytes = 4 * GIB
        ending = await master.until_ended(ref)
    assert (ending.outcome, ending.reason, ending.exit_code) == (
        Outcome.FAILED,
        Reason.OUT_OF_MEMORY,
        137,
    )
    assert "GPU memory limit of 2G" in ending.detail
    assert ending.usage.gpu_memory_peak_bytes == 3 * GIB


async def test_the_peak_of_gpu_memory_is_reported(master: RecordingMaster, bench: Bench) -> None:
    async with bench.running():
        ref = master.assign(with_gpus(shell("echo up; sleep 3"), gpu_name="H100"))
        await master.until(lambda: master.of(ref).stdout == b"up\n")
        bench.fakes[0].used_bytes = 5 * GIB
        ending = await master.until_ended(ref)
    assert ending.outcome is Outcome.SUCCEEDED
    assert ending.usage.gpu_memory_peak_bytes == 5 * GIB


@pytest.mark.parametrize("policy", ["", "gpus = { default = 0, most = 2 }\naccounts = []\n"])
async def test_gpus_that_no_policy_lets_anybody_have_are_not_offered(
    master: RecordingMaster, bench: Bench, tmp_path: Path, policy: str
) -> None:
    (tmp_path / "home" / "policies" / "default.toml").write_text(policy)
    async with bench.running():
        assert master.hellos[0].capabilities.capacity.gpus == 0
        refusal = await master.until_refused(master.assign(with_gpus(shell("true"))))
    assert refusal.kind is RefusalKind.POLICY


async def test_gpus_that_cannot_be_granted_are_not_offered_and_the_log_says_why(
    master: RecordingMaster, bench: Bench
) -> None:
    (bench.places.dev / "nvidia-uvm").unlink()
    with capture_logs() as logs:
        async with bench.running():
            assert master.hellos[0].capabilities.capacity.gpus == 0
            assert (await master.run(shell("true"))).endings[0].outcome is Outcome.SUCCEEDED
    (said,) = [log for log in logs if log["event"] == "gpus_not_offered"]
    assert "nvidia-modprobe" in said["reason"]

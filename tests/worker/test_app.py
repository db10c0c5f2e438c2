import io
import os
import re
import socket
import zipfile
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
import trio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs

import sandbox
from hivemind.core.messages import AttemptRef
from hivemind.core.records import Outcome, PayloadKind, Reason, RefusalKind, Requirements
from hivemind.settings.credentials import Credentials, write_credentials
from hivemind.settings.errors import SettingsError
from hivemind.worker import front
from hivemind.worker.app import SandboxUnavailable
from hivemind.worker.capacity import ImpossibleOffer
from hivemind.worker.dial import NoSuchHost
from hivemind.worker.identity import EnrolmentRefused, NotAccepted, NotEnrolled
from hivemind.worker.own_home import HomeInUse
from tests.pool import LIMITS
from tests.worker.recording_master import RecordingMaster, new_ref, open_recording_master
from tests.worker.running import (
    MIB,
    WorkerProcess,
    gone,
    lasting,
    make_config,
    processes_with,
    running,
    shell,
    spec,
    worker_process,
)


async def start_lasting(master: RecordingMaster) -> tuple[AttemptRef, list[int]]:
    marker = new_ref().task_id
    ref = master.assign(shell(f"echo up; {lasting(marker)}"))
    await master.until(lambda: master.of(ref).stdout == b"up\n")
    pids = processes_with(marker)
    assert pids
    return ref, pids


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- starting ------------------------------------------------------------------------------------


async def test_a_worker_offers_what_its_owner_says(master: RecordingMaster, tmp_path: Path) -> None:
    offer = {"slots": 3, "cpu_millis": 500, "memory_bytes": 512 * MIB, "location": "attic"}
    async with running(master, tmp_path, **offer):
        capabilities = master.hellos[0].capabilities
    capacity = capabilities.capacity
    assert (capacity.slots, capacity.cpu_millis, capacity.memory_bytes, capacity.location) == (
        3,
        500,
        512 * MIB,
        "attic",
    )
    assert capacity.gpus == 0
    assert capabilities.hostname == socket.gethostname()
    assert (capabilities.limits, capabilities.sandbox) == (LIMITS, "enabled")
    assert master.hellos[0].draining is False


async def test_a_master_that_is_not_there_yet_is_waited_for(
    master: RecordingMaster, tmp_path: Path
) -> None:
    await master.close()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(0.4)
                await master.open()

            nursery.start_soon(come_back)
            async with running(master, tmp_path):
                await master.run(shell("true"))
    assert [log["event"] for log in logs].count("master_not_reached") == 1


async def test_a_refused_enrolment_ends_the_start(master: RecordingMaster, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentRefused):
        async with running(master, tmp_path, join_token="stale"):
            pass


async def test_the_homes_credentials_serve_as_a_join_token(
    master: RecordingMaster, tmp_path: Path
) -> None:
    write_credentials(
        tmp_path, Credentials(master=master.address, account="alice", token="join-me")
    )
    async with running(master, tmp_path, join_token=None):
        pass


async def test_credentials_for_another_master_are_not_shown_to_this_one(
    master: RecordingMaster, tmp_path: Path
) -> None:
    write_credentials(tmp_path, Credentials(master="other:1", account="alice", token="join-me"))
    with pytest.raises(NotEnrolled):
        async with running(master, tmp_path, join_token=None):
            pass
    assert master.nodes == {}


async def test_an_unknown_host_is_told_at_once(tmp_path: Path) -> None:
    master = RecordingMaster()
    master.host, master.port = "no.such.host.invalid", 1
    with pytest.raises(NoSuchHost):
        async with running(master, tmp_path):
            pass


async def test_an_impossible_offer_is_told_at_once(master: RecordingMaster, tmp_path: Path) -> None:
    with pytest.raises(ImpossibleOffer, match="memory"):
        async with running(master, tmp_path, memory_bytes=1 << 60):
            pass


async def test_two_workers_do_not_share_a_home(master: RecordingMaster, tmp_path: Path) -> None:
    async with running(master, tmp_path):
        with pytest.raises(HomeInUse, match=re.escape(str(tmp_path))):
            async with running(master, tmp_path):
                pass
    async with running(master, tmp_path):
        pass


async def test_a_home_that_cannot_be_is_told_in_one_line(
    master: RecordingMaster, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    with pytest.raises(SettingsError) as unusable:
        async with running(master, home):
            pass
    assert "\n" not in str(unusable.value)


async def test_a_machine_without_a_whole_sandbox_is_no_worker(
    master: RecordingMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tuple(
        sandbox.Finding(name=name, ok=False, detail=f"{name} is off", remedy=f"turn {name} on")
        for name in ("cgroup", "seccomp")
    )

    def no_pool(_: sandbox.PoolConfig) -> sandbox.Pool:
        raise sandbox.Unavailable(missing)

    monkeypatch.setattr(sandbox, "open_pool", no_pool)
    with pytest.raises(SandboxUnavailable) as refused:
        async with running(master, tmp_path, limits="cgroup"):
            pass
    first, second, third = str(refused.value).splitlines()
    assert "cgroup is off: turn cgroup on" in first
    assert "seccomp is off: turn seccomp on" in second
    assert "--limits best-effort" in third
    assert master.hellos == []


async def test_best_effort_limits_are_said_to_be_so(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path, limits="best-effort"):
        assert master.hellos[0].capabilities.limits == "best-effort"
        assert (await master.run(shell("echo ok"))).stdout == b"ok\n"


async def test_its_own_port_tells_strangers_its_health_and_nothing_else(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path) as worker:
        host, port = worker.address

        def ask() -> tuple[int, grpc.StatusCode]:
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
                other = channel.unary_unary("/nodepool.WorkerNodeService/ExecuteTask")
                try:
                    other(b"", timeout=10)
                except grpc.RpcError as error:
                    return status, error.code()
                raise AssertionError("a call without a token was answered")

        status, refusal = await trio.to_thread.run_sync(ask)
    assert status == health_pb2.HealthCheckResponse.SERVING
    assert refusal in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


# -- ending --------------------------------------------------------------------------------------


async def test_leaving_ends_every_process(master: RecordingMaster, tmp_path: Path) -> None:
    async with running(master, tmp_path):
        ref, pids = await start_lasting(master)
    for pid in pids:
        await gone(pid)
    assert master.of(ref).endings == []


async def test_a_drain_lets_what_runs_end_and_takes_nothing_more(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path) as worker:
        ref = master.assign(shell("echo up; sleep 0.6; echo end; echo x > output/x"))
        await master.until(lambda: master.of(ref).started)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.drain)
            await master.until(lambda: master.drained)
            refusal = await master.until_refused(master.assign(shell("true")))
        assert refusal.kind is RefusalKind.BUSY
        seen = master.of(ref)
        assert seen.stdout == b"up\nend\n"
        assert [ending.outcome for ending in seen.endings] == [Outcome.SUCCEEDED]
    assert names_in(tmp_path / "worker" / "attempts") == []


async def test_a_drained_worker_has_hung_up_and_calls_no_more(
    master: RecordingMaster, tmp_path: Path
) -> None:
    master.lease_s = 0.5
    with capture_logs() as logs:
        async with running(master, tmp_path) as worker:
            await master.run(shell("true"))
            await worker.drain()
            await master.until(lambda: not master.sessions)
            await trio.sleep(0.6)  # beyond the lease; a link that came back would be seen below
        assert len(master.hellos) == 1
    assert [log["event"] for log in logs if log["log_level"] in {"warning", "error"}] == []


async def test_what_outlasts_the_grace_of_a_drain_is_ended_and_reported(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path, drain_grace_s=0.1) as worker:
        ref, pids = await start_lasting(master)
        await worker.drain()
        (ending,) = master.of(ref).endings
    assert (ending.outcome, ending.reason) == (Outcome.STOPPED, Reason.STOPPED)
    assert "shutting down" in ending.detail
    for pid in pids:
        await gone(pid)


async def test_sigterm_drains_and_exits_cleanly(master: RecordingMaster, tmp_path: Path) -> None:
    async with worker_process(tmp_path, master) as process:
        await master.until_connected()
        ref, _ = await start_lasting(master)
        process.terminate()
        assert await process.wait() == 0
    assert [ending.outcome for ending in master.of(ref).endings] == [Outcome.STOPPED]


# -- dying ---------------------------------------------------------------------------------------


async def die(process: WorkerProcess, master: RecordingMaster) -> None:
    process.kill()
    await process.wait()
    await master.until(lambda: not master.sessions)


async def test_a_worker_killed_in_mid_task_leaves_no_process_and_holds_nothing_after(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with worker_process(tmp_path, master) as process:
        await master.until_connected()
        ref, pids = await start_lasting(master)
        await die(process, master)
    for pid in pids:
        await gone(pid)
    async with running(master, tmp_path):
        assert master.sessions[-1].hello.held == ()
        assert names_in(tmp_path / "worker" / "attempts") == []
        assert (await master.run(shell("echo fine"))).stdout == b"fine\n"
    assert master.of(ref).endings == []
    assert len(master.nodes) == 1


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_worker_killed_before_the_acknowledgement_reports_after_its_restart(
    master: RecordingMaster, tmp_path: Path, size: int
) -> None:
    master.acknowledges = False
    master.broken_deliveries = 10**6
    async with worker_process(tmp_path, master) as process:
        await master.until_connected()
        ref = master.assign(shell(f"echo hello; head -c {size} /dev/urandom > output/r; exit 5"))
        await master.until(lambda: master.of(ref).endings or master.broken_deliveries < 10**6)
        await die(process, master)
    first = master.of(ref).result
    master.of(ref).endings.clear()
    # This master has lost the output, too: it comes again from where the master is.
    master.of(ref).size = 0
    for output in master.of(ref).output.values():
        output.clear()
    master.acknowledges = True
    master.broken_deliveries = 0
    async with running(master, tmp_path) as worker:
        assert master.sessions[-1].hello.held == (ref,)
        ending = await master.until_ended(ref)
        await worker.drain()
    assert (ending.outcome, ending.exit_code) == (Outcome.FAILED, 5)
    assert master.of(ref).stdout == b"hello\n"
    result = master.of(ref).result
    assert result is not None
    assert len(result) > size
    assert first in {None, result}
    assert names_in(tmp_path / "worker" / "attempts") == []


# -- size ----------------------------------------------------------------------------------------


def memory_kib(pid: int, key: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def test_ninety_megabytes_up_and_down_are_never_in_memory(
    master: RecordingMaster, tmp_path: Path
) -> None:
    size = 90_000_000
    block = os.urandom(1_000_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("run.sh", "cp big output/big")
        archive.writestr("big", block * 90)
    master.keeps_result_bytes = False
    needs = Requirements(memory_bytes=128 * MIB, scratch_bytes=400 * MIB)
    task = spec(PayloadKind.ARCHIVE, requirements=needs, command=("sh", "run.sh"))
    async with worker_process(tmp_path, master) as process:
        await master.until_connected()
        await master.run(shell("echo warm; echo x > output/x"))
        pid = process.process.pid
        before_kib = memory_kib(pid, "VmRSS")
        forget_peak(pid)
        ref = master.assign(task, packed.getvalue())
        with trio.fail_after(60):
            ending = await master.until_ended(ref)
        grown_kib = memory_kib(pid, "VmHWM") - before_kib
        process.terminate()
        await process.wait()
    assert ending.outcome is Outcome.SUCCEEDED
    assert master.of(ref).result_bytes > size
    assert grown_kib < 32 * 1024


def test_nothing_but_health_and_reflection_is_open() -> None:
    assert all(method.startswith("/grpc.") for method in front.OPEN_METHODS)


def test_a_config_keeps_its_token_out_of_its_text(tmp_path: Path) -> None:
    assert "join-me" not in repr(make_config(RecordingMaster(), tmp_path))


async def test_another_pools_worker_is_told_so_at_its_start(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path):
        pass
    async with open_recording_master() as other:
        with pytest.raises(NotAccepted, match="enrolled with the master at"):
            async with running(other, tmp_path):
                pass

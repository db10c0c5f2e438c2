import io
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from hivemind.core.confinement import Network
from hivemind.core.messages import KillOrder, StopOrder
from hivemind.core.records import Outcome, PayloadKind, Reason, RefusalKind, Requirements
from hivemind.worker.app import Worker
from tests.worker.recording_master import RecordingMaster, new_ref
from tests.worker.running import (
    MIB,
    confined,
    gone,
    lasting,
    processes_with,
    running,
    script,
    shell,
    spec,
)


@pytest.fixture
async def worker(master: RecordingMaster, tmp_path: Path) -> AsyncIterator[Worker]:
    async with running(master, tmp_path) as worker:
        yield worker


def zip_of(**files: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return packed.getvalue()


def files_in(result: bytes | None) -> dict[str, bytes]:
    assert result is not None
    with tarfile.open(fileobj=io.BytesIO(result)) as tar:
        return {
            member.name: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


async def test_a_script_runs_under_its_own_name_with_its_arguments(
    master: RecordingMaster, worker: Worker
) -> None:
    task, payload = script("import sys; print(sys.argv); print('oh', file=sys.stderr)")
    seen = await master.run(attrs.evolve(task, argv=("a b", "c")), payload)
    assert seen.stdout == b"['task.py', 'a b', 'c']\n"
    assert seen.stderr == b"oh\n"
    (ending,) = seen.endings
    assert (ending.outcome, ending.reason, ending.exit_code) == (
        Outcome.SUCCEEDED,
        Reason.EXITED,
        0,
    )
    assert ending.usage.wall_s > 0
    assert seen.result is None


async def test_output_arrives_while_the_task_runs(master: RecordingMaster, worker: Worker) -> None:
    task, payload = script("import time; print('first'); time.sleep(600)")
    ref = master.assign(task, payload)
    await master.until(lambda: master.of(ref).stdout == b"first\n")
    assert master.of(ref).started == 1
    assert master.of(ref).endings == []
    master.sessions[-1].send(KillOrder(ref))


@pytest.mark.parametrize("size", [10, 200_000])
async def test_standard_input_comes_whole_however_large(
    master: RecordingMaster, worker: Worker, size: int
) -> None:
    task = spec(PayloadKind.COMMAND, argv=("wc", "-c"), has_stdin=True)
    seen = await master.run(task, stdin=bytes(size))
    assert seen.stdout.split() == [str(size).encode()]


async def test_without_input_a_task_reads_nothing(master: RecordingMaster, worker: Worker) -> None:
    seen = await master.run(shell("cat; echo done"))
    assert seen.stdout == b"done\n"


async def test_results_come_back_byte_for_byte(master: RecordingMaster, worker: Worker) -> None:
    for size in (1000, 3 * MIB):
        task, payload = script(
            f"import os; open(os.environ['HIVEMIND_OUTPUT'] + '/r', 'wb')"
            f".write(bytes(i % 251 for i in range({size})))"
        )
        seen = await master.run(task, payload)
        assert files_in(seen.result) == {"r": bytes(i % 251 for i in range(size))}


async def test_a_task_that_fails_keeps_what_it_left(
    master: RecordingMaster, worker: Worker
) -> None:
    seen = await master.run(shell("echo half > output/part; exit 3"))
    (ending,) = seen.endings
    assert (ending.outcome, ending.exit_code, ending.detail) == (
        Outcome.FAILED,
        3,
        "exit status 3",
    )
    assert files_in(seen.result) == {"part": b"half\n"}


async def test_a_result_that_is_too_large_fails_the_task_and_says_why(
    master: RecordingMaster, worker: Worker
) -> None:
    seen = await master.run(shell("head -c 5000 /dev/zero > output/r", result_bytes=1000))
    (ending,) = seen.endings
    assert (ending.outcome, ending.reason) == (Outcome.FAILED, Reason.BAD_RESULT)
    assert "1000" in ending.detail
    assert seen.result is None


async def test_an_archive_is_started_by_its_entry(master: RecordingMaster, worker: Worker) -> None:
    task = spec(PayloadKind.ARCHIVE, argv=("x",))
    program = "import sys, words; print(words.text, sys.argv)"
    seen = await master.run(task, zip_of(main__py=program, words__py="text = 'from a module'"))
    assert seen.stdout == b"from a module ['main.py', 'x']\n"


async def test_an_archives_own_command_wins(master: RecordingMaster, worker: Worker) -> None:
    manifest = 'command = ["echo", "manifest"]\n'
    packed = zip_of(main__py="print('main')", hivemind__toml=manifest)
    seen = await master.run(spec(PayloadKind.ARCHIVE), packed)
    assert seen.stdout == b"manifest\n", seen
    seen = await master.run(spec(PayloadKind.ARCHIVE, command=("echo", "asked")), packed)
    assert seen.stdout == b"asked\n"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"not an archive at all", "not a zip or tar"),
        (zip_of(), "empty"),
        (zip_of(readme__txt="hello"), "no entry"),
    ],
)
async def test_an_archive_that_cannot_be_run_is_the_tasks_own_fault(
    master: RecordingMaster, worker: Worker, payload: bytes, words: str
) -> None:
    seen = await master.run(spec(PayloadKind.ARCHIVE), payload)
    (ending,) = seen.endings
    assert (ending.outcome, ending.reason) == (Outcome.FAILED, Reason.BAD_PAYLOAD)
    assert words in ending.detail
    assert "\n" not in ending.detail
    assert seen.started == 0


async def test_limits_end_a_task_with_their_reason(master: RecordingMaster, worker: Worker) -> None:
    # Slow enough for a watchdog that looks ten times a second, where there is no cgroup.
    task, payload = script(
        "import time\n"
        "hoard = []\n"
        "while True:\n"
        "    hoard.append(bytes(1 << 20).replace(b'\\0', b'x'))\n"
        "    time.sleep(0.002)\n"
    )
    seen = await master.run(task, payload)
    assert (seen.endings[0].reason, seen.endings[0].exit_code) == (Reason.OUT_OF_MEMORY, 137)
    seen = await master.run(shell("sleep 60", wall_s=0.3))
    assert (seen.endings[0].outcome, seen.endings[0].exit_code) == (Outcome.TIMED_OUT, 124)
    seen = await master.run(shell("yes", output_bytes=10_000))
    assert seen.endings[0].reason is Reason.OUTPUT_LIMIT
    assert seen.stdout == (b"y\n" * 5000)


async def test_a_stop_ends_the_whole_tree_and_is_reported(
    master: RecordingMaster, worker: Worker
) -> None:
    marker = new_ref().task_id
    ref = master.assign(shell(f"setsid {lasting(marker)} & echo up; {lasting(marker)}"))
    await master.until(lambda: master.of(ref).stdout == b"up\n")
    assert len(processes_with(marker)) >= 2
    master.sessions[-1].send(StopOrder(ref))
    ending = await master.until_ended(ref)
    assert (ending.outcome, ending.reason, ending.exit_code) == (
        Outcome.STOPPED,
        Reason.STOPPED,
        143,
    )
    assert processes_with(marker) == []


async def test_a_stop_that_comes_before_the_start_is_a_stop(
    master: RecordingMaster, worker: Worker
) -> None:
    ref = new_ref()
    master.fetches_wait = trio.Event()
    task, _ = script()
    master.assign(task, bytes(100_000), ref=ref)
    await master.until(lambda: master.fetches)
    master.sessions[-1].send(StopOrder(ref))
    ending = await master.until_ended(ref)
    assert (ending.outcome, master.of(ref).started) == (Outcome.STOPPED, 0)


async def test_a_killed_attempt_is_gone_without_a_report(
    master: RecordingMaster, worker: Worker, tmp_path: Path
) -> None:
    marker = new_ref().task_id
    ref = master.assign(shell(f"echo up; {lasting(marker)}"))
    await master.until(lambda: master.of(ref).stdout == b"up\n")
    pids = processes_with(marker)
    assert pids
    master.sessions[-1].send(KillOrder(ref))
    for pid in pids:
        await gone(pid)
    # What comes next on the same link would come after a report of it.
    await master.run(shell("true"))
    assert master.of(ref).endings == []


async def test_what_the_machines_own_policy_forbids_is_refused(
    master: RecordingMaster, tmp_path: Path
) -> None:
    write_policy(tmp_path, 'memory = { most = "64M", default = "64M" }\n')
    async with running(master, tmp_path):
        ref = master.assign(shell("true"))
        refusal = await master.until_refused(ref)
    assert refusal.kind is RefusalKind.POLICY
    assert "memory" in refusal.detail
    assert "128M" in refusal.detail
    assert "64M" in refusal.detail


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def write_policy(home: Path, text: str) -> None:
    (home / "policies").mkdir(mode=0o700)
    (home / "policies" / "default.toml").write_text(text)


async def test_policies_are_read_again_and_bad_ones_change_nothing(
    master: RecordingMaster, tmp_path: Path
) -> None:
    write_policy(tmp_path, 'memory = { most = "64M", default = "64M" }\n')
    async with running(master, tmp_path) as worker:
        await master.until_refused(master.assign(shell("true")))
        (tmp_path / "policies" / "default.toml").write_text("memory = nonsense")
        worker.reload_policies()
        await master.until_refused(master.assign(shell("true")))
        (tmp_path / "policies" / "default.toml").write_text("")
        worker.reload_policies()
        assert (await master.run(shell("true"))).endings


async def test_more_than_its_slots_is_refused_for_now(
    master: RecordingMaster, worker: Worker
) -> None:
    refs = [master.assign(shell("sleep 600")) for _ in range(2)]
    await master.until(lambda: all(master.of(ref).started for ref in refs))
    refusal = await master.until_refused(master.assign(shell("true")))
    assert refusal.kind is RefusalKind.BUSY


async def test_an_assignment_that_is_repeated_runs_once(
    master: RecordingMaster, worker: Worker
) -> None:
    ref = new_ref()
    for _ in range(2):
        master.assign(shell("echo once; sleep 0.2"), ref=ref)
    await master.until_ended(ref)
    await master.run(shell("true"))
    assert master.of(ref).stdout == b"once\n"
    assert len(master.of(ref).endings) == 1


async def test_a_killed_attempt_is_not_begun_anew_while_it_is_ending(
    master: RecordingMaster, worker: Worker
) -> None:
    ref = master.assign(shell("echo up; sleep 600"))
    await master.until(lambda: master.of(ref).started)
    master.sessions[-1].send(KillOrder(ref), master.assignment(ref, shell("true")))
    refusal = await master.until_refused(ref)
    assert refusal.kind is RefusalKind.BUSY
    assert (await master.run(shell("echo fine"))).stdout == b"fine\n"


async def test_one_attempts_failure_does_not_touch_another(
    master: RecordingMaster, worker: Worker
) -> None:
    steady = master.assign(shell("echo up; sleep 0.5; echo still here"))
    await master.until(lambda: master.of(steady).started)
    broken = master.assign(script()[0], bytes(100_000), announced=200_000)
    refusal = await master.until_refused(broken)
    assert refusal.kind is RefusalKind.BUSY
    assert "announced 200000 bytes" in refusal.detail
    await master.run(shell("kill -SEGV $$"))
    ending = await master.until_ended(steady)
    assert ending.outcome is Outcome.SUCCEEDED
    assert master.of(steady).stdout == b"up\nstill here\n"


async def test_a_task_no_sandbox_can_hold_is_refused_not_rounded_up(
    master: RecordingMaster, worker: Worker
) -> None:
    task = shell("true", requirements=Requirements(memory_bytes=MIB, scratch_bytes=MIB))
    refusal = await master.until_refused(master.assign(task))
    assert refusal.kind is RefusalKind.POLICY
    assert "memory: the task asks for 1M" in refusal.detail


async def test_a_task_sees_what_the_machines_own_policy_mounts_and_sets(
    master: RecordingMaster, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "words").write_text("from the machine\n")
    policies = tmp_path / "home/policies"
    policies.mkdir(parents=True)
    (policies / "lab.toml").write_text(
        f'mounts = [{{ source = "{data}", target = "/data" }}]\n'
        'env = { TZ = "UTC", MODE = "slow" }\n'
    )
    text = "cat /data/words; echo $TZ $MODE; ulimit -n; touch /data/x 2>/dev/null || echo kept"
    confinement = confined(open_files=333)
    async with running(master, tmp_path / "home"):
        seen = await master.run(
            shell(text, policy="lab", env={"MODE": "fast"}, confinement=confinement)
        )
    assert seen.stdout == b"from the machine\nUTC fast\n333\nkept\n"
    assert not (data / "x").exists()


@pytest.mark.parametrize("key", ["root", "mounts"])
async def test_a_place_that_the_machine_lacks_is_refused_before_anything_starts(
    master: RecordingMaster, tmp_path: Path, key: str
) -> None:
    gone_ = tmp_path / "gone"
    policies = tmp_path / "home/policies"
    policies.mkdir(parents=True)
    values = {"root": f'"{gone_}"', "mounts": f'[{{ source = "{gone_}", target = "/data" }}]'}
    (policies / "lab.toml").write_text(f"{key} = {values[key]}\n")
    async with running(master, tmp_path / "home"):
        ref = master.assign(shell("true", policy="lab"))
        refusal = await master.until_refused(ref)
        assert master.of(ref).started == 0
        # Other policies are none the worse for it.
        await master.run(shell("true"))
    assert refusal.kind is RefusalKind.POLICY
    assert refusal.detail.startswith(f"{key}: policy lab of this machine names {gone_}, which")


async def test_a_wider_network_than_the_machine_gives_is_refused(
    master: RecordingMaster, worker: Worker
) -> None:
    confinement = confined(network=Network.FULL)
    refusal = await master.until_refused(master.assign(shell("true", confinement=confinement)))
    assert refusal.kind is RefusalKind.POLICY
    assert "network: the task asks for full" in refusal.detail


async def test_nothing_of_an_attempt_stays_once_its_end_is_acknowledged(
    master: RecordingMaster, tmp_path: Path
) -> None:
    async with running(master, tmp_path) as worker:
        await master.run(shell("echo hello; echo x > output/x"))
        await worker.drain()
    assert names_in(tmp_path / "worker" / "attempts") == []

"""A pool under attack: it runs hostile programs and checks after each what they left and saw."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio

import sandbox
from tests.abuse import outside
from tests.abuse.modes import Mode, pool_config
from tests.abuse.programs import PRELUDE

CASE_S = 60.0
_SETTLE_S = 10.0
_F = TypeVar("_F", bound=Callable[..., Any])


def case(number: int, *, cgroup: str = "", slow: bool = False, alone: bool = False) -> Callable:  # type: ignore[type-arg]
    """Mark a test as one case of the suite.

    Args:
        number: 1 to 64 for the known attacks, 65 and up for our own.
        cgroup: why it needs limits by cgroup; it is left out where there is none.
        slow: whether it takes too long for every change.
        alone: whether it needs a pool of its own.
    """

    def mark(function: _F) -> _F:
        marks = [pytest.mark.case(number, alone=alone)]
        marks += [pytest.mark.needs_cgroup(cgroup)] if cgroup else []
        marks += [pytest.mark.slow] if slow else []
        for one in marks:
            function = one(function)
        return function

    return mark


def limits(**changes: Any) -> sandbox.Limits:
    small = {"memory_bytes": 64 << 20, "scratch_bytes": 16 << 20, "wall_s": 30.0, "pids": 64}
    return sandbox.Limits(**{"tmp_bytes": 4 << 20, "shm_bytes": 4 << 20, **small, **changes})


@attrs.frozen
class Seen:
    """What came of one run."""

    result: sandbox.Result
    stdout: bytes
    stderr: bytes

    @property
    def told(self) -> dict[str, Any]:
        """The last thing that a Python program told."""
        lines = self.stdout.splitlines()
        assert lines, (self.result, self.stderr.decode(errors="replace"))
        told: dict[str, Any] = json.loads(lines[-1])
        return told

    @property
    def ended(self) -> tuple[sandbox.Reason, int]:
        return self.result.reason, self.result.exit_code


class Arena:
    """One pool in one mode, with canaries beside it. Made by `open_arena`."""

    def __init__(self, pool: sandbox.Pool, mode: Mode, canary: outside.Canary) -> None:
        self.pool = pool
        self.mode = mode
        self.canary = canary
        self.folder = canary.file.parent
        self.with_cgroup = pool.config.limits == "cgroup"
        self._taken: list[bytes] = []
        self._uids = frozenset(pool._uids) if os.geteuid() == 0 else frozenset[int]()
        self._spawner = _child_spawner()
        self.renew()

    def renew(self) -> None:
        """Begin a case: another mark, and a new look at how things stand."""
        self.mark = f"m{secrets.token_hex(6)}"
        self.may_fall_back = False  # a case may make cells fail, so that runs are cold instead
        self._taken.clear()
        self._mounts = outside.mounts()
        self._spawner_mounts = self._count_mounts()
        self._before = outside.descendants(self._spawner)
        self._system_v = outside.system_v()

    # Running.

    def python_spec(self, source: str, **more: Any) -> sandbox.Spec:
        return self._spec(("python3", "-c", PRELUDE + source), more)

    def shell_spec(self, script: str, **more: Any) -> sandbox.Spec:
        return self._spec(("/bin/sh", "-c", script), more)

    def _spec(self, argv: tuple[str, ...], more: dict[str, Any]) -> sandbox.Spec:
        """The attacker knows all that there is to know of the host, except the secret."""
        known = {
            "MARK": self.mark,
            "CANARY_FILE": str(self.canary.file),
            "CANARY_PORT": str(self.canary.port),
            "CANARY_SOCKET": self.canary.abstract,
            "POOL_PID": str(os.getpid()),
        }
        fields = {"limits": limits(), **more, "env": known | more.get("env", {})}
        return self.mode.adapt(sandbox.Spec(argv=argv, **fields))

    async def python(self, source: str, **more: Any) -> Seen:
        return await self.run(self.python_spec(source, **more))

    async def shell(self, script: str, **more: Any) -> Seen:
        return await self.run(self.shell_spec(script, **more))

    async def run(self, spec: sandbox.Spec) -> Seen:
        kept: dict[sandbox.Stream, bytes] = dict.fromkeys(sandbox.Stream, b"")
        async with self.open(spec) as run:
            async for chunk in run.chunks():
                kept[chunk.stream] += chunk.data
            result = await run.wait()
        stdout, stderr = kept[sandbox.Stream.STDOUT], kept[sandbox.Stream.STDERR]
        self._taken += [stdout, stderr]
        return Seen(result, stdout, stderr)

    @contextlib.asynccontextmanager
    async def open(self, spec: sandbox.Spec) -> AsyncIterator[sandbox.Run]:
        adapted = self.mode.adapt(spec)
        async with self.pool.open_run(adapted) as run:
            fell_back = self.may_fall_back and run.started is sandbox.Start.COLD
            assert fell_back or self.mode.began_well(adapted, run.started), run.started
            yield run

    async def first_line(self, run: sandbox.Run) -> bytes:
        """Read on until a line is whole, or the output ends."""
        data = b""
        async for chunk in run.chunks():
            data += chunk.data
            if b"\n" in data:
                break
        self._taken.append(data)
        return data

    async def rest(self, run: sandbox.Run) -> bytes:
        data = b"".join([chunk.data async for chunk in run.chunks()])
        self._taken.append(data)
        return data

    async def collect(
        self, run: sandbox.Run, max_bytes: int = 64 << 20, max_files: int = 1000
    ) -> tuple[sandbox.Collected, dict[str, bytes | None]]:
        """What came home: names to contents, None for a folder."""
        target = io.BytesIO()
        collected = await run.collect(target, max_bytes=max_bytes, max_files=max_files)
        return collected, self._opened(target)

    def _opened(self, target: io.BytesIO) -> dict[str, bytes | None]:
        self._taken.append(target.getvalue())
        target.seek(0)
        found: dict[str, bytes | None] = {}
        with tarfile.open(fileobj=target, mode="r:") as archive:
            for member in archive:
                assert member.isreg() or member.isdir(), member
                assert member.name not in found, "one name twice"
                file = archive.extractfile(member)
                found[member.name] = file.read() if file else None
        return found

    async def leave(
        self, script_or_source: sandbox.Spec, **collect: int
    ) -> tuple[sandbox.Collected, dict[str, bytes | None]]:
        """Run to the end and take home what was left."""
        async with self.open(script_or_source) as run:
            said = await self.rest(run)
            result = await run.wait()
            assert result.exit_code == 0, said.decode(errors="replace")
            return await self.collect(run, **collect)

    def host_file(self, data: bytes) -> Path:
        """A file of the host that a task is given."""
        path = Path(self._files) / secrets.token_hex(4)
        path.write_bytes(data)
        return path

    _files = ""  # where; set by `open_arena`

    def task_processes(self) -> list[str]:
        """What runs on the host of the case's tasks, seen from outside."""
        cells = frozenset[int]() if self.mode.keeps_cells else self._uids
        return outside.processes_of_task(self.mark, cells)

    def canary_can_be_watched(self) -> bool:
        """Whether the user of the pool can still make a watch of the kernel's."""
        with outside.open_canary():
            return True

    # Checking.

    async def check(self) -> None:
        """After a case: nothing is left, no canary was seen, and the pool goes on working."""
        again = await self.run(self.shell_spec("echo still here; ls -A /task /tmp /dev/shm"))
        assert again.stdout.split() == [
            *(b"still", b"here", b"/dev/shm:", b"/task:", b"output", b"/tmp:")
        ], again
        await self._settle()
        assert not self.task_processes()
        assert outside.mounts() == self._mounts
        assert self._count_mounts() == self._spawner_mounts or self.mode.keeps_cells
        assert not outside.files_left(self.mark, self._uids)
        assert outside.system_v() == self._system_v
        if not self.mode.keeps_cells:
            assert outside.descendants(self._spawner) == self._before
            assert not outside.run_cgroups()
        assert not self.canary.touched()
        secret = self.canary.secret.encode()
        assert not [data for data in self._taken if secret in data], "the secret was seen"

    async def _settle(self) -> None:
        """Cells may end what was odd after its run; a cold run has ended by now, to the last."""
        with trio.move_on_after(_SETTLE_S if self.mode.keeps_cells else 0):
            while self.task_processes():  # noqa: ASYNC110
                await trio.sleep(0.02)

    def spawner_lives(self) -> bool:
        return Path(f"/proc/{self._spawner}").exists()

    def _count_mounts(self) -> int:
        return len(Path(f"/proc/{self._spawner}/mountinfo").read_text().splitlines())


def _child_spawner() -> int:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = [
        int(pid)
        for pid in own
        if b"spawner/__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 1, found
    return found[0]


@contextlib.asynccontextmanager
async def open_arena(mode: Mode, files: Path, how: Any) -> AsyncIterator[Arena]:
    """A pool with canaries; leaving checks that all of it is gone without a trace.

    Args:
        files: a folder of the host for what tasks are given.
        how: "cgroup" or "best-effort".
    """
    before = outside.mounts()
    with outside.open_canary() as canary:
        os.environ["CANARY"] = canary.secret
        try:
            async with sandbox.open_pool(pool_config(how)) as pool:
                arena = Arena(pool, mode, canary)
                arena._files = str(files)
                yield arena
        finally:
            del os.environ["CANARY"]
        assert not outside.processes_of_task(arena.mark, arena._uids)
        assert not arena.spawner_lives()
        assert not outside.cgroup_folders()
        assert outside.mounts() == before
        assert not canary.touched()

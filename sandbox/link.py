"""The pool's end of the spawner: its process, its socket, and who waits for which answer."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from sandbox.bubblewrap import Bubblewrap
from sandbox.errors import BadArchive, BadSpec, SandboxError, SetupFailed, Unavailable
from sandbox.refusal import explain_refusal
from sandbox.spawner.datagrams import receive

_MESSAGE_BYTES = 1 << 16
_read_json = json.JSONDecoder().raw_decode
_MAX_DESCRIPTORS = 2
_FAULTS_OF_THE_TASK: dict[str | None, type[SandboxError]] = {
    "archive": BadArchive,
    "spec": BadSpec,
}
_READY_S = 30.0
_END_S = 10.0
_MAIN = Path(__file__).parent / "spawner" / "__main__.py"


@attrs.frozen
class Answer:
    """One message of the other end; its descriptors are the receiver's to close."""

    fields: dict[str, Any]
    descriptors: tuple[int, ...]

    @property
    def pidfd(self) -> int:
        """The first descriptor; -1 for none."""
        return self.descriptors[0] if self.descriptors else -1


class _Awaited:
    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.answer: Answer | None = None


def _to_json(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


class SpawnerLink:
    """Requests to the spawner, and its notices of processes that ended.

    The launcher of a cell speaks the same way.
    """

    def __init__(
        self,
        link: socket.socket,
        pidfds: list[int],
        *,
        peer: str = "the spawner process of this pool is gone: open a new pool",
        encode: Callable[[dict[str, Any]], bytes] = _to_json,
        knows_ends: bool = False,
    ) -> None:
        """Make it of an open socket.

        Args:
            link: our end.
            pidfds: what `kill` kills.
            peer: what to say where the other end is gone.
            encode: how it reads messages.
            knows_ends: whether each end that is told must be one that is waited for.
        """
        self._knows_ends = knows_ends
        self._encode = encode
        self._link = link
        self._pidfds = pidfds
        self._peer_gone = peer
        self._at_end: dict[int, Callable[[dict[str, Any] | None], None]] = {}
        self._awaited: dict[tuple[int, str], _Awaited] = {}
        self._sending = trio.Lock()
        self._lost = False
        self._last_id = 0

    def kill(self) -> None:
        """Kill the spawner, and with it all that it started; `run` returns when it is gone."""
        _kill_all(self._pidfds)

    @contextlib.asynccontextmanager
    async def cleaning(self, slot: int) -> AsyncIterator[None]:
        """Have a slot's mounts dropped while the body runs; leaving waits until they are.

        Those of a spawner that is gone went with it.

        Raises:
            SetupFailed: a mount could not be dropped.
        """
        if self._lost:
            yield
            return
        number = self.new_id()
        awaited = self._expect(number, "clean")
        try:
            try:
                await self._send(self._encode({"id": number, "op": "clean", "slot": slot}), [])
            except SetupFailed:
                awaited.arrived.set()  # it is gone, which `run` has yet to see
            yield
            await awaited.arrived.wait()
        finally:
            self._awaited.pop((number, "clean"), None)
        if awaited.answer is not None:
            self._granted(awaited)

    def new_id(self) -> int:
        """An id for one process to be started."""
        self._last_id += 1
        return self._last_id

    async def tell(self, message: dict[str, Any], fds: list[int]) -> None:
        """Send what nobody answers.

        Raises:
            SetupFailed: the other end is gone.
        """
        await self._send(self._encode(message), fds)

    async def request(self, number: int, op: str, fields: dict[str, Any], fds: list[int]) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            BadSpec: it was refused for an input (BadArchive where that is the archive).
            SetupFailed: it was refused otherwise, or the other end is gone.
        """
        awaited = self._expect(number, op)
        try:
            await self._send(self._encode({"id": number, "op": op, **fields}), fds)
            await awaited.arrived.wait()
        except BaseException:
            if awaited.answer is not None:
                _close_all(awaited.answer)
            raise
        finally:
            self._awaited.pop((number, op), None)
        return self._granted(awaited)

    def _granted(self, awaited: _Awaited) -> Answer:
        answer = self._received(awaited)
        if "error" in answer.fields:
            text, kind = answer.fields["error"], answer.fields.get("kind")
            if kind in _FAULTS_OF_THE_TASK:
                raise _FAULTS_OF_THE_TASK[kind](text)
            raise SetupFailed(f"the sandbox could not be made: {text}")
        return answer

    def call_at_end(self, number: int, call: Callable[[dict[str, Any] | None], None]) -> None:
        """Have this called with what the end of this id's process brings; None if it never comes.

        Raises:
            SetupFailed: the other end is gone; it is not called.
        """
        if self._lost:
            raise SetupFailed(self._peer_gone)
        self._at_end[number] = call

    def expect_end(self, number: int) -> None:
        """Note that `ended` will be called for this id; to be said before it is started."""
        self._expect(number, "ended")

    def ignore_end(self, number: int) -> None:
        """Do not wait for the notice of this id's end after all."""
        self._awaited.pop((number, "ended"), None)

    async def ended(self, number: int) -> dict[str, Any]:
        """Wait until the spawner has reaped the process of this id, and return what it tells.

        Raises:
            SetupFailed: the spawner is gone.
        """
        awaited = self._awaited[number, "ended"]
        await awaited.arrived.wait()
        self.ignore_end(number)
        return self._received(awaited).fields

    def _expect(self, number: int, kind: str) -> _Awaited:
        if self._lost:
            raise SetupFailed(self._peer_gone)
        awaited = _Awaited()
        self._awaited[number, kind] = awaited
        return awaited

    def _received(self, awaited: _Awaited) -> Answer:
        if awaited.answer is None:
            raise SetupFailed(self._peer_gone)
        return awaited.answer

    async def _send(self, data: bytes, fds: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if self._try_send(data, ancillary):
            return
        async with self._sending:
            while not self._try_send(data, ancillary):
                await trio.lowlevel.wait_writable(self._link)

    def _try_send(self, data: bytes, ancillary: list[tuple[int, int, array.array[int]]]) -> bool:
        try:
            try:
                self._link.sendmsg([data], ancillary)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # A task of the same user has filled the user's share of descriptors in flight. It
                # is measured by the sender's own soft limit: ours may be as high as the hard one.
                with _highest_open_files():
                    self._link.sendmsg([data], ancillary)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise SetupFailed(
                    "tasks of this user hold too many descriptors in flight: raise the hard limit "
                    "of open files of this process (ulimit -Hn), or lower open_files of tasks"
                ) from error
            raise SetupFailed(self._peer_gone) from error
        return True

    async def receive(self) -> Answer | None:
        """The next message, or None when the other end has closed its.

        Raises:
            ValueError: it is no object of JSON with an id and an answer.
        """
        while self._link.fileno() >= 0:  # Trio does not mind waiting for what is closed
            try:
                # Waiting first: trying first would fail nearly every time, and cost a call more.
                await trio.lowlevel.wait_readable(self._link)
                data, fds = receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return None  # the other end is gone, or ours was closed
            if not data:
                return None
            return _read_answer(data, fds)
        return None

    async def run(self) -> None:
        """Hand out answers until the other end is closed; then everyone who waits is told.

        Raises:
            ValueError: it talks nonsense.
        """
        try:
            while (answer := await self.receive()) is not None:
                self._hand_out(answer)
        finally:
            self._lost = True
            for awaited in self._awaited.values():
                awaited.arrived.set()
            for call in self._at_end.values():
                call(None)
            self._at_end.clear()

    def _hand_out(self, answer: Answer) -> None:
        number, kind = answer.fields["id"], answer.fields["answer"]
        awaited = self._awaited.get((number, kind))
        if awaited is not None:
            if awaited.answer is not None:
                _close_all(awaited.answer)  # it was told twice
            awaited.answer = answer
            awaited.arrived.set()
            return
        _close_all(answer)
        if kind != "ended":
            return
        starting = self._awaited.get((number, "start"))
        if starting is not None and starting.answer is None:
            starting.answer = Answer({"error": "it ended before it was ready"}, ())
            starting.arrived.set()
        if number in self._at_end:
            self._at_end.pop(number)(answer.fields)
        elif self._knows_ends:
            raise ValueError("the other end tells of an end that nothing had")


def _read_answer(data: bytes, descriptors: list[int]) -> Answer:
    try:
        text = data.decode()
        fields, end = _read_json(text)  # spares what json.loads does for text of any kind
        if end == len(text) and isinstance(fields["id"], int) and isinstance(fields["answer"], str):
            return Answer(fields, tuple(descriptors))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    for descriptor in descriptors:
        os.close(descriptor)
    raise ValueError("the other end talks nonsense")


def _close_all(answer: Answer) -> None:
    for descriptor in answer.descriptors:
        os.close(descriptor)


@contextlib.contextmanager
def _highest_open_files() -> Iterator[None]:
    """Stand at the hard limit of open files for the moment of one system call."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def open_link(
    bubblewrap: Bubblewrap, *, as_root: bool, inside_uid: int
) -> AsyncIterator[SpawnerLink]:
    """Start a spawner; leaving ends it, and the kernel ends all that it started.

    Raises:
        Unavailable: it could not make its namespaces.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    config = {
        "as_root": as_root,
        "inside_uid": inside_uid,
        "bwrap": str(bubblewrap.path),
        "bwrap_libraries": [str(path) for path in bubblewrap.libraries],
        "package": str(_MAIN.parents[1].resolve()),
    }
    with theirs:
        process = _start_process(theirs)
    pidfds = [os.pidfd_open(process.pid)]
    try:
        link = SpawnerLink(ours, pidfds)
        ours.send(json.dumps(config).encode())
        with trio.move_on_after(_READY_S) as start:
            pidfds.insert(0, _check_ready(await link.receive()))
        if start.cancelled_caught:
            raise SetupFailed("the spawner process did not start within 30 seconds")
        yield link
    finally:
        trio.lowlevel.notify_closing(ours)
        ours.close()
        _kill_all(pidfds)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_S):
            await trio.lowlevel.checkpoint()
            for pidfd in pidfds:
                await trio.lowlevel.wait_readable(pidfd)
        for pidfd in pidfds:
            os.close(pidfd)
        process.poll()


def _start_process(theirs: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", _MAIN, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={},
        cwd="/",
        start_new_session=True,
    )


def _check_ready(answer: Answer | None) -> int:
    """The spawner's pidfd, once it says that it is ready."""
    if answer is None:
        raise SetupFailed("the spawner process ended while it started")
    fields = answer.fields
    if fields["answer"] != "ready":
        raise Unavailable((explain_refusal(fields["step"], fields["error"]),))
    return answer.pidfd


def _kill_all(pidfds: list[int]) -> None:
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

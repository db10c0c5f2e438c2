"""Real daemons and real client commands, for tests.

Everything is a process of its own with a home of its own, started from the same environment as the
tests, and ended by its id.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

HIVEMIND = str(Path(sys.executable).with_name("hivemind"))
READY_S = 60.0
COMMAND_S = 120.0

LIMITS = "cgroup" if os.geteuid() == 0 else "best-effort"
"""What this machine can be expected to have for whoever runs the tests."""


def clean_environment(**more: str) -> dict[str, str]:
    """The tests' own environment without anything that steers HiveMind."""
    steering = ("HIVEMIND_", "PYTHONUNBUFFERED")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(steering)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | more


@attrs.define
class Daemon:
    """One daemon: its process, its log, and the address of its ready line."""

    arguments: tuple[str, ...]
    home: Path
    log: Path
    process: subprocess.Popen[bytes]
    address: str = ""

    @classmethod
    def start(
        cls, *arguments: str, home: Path, environment: Mapping[str, str] | None = None
    ) -> "Daemon":
        """Start it and wait for its ready line; fails with its log where none comes."""
        home.parent.mkdir(parents=True, exist_ok=True)
        log = home.parent / f"{home.name}.log"
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [HIVEMIND, *arguments, "--home", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=clean_environment(**(environment or {})),
            )
        daemon = cls(arguments, home, log, process)
        daemon.address = daemon.wait_ready()
        return daemon

    def wait_ready(self) -> str:
        """The address of the ready line."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + READY_S
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, left))
            piece = os.read(self.process.stdout.fileno(), 4096) if readable else b""
            if not piece:
                self.kill()
                raise AssertionError(f"{self.arguments} is not ready:\n{self.log.read_text()}")
            line += piece
        word, address = line.decode().split()
        assert word == "ready"
        return address

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self, *, within_s: float = 60.0) -> int:
        """SIGTERM; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.arguments} did not stop in {within_s} s:\n{self.log.read_text()}"
            ) from None
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def rss_bytes(self) -> int:
        """How much memory it holds right now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak_rss_bytes(self) -> int:
        """The most memory that it held since its start or the last ``reset_peak``."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@attrs.define
class Pool:
    """A pool's daemons and a folder for their homes."""

    root: Path
    daemons: list[Daemon] = attrs.field(factory=list)

    def up(self, *arguments: str, home: str = "up") -> Daemon:
        """A master and a worker in one process, on a free port."""
        return self._start(
            "up", "--listen", "127.0.0.1:0", "--limits", LIMITS, *arguments, home=home
        )

    def master(self, *arguments: str, home: str = "master", listen: str = "127.0.0.1:0") -> Daemon:
        """A master alone."""
        return self._start("master", "--listen", listen, *arguments, home=home)

    def worker(self, master: Daemon | str, *arguments: str, home: str = "worker") -> Daemon:
        """A worker, which joins with whatever ``arguments`` say."""
        address = master if isinstance(master, str) else master.address
        return self._start("worker", "--master", address, "--limits", LIMITS, *arguments, home=home)

    def lone_worker(
        self, *arguments: str, home: str = "lone", listen: str = "127.0.0.1:0"
    ) -> Daemon:
        """A worker without a master, to be called directly."""
        return self._start("worker", "--listen", listen, "--limits", LIMITS, *arguments, home=home)

    def _start(self, *arguments: str, home: str) -> Daemon:
        daemon = Daemon.start(*arguments, home=self.root / home)
        self.daemons.append(daemon)
        return daemon

    def join_token(self, master: Daemon) -> str:
        """A one-time join token of the first admin's."""
        return self.cli("node", "token", home=master.home).stdout.decode().strip()

    def cli(
        self,
        *arguments: str,
        home: Path,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        within_s: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """A client command with the credentials of a home, run to its end."""
        return subprocess.run(
            [HIVEMIND, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=clean_environment(HIVEMIND_HOME=str(home), **(environment or {})),
            cwd=cwd,
            timeout=within_s,
            check=False,
        )

    def start_cli(
        self, *arguments: str, home: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A client command that goes on while the test does."""
        return subprocess.Popen(
            [HIVEMIND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(HIVEMIND_HOME=str(home), **(environment or {})),
        )

    def close(self) -> None:
        """End every daemon that still runs, the last one first."""
        for daemon in reversed(self.daemons):
            if daemon.process.poll() is None:
                daemon.kill()


@contextmanager
def open_pool_folder(root: Path) -> Iterator[Pool]:
    """A folder in which daemons live for the length of the block."""
    pool = Pool(root)
    try:
        yield pool
    finally:
        pool.close()


def processes_with(marker: str) -> Sequence[int]:
    """The ids of processes whose command line has the marker, this one's excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(int(entry.name))
    return found


def wait_until(what: str, condition: object, *, within_s: float = 30.0) -> None:
    """Look until the condition, a callable, is true; fails naming ``what``."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not so within {within_s:g} s")
        time.sleep(0.02)

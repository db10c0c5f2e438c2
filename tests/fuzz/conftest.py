"""One pool for all: a master and a worker as processes of their own, and what is seen of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import HealthCheck, settings

from hivemind.settings.credentials import read_credentials
from hivemind.worker.dial import Dial
from hivemind.worker.identity import IdentityFolder, join
from tests.fuzz.peer import Sent, exchange, prefixed
from tests.pool import Daemon, Pool, open_pool_folder

MIB = 1024 * 1024
MOST_GROWTH_BYTES = 64 * MIB

_KINDS = {"suppress_health_check": list(HealthCheck), "deadline": None, "database": None}
settings.register_profile("fuzz", max_examples=500, **_KINDS)
settings.register_profile("bounded", max_examples=8, derandomize=True, **_KINDS)

HEALTH = Sent("/grpc.health.v1.Health/Check", prefixed(b""), timeout="15S")


def bounded() -> settings:
    """What ``--hypothesis-profile`` chose, where it was ours; else a part that CI has time for."""
    chosen = settings.get_current_profile_name()
    return settings.get_profile(chosen if chosen == "fuzz" else "bounded")


@attrs.define
class Watched:
    """A daemon under fire."""

    daemon: Daemon
    tokens: dict[str, str | None]
    """Who calls, by kind; None is nobody."""
    rss_bytes: int
    texts: tuple[str, ...] = ()
    """Names of things that are there: a task, a node."""
    log_size: int = 0

    @property
    def port(self) -> int:
        """Where it serves on loopback."""
        return int(self.daemon.address.rpartition(":")[2])

    async def check_health(self, *, within_s: float = 15.0) -> None:
        """It answers, and within that time."""
        with trio.fail_after(within_s):
            (reply,) = await exchange(self.port, [HEALTH])
        assert (reply.grpc_status, reply.data) == (0, prefixed(b"\x08\x01"))

    def check_log(self, most_lines: int) -> None:
        """Since the last look: no fault, and no more lines than that."""
        said = self.daemon.log.read_text(errors="replace")
        new = said[self.log_size :]
        self.log_size = len(said)
        assert "Traceback" not in new, new
        assert not re.search(r"\[(error|critical) ", new), new
        assert new.count("\n") <= most_lines, new

    def check_memory(self) -> None:
        """It holds no more than a bounded amount above what it began with."""
        growth = self.daemon.rss_bytes() - self.rss_bytes
        assert growth < MOST_GROWTH_BYTES, f"{growth / MIB:.1f} MiB more than at its start"

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))


def watched(daemon: Daemon, tokens: dict[str, str | None], texts: tuple[str, ...]) -> Watched:
    """From now on."""
    size = len(daemon.log.read_text(errors="replace"))
    return Watched(daemon, tokens, daemon.rss_bytes(), texts, size)


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A folder for the daemons."""
    with open_pool_folder(tmp_path_factory.mktemp("fuzz")) as opened:
        yield opened


@pytest.fixture(scope="package")
def master(pool: Pool) -> Watched:
    """A master, and tokens of its admin, of an account, and of nobody."""
    daemon = pool.master()
    admin = read_credentials(daemon.home)
    assert admin is not None
    home = pool.root / "ann"
    for verb in ("register", "login"):
        done = pool.cli(
            *("account", verb, "ann", "--password-stdin"),
            home=home,
            stdin=b"a long password\n",
            environment={"HIVEMIND_MASTER": daemon.address},
        )
        assert done.returncode == 0, done.stderr.decode()
    ann = read_credentials(home / "login")
    assert ann is not None
    task = pool.cli("submit", "--", "true", home=home).stdout.decode().strip()
    node_id, node_token = trio.run(enrol, pool, daemon)
    tokens = {
        "none": None,
        "bad": ann.token[:-4] + "AAAA",
        "ann": ann.token,
        "admin": admin.token,
        "node": node_token,
    }
    return watched(daemon, tokens, (task, node_id))


async def enrol(pool: Pool, daemon: Daemon) -> tuple[str, str]:
    """The id and a token of a node that is nobody but this test."""
    host, _, port = daemon.address.rpartition(":")
    folder = pool.root / "node"
    folder.mkdir()
    dial = Dial(host=host, port=int(port))
    token = pool.join_token(daemon)
    identity = await join(dial, IdentityFolder(folder), name="fuzz", join_token=token)
    return identity.membership.node_id, await identity.token()


@pytest.fixture(scope="package")
def worker(pool: Pool, master: Watched) -> Watched:
    """The worker of that master, which serves at a port of its own."""
    daemon = pool.worker(master.daemon, "--slots", "1", "--join", pool.join_token(master.daemon))
    return watched(daemon, master.tokens, master.texts)

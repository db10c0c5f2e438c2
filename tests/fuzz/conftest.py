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
from hivemind.worker.identity import Identity, IdentityFolder, join
from tests.fuzz.peer import Sent, exchange, prefixed
from tests.pool import Daemon, Pool, open_pool_folder

MIB = 1024 * 1024
_OWN_TIME = re.compile(r"\b(node_id|task_id|node|task)=")
MOST_GROWTH_BYTES = 64 * MIB

_KINDS = {"suppress_health_check": list(HealthCheck), "deadline": None, "database": None}
settings.register_profile("fuzz", max_examples=500, **_KINDS)
settings.register_profile("bounded", max_examples=8, derandomize=True, **_KINDS)

WHOAMI = "/hivemind.v1.Accounts/WhoAmI"
FETCH = "/hivemind.v1.Link/FetchPayload"
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
    node: Identity
    """Whose token is "node"."""
    texts: tuple[str, ...]
    """Names of things that are there: a task, a node."""
    rss_bytes: int = attrs.field(init=False)
    """When it was first looked at."""
    log_size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rss_bytes = self.daemon.rss_bytes()
        self.log_size = len(self.daemon.log.read_text(errors="replace"))

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
        # What goes on with nodes and tasks goes on at its own time.
        about_calls = [line for line in new.splitlines() if not _OWN_TIME.search(line)]
        assert len(about_calls) <= most_lines, new

    async def check_tokens(self) -> None:
        """Whoever was known is known still: else only the refusal of strangers would be tried."""
        self.tokens["node"] = await self.node.token()  # good for minutes; another by then
        asked = {"ann": WHOAMI, "admin": WHOAMI, "node": FETCH}
        sent = [
            Sent(path, prefixed(b""), self.tokens[kind], timeout="15S")
            for kind, path in asked.items()
        ]
        replies = await exchange(self.port, sent)
        assert [reply.grpc_status for reply in replies] == [0, 0, 7], replies

    def check_memory(self) -> None:
        """It holds no more than a bounded amount above what it began with."""
        growth = self.daemon.rss_bytes() - self.rss_bytes
        assert growth < MOST_GROWTH_BYTES, f"{growth / MIB:.1f} MiB more than at its start"

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A folder for the daemons."""
    with open_pool_folder(tmp_path_factory.mktemp("fuzz")) as opened:
        yield opened


@pytest.fixture(scope="package")
def master(pool: Pool) -> Watched:
    """A master, and tokens of its admin, of an account, of a node, and of nobody."""
    return trio.run(start_master, pool, "master")


@pytest.fixture(scope="package")
def spare(pool: Pool) -> Watched:
    """Another, for what ends tokens and takes nodes away: nobody else would get far there."""
    return trio.run(start_master, pool, "spare")


async def start_master(pool: Pool, name: str) -> Watched:
    daemon = pool.master(home=name)
    admin = read_credentials(daemon.home)
    assert admin is not None
    home = pool.root / f"{name}-ann"
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
    node = await enrol(pool, daemon)
    tokens = {
        "none": None,
        "bad": ann.token[:-4] + "AAAA",
        "ann": ann.token,
        "admin": admin.token,
        "node": await node.token(),
    }
    return Watched(daemon, tokens, node, (task, node.membership.node_id))


async def enrol(pool: Pool, daemon: Daemon) -> Identity:
    """A node that is nobody but this test."""
    host, _, port = daemon.address.rpartition(":")
    folder = pool.root / f"{daemon.home.name}-node"
    folder.mkdir()
    dial = Dial(host=host, port=int(port))
    token = pool.join_token(daemon)
    return await join(dial, IdentityFolder(folder), name="fuzz", join_token=token)


@pytest.fixture(scope="package")
def worker(pool: Pool, master: Watched) -> Watched:
    """The worker of that master, which serves at a port of its own; a guest may call it there."""
    home = master.daemon.home
    daemon = pool.worker(master.daemon, "--slots", "1", "--join", pool.join_token(master.daemon))
    membership = IdentityFolder(daemon.home / "worker").load_membership()
    assert membership is not None
    node_id = membership.node_id
    guest = pool.cli("account", "token", "--node", node_id, home=home).stdout.decode().strip()
    assert guest
    tokens = master.tokens | {"guest": guest}
    return Watched(daemon, tokens, master.node, (*master.texts, node_id))

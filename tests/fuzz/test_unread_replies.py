"""One account that asks for very much and reads none of it: memory stays bounded, others go on.

What the account asks for is made beforehand by a task of its own, whose output is long.
"""

from contextlib import AsyncExitStack, suppress

import betterproto2
import pytest
import trio
from h2.settings import SettingCodes

from hivemind._pb import nodepool
from hivemind._pb.hivemind import v1
from tests.fuzz.conftest import MIB, WHOAMI, Watched
from tests.fuzz.peer import Sent, exchange, prefixed
from tests.fuzz.test_hostile_peers import BROKEN
from tests.pool import Pool
from tests.rpc.raw import RawClient, raw_client

CONNECTIONS = 20
CALLS = 400
"""On each; so 8000 replies are asked for."""
MOST_MIB = 200
"""Replies may hold 64 MiB of one account, whose calls take 60 beside; then there is what Python's
allocator keeps: 104 MiB were seen. Uncounted, the same calls held 429."""

LINES = 4000
PROGRAM = f"for i in range({LINES}): print(str(i).zfill(5) + 'x' * 58)"


@pytest.fixture(scope="module")
def task_id(pool: Pool, master: Watched, worker: Watched) -> str:
    """A task of ann's with a long output, which has ended."""
    home = pool.root / "master-ann"
    done = pool.cli("run", "--", "python3", "-c", PROGRAM, home=home)
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout) == LINES * 64
    listed = pool.cli("ps", "--all", "--json", home=home).stdout.decode()
    return listed.split('"id": "')[1].split('"')[0]


def asked(task_id: str) -> dict[str, betterproto2.Message]:
    service = "/nodepool.MasterNodeService"
    return {
        f"{service}/PollTaskStatus": nodepool.PollTaskStatusRequest(task_id=task_id),
        f"{service}/GetTaskLogs": nodepool.GetTaskLogsRequest(task_id=task_id),
        f"{service}/GetTaskResult": nodepool.GetTaskResultRequest(task_id=task_id),
        f"{service}/GetAllTasks": nodepool.GetAllTasksRequest(),
        "/nodepool.NodeManagerService/GetNodeList": nodepool.GetNodeListRequest(),
        "/hivemind.v1.Tasks/Watch": v1.WatchRequest(task_id=task_id, output=True),
        "/hivemind.v1.Tasks/Download": v1.DownloadRequest(task_id=task_id),
        "/hivemind.v1.Tasks/List": v1.ListRequest(all=True, limit=200),
        "/hivemind.v1.Tasks/Explain": v1.ExplainRequest(task_id=task_id),
        WHOAMI: v1.WhoAmIRequest(),
    }


async def test_replies_that_one_account_never_reads_are_bounded(
    master: Watched, task_id: str
) -> None:
    token = master.tokens["ann"]
    calls = list(asked(task_id).items())
    before = master.daemon.rss_bytes()
    peak = 0

    async def ask(client: RawClient, first: int) -> None:
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await client.flush()
        with suppress(*BROKEN):
            for number in range(first, first + CALLS):
                path, message = calls[number % len(calls)]
                headers = {"authorization": f"Bearer {token}"}
                stream_id = await client.call(path, headers=headers)
                await client.send(stream_id, prefixed(bytes(message)), end=True)

    async def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, master.daemon.rss_bytes() - before)
            (reply,) = await exchange(
                master.port, [Sent(WHOAMI, prefixed(b""), master.tokens["admin"], timeout="15S")]
            )
            assert reply.grpc_status == 0, reply
            await trio.sleep(0.05)

    async with trio.open_nursery() as looking, AsyncExitStack() as stack:
        looking.start_soon(look)
        async with trio.open_nursery() as asking:
            for number in range(CONNECTIONS):
                client = await stack.enter_async_context(raw_client(master.port))
                asking.start_soon(ask, client, number)
        await trio.sleep(5)
        looking.cancel_scope.cancel()
    assert peak < MOST_MIB * MIB, f"{peak / MIB:.0f} MiB more than before"
    await master.check_health()

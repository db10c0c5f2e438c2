"""What a node of the public API can do to the master that calls it: it may be anybody's."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from hivemind._pb import nodepool
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.config import MIB
from hivemind.rpc.contract.push import PushClient, open_push_client
from hivemind.rpc.errors import RemoteError
from tests.rpc.service import serving, verify

METHODS = frozenset(
    f"/nodepool.WorkerNodeService/{name}" for name in ("ExecuteTask", "StopTaskExecution")
)


class Loud(nodepool.WorkerNodeServiceBase):
    """Answers with far more than there is to say."""

    async def execute_task(
        self, message: nodepool.ExecuteTaskRequest
    ) -> nodepool.ExecuteTaskResponse:
        await trio.lowlevel.checkpoint()
        return nodepool.ExecuteTaskResponse(success=True, message="x" * MIB)

    async def stop_task_execution(
        self, message: nodepool.StopTaskExecutionRequest
    ) -> nodepool.StopTaskExecutionResponse:
        await trio.lowlevel.checkpoint()
        return nodepool.StopTaskExecutionResponse(success=True, message="x" * MIB)


async def nothing() -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    for piece in ():
        yield piece


async def execute(client: PushClient) -> None:
    await client.execute(
        "t.1", 0, nothing(), token="", on_sending=lambda: None, on_sent=lambda: None
    )


async def stop(client: PushClient) -> None:
    await client.stop("t.1", token="")


@pytest.mark.parametrize("call", [execute, stop])
async def test_an_answer_of_a_megabyte_is_not_taken_in(
    call: Callable[[PushClient], Awaitable[None]],
) -> None:
    authenticator = Authenticator(METHODS, verify)
    async with (
        serving([Loud()], authenticator=authenticator) as at,
        open_push_client("127.0.0.1", at.port) as client,
    ):
        with trio.fail_after(5), pytest.raises(RemoteError, match="over the limit of 16384"):
            await call(client)
        await client.check()

"""The services that the tests of this package call, and how a test serves them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hivemind.rpc.auth import Authenticator, InvalidToken, Principal, current_principal
from hivemind.rpc.channel import Channel, open_channel
from hivemind.rpc.config import MIB, TransportConfig
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.spool import current_upload
from tests.rpc._pb.hmtest import EchoBase, GateBase, Ping, Pong, StoreRequest

ECHO_METHODS = frozenset(f"/hmtest.Echo/{name}" for name in ("Unary", "Down", "Up", "Both"))
OPEN_METHODS = ECHO_METHODS | {
    "/hmtest.Gate/Open",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}
CONFIG = TransportConfig(open_message_bytes=4 * MIB, max_open_calls=1000)
TOKENS = {
    "good": Principal(account="ada", role="user", kind="account", token_id="t1", expires_at=9e9)
}


async def verify(token: str, peer: str) -> Principal:
    await trio.lowlevel.checkpoint()
    try:
        return TOKENS[token]
    except KeyError:
        raise InvalidToken("the token is not one of ours") from None


class EchoService(EchoBase):
    """Echoes; `text` says what else: `hang` waits for ever. What became of handlers is noted."""

    def __init__(self) -> None:
        self.hanging = 0
        self.ends: list[str] = []
        self.ended = trio.Event()
        self.started = trio.Event()

    async def _hang(self) -> None:
        self.hanging += 1
        self.started.set()
        try:
            await trio.sleep_forever()
        except BaseException as end:
            self.ends.append(type(end).__name__)
            self.ended.set()
            raise
        finally:
            self.hanging -= 1

    async def unary(self, message: Ping) -> Pong:
        if message.text == "hang":
            await self._hang()
        return Pong(text=message.text, data=message.data, number=len(message.data))

    async def down(self, message: Ping) -> AsyncIterator[Pong]:
        for number in range(message.count):
            yield Pong(number=number, data=message.data)
        if message.text == "hang":
            await self._hang()

    async def up(self, messages: AsyncIterator[Ping]) -> Pong:
        total = 0
        async for message in messages:
            if message.text == "enough":
                return Pong(number=-1)
            total += len(message.data)
        return Pong(number=total)

    async def both(self, messages: AsyncIterator[Ping]) -> AsyncIterator[Pong]:
        async for message in messages:
            if message.text == "hang":
                await self._hang()
            yield Pong(text=message.text, number=len(message.data))


class GateService(GateBase):
    async def open(self, message: Ping) -> Pong:
        return Pong(text=message.text)

    async def whoami(self, message: Ping) -> Pong:
        return Pong(text=current_principal().account)

    async def store(self, message: StoreRequest) -> Pong:
        return Pong(text=message.name, number=current_upload().size_bytes)


async def until(is_true: Callable[[], bool]) -> None:
    """Waits for a state that the other side brings about through the network."""
    with trio.fail_after(10):
        while not is_true():  # noqa: ASYNC110 - nothing here is told of it
            await trio.sleep(0.005)


@attrs.frozen
class Serving:
    server: Server
    port: int
    scope: trio.CancelScope
    stopped: trio.Event


@asynccontextmanager
async def serving(services: Sequence[Any], **options: Any) -> AsyncIterator[Serving]:
    """A server of `services` on a free port of loopback, until the block ends."""
    options.setdefault("config", CONFIG)
    options.setdefault("authenticator", Authenticator(OPEN_METHODS, verify))
    server = Server(services, **options)
    listeners = await open_listeners("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    stopped, scope = trio.Event(), trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await server.serve(listeners, task_status=task_status)
        stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield Serving(server, port, scope, stopped)
        scope.cancel()


@asynccontextmanager
async def served(services: Sequence[Any], **options: Any) -> AsyncIterator[Channel]:
    """A channel to a server of `services`."""
    async with serving(services, **options) as at, open_channel("127.0.0.1", at.port) as channel:
        yield channel

# ruff: noqa: ANN401 - generated code says Any where it means a message
"""Generated stubs on Trio.

betterproto2's stub starts an asyncio task for calls that stream both ways and leaves calls that
stream replies to the garbage collector. `bind` gives the same stub with both done here.
"""

import functools
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, TypeVar, cast

import trio
from grpclib.exceptions import StreamTerminatedError
from h2.exceptions import H2Error

from hivemind.rpc._client_call import ClientCall, let_deadline_win
from hivemind.rpc._grpclib import MessageSource, ServiceStub, StubBase
from hivemind.rpc.channel import Channel
from hivemind.rpc.errors import DeadlineExceeded

CLEANUP_S = 5.0
StubT = TypeVar("StubT", bound=ServiceStub)


def bind(
    stub: type[StubT],
    channel: Channel,
    *,
    timeout: float | None = None,
    metadata: dict[str, str] | None = None,
) -> StubT:
    """A stub of the generated class `stub` whose calls go through `channel`.

    Replies that stream are to be read within `contextlib.aclosing(...)`: leaving that cancels the
    call at the server at once.
    """
    return cast("StubT", _on_trio(stub)(channel, timeout=timeout, metadata=metadata))


@functools.cache
def _on_trio(stub: type[ServiceStub]) -> type[ServiceStub]:
    return type(stub.__name__, (_TrioStub, stub), {})


class _TrioStub(StubBase):
    channel: Channel

    def open_replies(
        self,
        call: ClientCall[Any, Any],
        *,
        request: Any = None,
        requests: MessageSource | None = None,
    ) -> "Replies":
        return Replies(self.channel, call, request=request, requests=requests)

    async def send_for_reply(self, call: ClientCall[Any, Any], requests: MessageSource) -> Any:
        async with call:
            await call.send_request()
            try:
                await _send_each(call, requests)
            except (StreamTerminatedError, H2Error):
                if not call.h2_stream.ended:
                    raise
                # The server has answered without hearing everything; its answer counts.
            return await call.recv_message()


class Replies:
    """The replies of one call; letting go of it ends the call, which needs no waiting.

    It is no generator: the generated method around it drops it when that is closed, and whatever
    is left to do is done on the spot.
    """

    def __init__(
        self,
        channel: Channel,
        call: ClientCall[Any, Any],
        *,
        request: Any = None,
        requests: MessageSource | None = None,
    ) -> None:
        self._channel = channel
        self._call = call
        self._request = request
        self._requests = requests
        self._sender: _Sender | None = None
        self._is_started = False
        self._is_over = False

    def __aiter__(self) -> "Replies":
        return self

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except Exception as error:
            failure = error
            self._let_go()
        except BaseException:
            self._let_go()
            raise
        source_error = self._sender.error if self._sender is not None else None
        if source_error is not None:
            raise source_error
        seen = self._call.translated(failure)
        await let_deadline_win(seen)
        if seen is failure:
            raise failure
        raise seen from failure

    def __del__(self) -> None:
        self._let_go()

    async def _next(self) -> Any:
        if not self._is_started:
            self._is_started = True
            await self._start()
        reply = await self._call.recv_message()
        if reply is None:
            await self._finish()
            raise StopAsyncIteration
        return reply

    async def _start(self) -> None:
        await self._call.__aenter__()
        if self._requests is None:
            await self._call.send_message(self._request, end=True)
            return
        await self._call.send_request()
        self._sender = _Sender(self._call, self._requests)
        self._channel.nursery.start_soon(self._sender.run, self._channel.senders)

    async def _finish(self) -> None:
        if self._sender is not None:
            # The server may answer before it has heard everything; what is unsent is then moot.
            self._sender.scope.cancel()
        await self._call.finish()
        self._let_go()

    def _let_go(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._sender is not None:
            self._sender.scope.cancel()
        if self._is_started:
            self._call.let_go()


class _Sender:
    """The task that sends the requests of one call; it does not keep the replies alive."""

    def __init__(self, call: ClientCall[Any, Any], requests: MessageSource) -> None:
        self.scope = trio.CancelScope()
        self.error: Exception | None = None
        self._call = call
        self._requests = requests

    async def run(self, senders: set[trio.CancelScope]) -> None:
        """Send until the end of the requests or of the call."""
        senders.add(self.scope)
        try:
            with self.scope:
                await _send_each(self._call, self._requests)
        except (StreamTerminatedError, H2Error, DeadlineExceeded):
            pass  # the call has ended; whoever reads the replies learns how
        except Exception as error:
            self.error = error
            self._call.wrapper.cancel(StreamTerminatedError("the requests could not be made"))
        finally:
            senders.discard(self.scope)


async def _send_each(call: ClientCall[Any, Any], requests: MessageSource) -> None:
    if not isinstance(requests, AsyncIterable):
        for message in requests:
            await call.send_message(message)
        await call.end()
        return
    try:
        async for message in requests:
            await call.send_message(message)
        await call.end()
    finally:
        # Only a generator is known to be of use to nobody else.
        if isinstance(requests, AsyncGenerator):
            with trio.move_on_after(CLEANUP_S, shield=True):
                await requests.aclose()

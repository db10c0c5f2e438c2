"""What all calls of a server share, and the messages of one call as its handler receives them."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import TypeVar

import attrs
import trio
from grpclib.events import RecvRequest, listen

from hivemind.rpc import _messages
from hivemind.rpc._flow import TruncatedMessage
from hivemind.rpc._grpclib import (
    Deadline,
    Handler,
    LinkStream,
    ServerCallStream,
    ServerDispatch,
    Status,
)
from hivemind.rpc._spooled import split_field
from hivemind.rpc._wire import check_message
from hivemind.rpc.admission import CallShares
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget, Reservation
from hivemind.rpc.config import KIB, TransportConfig
from hivemind.rpc.context import CallContext
from hivemind.rpc.errors import fail
from hivemind.rpc.reply import PIECE_BYTES, ReplyTail
from hivemind.rpc.spool import OverLimit, Spool, SpooledField
from hivemind.rpc.turns import Turns

R = TypeVar("R")
S = TypeVar("S")

SMALL_BYTES = 4 * KIB
"""Messages up to this size are not counted, either way: they cost less than the call itself."""

_MOST_LENGTH = 2**32 - 1
"""What a message's prefix can say."""


@attrs.frozen
class CallSetting:
    """What all calls of one server share."""

    handlers: Mapping[str, Handler]
    config: TransportConfig
    authenticator: Authenticator
    budget: ByteBudget
    reply_budget: ByteBudget
    calls: CallShares
    open_calls: CallShares
    arrivals: CallShares
    spool: Spool | None = None
    spooled: Mapping[str, SpooledField] = attrs.field(factory=dict)
    dispatch: ServerDispatch = attrs.field(factory=ServerDispatch)
    turns: Turns = attrs.field(factory=Turns)

    def __attrs_post_init__(self) -> None:
        if self.spooled and self.spool is None:
            raise ValueError("spooled methods need a spool")
        # Such a request would be on the disk before it is known who sent it.
        both = set(self.spooled) & (
            set(self.authenticator.message_tokens) | self.authenticator.open_methods
        )
        if both:
            raise ValueError(f"a spooled method takes its token from the metadata: {sorted(both)}")
        listen(_Target(self.dispatch), RecvRequest, self.authenticator.on_request)


def _most_bytes(spool: Spool, spooled: SpooledField) -> int:
    return spool.max_bytes if spooled.most_bytes is None else spooled.most_bytes()


@attrs.define
class _Target:
    __dispatch__: ServerDispatch


class CallStream(ServerCallStream[R, S]):
    """A server stream that judges messages by their prefix and hands back typed refusals."""

    def __init__(
        self,
        setting: CallSetting,
        context: CallContext,
        h2_stream: LinkStream,
        *,
        deadline: Deadline | None,
        user_agent: str | None,
        on_known: Callable[[], None],
    ) -> None:
        """Args: on_known: called when a message has said whose call it is; raises CallRefused."""
        super().__init__(
            h2_stream,
            context.method,
            setting.handlers[context.method],
            dispatch=setting.dispatch,
            deadline=deadline,
            user_agent=user_agent,
        )
        self._setting = setting
        self._context = context
        self._held = Reservation(setting.budget)
        self._on_known = on_known
        self._has_message = False
        self.has_upload = False
        self._uploads = AsyncExitStack()

    async def recv_message(self) -> R | None:
        """The next message, or None where the peer has ended its side.

        Raises:
            CallRefused: it is too large, compressed, undecodable, cut off or too slow.
        """
        self._held.release()
        try:
            body = await self._next_body()
        except TruncatedMessage as error:
            raise _messages.undecodable(error) from error
        if body is None:
            if not self._has_message and not self.takes_many:
                raise fail(None, Status.INVALID_ARGUMENT, "the request holds no message")
            return None
        turns = self._setting.turns
        await turns.take(self._context.owner or self._context.peer)
        try:
            with turns.working():
                check_message(
                    body, self.recv_type, max_fields=self._setting.config.max_message_fields
                )
                message = self.decode(body)
        except Exception as error:
            raise _messages.undecodable(error) from error
        if not self._has_message:
            self._has_message = True
            was_stranger = self._context.owner is None
            await self._setting.authenticator.on_message(self._context, message)
            if was_stranger and self._context.owner is not None:
                self._on_known()
        return await self.notify(message)

    async def _next_body(self) -> bytes | None:
        config, buffer = self._setting.config, self.h2_stream.buffer
        is_stranger = self._context.principal is None
        spooled = self._setting.spooled.get(self._context.method)
        limit = config.message_limit(self._context.method, is_open=is_stranger)
        spool = self._setting.spool
        if spooled is not None and spool is not None:
            limit = _MOST_LENGTH
        if is_stranger and not self._has_message:
            length = await self._first_prefix(limit)
        else:
            # Whoever is known, or has begun, may be silent for as long as it likes.
            length = await _messages.read_prefix(buffer, limit)
        if length is None:
            return None
        if spooled is not None and spool is not None:
            most_bytes = _most_bytes(spool, spooled)
            if length > most_bytes + spooled.rest_bytes:
                raise OverLimit(most_bytes, spooled.remedy())
        if length > SMALL_BYTES and spooled is None:
            self._held = Reservation(self._setting.budget, self._context.owner)
            await self._held.grow(length)
        deadline_s = _messages.body_seconds(
            length, grace_s=config.first_message_s, min_bytes_per_s=config.min_bytes_per_s
        )
        if spooled is not None and spool is not None:
            return await self._spool_body(spool, length, spooled, deadline_s)
        return await _messages.read_body(buffer, length, deadline_s)

    async def _first_prefix(self, limit: int) -> int | None:
        buffer = self.h2_stream.buffer
        if buffer.unacked_size() >= _messages.PREFIX_BYTES:
            return await _messages.read_prefix(buffer, limit)
        with trio.move_on_after(self._setting.config.first_message_s):
            return await _messages.read_prefix(buffer, limit)
        raise fail(None, Status.DEADLINE_EXCEEDED, "no request came in time")

    async def _spool_body(
        self, spool: Spool, length: int, spooled: SpooledField, deadline_s: float
    ) -> bytes:
        self.has_upload = True
        file = await self._uploads.enter_async_context(
            spool.open_file(
                announced_bytes=max(0, length - spooled.rest_bytes),
                max_bytes=_most_bytes(spool, spooled),
                remedy=spooled.remedy(),
            )
        )
        rest = await split_field(self.h2_stream.buffer, length, spooled, file, deadline_s)
        self._context.upload = file
        return rest

    async def send_message(self, message: S) -> None:
        """Send a message, and after it the tail of a reply that the handler gave one.

        Raises:
            CallRefused: the caller does not read it, or its like hold too much together.
        """
        tail, self._context.reply_tail = self._context.reply_tail, None
        data = self.encode(message, 0 if tail is None else tail.size_bytes)
        if self.h2_stream.has_room_for(len(data)):
            await self.begin_sending()
            await self.h2_stream.send_data(data)
        else:
            async with self._holding(len(data)):
                with self._patience(len(data)):
                    await self.begin_sending()
                    await self.h2_stream.send_data(data)
        if tail is not None:
            await self._send_tail(tail)
        self.note_sent()

    async def _send_tail(self, tail: ReplyTail) -> None:
        left = tail.size_bytes
        async with self._holding(min(left, PIECE_BYTES)), aclosing(tail.chunks):
            async for chunk in tail.chunks:
                left -= len(chunk)
                if left < 0:
                    break
                with self._patience(len(chunk)):
                    await self.h2_stream.send_data(chunk)
        if left:
            raise ValueError(f"a reply of {tail.size_bytes} bytes has {tail.size_bytes - left}")

    @asynccontextmanager
    async def _holding(self, size_bytes: int) -> AsyncIterator[None]:
        """Count what is to be sent, unless the handler has counted it."""
        held = self._context.reply_held
        more_bytes = 0 if held is None else size_bytes - held.size_bytes
        if held is None or more_bytes <= SMALL_BYTES:
            yield
            return
        await held.grow(more_bytes)
        try:
            yield
        finally:
            held.shrink(more_bytes)

    @contextmanager
    def _patience(self, size_bytes: int) -> Iterator[None]:
        """Give up sending where the caller does not read: what is unsent would be held for ever."""
        config = self._setting.config
        patience_s = config.reply_s + size_bytes / config.min_bytes_per_s
        with trio.move_on_after(patience_s) as scope:
            yield
        if scope.cancelled_caught:
            message = f"the reply was not read within {patience_s:.0f} s; read faster, or ask again"
            raise fail(None, Status.UNAVAILABLE, message)

    def give_back(self) -> None:
        """Give back what the call held of the budgets."""
        self._held.release()
        if self._context.reply_held is not None:
            self._context.reply_held.release()

    async def remove_upload(self) -> None:
        """Remove the upload unless it was kept; only where `has_upload`."""
        await self._uploads.aclose()

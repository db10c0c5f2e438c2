# ruff: noqa: ANN401 - generated code says Any where it means a message
"""betterproto2's services, stubs and messages: their generators closed, their shapes read."""

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, cast

import attrs
import betterproto2
from betterproto2.grpclib import ServiceBase, ServiceStub
from grpclib._typing import IServable
from grpclib.const import Cardinality


async def _serve_stream_of_replies(
    handler: Callable[[Any], Any], stream: Any, request: Any
) -> None:
    """Send what the handler yields; its generator is closed here, by the task that ran it."""
    replies = handler(request)
    if not isinstance(replies, AsyncIterable):
        # A method that never yields is a coroutine: it is run, and means an empty stream.
        await replies
        return
    async with aclosing(cast("Any", replies)) as iterator:
        async for reply in iterator:
            await stream.send_message(reply)


@attrs.frozen
class FieldShape:
    """How one field of a message looks on the wire."""

    number: int
    wire_type: int
    is_packable: bool
    message_type: type | None
    group: str | None


_WIRE_TYPES = {
    **dict.fromkeys(betterproto2.PACKED_TYPES, 0),
    **dict.fromkeys(("double", "fixed64", "sfixed64"), 1),
    **dict.fromkeys(("string", "bytes", "message", "map"), 2),
    **dict.fromkeys(("float", "fixed32", "sfixed32"), 5),
}


@functools.cache
def message_shape(message_type: type) -> Mapping[int, FieldShape]:
    """The fields of a generated message by their numbers."""
    known = cast("Any", message_type)._betterproto
    shapes = {}
    for name, meta in known.meta_by_field_name.items():
        inner = meta.unwrap() if meta.unwrap else known.cls_by_field[name]
        shapes[meta.number] = FieldShape(
            number=meta.number,
            wire_type=_WIRE_TYPES[meta.proto_type],
            is_packable=bool(meta.repeated) and meta.proto_type in betterproto2.PACKED_TYPES,
            message_type=inner if meta.proto_type in {"message", "map"} else None,
            group=meta.group,
        )
    return shapes


def adopt_service(service: IServable) -> None:
    """Make a generated service close its generators when a call ends.

    The generated base leaves them to the garbage collector, so that a cancelled handler would be
    cleaned up at some time, by another task.
    """
    if isinstance(service, ServiceBase):
        object.__setattr__(service, "_call_rpc_handler_server_stream", _serve_stream_of_replies)


MessageSource = AsyncIterable[Any] | Iterable[Any]


class StubBase(ServiceStub, ABC):
    """betterproto2's stub with the kinds of call that stream handed to two methods of ours."""

    @abstractmethod
    def open_replies(
        self, call: Any, *, request: Any = None, requests: MessageSource | None = None
    ) -> AsyncIterable[Any]:
        """The replies of `call`, which sends the one `request` or all `requests`."""

    @abstractmethod
    async def send_for_reply(self, call: Any, requests: MessageSource) -> Any:
        """The one reply of `call` to all `requests`."""

    def _open(self, *what: Any, **options: Any) -> Any:
        resolve = self._ServiceStub__resolve_request_kwargs  # type: ignore[attr-defined]
        return self.channel.request(*what, **resolve(**options))

    def _unary_stream(
        self,
        route: str,
        request: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.UNARY_STREAM, type(request), response_type)
        return self.open_replies(self._open(*what, **options), request=request)

    async def _stream_unary(
        self,
        route: str,
        request_iterator: MessageSource,
        request_type: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.STREAM_UNARY, request_type, response_type)
        return await self.send_for_reply(self._open(*what, **options), request_iterator)

    def _stream_stream(
        self,
        route: str,
        request_iterator: MessageSource,
        request_type: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.STREAM_STREAM, request_type, response_type)
        return self.open_replies(self._open(*what, **options), requests=request_iterator)

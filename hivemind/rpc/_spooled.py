"""Parsing one protobuf message as it arrives, its large bytes field going straight to a file."""

import trio
from grpclib.const import Status

from hivemind.rpc._flow import Buffer, TruncatedMessage
from hivemind.rpc.config import CHUNK_BYTES
from hivemind.rpc.errors import fail
from hivemind.rpc.spool import SpooledField, SpoolFile

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


async def split_field(
    buffer: Buffer, length: int, spooled: SpooledField, file: SpoolFile, deadline_s: float
) -> bytes:
    """Read a message of `length` bytes: its spooled field into `file`, all else is returned.

    What is returned is a message of the same type without the field.

    Raises:
        CallRefused: the message is malformed, has the field twice (INVALID_ARGUMENT), too much
            beside it (RESOURCE_EXHAUSTED), or is not here after `deadline_s`.
    """
    with trio.move_on_after(deadline_s):
        try:
            return await _Splitter(buffer, length, spooled, file).run()
        except TruncatedMessage:
            raise _malformed("it ends too soon") from None
    raise fail(None, Status.DEADLINE_EXCEEDED, f"{length} bytes did not arrive in time")


class _Splitter:
    def __init__(self, buffer: Buffer, length: int, spooled: SpooledField, file: SpoolFile) -> None:
        self._buffer = buffer
        self._left = length
        self._spooled = spooled
        self._file = file
        self._rest = bytearray()

    async def run(self) -> bytes:
        has_field = False
        while self._left:
            tag, number = await self._varint()
            if number & 7 == _LENGTH and number >> 3 == self._spooled.field_number:
                if has_field:
                    raise _malformed("the upload is in it twice")
                has_field = True
                await self._spool_field()
            else:
                await self._copy_field(tag, number & 7)
        return bytes(self._rest)

    async def _spool_field(self) -> None:
        _, size = await self._varint()
        if size > self._left:
            raise _malformed("a field is longer than the message")
        self._file.check_fits(size)
        while size:
            chunk = await self._buffer.read_some(min(size, CHUNK_BYTES))
            if not chunk:
                raise _malformed("it ends too soon")
            size -= len(chunk)
            self._left -= len(chunk)
            await self._file.write(chunk)

    async def _copy_field(self, tag: bytes, wire_type: int) -> None:
        head = tag
        if wire_type == _VARINT:
            value, _ = await self._varint()
            self._keep(head + value)
            return
        if wire_type == _LENGTH:
            prefix, size = await self._varint()
            head += prefix
        elif wire_type in {_FIXED64, _FIXED32}:
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise _malformed("it uses groups")
        if len(self._rest) + len(head) + size > self._spooled.rest_bytes:
            raise self._too_much()
        self._keep(head + (await self._bytes(size)))

    def _keep(self, field: bytes) -> None:
        self._rest += field
        if len(self._rest) > self._spooled.rest_bytes:
            raise self._too_much()

    def _too_much(self) -> Exception:
        return fail(
            None,
            Status.RESOURCE_EXHAUSTED,
            f"beside the upload the request may hold {self._spooled.rest_bytes} bytes",
        )

    async def _varint(self) -> tuple[bytes, int]:
        encoded = bytearray()
        value = 0
        while len(encoded) < _MAX_VARINT_BYTES:
            byte = (await self._bytes(1))[0]
            encoded.append(byte)
            value |= (byte & 0x7F) << (7 * (len(encoded) - 1))
            if byte < 0x80:
                return bytes(encoded), value
        raise _malformed("a number in it has no end")

    async def _bytes(self, size: int) -> bytes:
        if size > self._left:
            raise _malformed("a field is longer than the message")
        self._left -= size
        data = await self._buffer.read(size) if size else b""
        if size and not data:
            raise _malformed("it ends too soon")
        return data


def _malformed(why: str) -> Exception:
    return fail(None, Status.INVALID_ARGUMENT, f"the message is not what this method takes: {why}")

"""Judging encoded messages before they are decoded.

betterproto2 decodes what it can: it takes truncated fields as they are and a field of the wrong
wire type at face value (an int where a string is declared), and each field costs it microseconds
to tens of microseconds, unknown ones even in the square of their number, all without letting
another task run. So every message is walked once over its bytes first: what is malformed is
refused, and so is what has more fields than a server is willing to decode.
"""

from hivemind.rpc._grpclib import FieldShape, message_shape

MAX_DEPTH = 100
MAX_UNKNOWN_FIELDS = 64
"""In one message: betterproto2 copies all unknown fields so far for each further one."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10


class Malformed(ValueError):
    """The bytes are not a message of the type, or more of one than is taken."""


def check_message(data: bytes, message_type: type, *, max_fields: int) -> None:
    """Return if `data` is a well-formed `message_type` of at most `max_fields` fields, nested ones
    and packed elements included.

    Raises:
        Malformed: it is not.
    """
    _Walk(data, max_fields).message(0, len(data), message_type, 0)


class _Walk:
    def __init__(self, data: bytes, max_fields: int) -> None:
        self._data = data
        self._left = max_fields
        self._max_fields = max_fields

    def message(self, at: int, end: int, message_type: type, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Malformed("it is nested too deeply")
        shapes = message_shape(message_type)
        unknown = 0
        members: dict[str, int] = {}
        while at < end:
            tag, at = self._varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            self._count(1)
            begin, at = self._value(at, end, wire_type)
            shape = shapes.get(number)
            if shape is None:
                unknown += 1
                if number == 0 or unknown > MAX_UNKNOWN_FIELDS:
                    raise Malformed("it has too many fields that are not known here")
                continue
            if shape.group and members.setdefault(shape.group, number) != number:
                raise Malformed(f"two of {shape.group} are set, of which it can have one")
            self._field(shape, wire_type, begin, at, depth)

    def _field(self, shape: FieldShape, wire_type: int, begin: int, end: int, depth: int) -> None:
        if wire_type == shape.wire_type:
            if shape.message_type is not None:
                self.message(begin, end, shape.message_type, depth + 1)
        elif wire_type == _LENGTH and shape.is_packable:
            self._packed(shape.wire_type, begin, end)
        else:
            raise Malformed(f"field {shape.number} has the wrong type")

    def _packed(self, wire_type: int, at: int, end: int) -> None:
        while at < end:
            self._count(1)
            _, at = self._value(at, end, wire_type)

    def _value(self, at: int, end: int, wire_type: int) -> tuple[int, int]:
        """Where the value begins and ends."""
        if wire_type == _VARINT:
            return at, self._varint(at, end)[1]
        if wire_type == _LENGTH:
            size, at = self._varint(at, end)
        elif wire_type in _FIXED_BYTES:
            size = _FIXED_BYTES[wire_type]
        else:
            raise Malformed("it uses groups")
        if size > end - at:
            raise Malformed("a field is longer than what holds it")
        return at, at + size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data, value, shift = self._data, 0, 0
        limit = min(end, at + _MAX_VARINT_BYTES)
        while at < limit:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise Malformed("a number in it has no end")

    def _count(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise Malformed(f"it has more than {self._max_fields} fields")

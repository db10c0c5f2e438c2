"""What can be called, and bytes for it that are a message, almost one, or none at all.

Made from descriptors alone, so that whatever is added to an interface is tried by itself.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import attrs
from google.protobuf import descriptor_pb2
from hypothesis import strategies as st

DESCRIPTORS = Path(__file__).resolve().parents[2] / "hivemind" / "_pb" / "descriptors.binpb"

Field = descriptor_pb2.FieldDescriptorProto
Bytes = st.SearchStrategy[bytes]

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
DEEPEST = 3

_WIRE_TYPES = {
    **dict.fromkeys((Field.TYPE_DOUBLE, Field.TYPE_FIXED64, Field.TYPE_SFIXED64), FIXED64),
    **dict.fromkeys((Field.TYPE_FLOAT, Field.TYPE_FIXED32, Field.TYPE_SFIXED32), FIXED32),
    **dict.fromkeys((Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE), LENGTH),
}

_NUMBERS = (0, 1, 2, 7, 127, 128, 1000, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    *("", "ann", "admin", "*", "a" * 40, "a" * 5000, "../../etc/passwd", "a\0b", "a\nb", " "),
    *("127.0.0.1", "localhost", "default", "python", "shell", "1", "-1", "\u202e", "\ufffd", "ü"),
)
_BLOBS = (
    *(b"", b"print('x')", b"#!/bin/sh\necho x\n", b"PK\x03\x04" + b"\0" * 40, b"\x1f\x8b\x08"),
    *(b"\0" * 32, b"\xff" * 64, b"x" * 5000),
)


@attrs.frozen
class Method:
    """One RPC."""

    path: str
    request: str
    """The request's type, by its full name."""


class Schema:
    """The methods and messages of some .proto files."""

    def __init__(
        self, files: Sequence[descriptor_pb2.FileDescriptorProto], texts: Sequence[str] = ()
    ) -> None:
        self._texts = (*_TEXTS, *texts, *texts, *texts)
        self.methods: list[Method] = []
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        for file in files:
            prefix = f".{file.package}" if file.package else ""
            for message in file.message_type:
                self._enter(prefix, message)
            for service in file.service:
                self.methods += [
                    Method(f"/{prefix[1:]}.{service.name}/{one.name}", one.input_type)
                    for one in service.method
                ]
        self.bodies = functools.cache(self._bodies)

    @classmethod
    def of_the_project(cls, texts: Sequence[str] = ()) -> "Schema":
        """All that proto/ declares; ``texts`` are names of things that are there."""
        found = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
        return cls(list(found.file), texts)

    def _enter(self, prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        self._messages[name] = message
        for inner in message.nested_type:
            self._enter(name, inner)

    def _bodies(self, name: str) -> Bytes:
        """Bytes for a request of the type: most are a message of it, others almost."""
        good = self._message(name, 0)
        return st.one_of(
            good,
            good,
            good,
            st.tuples(good, _unknown_fields()).map(b"".join),
            st.tuples(_unknown_fields(), good).map(b"".join),
            good.map(lambda body: body + body),
            st.tuples(good, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]]),
            st.tuples(good, self._wrong(name)).map(b"".join),
            st.tuples(good, st.integers(0, 200), st.integers(0, 255)).map(with_byte),
            st.binary(max_size=80),
        )

    def _message(self, name: str, depth: int) -> Bytes:
        """Any of its fields, in any order, any number of times."""
        fields = list(self._messages[name].field)
        if not fields or depth > DEEPEST:
            return st.just(b"")
        each = st.sampled_from(fields).flatmap(lambda field: self._field(field, depth))
        return st.lists(each, max_size=len(fields) + 2).map(b"".join)

    def _field(self, field: Field, depth: int) -> Bytes:
        value = self._value(field, depth)
        wire_type = _WIRE_TYPES.get(field.type, VARINT)
        if wire_type == LENGTH:
            return value.map(lambda data: tag(field.number, LENGTH) + sized(data))
        one = value.map(lambda data: tag(field.number, wire_type) + data)
        if field.label != Field.LABEL_REPEATED:
            return one
        packed = st.lists(value, max_size=4).map(b"".join)
        return st.one_of(one, packed.map(lambda data: tag(field.number, LENGTH) + sized(data)))

    def _value(self, field: Field, depth: int) -> Bytes:
        match field.type:
            case Field.TYPE_MESSAGE:
                return self._message(field.type_name, depth + 1)
            case Field.TYPE_STRING:
                texts = st.sampled_from(self._texts).map(str.encode)
                return st.one_of(texts, st.text(max_size=20).map(str.encode), st.binary(max_size=9))
            case Field.TYPE_BYTES:
                return st.one_of(st.sampled_from(_BLOBS), st.binary(max_size=64))
        match _WIRE_TYPES.get(field.type, VARINT):
            case size if size == FIXED64:
                return st.binary(min_size=8, max_size=8)
            case size if size == FIXED32:
                return st.binary(min_size=4, max_size=4)
        return st.one_of(st.sampled_from(_NUMBERS), st.integers(0, 2**64 - 1)).map(varint)

    def _wrong(self, name: str) -> Bytes:
        """One of its fields with a wire type that is not the field's, and some value of that."""
        numbers = [field.number for field in self._messages[name].field] or [1]
        value = st.one_of(
            st.tuples(st.just(VARINT), st.integers(0, 2**64 - 1).map(varint)),
            st.tuples(st.just(FIXED64), st.binary(min_size=8, max_size=8)),
            st.tuples(st.just(LENGTH), st.binary(max_size=20).map(sized)),
            st.tuples(st.sampled_from((START_GROUP, END_GROUP, 6, 7)), st.just(b"")),
            st.tuples(st.just(FIXED32), st.binary(min_size=4, max_size=4)),
            # A length that nothing can have, and a number without an end.
            st.tuples(st.just(LENGTH), st.just(varint(2**40))),
            st.tuples(st.just(VARINT), st.just(b"\xff" * 11)),
        )
        return st.tuples(st.sampled_from(numbers), value).map(
            lambda drawn: tag(drawn[0], drawn[1][0]) + drawn[1][1]
        )


def _unknown_fields() -> Bytes:
    one = st.tuples(st.integers(100, 2**29 - 1), st.binary(max_size=20)).map(
        lambda drawn: tag(drawn[0], LENGTH) + sized(drawn[1])
    )
    return st.lists(one, max_size=5).map(b"".join) | st.just((tag(99, VARINT) + b"\1") * 70)


def with_byte(drawn: tuple[bytes, int, int]) -> bytes:
    """The body with one byte changed: body, place, value."""
    body, at, value = drawn
    return body if at >= len(body) else body[:at] + bytes([value]) + body[at + 1 :]


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data

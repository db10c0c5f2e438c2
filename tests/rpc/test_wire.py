"""The walk over a message's bytes, beside google's parser and against what is hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.rpc._standard import FileDescriptor, ServerReflectionRequest
from hivemind.rpc._wire import Malformed, check_message
from tests.rpc._pb.hmtest import Ping, StoreRequest


def check(data: bytes, message_type: type = Ping, max_fields: int = 10_000) -> None:
    check_message(data, message_type, max_fields=max_fields)


@given(text=st.text(), data=st.binary(), count=st.integers(-(2**31), 2**31 - 1))
def test_what_we_encode_passes(text: str, data: bytes, count: int) -> None:
    check(bytes(Ping(text=text, data=data, count=count)))


@given(labels=st.dictionaries(st.text(), st.text(), max_size=5))
def test_maps_pass(labels: dict[str, str]) -> None:
    check(bytes(StoreRequest(labels=labels)), StoreRequest)


@given(st.binary(max_size=60))
def test_what_passes_decodes_to_the_declared_types_or_fails_on_its_text(data: bytes) -> None:
    try:
        check(data)
        ping = Ping.parse(data)
    except (Malformed, UnicodeDecodeError):
        return
    assert (type(ping.text), type(ping.data), type(ping.count)) == (str, bytes, int)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xff\xff", "no end"),
        (b"\x0a\xff\x01", "longer than"),
        (b"\x0a\x05hi", "longer than"),
        (b"\x08\x01", "field 1 has the wrong type"),
        (b"\x1a\x01\x01", "field 3 has the wrong type"),
        (b"\x0b\x0c", "groups"),
        (b"\x18" + b"\xff" * 11, "no end"),
        (b"\x00\x00", "not known here"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        check(data)


def test_two_members_of_a_oneof_are_refused() -> None:
    one = bytes(ServerReflectionRequest(file_by_filename="a"))
    two = bytes(ServerReflectionRequest(list_services="b"))
    check(one + one, ServerReflectionRequest)
    with pytest.raises(Malformed, match="message_request"):
        check(one + two, ServerReflectionRequest)


def test_a_message_of_very_many_fields_is_refused_without_reading_it_all() -> None:
    unknown = b"\x78\x00" * 2_000_000
    with pytest.raises(Malformed, match="not known here"):
        check(unknown)
    with pytest.raises(Malformed, match="more than 10000 fields"):
        check(b"\x22\x00" * 2_000_000, FileDescriptor)
    with pytest.raises(Malformed, match="more than 100 fields"):
        # A file descriptor with one message of 101 fields.
        check(b"\x22\xca\x01" + b"\x12\x00" * 101, FileDescriptor, max_fields=100)


def test_nesting_without_end_is_refused() -> None:
    data = b""
    for _ in range(200):
        size = len(data)
        prefix = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        data = b"\x1a" + prefix + data
    with pytest.raises(Malformed, match="nested too deeply"):
        check(b"\x22" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data, FileDescriptor)

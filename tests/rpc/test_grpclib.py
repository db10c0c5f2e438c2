"""Every name that grpclib, betterproto2 and h2 do not promise is still there, in its shape."""

import inspect
from importlib.metadata import version
from typing import Any

import betterproto2
import grpclib.client
import grpclib.const
import grpclib.events
import grpclib.metadata
import grpclib.protocol
import grpclib.server
import pytest
from betterproto2.grpclib import ServiceBase, ServiceStub
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import Settings
from hyperframe.frame import GoAwayFrame

from hivemind.rpc._grpclib import message_shape
from tests.rpc._pb.hmtest import EchoBase, EchoStub, Ping, StoreRequest


def test_the_pinned_version_is_installed() -> None:
    assert version("grpclib") == "0.4.9"
    assert version("betterproto2").startswith("0.10.")


@pytest.mark.parametrize(
    ("callable_", "parameters"),
    [
        (grpclib.protocol.Connection.__init__, "self connection transport config"),
        (grpclib.protocol.Connection.create_stream, "self stream_id wrapper"),
        (
            grpclib.protocol.Stream.__init__,
            "self connection h2_connection transport stream_id wrapper",
        ),
        (grpclib.protocol.Stream.init_stream, "self stream_id connection"),
        (grpclib.protocol.Stream.send_request, "self headers end_stream _processor"),
        (grpclib.protocol.Stream.send_headers, "self headers end_stream"),
        (grpclib.protocol.Stream.send_data, "self data end_stream"),
        (grpclib.protocol.Stream.__ended__, "self"),
        (grpclib.protocol.Stream.__terminated__, "self reason"),
        (grpclib.protocol.EventsProcessor.__init__, "self handler connection"),
        (grpclib.protocol.EventsProcessor.register, "self stream"),
        (grpclib.protocol.EventsProcessor.process, "self event"),
        (grpclib.protocol.EventsProcessor.process_window_updated, "self event"),
        (grpclib.protocol.EventsProcessor.process_stream_reset, "self event"),
        (grpclib.protocol.EventsProcessor.process_connection_terminated, "self event"),
        (
            grpclib.server.Stream.__init__,
            "self stream method_name cardinality recv_type send_type codec status_details_codec "
            "dispatch deadline user_agent",
        ),
        (
            grpclib.server.Stream.send_trailing_metadata,
            "self status status_message status_details metadata",
        ),
        (
            grpclib.client.Stream.__init__,
            "self channel method_name metadata cardinality send_type recv_type codec "
            "status_details_codec dispatch deadline",
        ),
        (grpclib.client.Channel.__connect__, "self"),
        (grpclib.client.Channel._get_authority, "self host port"),
        (
            grpclib.client.Channel.request,
            "self name cardinality request_type reply_type timeout deadline metadata",
        ),
        (
            grpclib.events._DispatchServerEvents.recv_request,
            "self metadata method_func method_name deadline content_type user_agent peer",
        ),
        (grpclib.metadata.Deadline.from_headers, "headers"),
        (ServiceBase._call_rpc_handler_server_stream, "self handler stream request"),
        (
            ServiceStub._unary_stream,
            "self route request response_type timeout deadline metadata",
        ),
        (
            ServiceStub._stream_unary,
            "self route request_iterator request_type response_type timeout deadline metadata",
        ),
        (
            ServiceStub._stream_stream,
            "self route request_iterator request_type response_type timeout deadline metadata",
        ),
        (
            ServiceStub._ServiceStub__resolve_request_kwargs,  # type: ignore[attr-defined]
            "self timeout deadline metadata",
        ),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_what_is_overridden_or_called_has_its_parameters(callable_: Any, parameters: str) -> None:
    assert list(inspect.signature(callable_).parameters) == parameters.split()


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            grpclib.server.Stream,
            "_send_message_done _send_trailing_metadata_done _cancel_done _stream _codec "
            "_recv_type _cardinality _dispatch",
        ),
        (
            grpclib.client.Stream,
            "_stream _wrapper _release_stream _send_request_done _recv_initial_metadata_done "
            "_recv_trailing_metadata_done _cancel_done _end_done _method_name _channel _codec "
            "_recv_type",
        ),
        (
            grpclib.client.Channel,
            "_codec _status_details_codec _scheme _authority _calls_started _calls_succeeded",
        ),
        (
            grpclib.protocol.Stream,
            "connection _h2_connection _transport wrapper window_updated headers "
            "headers_received trailers trailers_received buffer closable",
        ),
        (
            grpclib.protocol.Connection,
            "_transport write_ready stream_close_waiter is_closing get_peer streams_started",
        ),
        (grpclib.protocol.EventsProcessor, "processors streams"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_attributes_that_are_read_or_set_are_grpclibs_own(owner: type, names: str) -> None:
    source = inspect.getsource(owner)
    if owner is grpclib.client.Stream:
        source += inspect.getsource(grpclib.client.Channel)
    missing = [name for name in names.split() if name not in source]
    assert missing == []


def test_h2_keeps_its_tables_where_they_are_looked_for() -> None:
    connection = H2Connection(H2Configuration(client_side=False))
    assert callable(connection._frame_dispatch_table[GoAwayFrame])
    assert isinstance(connection.local_settings, Settings)
    assert isinstance(connection.incoming_buffer._data, bytearray)
    assert connection.incoming_buffer._headers_buffer == []
    assert connection.max_inbound_frame_size == 16384
    assert connection.decoder.max_header_list_size == 65536


def test_generated_services_and_stubs_are_of_the_bases_that_are_adapted() -> None:
    assert issubclass(EchoBase, ServiceBase)
    assert issubclass(EchoStub, ServiceStub)
    handlers = EchoBase().__mapping__()
    assert all(isinstance(handler, grpclib.const.Handler) for handler in handlers.values())


def test_a_messages_shape_is_read_from_betterproto2() -> None:
    assert {n: s.wire_type for n, s in message_shape(Ping).items()} == {1: 2, 2: 2, 3: 0}
    labels = message_shape(StoreRequest)[3].message_type
    assert labels is not None
    assert set(message_shape(labels)) == {1, 2}
    assert set(betterproto2.PACKED_TYPES) == set(betterproto2.FIXED_TYPES) | {
        "enum",
        "bool",
        "int32",
        "int64",
        "uint32",
        "uint64",
        "sint32",
        "sint64",
    }

"""The one place that leans on names which grpclib 0.4.9, betterproto2 and h2 do not promise.

grpclib is written for asyncio, but little of it needs a loop: its HTTP/2 stream, its events, its
server and client streams are plain coroutines that wait on events. The classes here put Trio's
under them and give what the rest of this package needs a public name. A test checks that each
private name still exists in the expected shape; the version is pinned for the same reason.

`transport.py` is the HTTP/2 part, `calls.py` the streams that handlers and stubs use, and
`generated.py` what betterproto2 generates. Imported by `hivemind.rpc` alone.
"""

from betterproto2.grpclib import ServiceStub
from grpclib._typing import IServable
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import StreamTerminatedError
from grpclib.metadata import Deadline, decode_grpc_message, decode_metadata, encode_grpc_message

from hivemind.rpc._grpclib.calls import (
    CallChannel,
    ClientCallStream,
    Metadata,
    ServerCallStream,
    ServerDispatch,
    WireDeadline,
)
from hivemind.rpc._grpclib.generated import (
    FieldShape,
    MessageSource,
    StubBase,
    adopt_service,
    message_shape,
)
from hivemind.rpc._grpclib.transport import (
    CallAcceptor,
    Headers,
    LinkConnection,
    LinkProcessor,
    LinkStream,
    StreamReset,
    is_hoarding,
    watch_goaway,
)

__all__ = [
    "CallAcceptor",
    "CallChannel",
    "Cardinality",
    "ClientCallStream",
    "Deadline",
    "FieldShape",
    "Handler",
    "Headers",
    "IServable",
    "LinkConnection",
    "LinkProcessor",
    "LinkStream",
    "MessageSource",
    "Metadata",
    "ServerCallStream",
    "ServerDispatch",
    "ServiceStub",
    "Status",
    "StreamReset",
    "StreamTerminatedError",
    "StubBase",
    "WireDeadline",
    "adopt_service",
    "decode_grpc_message",
    "decode_metadata",
    "encode_grpc_message",
    "is_hoarding",
    "message_shape",
    "watch_goaway",
]

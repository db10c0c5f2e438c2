"""What the first headers of a stream ask for, checked."""

from collections.abc import Container

import attrs

from hivemind.rpc._grpclib import Deadline, Headers, Metadata, Status, decode_metadata


@attrs.frozen
class Request:
    """A call of a method that exists."""

    path: str
    metadata: Metadata
    deadline: Deadline | None
    user_agent: str | None


class Rejected(Exception):
    """The headers are no such call; answered by headers alone."""

    def __init__(self, http_status: int, status: Status | None, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.status = status
        self.message = message


def read_request(headers: Headers, methods: Container[str]) -> Request:
    """The call that `headers` ask for.

    Raises:
        Rejected: they are not gRPC's, name no method of `methods`, or cannot be read.
    """
    fields = dict(headers)
    content_type = fields.get("content-type", "").partition(";")[0]
    path = fields.get(":path", "")
    if fields.get(":method") != "POST":
        raise Rejected(405, None, "")
    if content_type not in {"application/grpc", "application/grpc+proto"}:
        raise Rejected(415, Status.UNKNOWN, "unacceptable content-type")
    if fields.get("te") != "trailers":
        raise Rejected(400, Status.UNKNOWN, "the header `te: trailers` is missing")
    if path not in methods:
        raise Rejected(200, Status.UNIMPLEMENTED, f"no such method: {path}")
    try:
        deadline = Deadline.from_headers(headers)
    except (ValueError, OverflowError):
        message = "the header grpc-timeout is not a time-out"
        raise Rejected(200, Status.INVALID_ARGUMENT, message) from None
    try:
        metadata = decode_metadata(headers)
    except ValueError:
        message = "a binary header is not base64"
        raise Rejected(200, Status.INVALID_ARGUMENT, message) from None
    return Request(path, metadata, deadline, fields.get("user-agent"))

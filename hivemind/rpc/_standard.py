# ruff: noqa: RUF009 - betterproto2 declares fields by calls
"""The messages of gRPC's two standard services, and of the file descriptors that reflection serves.

Declared by hand, since they are few and `proto/` holds this project's own interfaces alone. Field
numbers are those of grpc/health/v1/health.proto, grpc/reflection/v1/reflection.proto and
google/protobuf/descriptor.proto; interoperation with grpcio's health and reflection clients tests
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import betterproto2
from betterproto2 import field

from hivemind.rpc._grpclib import Handler

TEXT, BYTES, INT, MESSAGE = (
    betterproto2.TYPE_STRING,
    betterproto2.TYPE_BYTES,
    betterproto2.TYPE_INT32,
    betterproto2.TYPE_MESSAGE,
)


@dataclass(eq=False, repr=False)
class HealthCheckRequest(betterproto2.Message):
    """Asks for one service, or for the whole server by the empty name."""

    service: str = field(1, TEXT)


class ServingStatus(betterproto2.Enum):
    """What a health check says."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(eq=False, repr=False)
class HealthCheckResponse(betterproto2.Message):
    """The state of one service."""

    status: ServingStatus = field(
        1, betterproto2.TYPE_ENUM, default_factory=lambda: ServingStatus(0)
    )


@dataclass(eq=False, repr=False)
class ExtensionRequest(betterproto2.Message):
    """Names an extension of a message."""

    containing_type: str = field(1, TEXT)
    extension_number: int = field(2, INT)


@dataclass(eq=False, repr=False)
class ServerReflectionRequest(betterproto2.Message):
    """One question about the server's interfaces."""

    host: str = field(1, TEXT)
    file_by_filename: str | None = field(3, TEXT, optional=True, group="message_request")
    file_containing_symbol: str | None = field(4, TEXT, optional=True, group="message_request")
    file_containing_extension: ExtensionRequest | None = field(
        5, MESSAGE, optional=True, group="message_request"
    )
    all_extension_numbers_of_type: str | None = field(
        6, TEXT, optional=True, group="message_request"
    )
    list_services: str | None = field(7, TEXT, optional=True, group="message_request")


@dataclass(eq=False, repr=False)
class FileDescriptorResponse(betterproto2.Message):
    """Serialised file descriptors."""

    file_descriptor_proto: list[bytes] = field(1, BYTES, repeated=True)


@dataclass(eq=False, repr=False)
class ExtensionNumberResponse(betterproto2.Message):
    """The extensions of a message."""

    base_type_name: str = field(1, TEXT)
    extension_number: list[int] = field(2, INT, repeated=True)


@dataclass(eq=False, repr=False)
class ServiceResponse(betterproto2.Message):
    """The full name of a service."""

    name: str = field(1, TEXT)


@dataclass(eq=False, repr=False)
class ListServiceResponse(betterproto2.Message):
    """What the server serves."""

    service: list[ServiceResponse] = field(1, MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class ErrorResponse(betterproto2.Message):
    """Why a question has no answer: a gRPC status and a text."""

    error_code: int = field(1, INT)
    error_message: str = field(2, TEXT)


@dataclass(eq=False, repr=False)
class ServerReflectionResponse(betterproto2.Message):
    """The answer to one question."""

    valid_host: str = field(1, TEXT)
    original_request: ServerReflectionRequest | None = field(2, MESSAGE, optional=True)
    file_descriptor_response: FileDescriptorResponse | None = field(
        4, MESSAGE, optional=True, group="message_response"
    )
    all_extension_numbers_response: ExtensionNumberResponse | None = field(
        5, MESSAGE, optional=True, group="message_response"
    )
    list_services_response: ListServiceResponse | None = field(
        6, MESSAGE, optional=True, group="message_response"
    )
    error_response: ErrorResponse | None = field(
        7, MESSAGE, optional=True, group="message_response"
    )


@dataclass(eq=False, repr=False)
class FieldDescriptor(betterproto2.Message):
    """One field of a message."""

    name: str = field(1, TEXT)
    number: int = field(3, INT)
    label: int = field(4, INT)
    type: int = field(5, INT)
    type_name: str = field(6, TEXT)
    oneof_index: int | None = field(9, INT, optional=True)


@dataclass(eq=False, repr=False)
class Named(betterproto2.Message):
    """Anything of which only the name is wanted: an enum's value, a oneof."""

    name: str = field(1, TEXT)
    number: int = field(2, INT)


@dataclass(eq=False, repr=False)
class EnumDescriptor(betterproto2.Message):
    """An enum."""

    name: str = field(1, TEXT)
    value: list[Named] = field(2, MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class MessageDescriptor(betterproto2.Message):
    """A message."""

    name: str = field(1, TEXT)
    field: list[FieldDescriptor] = betterproto2.field(2, MESSAGE, repeated=True)
    nested_type: list["MessageDescriptor"] = betterproto2.field(3, MESSAGE, repeated=True)
    enum_type: list[EnumDescriptor] = betterproto2.field(4, MESSAGE, repeated=True)
    oneof_decl: list[Named] = betterproto2.field(8, MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class MethodDescriptor(betterproto2.Message):
    """A method of a service."""

    name: str = field(1, TEXT)
    input_type: str = field(2, TEXT)
    output_type: str = field(3, TEXT)
    client_streaming: bool = field(5, betterproto2.TYPE_BOOL)
    server_streaming: bool = field(6, betterproto2.TYPE_BOOL)


@dataclass(eq=False, repr=False)
class ServiceDescriptor(betterproto2.Message):
    """A service."""

    name: str = field(1, TEXT)
    method: list[MethodDescriptor] = field(2, MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class FileDescriptor(betterproto2.Message):
    """A .proto file."""

    name: str = field(1, TEXT)
    package: str = field(2, TEXT)
    dependency: list[str] = field(3, TEXT, repeated=True)
    message_type: list[MessageDescriptor] = field(4, MESSAGE, repeated=True)
    enum_type: list[EnumDescriptor] = field(5, MESSAGE, repeated=True)
    service: list[ServiceDescriptor] = field(6, MESSAGE, repeated=True)
    syntax: str = field(12, TEXT)


@dataclass(eq=False, repr=False)
class FileDescriptorSet(betterproto2.Message):
    """What `protoc --descriptor_set_out` writes, each file left serialised."""

    file: list[bytes] = field(1, BYTES, repeated=True)


_TYPE_NUMBERS = {TEXT: 9, MESSAGE: 11, BYTES: 12, INT: 5, betterproto2.TYPE_ENUM: 14}
_OPTIONAL, _REPEATED = 1, 3


def describe(
    path: str, messages: Sequence[type[betterproto2.Message]], handlers: Mapping[str, Handler]
) -> FileDescriptor:
    """The .proto file `path` that would declare `messages` and the one service of `handlers`.

    Their package is the one in the methods' paths. An enum is declared within the message that
    has a field of it.
    """
    package, _, service = next(iter(handlers)).split("/")[1].rpartition(".")
    methods = [
        MethodDescriptor(
            name=path.rpartition("/")[2],
            input_type=f".{package}.{handler.request_type.__name__}",
            output_type=f".{package}.{handler.reply_type.__name__}",
            client_streaming=handler.cardinality.client_streaming,
            server_streaming=handler.cardinality.server_streaming,
        )
        for path, handler in handlers.items()
    ]
    return FileDescriptor(
        name=path,
        package=package,
        message_type=[_describe_message(message, package) for message in messages],
        service=[ServiceDescriptor(name=service, method=methods)],
        syntax="proto3",
    )


def _describe_message(message: type[betterproto2.Message], package: str) -> MessageDescriptor:
    described = MessageDescriptor(name=message.__name__)
    groups: list[str] = []
    for declared in fields(message):  # type: ignore[arg-type]
        meta = betterproto2.FieldMetadata.get(declared)
        kind = message._cls_for(declared)
        if meta.group and meta.group not in groups:
            groups.append(meta.group)
        type_name = ""
        if meta.proto_type == MESSAGE:
            type_name = f".{package}.{kind.__name__}"
        elif meta.proto_type == betterproto2.TYPE_ENUM:
            type_name = f".{package}.{message.__name__}.{kind.__name__}"
            values = [Named(name=value.name, number=int(value)) for value in cast("Any", kind)]
            described.enum_type.append(EnumDescriptor(name=kind.__name__, value=values))
        described.field.append(
            FieldDescriptor(
                name=declared.name,
                number=meta.number,
                label=_REPEATED if meta.repeated else _OPTIONAL,
                type=_TYPE_NUMBERS[meta.proto_type],
                type_name=type_name,
                oneof_index=groups.index(meta.group) if meta.group else None,
            )
        )
    described.oneof_decl = [Named(name=group) for group in groups]
    return described

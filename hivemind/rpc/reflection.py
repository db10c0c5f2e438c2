"""gRPC's server reflection, v1 and v1alpha: lists the services and gives their .proto files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hivemind.rpc._grpclib import Cardinality, Handler, IServable, ServerCallStream, Status
from hivemind.rpc._standard import (
    ErrorResponse,
    ExtensionNumberResponse,
    ExtensionRequest,
    FileDescriptor,
    FileDescriptorResponse,
    FileDescriptorSet,
    ListServiceResponse,
    MessageDescriptor,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
    describe,
)

_MESSAGES: list[type[Any]] = [
    ServerReflectionRequest,
    ServerReflectionResponse,
    ExtensionRequest,
    FileDescriptorResponse,
    ExtensionNumberResponse,
    ServiceResponse,
    ListServiceResponse,
    ErrorResponse,
]


class Reflection:
    """Answers what is served, and by which files, as `protoc --descriptor_set_out` wrote them.

    Args:
        services: all that the server serves but this one.
        descriptor_set: a serialised FileDescriptorSet with imports.
    """

    def __init__(self, services: Sequence[IServable], descriptor_set: bytes) -> None:
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._symbols: dict[str, str] = {}
        self._messages: set[str] = set()
        for serialised in FileDescriptorSet.parse(descriptor_set).file:
            self._add(FileDescriptor.parse(serialised), serialised)
        described = [file for s in services for file in getattr(s, "describe", list)()]
        for file in [*described, *self._own_files()]:
            self._add(file, bytes(file))
        methods = [method for s in [*services, self] for method in s.__mapping__()]
        self._services = sorted({method.split("/")[1] for method in methods})

    def _own_files(self) -> Iterator[FileDescriptor]:
        for version in ("v1", "v1alpha"):
            path = f"grpc/reflection/{version}/reflection.proto"
            yield describe(path, _MESSAGES, self._mapping(version))

    def _add(self, file: FileDescriptor, serialised: bytes) -> None:
        self._files[file.name] = serialised
        self._imports[file.name] = list(file.dependency)
        prefix = f"{file.package}." if file.package else ""
        for symbol in _symbols(file, prefix):
            self._symbols[symbol] = file.name
        for message in file.message_type:
            self._messages.update(_message_names(message, prefix))

    async def answer(
        self, stream: ServerCallStream[ServerReflectionRequest, ServerReflectionResponse]
    ) -> None:
        """Answer each question of the stream in turn."""
        async for request in stream:
            response = self._respond(request)
            response.valid_host = request.host
            response.original_request = request
            await stream.send_message(response)

    def _respond(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        if request.list_services is not None:
            names = [ServiceResponse(name=name) for name in self._services]
            return ServerReflectionResponse(
                list_services_response=ListServiceResponse(service=names)
            )
        if request.file_by_filename is not None:
            return self._with_imports(request.file_by_filename)
        if request.file_containing_symbol is not None:
            symbol = request.file_containing_symbol.removeprefix(".")
            return self._with_imports(self._symbols.get(symbol))
        if request.all_extension_numbers_of_type is not None:
            name = request.all_extension_numbers_of_type.removeprefix(".")
            if name not in self._messages:
                return _error(Status.NOT_FOUND, f"no such message: {name}")
            return ServerReflectionResponse(
                all_extension_numbers_response=ExtensionNumberResponse(base_type_name=name)
            )
        if request.file_containing_extension is not None:
            return _error(Status.NOT_FOUND, "there are no extensions here")
        return _error(Status.INVALID_ARGUMENT, "the request asks for nothing")

    def _with_imports(self, name: str | None) -> ServerReflectionResponse:
        if name is None or name not in self._files:
            return _error(Status.NOT_FOUND, "no such file or symbol")
        wanted, found = [name], dict[str, bytes]()
        while wanted:
            file = wanted.pop()
            if file in self._files and file not in found:
                found[file] = self._files[file]
                wanted += self._imports[file]
        return ServerReflectionResponse(
            file_descriptor_response=FileDescriptorResponse(
                file_descriptor_proto=list(found.values())
            )
        )

    def _mapping(self, version: str) -> Mapping[str, Handler]:
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        kind = Cardinality.STREAM_STREAM
        return {path: Handler(self.answer, kind, ServerReflectionRequest, ServerReflectionResponse)}

    def __mapping__(self) -> Mapping[str, Handler]:
        return {**self._mapping("v1"), **self._mapping("v1alpha")}


def _error(status: Status, message: str) -> ServerReflectionResponse:
    return ServerReflectionResponse(
        error_response=ErrorResponse(error_code=status.value, error_message=message)
    )


def _symbols(file: FileDescriptor, prefix: str) -> Iterator[str]:
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)
    for enum in file.enum_type:
        yield prefix + enum.name
        yield from (prefix + value.name for value in enum.value)
    for message in file.message_type:
        yield from _message_symbols(message, prefix)


def _message_symbols(message: MessageDescriptor, prefix: str) -> Iterator[str]:
    name = prefix + message.name
    yield name
    yield from (f"{name}.{part.name}" for part in message.field)
    yield from (f"{name}.{part.name}" for part in message.oneof_decl)
    for enum in message.enum_type:
        yield f"{name}.{enum.name}"
        yield from (f"{name}.{value.name}" for value in enum.value)
    for nested in message.nested_type:
        yield from _message_symbols(nested, f"{name}.")


def _message_names(message: MessageDescriptor, prefix: str) -> Iterator[str]:
    yield prefix + message.name
    for nested in message.nested_type:
        yield from _message_names(nested, f"{prefix}{message.name}.")

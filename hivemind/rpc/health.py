"""gRPC's health service on Trio: `Check` asks once, `Watch` says every change."""

from collections.abc import Mapping
from typing import Any

import trio

from hivemind.rpc._grpclib import Cardinality, Handler, ServerCallStream, Status
from hivemind.rpc._standard import (
    FileDescriptor,
    HealthCheckRequest,
    HealthCheckResponse,
    ServingStatus,
    describe,
)
from hivemind.rpc.errors import fail

OVERALL = ""
"""The name under which the whole server is asked for."""

_Stream = ServerCallStream[HealthCheckRequest, HealthCheckResponse]


class Health:
    """The health of the server and of each service; all are well until told otherwise.

    A watcher that reads slowly misses states in between, never the last one, and costs nothing.
    """

    def __init__(self, services: tuple[str, ...] = ()) -> None:
        self._statuses = dict.fromkeys((OVERALL, *services), ServingStatus.SERVING)
        self._changed = trio.Event()
        self._is_shut_down = False

    def set_serving(self, is_serving: bool, service: str = OVERALL) -> None:
        """Say how `service` is, to those who ask and those who watch."""
        status = ServingStatus.SERVING if is_serving else ServingStatus.NOT_SERVING
        if self._is_shut_down:
            status = ServingStatus.NOT_SERVING
        self._statuses[service] = status
        self._wake()

    def shut_down(self) -> None:
        """Say NOT_SERVING for everything from now on, and end every `Watch`, which would otherwise
        hold up a drain.
        """
        self._is_shut_down = True
        self._statuses = dict.fromkeys(self._statuses, ServingStatus.NOT_SERVING)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def check(self, stream: _Stream) -> None:
        """Answer once; NOT_FOUND for a service that is not known."""
        request = await stream.recv_message()
        status = self._statuses.get(request.service if request else OVERALL)
        if status is None:
            raise fail(None, Status.NOT_FOUND, f"no such service: {request and request.service}")
        await stream.send_message(HealthCheckResponse(status=status))

    async def watch(self, stream: _Stream) -> None:
        """Say the state at once and after each change, until the caller goes or `shut_down`."""
        request = await stream.recv_message()
        service = request.service if request else OVERALL
        told: ServingStatus | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, ServingStatus.SERVICE_UNKNOWN)
            if status != told:
                await stream.send_message(HealthCheckResponse(status=status))
                told = status
            if self._is_shut_down:
                return
            await changed.wait()

    def __mapping__(self) -> Mapping[str, Handler]:
        messages = (HealthCheckRequest, HealthCheckResponse)
        return {
            "/grpc.health.v1.Health/Check": Handler(self.check, Cardinality.UNARY_UNARY, *messages),
            "/grpc.health.v1.Health/Watch": Handler(
                self.watch, Cardinality.UNARY_STREAM, *messages
            ),
        }

    def describe(self) -> list[FileDescriptor]:
        """The interface, for reflection."""
        messages: list[type[Any]] = [HealthCheckRequest, HealthCheckResponse]
        return [describe("grpc/health/v1/health.proto", messages, self.__mapping__())]

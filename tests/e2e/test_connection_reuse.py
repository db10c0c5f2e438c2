"""A client dials its master once, whatever it does there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from hivemind.client import open_client
from hivemind.settings.credentials import read_credentials
from tests.pool import Pool


@attrs.define
class Relay:
    """Stands between clients and a master, and counts the connections."""

    master: tuple[str, int]
    address: str = ""
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            async with (
                await trio.open_tcp_stream(*self.master) as onward,
                trio.open_nursery() as ways,
            ):
                ways.start_soon(self._pass, stream, onward, ways.cancel_scope)
                ways.start_soon(self._pass, onward, stream, ways.cancel_scope)
        finally:
            await trio.aclose_forcefully(stream)

    async def _pass(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        both.cancel()


@asynccontextmanager
async def open_relay(master: str) -> AsyncIterator[Relay]:
    host, port = master.split(":")
    relay = Relay((host, int(port)))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay.serve, 0, host="127.0.0.1"))
        relay.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        yield relay
        nursery.cancel_scope.cancel()


async def test_many_calls_side_by_side_share_one_connection(pool: Pool, tmp_path: Path) -> None:
    up = await trio.to_thread.run_sync(pool.up)
    credentials = read_credentials(up.home)
    assert credentials is not None
    async with open_relay(up.address) as relay:
        async with open_client(relay.address, credentials.token) as client:
            numbers = []

            async def run(number: int) -> None:
                finished = await client.run(command=["echo", str(number)])
                numbers.append(int(finished.stdout))
                await client.download(finished.task.id, tmp_path / f"{number}.zip")

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(run, number)
            assert sorted(numbers) == list(range(12))
            assert len([task async for task in client.list(include_ended=True)]) == 12
            assert len([node async for node in client.nodes()]) == 1
        assert relay.connections == 1
        done = await trio.to_thread.run_sync(
            partial(
                pool.cli,
                *("run", "--output", str(tmp_path / "out.zip"), "--", "echo", "more"),
                home=up.home,
                environment={
                    "HIVEMIND_MASTER": relay.address,
                    "HIVEMIND_TOKEN": credentials.token,
                },
            )
        )
        assert (done.returncode, done.stdout) == (0, b"more\n"), done.stderr.decode()
        assert relay.connections == 2

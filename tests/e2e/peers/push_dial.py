"""In a network where 10.9.9.1 is elsewhere: grpcio servers there, and the master's way to nodes.

Usage: push_dial.py FOLDER_OF_CERTIFICATES; prints one JSON document.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import trio

from hivemind.master.push_dial import PushDial
from hivemind.rpc.errors import RpcError
from hivemind.rpc.tls import client_tls

HOST = "10.9.9.1"


def serve(credentials: grpc.ServerCredentials | None) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    if credentials is None:
        return server, server.add_insecure_port(f"{HOST}:0")
    return server, server.add_secure_port(f"{HOST}:0", credentials)


async def reach(dial: PushDial, port: int) -> str:
    """What came of asking whether it is there."""
    try:
        async with dial.connect(HOST, port) as client:
            await client.check()
    except RpcError as error:
        return f"{type(error).__name__}: {error}"
    return "reached"


def main() -> None:
    folder = Path(sys.argv[1])
    pair = ((folder / "node-key.pem").read_bytes(), (folder / "node.pem").read_bytes())
    secure, secure_port = serve(grpc.ssl_server_credentials([pair]))
    plain, plain_port = serve(None)
    ca = client_tls(ca=folder / "ca.pem")
    stranger = client_tls(ca=folder / "others" / "ca.pem")
    strict = PushDial(tls=lambda: None, allow_plaintext=False)
    lax = PushDial(tls=lambda: None, allow_plaintext=True)
    pooled = PushDial(tls=lambda: ca, allow_plaintext=True)
    wrong = PushDial(tls=lambda: stranger, allow_plaintext=False)
    secure.start()
    plain.start()
    seen = {
        "plain, forbidden": trio.run(reach, strict, plain_port),
        "plain, allowed": trio.run(reach, lax, plain_port),
        "plain, with an authority": trio.run(reach, pooled, plain_port),
        "secure": trio.run(reach, pooled, secure_port),
        "secure, another authority's": trio.run(reach, wrong, secure_port),
    }
    secure.stop(None)
    plain.stop(None)
    print(json.dumps(seen))


main()

"""In a network where 10.9.9.1 is elsewhere: grpcio servers there, and the master's way to nodes.
10.9.9.2 is the machine's own.

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
OWN = "10.9.9.2"


def serve(credentials: grpc.ServerCredentials | None) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    if credentials is None:
        return server, server.add_insecure_port(f"{HOST}:0")
    return server, server.add_secure_port(f"{HOST}:0", credentials)


async def reach(dial: PushDial, port: int, host: str = HOST) -> str:
    """What came of asking whether it is there."""
    try:
        async with dial.connect(host, port, "ann") as client:
            await client.check()
    except RpcError as error:
        return f"{type(error).__name__}: {error}"
    return "reached"


def main() -> None:
    folder = Path(sys.argv[1])
    pair = ((folder / "node-key.pem").read_bytes(), (folder / "node.pem").read_bytes())
    secure, secure_port = serve(grpc.ssl_server_credentials([pair]))
    plain, plain_port = serve(None)
    own_port = plain.add_insecure_port(f"{OWN}:0")
    ca = client_tls(ca=folder / "ca.pem")
    stranger = client_tls(ca=folder / "others" / "ca.pem")
    strict = PushDial(tls=lambda: None, allow_plaintext=False, may_be_local=lambda: False)
    lax = PushDial(tls=lambda: None, allow_plaintext=True, may_be_local=lambda: False)
    pooled = PushDial(tls=lambda: ca, allow_plaintext=True, may_be_local=lambda: False)
    wrong = PushDial(tls=lambda: stranger, allow_plaintext=False, may_be_local=lambda: False)
    home = PushDial(tls=lambda: None, allow_plaintext=True, may_be_local=lambda: True)
    secure.start()
    plain.start()
    seen = {
        "plain, forbidden": trio.run(reach, strict, plain_port),
        "plain, allowed": trio.run(reach, lax, plain_port),
        "plain, with an authority": trio.run(reach, pooled, plain_port),
        "secure": trio.run(reach, pooled, secure_port),
        "secure, another authority's": trio.run(reach, wrong, secure_port),
        "own, forbidden": trio.run(reach, lax, own_port, OWN),
        "own, allowed": trio.run(reach, home, own_port, OWN),
    }
    secure.stop(None)
    plain.stop(None)
    print(json.dumps(seen))


main()

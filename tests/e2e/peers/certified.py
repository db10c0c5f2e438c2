"""An ordinary grpcio client over TLS, with and without a certificate. Prints one JSON document.

Usage: certified.py STUBS_FOLDER ADDRESS TLS_FOLDER TOKEN
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2
import nodepool_pb2_grpc
from hivemind_v1 import accounts_pb2, accounts_pb2_grpc, link_pb2, link_pb2_grpc

_, address, tls_folder, token = sys.argv[1:]
FOLDER = Path(tls_folder)


def credentials(name: str | None) -> grpc.ChannelCredentials:
    ca = (FOLDER / "ca.pem").read_bytes()
    if name is None:
        return grpc.ssl_channel_credentials(ca)
    key, certificate = FOLDER / f"{name}-key.pem", FOLDER / f"{name}.pem"
    return grpc.ssl_channel_credentials(ca, key.read_bytes(), certificate.read_bytes())


def outcome(call: Any) -> list[str]:
    try:
        call(timeout=10)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def seen_with(name: str | None) -> dict[str, list[str]]:
    with grpc.secure_channel(address, credentials(name)) as channel:
        users = nodepool_pb2_grpc.UserServiceStub(channel)
        accounts = accounts_pb2_grpc.AccountsStub(channel)
        link = link_pb2_grpc.LinkStub(channel)
        bearer = [("authorization", f"Bearer {token}")]
        return {
            "login": outcome(
                lambda **o: users.Login(
                    nodepool_pb2.LoginRequest(username="nobody", password="a password"), **o
                )
            ),
            "whoami": outcome(
                lambda **o: accounts.WhoAmI(accounts_pb2.WhoAmIRequest(), metadata=bearer, **o)
            ),
            "challenge": outcome(
                lambda **o: link.Challenge(link_pb2.ChallengeRequest(node_id="n" * 26), **o)
            ),
        }


print(json.dumps({name or "": seen_with(name) for name in (None, "worker", "ann")}))

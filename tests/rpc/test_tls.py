"""TLS and mTLS, with certificates made here by the openssl program."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.context import current_call
from hivemind.rpc.errors import CertificateRefused, ConnectFailed, NoGrpc, TlsFailed
from hivemind.rpc.stubs import bind
from hivemind.rpc.tls import BadCertificate, client_tls, name_to_expect, server_tls
from tests.rpc._pb.hmtest import EchoStub, Ping, Pong
from tests.rpc.conftest import GrpcioClient
from tests.rpc.service import EchoService, serving

CALL = "say(outcome(stub.Unary.future(pb.Ping(text='x', data=b'y' * 200_000), timeout=5)))"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate for localhost, and a client's."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    for name in ("server", "client"):
        request = ["-keyout", f"{name}.key", "-subj", f"/CN={name}", "-addext", names]
        signed = ["-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem"]
        openssl("req", *curve, *request, *signed)
    openssl("req", "-x509", *curve, "-keyout", "o.key", "-out", "other.pem", "-subj", "/CN=other")
    return folder


class Named(EchoService):
    """Says whose certificate the caller showed."""

    async def unary(self, message: Ping) -> Pong:
        certificate = current_call().peer_certificate or {}
        subject: Any = certificate.get("subject", ())
        return Pong(text=",".join(value for ((_, value),) in subject), data=message.data)


async def test_tls_serves_grpcio_and_our_own_client(
    keys: Path, grpcio_client: GrpcioClient
) -> None:
    tls = server_tls(keys / "server.pem", keys / "server.key")
    ca = (keys / "ca.pem").read_text()
    async with (
        serving([EchoService()], tls=tls) as at,
        grpcio_client(at.port, CALL, host="localhost", ca=ca) as client,
    ):
        assert (await client.hear())["status"] == "OK"
        trusting = client_tls(ca=keys / "ca.pem")
        async with open_channel("localhost", at.port, tls=trusting) as channel:
            pong = await bind(EchoStub, channel).unary(Ping(data=b"z" * 500_000))
            assert len(pong.data) == 500_000


async def test_mtls_knows_the_client_by_its_certificate_and_refuses_those_without(
    keys: Path, grpcio_client: GrpcioClient
) -> None:
    tls = server_tls(keys / "server.pem", keys / "server.key", client_ca=keys / "ca.pem")
    pems = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
    job = {name: (keys / file).read_text() for name, file in pems.items()}
    async with serving([Named()], tls=tls) as at:
        async with grpcio_client(at.port, CALL, host="localhost", **job) as client:
            assert (await client.hear())["text"] == "client"
        async with grpcio_client(at.port, CALL, host="localhost", ca=job["ca"]) as client:
            assert (await client.hear())["status"] == "UNAVAILABLE"
        with trio.fail_after(5), pytest.raises(ConnectFailed, match="localhost"):
            async with open_channel("localhost", at.port, tls=client_tls(ca=keys / "ca.pem")):
                pass
        mine = client_tls(
            ca=keys / "ca.pem", certificate=keys / "client.pem", key=keys / "client.key"
        )
        async with open_channel("localhost", at.port, tls=mine) as channel:
            assert (await bind(EchoStub, channel).unary(Ping())).text == "client"


async def test_a_server_that_is_not_trusted_is_one_clear_line(keys: Path) -> None:
    tls = server_tls(keys / "server.pem", keys / "server.key")
    async with serving([EchoService()], tls=tls) as at:
        with pytest.raises(CertificateRefused, match="certificate refused"):
            async with open_channel("localhost", at.port, tls=client_tls(ca=keys / "other.pem")):
                pass


async def test_tls_to_a_plain_server_and_plain_to_a_tls_server_are_refused(keys: Path) -> None:
    config = TransportConfig(connect_s=2)
    trusting = client_tls(ca=keys / "ca.pem")
    async with serving([EchoService()]) as at:
        with pytest.raises(TlsFailed, match="TLS"):
            async with open_channel("localhost", at.port, tls=trusting, config=config):
                pass
    tls = server_tls(keys / "server.pem", keys / "server.key")
    async with serving([EchoService()], tls=tls) as at:
        with pytest.raises(NoGrpc, match="no gRPC server there"):
            async with open_channel("localhost", at.port, config=config):
                pass


async def test_a_client_that_never_finishes_tls_is_hung_up_on(keys: Path) -> None:
    tls = server_tls(keys / "server.pem", keys / "server.key")
    config = TransportConfig(handshake_s=0.1)
    async with (
        serving([EchoService()], tls=tls, config=config) as at,
        await trio.open_tcp_stream("127.0.0.1", at.port) as stream,
    ):
        with trio.fail_after(5):
            assert await stream.receive_some(100) == b""


def _certificate(folder: Path, *more: str) -> tuple[Path, Path]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    files = ["-keyout", "own.key", "-out", "own.pem", "-subj", "/CN=pool"]
    arguments = ["openssl", "req", "-x509", *curve, *files, *more]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    return folder / "own.pem", folder / "own.key"


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        ("DNS:a.example,IP:127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("DNS:a.example,IP:127.0.0.1", "b.example", "a.example"),
        ("DNS:*.a.example", "127.0.0.1", "master.a.example"),
    ],
)
async def test_a_server_is_known_by_its_own_certificate_under_the_name_to_expect(
    tmp_path: Path, names: str, host: str, expected: str
) -> None:
    # Not fit to sign others, and so no authority at all.
    leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
    pem, key = _certificate(tmp_path, "-addext", f"subjectAltName={names}", *leaf)
    name = name_to_expect(pem, key, host)
    assert name == expected
    async with (
        serving([EchoService()], tls=server_tls(pem, key)) as at,
        open_channel("127.0.0.1", at.port, tls=client_tls(ca=pem), server_name=name) as channel,
    ):
        assert (await bind(EchoStub, channel).unary(Ping(data=b"x"))).data == b"x"
    async with serving([EchoService()], tls=server_tls(pem, key)) as at:
        with pytest.raises(CertificateRefused, match="ismatch"):
            async with open_channel(
                "127.0.0.1", at.port, tls=client_tls(ca=pem), server_name="c.example"
            ):
                pass


def test_a_certificate_for_no_name_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadCertificate, match="subjectAltName"):
        name_to_expect(*_certificate(tmp_path), "127.0.0.1")


def test_a_file_that_is_no_certificate_is_one_clear_line(keys: Path) -> None:
    with pytest.raises(BadCertificate, match=r"nothing\.pem"):
        server_tls(keys / "nothing.pem", keys / "server.key")
    with pytest.raises(BadCertificate, match=r"the certificate \S*nothing\.pem"):
        name_to_expect(keys / "nothing.pem", keys / "server.key", "127.0.0.1")
    with pytest.raises(BadCertificate, match=r"server\.key"):
        client_tls(ca=keys / "server.key")

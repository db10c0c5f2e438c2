"""TLS for both ends: HTTP/2 only, client certificates where a CA for them is given."""

import ssl
from pathlib import Path

from hivemind.rpc.errors import RpcError


class BadCertificate(RpcError):
    """A certificate, key or CA file that cannot be used."""


def server_tls(certificate: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """For a server; with `client_ca`, clients without a certificate signed by it are refused.

    Raises:
        BadCertificate: a file is missing or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return _http2_only(context)


def client_tls(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """For a client that checks the server's name and certificate, by `ca` or the system's CAs, and
    shows its own `certificate` if it has one.

    Raises:
        BadCertificate: a file is missing or not what it should be.
    """
    context = ssl.create_default_context()
    if ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, ca)
    if certificate is not None:
        _load(context, certificate, key or certificate)
    return _http2_only(context)


def _http2_only(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise BadCertificate(f"cannot use certificate {certificate} with {key}: {error}") from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise BadCertificate(f"cannot use the CA file {ca}: {error}") from error

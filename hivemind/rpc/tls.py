"""TLS for both ends: HTTP/2 only, client certificates where a CA for them is given."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hivemind.rpc.errors import RpcError


class BadCertificate(RpcError):
    """A certificate, key or CA file that cannot be used."""


def server_tls(
    certificate: Path,
    key: Path,
    *,
    client_ca: Path | None = None,
    is_client_certificate_required: bool = True,
) -> ssl.SSLContext:
    """For a server. With `client_ca`, a certificate that a client shows must be signed by it, and
    a client without one is refused, unless it is not required.

    Raises:
        BadCertificate: a file is missing or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = (
            ssl.CERT_REQUIRED if is_client_certificate_required else ssl.CERT_OPTIONAL
        )
    return _http2_only(context)


def client_tls(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """For a client that checks the server's name and certificate, by `ca` or the system's CAs, and
    shows its own `certificate` if it has one.

    Every certificate in the file `ca` is trusted by itself, so that a server's own will do.

    Raises:
        BadCertificate: a file is missing or not what it should be.
    """
    if ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate is not None:
        _load(context, certificate, key or certificate)
    return _http2_only(context)


def name_to_expect(certificate: Path, key: Path, host: str) -> str:
    """A name by which a client that trusts this server certificate will accept it.

    That is `host` where the certificate is for it, else the first name that it is for.

    Raises:
        BadCertificate: no client would accept it: it has expired, or names nobody.
    """
    names = _names(certificate, key)
    if host in names:
        return host
    if not names:
        raise BadCertificate(
            f"the certificate {certificate} is for no name: make one with a subjectAltName, such "
            "as IP:192.0.2.1 or DNS:pool.example"
        )
    return names[0].replace("*", "master", 1)


def is_key_open(key: Path) -> bool:
    """Whether any user of this machine may read, or replace, what is in the key's file.

    A group may: some machines give a group of daemons their certificates.
    """
    try:
        return bool(key.stat().st_mode & 0o007)
    except OSError:
        return False


def is_good_for_clients(certificate: Path, key: Path, client_ca: Path) -> bool:
    """Whether a server that demands certificates signed by `client_ca` would take this one.

    Raises:
        BadCertificate: a file is missing or not what it should be.
    """
    client_side = client_tls(ca=certificate, certificate=certificate, key=key)
    client_side.check_hostname = False
    try:
        _shake_hands(server_tls(certificate, key, client_ca=client_ca), client_side)
    except ssl.SSLError:
        return False
    return True


def _names(certificate: Path, key: Path) -> list[str]:
    """What the certificate is for, as a client reads it: ssl parses only a peer's certificate."""
    # The server's first: a file that is not there is then named as what it was to be.
    server_side, client_side = server_tls(certificate, key), client_tls(ca=certificate)
    client_side.check_hostname = False
    try:
        client = _shake_hands(server_side, client_side)
    except ssl.SSLCertVerificationError as error:
        raise BadCertificate(
            f"no client would accept the certificate {certificate}: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise BadCertificate(
            f"TLS cannot be spoken with the certificate {certificate}: {error.reason}"
        ) from error
    shown = client.getpeercert() or {}
    alternatives: Any = shown.get("subjectAltName", ())
    return [name for kind, name in alternatives if kind in {"DNS", "IP Address"}]


def _shake_hands(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a handshake in memory. Raises ssl.SSLError, the server's included."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server)
    for _ in range(3):  # each side speaks twice, the client first
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client


def _http2_only(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _read_once(certificate, "certificate")
    _read_once(key, "key")
    try:
        context.load_cert_chain(certificate, key, password=_no_password(key))
    except OSError as error:
        raise BadCertificate(
            f"cannot use certificate {certificate} with {key}: {_reason(error)}"
        ) from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _read_once(ca, "CA file")
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise BadCertificate(f"cannot use the CA file {ca}: {_reason(error)}") from error


def _read_once(path: Path, what: str) -> None:
    """OpenSSL does not say which of its files it was that could not be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BadCertificate(f"cannot read the {what} {path}: {error.strerror}") from error


def _no_password(key: Path) -> Callable[[], str]:
    def ask() -> str:
        # Else OpenSSL would ask whoever sits at the terminal.
        raise BadCertificate(
            f"the key {key} is encrypted: `openssl pkey -in {key} -out plain.pem` makes one that "
            "a daemon can read"
        )

    return ask


_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is not the certificate's",
    "NO_START_LINE": "it is no certificate in PEM",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
}


def _reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return _REASONS.get(reason or "", reason or str(error))

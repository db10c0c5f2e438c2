"""How a worker speaks to its master, and waits for it to be let in."""

import random
import socket
import ssl

import structlog
import trio

from hivemind.core.ids import NODE_NAME_LENGTH
from hivemind.core.wording import one_line
from hivemind.rpc.errors import (
    CertificateRefused,
    NoGrpc,
    OwnCertificateRefused,
    RpcError,
    TlsFailed,
)
from hivemind.rpc.plaintext import PlaintextRefused
from hivemind.rpc.tls import client_tls, is_key_open, server_tls
from hivemind.settings.credentials import Credentials, read_credentials
from hivemind.settings.daemon import TLS_CA_VARIABLE, WorkerConfig, parse_address
from hivemind.supervision import Backoff
from hivemind.worker.dial import Dial, NotTrusted
from hivemind.worker.identity import Identity, IdentityFolder, join

_JOIN_BACKOFF = Backoff(first_s=0.2, most_s=10.0)

log = structlog.get_logger(__name__)


def credentials_of_home(config: WorkerConfig) -> Credentials | None:
    """The home's credentials, if they are for this master: no other may see their token."""
    known = read_credentials(config.home)
    return known if known is not None and parse_address(known.master) == config.master else None


def own_tls(config: WorkerConfig) -> ssl.SSLContext | None:
    """How the worker's own services are spoken to; None: plain HTTP/2. Raises BadCertificate."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = server_tls(config.tls_cert, config.tls_key)
    if is_key_open(config.tls_key):
        key = config.tls_key
        log.warning("key_open_to_all", key=str(key), detail=f"take it back with `chmod 600 {key}`")
    return context


def dial_of(config: WorkerConfig, known: Credentials | None) -> Dial | None:
    """None for a worker that has no master."""
    if config.master is None:
        return None
    host, port = config.master
    is_own = config.tls_ca is None and known is not None
    return Dial(
        host=host,
        port=port,
        tls=master_tls(config, known),
        tls_name=known.tls_name if is_own and known is not None else None,
        allow_plaintext=config.allow_plaintext or (known is not None and known.allow_plaintext),
    )


def master_tls(config: WorkerConfig, known: Credentials | None) -> ssl.SSLContext | None:
    """How to know the master, and what to show it. Raises BadCertificate."""
    ca = config.tls_ca or (known.tls_ca if known is not None else None)
    if ca is None:
        return None
    if config.tls_cert is not None or known is None:
        return client_tls(ca=ca, certificate=config.tls_cert, key=config.tls_key)
    return client_tls(ca=ca, certificate=known.tls_cert, key=known.tls_key)


async def join_master(
    dial: Dial,
    folder: IdentityFolder,
    config: WorkerConfig,
    known: Credentials | None,
    address: str,
) -> Identity:
    """The identity that the master accepts, however long the master may be away.

    A master that is there and cannot be known by its certificate is not waited for.
    """
    name = config.name or socket.gethostname()[:NODE_NAME_LENGTH]
    join_token = config.join_token or (known.token if known is not None else None)
    told = ""
    failures = 0
    while True:
        try:
            return await join(dial, folder, name=name, join_token=join_token)
        except CertificateRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: set --tls-ca, or {TLS_CA_VARIABLE}, to a file with the "
                "master's certificate, and --master to a name that it is for"
            ) from error
        except OwnCertificateRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: give --tls-cert and --tls-key one of its authority's "
                "(`hivemind tls issue` makes them)"
            ) from error
        except PlaintextRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: set --tls-ca to a file with the master's certificate, or "
                "say --allow-plaintext"
            ) from error
        except RpcError as error:
            reason = one_line(str(error))
            if isinstance(error, NoGrpc) and dial.tls is None:
                reason += "; if it is a master with a certificate, set --tls-ca to a file with that"
            elif isinstance(error, TlsFailed):
                reason += "; if it is a master without a certificate, take --tls-ca away"
        if reason != told:
            told = reason
            log.warning("master_not_reached", master=dial.address, reason=reason, listening=address)
        failures += 1
        await trio.sleep(_JOIN_BACKOFF.delay_s(failures, random.random()))  # noqa: S311

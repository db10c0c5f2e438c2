"""The master's end of TLS: its certificate, and who must show one."""

import ssl
from pathlib import Path

import attrs
import structlog

from hivemind.rpc.tls import (
    client_tls,
    is_good_for_clients,
    is_key_open,
    name_to_expect,
    server_tls,
)
from hivemind.settings.daemon import MasterConfig

WORKER_METHODS = frozenset(
    {
        "/hivemind.v1.Link/",
        "/nodepool.NodeManagerService/RegisterWorkerNode",
        "/nodepool.NodeManagerService/ReportStatus",
        "/nodepool.MasterNodeService/StoreOutput",
        "/nodepool.MasterNodeService/StoreResult",
        "/nodepool.MasterNodeService/StoreLogs",
        "/nodepool.MasterNodeService/TaskCompleted",
        "/nodepool.MasterNodeService/ReturnTaskResult",
        "/nodepool.WorkerNodeService/",
        "/hivemind.v1.Reports/",
    }
)
"""What workers call and nobody else does: where the master knows an authority for workers, these
take a certificate of it besides whatever else they take."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@attrs.frozen
class MasterTls:
    """What the master's server needs, and what those on this machine need to know it."""

    context: ssl.SSLContext
    certificate: Path
    name: str
    """A name that the certificate is for."""
    pushing: ssl.SSLContext | None
    """For speaking to nodes on other machines, whose certificates are the authority's; None where
    the master knows no authority."""
    client_certificate: tuple[Path, Path] | None
    """With which those on this machine can show that they belong to the authority: certificate and
    key. None where nobody is asked, or the master's own will not do."""

    @property
    def certified(self) -> frozenset[str]:
        """The methods that take a certificate of the caller's."""
        return frozenset() if self.context.verify_mode is ssl.CERT_NONE else WORKER_METHODS


def load_tls(config: MasterConfig) -> MasterTls | None:
    """None where the master has no certificate. Raises BadCertificate."""
    certificate, key, ca = config.tls_cert, config.tls_key, config.tls_ca
    if certificate is None or key is None:
        return None
    name = name_to_expect(certificate, key, local_host(config.host))
    context = server_tls(
        certificate,
        key,
        client_ca=ca,
        is_client_certificate_required=config.tls_clients == "required",
    )
    if is_key_open(key):
        log.warning("key_open_to_all", key=str(key), detail=f"take it back with `chmod 600 {key}`")
    shown = None
    if ca is not None:
        if is_good_for_clients(certificate, key, ca):
            shown = (certificate, key)
        else:
            log.warning(
                "own_certificate_is_none_for_clients",
                certificate=str(certificate),
                detail="a worker or command on this machine needs one of its own",
            )
    pushing = None
    if ca is not None:
        own = (None, None) if shown is None else shown
        pushing = client_tls(ca=ca, certificate=own[0], key=own[1])
    return MasterTls(context, certificate, name, pushing, shown)


def local_host(listens_at: str) -> str:
    """Where programs on this machine reach a master that listens there."""
    return "127.0.0.1" if listens_at in {"0.0.0.0", "::", ""} else listens_at  # noqa: S104

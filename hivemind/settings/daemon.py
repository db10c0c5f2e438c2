"""The configuration of the daemons: flags over the environment over a file over defaults."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from hivemind.settings import values
from hivemind.settings.errors import BadSetting
from hivemind.settings.home import HOME_VARIABLE, find_home
from hivemind.settings.tables import Key, read_table, structure

MASTER_VARIABLE = "HIVEMIND_MASTER"
TOKEN_VARIABLE = "HIVEMIND_TOKEN"  # noqa: S105
TLS_CA_VARIABLE = "HIVEMIND_TLS_CA"
TLS_CERT_VARIABLE = "HIVEMIND_TLS_CERT"
TLS_KEY_VARIABLE = "HIVEMIND_TLS_KEY"
PLAINTEXT_VARIABLE = "HIVEMIND_ALLOW_PLAINTEXT"

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")


class BadAddress(BadSetting):
    """A text that is not HOST:PORT."""

    def __init__(self, address: str, why: str) -> None:
        shown = ascii(address if len(address) <= 80 else address[:80] + "...")
        super().__init__(
            f"{shown} is not an address ({why}): write HOST:PORT, or [ADDRESS]:PORT for IPv6"
        )


@attrs.frozen(kw_only=True)
class MasterConfig:
    """How a master runs."""

    home: Path
    """The folder in which it keeps everything; ``HIVEMIND_HOME`` and ``--home`` go before it, and
    the user's data folder is what is left."""
    listen: tuple[str, int] = ("127.0.0.1", 50051)
    """Host and port; port 0 takes a free one."""
    tls_cert: Path | None = None
    """A certificate chain in PEM; without it the master speaks plain HTTP/2, on loopback alone."""
    tls_key: Path | None = None
    """The certificate's key, in PEM."""
    tls_ca: Path | None = None
    """The authority of the workers' certificates, in PEM: with it, a worker without one is
    refused."""
    tls_clients: str = "optional"
    """``required`` refuses people without a certificate of ``tls_ca``, too."""
    allow_plaintext: bool = False
    """``true`` lets it listen where others can reach it without a certificate, so that anybody on
    the network may read passwords and tokens."""
    log_format: str = "text"
    """``text`` or ``json``."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""

    @property
    def host(self) -> str:
        """The host of ``listen``."""
        return self.listen[0]

    @property
    def port(self) -> int:
        """The port of ``listen``."""
        return self.listen[1]


@attrs.frozen(kw_only=True)
class WorkerConfig:
    """How a worker runs, and what it offers; None where the machine decides."""

    home: Path
    """The folder in which it keeps everything; ``HIVEMIND_HOME`` and ``--home`` go before it, and
    the user's data folder is what is left."""
    master: tuple[str, int] | None = None
    """The master's host and port; ``HIVEMIND_MASTER`` and ``--master`` go before it. A worker that
    is to be used directly alone has none, and says where it listens."""
    listen: tuple[str, int] = ("127.0.0.1", 0)
    """Host and port of the worker's own services; port 0 takes a free one."""
    join_token: str | None = attrs.field(default=None, repr=False)
    """A one-time token, or an account's, with which a worker that is not enrolled yet enrols."""
    slots: int | None = None
    """How many tasks may run at once; unless said, one for each CPU."""
    cpu_millis: int | None = None
    """The CPUs that it offers to tasks, such as ``4`` or ``0.5``; unless said, all."""
    memory_bytes: int | None = None
    """The memory that it offers to tasks, such as ``"8G"``; unless said, as much as the machine can
    spare."""
    limits: str = "cgroup"
    """``cgroup``, or ``best-effort`` on a machine that has no cgroup to give."""
    name: str = ""
    """What people call the node; empty: the machine's own name."""
    location: str = ""
    """Where the machine is, for tasks that ask for a place."""
    tls_ca: Path | None = None
    """The certificates by which to know the master, in PEM: its own, or its authority's; without
    them it is spoken to in plain HTTP/2, on this machine alone."""
    tls_cert: Path | None = None
    """The worker's own certificate chain in PEM: for its own services, which speak plain HTTP/2
    without it, and for a master that asks workers for one."""
    tls_key: Path | None = None
    """The certificate's key, in PEM."""
    allow_plaintext: bool = False
    """``true`` lets it speak to a master on another machine, or listen where others can reach it,
    without a certificate, so that anybody on the way may read tokens and tasks."""
    drain_grace_s: float = 30.0
    """How long what runs may go on when the worker is told to end."""
    log_format: str = "text"
    """``text`` or ``json``."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""


def parse_address(address: str, *, may_be_free: bool = False) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 only where it may be a free one.

    Raises BadAddress.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise BadAddress(address, "it lacks the port" if not colon else "it lacks the host")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535 and len(port) <= 5):
        raise BadAddress(address, "a port is a number up to 65535")
    if int(port) == 0 and not may_be_free:
        raise BadAddress(address, "port 0 is nobody's")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise BadAddress(address, "what is in brackets is no IPv6 address") from error
    elif not _HOST.fullmatch(host):
        raise BadAddress(address, "its host is neither a name nor an IPv4 address")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """``HOST:PORT`` as ``parse_address`` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_master_config(
    file: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
) -> MasterConfig:
    """A master's configuration.

    Args:
        file: what ``--config`` names, if anything.
        flags: values by key, None where a flag was not given; texts as people typed them.
        environ: the process's own environment, unless given.

    Raises BadSetting or HomeUnusable.
    """
    table, sources = _merge(file, flags, environ, {})
    config = structure(MasterConfig, table, MASTER_KEYS, source=str(file), sources=sources)
    _check_pair(config, file)
    if config.tls_ca is not None and config.tls_cert is None:
        raise BadSetting(f"{file or 'flags'}: tls_cert: tls_ca takes tls_cert and tls_key, too")
    if config.tls_clients == "required" and config.tls_ca is None:
        raise BadSetting(f"{file or 'flags'}: tls_ca: it says whose certificates are required")
    return config


def _check_pair(config: MasterConfig | WorkerConfig, file: Path | None) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        lacking = "tls_key" if config.tls_key is None else "tls_cert"
        raise BadSetting(f"{file or 'flags'}: {lacking}: TLS takes both tls_cert and tls_key")


def load_worker_config(
    file: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
) -> WorkerConfig:
    """A worker's configuration; arguments and errors as for ``load_master_config``."""
    variables = {
        "master": MASTER_VARIABLE,
        "join_token": TOKEN_VARIABLE,
        "tls_ca": TLS_CA_VARIABLE,
        "tls_cert": TLS_CERT_VARIABLE,
        "tls_key": TLS_KEY_VARIABLE,
        "allow_plaintext": PLAINTEXT_VARIABLE,
    }
    table, sources = _merge(file, flags, environ, variables)
    if "master" not in table and "listen" not in table:
        raise BadSetting(
            f"no master is named: give --master HOST:PORT, or set {MASTER_VARIABLE}; for a worker "
            "that is used directly, without one, give --listen HOST:PORT"
        )
    config = structure(WorkerConfig, table, WORKER_KEYS, source=str(file), sources=sources)
    _check_pair(config, file)
    return config


def _merge(
    file: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None,
    variables: Mapping[str, str],
) -> tuple[dict[str, object], dict[str, str]]:
    """Each key's value from where it weighs most, and the name of that place if not the file."""
    known = os.environ if environ is None else environ
    table = read_table(file) if file is not None else {}
    sources = {}
    for key, variable in {"home": HOME_VARIABLE, **variables}.items():
        if value := known.get(variable):
            table[key], sources[key] = value, variable
    for key, flag in flags.items():
        if flag is not None:
            table[key], sources[key] = flag, _FLAGS.get(key, f"--{key.replace('_', '-')}")
    if "home" not in table:
        table["home"] = str(find_home(None, known))
    return table, sources


_FLAGS = {"join_token": "--join"}


def _path(value: object) -> Path:
    return value.expanduser().absolute() if isinstance(value, Path) else values.path(value)


def _whole(value: object) -> int:
    """A whole number from 1, which a flag may give as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return values.at_least_one(int(value))
    return values.at_least_one(value)


def allowance(value: object) -> bool:
    """Yes or no, which a variable says as ``1`` or ``0``. Raises ValueError."""
    if isinstance(value, str) and value in {"0", "1"}:
        return value == "1"
    return values.flag(value)


def _listen(value: object) -> tuple[str, int]:
    return parse_address(values.text(value), may_be_free=True)


def _address(value: object) -> tuple[str, int]:
    return parse_address(values.text(value))


_LOG_KEYS: Mapping[str, Key] = {
    "log_format": Key(read=values.choice("text", "json")),
    "log_level": Key(read=values.choice("debug", "info", "warning", "error")),
}

MASTER_KEYS: Mapping[str, Key] = {
    "home": Key(read=_path),
    "listen": Key(read=_listen),
    "tls_cert": Key(read=_path),
    "tls_key": Key(read=_path),
    "tls_ca": Key(read=_path),
    "tls_clients": Key(read=values.choice("optional", "required")),
    "allow_plaintext": Key(read=allowance),
    **_LOG_KEYS,
}

WORKER_KEYS: Mapping[str, Key] = {
    "home": Key(read=_path),
    "master": Key(read=_address),
    "listen": Key(read=_listen),
    "join_token": Key(read=values.name),
    "slots": Key(read=_whole),
    "cpus": Key(read=values.cpus, field="cpu_millis"),
    "memory": Key(read=values.some_size, field="memory_bytes"),
    "limits": Key(read=values.choice("cgroup", "best-effort")),
    "name": Key(read=values.name),
    "location": Key(read=values.text),
    "tls_ca": Key(read=_path),
    "tls_cert": Key(read=_path),
    "tls_key": Key(read=_path),
    "allow_plaintext": Key(read=allowance),
    "drain_grace": Key(read=values.duration, field="drain_grace_s"),
    **_LOG_KEYS,
}

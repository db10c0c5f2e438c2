"""Which master to call, and as whom: an argument, else the environment, else the home's files.

The home has two files of credentials. ``login/credentials.toml`` is what somebody logged in with
here. ``credentials.toml`` is the local admin's, which a master that runs on this home writes and
renews; logging in must not touch it. A token goes to the master that gave it and to nobody else, so
that pointing HIVEMIND_MASTER elsewhere gives nothing away. A master that was once known by its
certificate is never spoken to without one.
"""

import os
from pathlib import Path

import attrs

from hivemind.client.errors import BadAddress
from hivemind.settings.credentials import (
    FILE_NAME,
    Credentials,
    read_credentials,
    write_credentials,
)
from hivemind.settings.daemon import (
    MASTER_VARIABLE,
    PLAINTEXT_VARIABLE,
    TLS_CA_VARIABLE,
    TLS_CERT_VARIABLE,
    TLS_KEY_VARIABLE,
    TOKEN_VARIABLE,
    allowance,
    format_address,
    parse_address,
)
from hivemind.settings.errors import SettingsError
from hivemind.settings.home import find_home

DEFAULT_ADDRESS = "127.0.0.1:50051"
"""Where ``hivemind up`` listens unless it is told otherwise."""

_LOGIN_FOLDER = "login"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@attrs.frozen(kw_only=True)
class Trust:
    """By what to know a master that speaks TLS."""

    ca: Path
    """Certificates in PEM: the master's own, or its authority's."""
    name: str | None = None
    """The name that the master's certificate is for, where that is not its host."""
    said_by: str = "tls_ca"
    """Where all this comes from, as people know it."""
    certificate: Path | None = None
    """What to show the master, where it asks: a certificate chain in PEM."""
    key: Path | None = None
    """The key of ``certificate``."""


@attrs.frozen(kw_only=True)
class Target:
    """A master and the token to show it."""

    host: str
    port: int
    token: str | None = attrs.field(default=None, repr=False)
    trust: Trust | None = None
    """None: the master is spoken to in plain HTTP/2."""
    allow_plaintext: bool = False
    """Even where it is on another machine."""
    is_guess: bool = False
    """Nobody has named a master: the address is where one of this machine would listen."""

    @property
    def address(self) -> str:
        """``HOST:PORT``, as people write it."""
        return format_address(self.host, self.port)


@attrs.frozen(kw_only=True)
class Manner:
    """How somebody wants the master to be spoken to; None where the environment, or the home's
    files, may say.
    """

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_plaintext: bool = False


def find_target(
    address: str | None, token: str | None, home: Path | None, manner: Manner | None = None
) -> Target:
    """The master to call, with the token and the certificates that are known for it, if any.

    Raises:
        BadAddress: what should be an address is none, or a file of credentials cannot be read.
    """
    known = _known(_found(home))
    said = address or os.environ.get(MASTER_VARIABLE)
    is_guess = not said and not known
    if not said:
        said = known[0][1].master if known else DEFAULT_ADDRESS
    host, port = _parsed(said)
    fitting = [(file, own) for file, own in known if _is_same(own.master, host, port)]
    shown = token or os.environ.get(TOKEN_VARIABLE)
    if not shown:
        shown = next((own.token for _, own in fitting), None)
    said_how = manner or Manner()
    trust = _find_trust(said_how, fitting)
    return Target(
        host=host,
        port=port,
        token=shown,
        trust=trust if trust is None else _with_certificate(trust, said_how, fitting),
        allow_plaintext=_may_be_plain(said_how, fitting),
        is_guess=is_guess,
    )


def _find_trust(manner: Manner, fitting: list[tuple[Path, Credentials]]) -> Trust | None:
    if manner.tls_ca is not None:
        return Trust(ca=manner.tls_ca.absolute())
    if named := os.environ.get(TLS_CA_VARIABLE):
        return Trust(ca=Path(named).absolute(), said_by=TLS_CA_VARIABLE)
    for file, own in fitting:
        if own.tls_ca is not None:
            return Trust(ca=own.tls_ca, name=own.tls_name, said_by=str(file))
    return None


def _with_certificate(
    trust: Trust, manner: Manner, fitting: list[tuple[Path, Credentials]]
) -> Trust:
    """With what to show the master, a certificate and its key always from one place."""
    pairs: list[tuple[Path | None, Path | None]] = [
        (manner.tls_cert, manner.tls_key),
        (_named(TLS_CERT_VARIABLE), _named(TLS_KEY_VARIABLE)),
        *((own.tls_cert, own.tls_key) for _, own in fitting),
    ]
    for certificate, key in pairs:
        if certificate is None and key is None:
            continue
        if certificate is None or key is None:
            lacking = "the certificate" if certificate is None else "the key"
            raise BadAddress(
                f"{lacking} to show the master is missing: --tls-cert and --tls-key go together, "
                f"and so do {TLS_CERT_VARIABLE} and {TLS_KEY_VARIABLE}"
            )
        return attrs.evolve(trust, certificate=certificate.absolute(), key=key.absolute())
    return trust


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _may_be_plain(manner: Manner, fitting: list[tuple[Path, Credentials]]) -> bool:
    if manner.allow_plaintext:
        return True
    if said := os.environ.get(PLAINTEXT_VARIABLE):
        try:
            return allowance(said)
        except ValueError as error:
            raise BadAddress(f"{PLAINTEXT_VARIABLE}: expected 1 or 0") from error
    return any(own.allow_plaintext for _, own in fitting)


def save_login(home: Path | None, target: Target, account: str, token: str) -> None:
    """Remember a login for the commands that follow. Raises BadAddress where it cannot be kept."""
    folder = _found(home) / _LOGIN_FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        trust = target.trust
        credentials = Credentials(
            master=target.address,
            account=account,
            token=token,
            tls_ca=None if trust is None else trust.ca,
            tls_name=None if trust is None else trust.name,
            tls_cert=None if trust is None else trust.certificate,
            tls_key=None if trust is None else trust.key,
            allow_plaintext=target.allow_plaintext,
        )
        write_credentials(folder, credentials)
    except OSError as error:
        raise BadAddress(
            f"{folder}: the login cannot be kept: {error.strerror}; "
            "set HIVEMIND_HOME to a folder of yours"
        ) from error
    except SettingsError as error:
        raise BadAddress(str(error)) from error


def forget_login(home: Path | None, token: str | None) -> bool:
    """Forget the login that ``token`` is of; whether there was one."""
    folder = _found(home) / _LOGIN_FOLDER
    kept = _read(folder)
    if kept is None or kept.token != token:
        return False
    (folder / FILE_NAME).unlink(missing_ok=True)
    return True


def masters_own_file(home: Path | None, token: str | None) -> Path | None:
    """The file in the home that a master of this home keeps ``token`` in, if one does.

    Nobody logged in with such a token, and nobody could log in again: the first admin has no
    password.
    """
    folder = _found(home)
    kept = _read(folder)
    return folder / FILE_NAME if kept is not None and kept.token == token else None


def _found(home: Path | None) -> Path:
    try:
        return find_home(home)
    except SettingsError as error:
        raise BadAddress(str(error)) from error


def _known(home: Path) -> list[tuple[Path, Credentials]]:
    """What the home's files say, a login first."""
    found = [(folder / FILE_NAME, _read(folder)) for folder in (home / _LOGIN_FOLDER, home)]
    return [(file, credentials) for file, credentials in found if credentials is not None]


def _read(folder: Path) -> Credentials | None:
    try:
        return read_credentials(folder)
    except SettingsError as error:
        raise BadAddress(str(error)) from error


def _parsed(text: str) -> tuple[str, int]:
    try:
        return parse_address(text)
    except SettingsError as error:
        raise BadAddress(str(error)) from error


def _is_same(master: str, host: str, port: int) -> bool:
    own_host, own_port = _parsed(master)
    are_here = own_host in _LOOPBACK and host in _LOOPBACK
    return own_port == port and (own_host == host or are_here)

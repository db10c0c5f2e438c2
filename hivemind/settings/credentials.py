"""A token, with the master and the account that it is for, in a file for its owner alone."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import attrs

from hivemind.settings import values
from hivemind.settings.errors import SettingsError
from hivemind.settings.tables import Key, read_table, structure

FILE_NAME = "credentials.toml"


class CredentialsUnsafe(SettingsError):
    """Others than their owner can read the credentials."""


class CredentialsNotKept(SettingsError):
    """The credentials could not be written; what was there before is there still."""


@attrs.frozen(kw_only=True)
class Credentials:
    """Which master to call, as whom, and the token that proves it."""

    master: str
    """``HOST:PORT``."""
    account: str
    token: str = attrs.field(repr=False)
    tls_ca: Path | None = None
    """The certificates by which to know the master, in PEM; None where it speaks plain HTTP/2."""
    tls_name: str | None = None
    """The name that its certificate is for, where that is not the host of ``master``."""
    tls_cert: Path | None = None
    """The certificate chain to show it, in PEM, where it asks for one."""
    tls_key: Path | None = None
    """The key of ``tls_cert``."""
    allow_plaintext: bool = False
    """It may be spoken to in plain HTTP/2 although it is on another machine."""


_KEYS = {
    **{name: Key(read=values.name) for name in ("master", "account", "token", "tls_name")},
    **{name: Key(read=values.path) for name in ("tls_ca", "tls_cert", "tls_key")},
    "allow_plaintext": Key(read=values.flag),
}


def read_credentials(folder: Path) -> Credentials | None:
    """The credentials in a folder; None where there are none.

    Raises BadSetting, or CredentialsUnsafe where others can read them.
    """
    path = folder / FILE_NAME
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise CredentialsUnsafe(f"{path} can be read by others: run chmod 600 {path}")
    return structure(Credentials, read_table(path), _KEYS, source=str(path))


def write_credentials(folder: Path, credentials: Credentials) -> None:
    """Put credentials into a folder that is there, for its owner alone (0600), whole or not at all.

    On disk when this returns. Raises CredentialsNotKept.
    """
    path = folder / FILE_NAME
    lines = [
        f"{name} = {'true' if value is True else _quoted(str(value))}\n"
        for name, value in attrs.asdict(credentials, recurse=False).items()
        if value is not None and value is not False
    ]
    try:
        _replace(path, "".join(lines).encode())
    except OSError as error:
        raise CredentialsNotKept(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    # Made by mkstemp with mode 0600, so that the token is never there for others to read.
    file, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(file)
        Path(new).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(new).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, but that TOML has no surrogates and also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

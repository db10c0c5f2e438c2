"""Judging a database file before anything in it is touched."""

import os
from pathlib import Path

import apsw

from hivemind.store.api import Corrupt, StoreError
from hivemind.store.schema import APPLICATION_ID, migrate, read_migrations, schema_version

MAGIC = b"SQLite format 3\x00"
"""The first bytes of every SQLite database (sqlite.org/fileformat.html)."""

CHECKED_BYTES = 512 * 1024 * 1024
"""Up to this size the whole database is checked at each start; 180 MB took 0.08 s (measured, in
the page cache). Damage in a larger one is found when it is read."""

BUSY_WITHIN_MS = 5000
LOG_BYTES = 64 * 1024 * 1024
"""The write-ahead log is cut back to this once its pages have moved into the database."""


class OpenFailed(StoreError):
    """A database cannot be used, and was left as it is."""


class Unusable(OpenFailed):
    """The file cannot be opened: a folder, no permission, no such place."""

    @classmethod
    def because(cls, path: Path, why: str | None) -> "Unusable":
        """With the one line that people see."""
        return cls(f"{path} cannot be opened ({why}): mend that, or choose another --home")


class NotOurs(OpenFailed):
    """The file is another program's, or no database at all."""


class NewerSchema(OpenFailed):
    """A newer version wrote the database, and this one does not understand it."""


def prepare_file(path: Path) -> None:
    """Make an empty database file, ours alone, where there is none; else look at its beginning.

    Raises Unusable or NotOurs.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            beginning = os.pread(file, len(MAGIC), 0)
        finally:
            os.close(file)
    except OSError as error:
        raise Unusable.because(path, error.strerror) from error
    if beginning and beginning != MAGIC:
        raise NotOurs(f"{path} is not a database: move it away, or choose another --home")


def prepare_writer(connection: apsw.Connection, path: Path) -> None:
    """Judge a database, then set the writing connection up and bring the schema up to date.

    Raises NotOurs, NewerSchema, Corrupt, MigrationFailed, or what APSW raises.
    """
    # Closing the last connection moves what is in the log into the database, and a database that
    # is refused must stay as it is. An empty log is better removed, as closing does.
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size > 0:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.set_busy_timeout(BUSY_WITHIN_MS)
    migrations = read_migrations()
    _judge(connection, path, newest=len(migrations))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("journal_size_limit", LOG_BYTES)
    connection.pragma("foreign_keys", True)
    _harden(connection)
    migrate(connection, migrations)


def prepare_reader(connection: apsw.Connection) -> None:
    """Set the reading connection up. Raises what APSW raises."""
    connection.set_busy_timeout(BUSY_WITHIN_MS)
    _harden(connection)


def _harden(connection: apsw.Connection) -> None:
    """Trust the file's own schema and pages as little as SQLite can (sqlite.org/security.html)."""
    connection.pragma("trusted_schema", False)
    connection.pragma("cell_size_check", True)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def _judge(connection: apsw.Connection, path: Path, *, newest: int) -> None:
    application_id = connection.pragma("application_id")
    version = schema_version(connection)
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if application_id != APPLICATION_ID and not (application_id == 0 and is_empty):
        raise NotOurs(f"{path} is another program's: move it away, or choose another --home")
    if version > newest:
        raise NewerSchema(
            f"{path} was written by a newer version (schema {version}, this one knows {newest}):"
            " install that version, or choose another --home"
        )
    size = connection.pragma("page_count") * connection.pragma("page_size")
    if size <= CHECKED_BYTES:
        finding = connection.pragma("quick_check", 1)
        if finding != "ok":
            raise Corrupt.at(path, finding)

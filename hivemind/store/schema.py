"""Bringing a database up to date: numbered SQL files, each applied in one transaction."""

import re
from importlib import resources

import apsw
import attrs

from hivemind.store.api import StoreError

APPLICATION_ID = 0x48495645
"""``HIVE``: says in a database's header whose it is (sqlite.org/pragma.html, application_id)."""


class MigrationFailed(StoreError):
    """A database could not be brought up to date; it is as it was before the failed step."""


@attrs.frozen(kw_only=True)
class Migration:
    """One step from the schema before to the one with its number."""

    number: int
    name: str
    sql: str


def read_migrations() -> tuple[Migration, ...]:
    """Every step from an empty database to today's, from ``migrations/NNNN_name.sql``."""
    found = []
    for file in resources.files("hivemind.store").joinpath("migrations").iterdir():
        if match := re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name):
            number, name = int(match[1]), match[2]
            found.append(Migration(number=number, name=name, sql=file.read_text("utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationFailed("this installation lacks some of its migrations: install it again")
    return tuple(found)


def schema_version(connection: apsw.Connection) -> int:
    """The number of the last step that was applied to a database; 0 for an empty one."""
    return int(connection.pragma("user_version"))


def rewrite_version(connection: apsw.Connection) -> None:
    """Write what is there already: a transaction that changes nothing, yet reaches the log."""
    connection.pragma("user_version", schema_version(connection))


def migrate(connection: apsw.Connection, migrations: tuple[Migration, ...]) -> None:
    """Apply the steps that a database has not seen.

    Raises MigrationFailed with the step's name; the steps before it stay applied.
    """
    version = schema_version(connection)
    for migration in migrations[version:]:
        try:
            with connection:
                for _ in connection.execute(migration.sql):
                    pass
                # Both are in the database's first page, and so part of the transaction.
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", migration.number)
        except (apsw.Error, TypeError) as error:
            raise MigrationFailed(
                f"the database could not be brought to schema {migration.number:04}"
                f" ({migration.name}), and is as it was: {error}"
            ) from error

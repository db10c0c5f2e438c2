import re
from pathlib import Path

import apsw
import pytest

import hivemind.store
from hivemind.store.schema import (
    APPLICATION_ID,
    Migration,
    MigrationFailed,
    migrate,
    read_migrations,
    schema_version,
)


@pytest.fixture
def connection() -> apsw.Connection:
    return apsw.Connection(":memory:")


def test_every_migration_file_is_read_in_order() -> None:
    folder = Path(next(iter(hivemind.store.__path__))) / "migrations"
    names = sorted(file.name for file in folder.iterdir())
    assert all(re.fullmatch(r"\d{4}_\w+\.sql", name) for name in names)
    read = read_migrations()
    assert [f"{migration.number:04}_{migration.name}.sql" for migration in read] == names


def test_migrations_mark_the_database_as_ours_and_are_applied_once(
    connection: apsw.Connection,
) -> None:
    migrate(connection, read_migrations())
    assert connection.pragma("application_id") == APPLICATION_ID
    assert schema_version(connection) == len(read_migrations())
    before = connection.total_changes()
    migrate(connection, read_migrations())
    assert connection.total_changes() == before


def test_a_database_is_brought_on_from_where_it_is(connection: apsw.Connection) -> None:
    first = Migration(number=1, name="one", sql="CREATE TABLE a (x); INSERT INTO a VALUES (1);")
    second = Migration(number=2, name="two", sql="ALTER TABLE a ADD COLUMN y DEFAULT 5;")
    migrate(connection, (first,))
    migrate(connection, (first, second))
    assert schema_version(connection) == 2
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 5)]


def test_a_migration_that_fails_changes_nothing_and_keeps_those_before_it(
    connection: apsw.Connection,
) -> None:
    steps = (
        Migration(number=1, name="good", sql="CREATE TABLE a (x);"),
        Migration(number=2, name="bad", sql="CREATE TABLE b (x); INSERT INTO c VALUES (1);"),
    )
    with pytest.raises(MigrationFailed, match=r"schema 0002 \(bad\).*no such table: c"):
        migrate(connection, steps)
    assert schema_version(connection) == 1
    assert connection.table_exists(None, "a")
    assert not connection.table_exists(None, "b")

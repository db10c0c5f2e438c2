"""A TOML file, and a table of it as a record, with every fault named by file and key."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from hivemind.settings.errors import BadSetting
from hivemind.settings.values import Reader

MOST_BYTES = 1024 * 1024
"""No settings file is larger; ``--config /dev/zero`` must end."""

T = TypeVar("T", bound=attrs.AttrsInstance)


def read_table(path: Path) -> dict[str, object]:
    """A TOML file. Raises BadSetting where it cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise BadSetting(f"{path} is too large for a settings file")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise BadSetting(f"{path} is not UTF-8 text, at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadSetting(f"{path} is not TOML: {error}") from error


@attrs.frozen(kw_only=True)
class Key:
    """A key of a settings file: what reads its value, and the record's field if named otherwise."""

    read: Reader[Any]
    field: str = ""


def structure(
    cls: type[T],
    table: Mapping[str, object],
    keys: Mapping[str, Key],
    *,
    source: str,
    sources: Mapping[str, str] | None = None,
    given: Mapping[str, object] | None = None,
) -> T:
    """A record from a table; what the table leaves out keeps the record's default.

    Args:
        cls: the record.
        table: values by key, as TOML gave them.
        keys: every key that the table may have.
        source: where the values came from, as people know it.
        sources: the same for keys whose value came from elsewhere.
        given: values of fields that no key is for.

    Raises BadSetting for the first fault.
    """
    origin = sources or {}
    if unknown := sorted(table.keys() - keys.keys()):
        known = ", ".join(sorted(keys))
        where = origin.get(unknown[0], source)
        raise BadSetting(f"{where}: there is no key {unknown[0]}: the keys are {known}")
    overrides: dict[str, Any] = {
        key.field or name: override(rename=name, struct_hook=_hook(key.read))
        for name, key in keys.items()
    }
    overrides |= {name: override(struct_hook=_hook(_as_it_is)) for name in given or {}}
    build = make_dict_structure_fn(cls, cattrs.Converter(forbid_extra_keys=True), **overrides)
    try:
        return build({**table, **(given or {})}, cls)
    except cattrs.ClassValidationError as group:
        error, note = group.group_exceptions()[0][0]
        by_field = {key.field or name: name for name, key in keys.items()}
        name = by_field.get(note.name, note.name)
        what = "it is missing" if isinstance(error, KeyError) else error
        # A flag or a variable names its key by itself.
        where = origin.get(name, f"{source}: {name}")
        raise BadSetting(f"{where}: {what}") from error


def _hook(read: Reader[Any]) -> Callable[[object, object], Any]:
    return lambda value, _type: read(value)


def _as_it_is(value: object) -> object:
    return value

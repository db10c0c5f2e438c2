import os
from pathlib import Path

import attrs
import pytest

from hivemind.settings import values
from hivemind.settings.errors import BadSetting
from hivemind.settings.tables import Key, read_table, structure


@attrs.frozen(kw_only=True)
class Sample:
    name: str
    size_bytes: int = 5
    words: tuple[str, ...] = ()


KEYS = {
    "size": Key(read=values.size, field="size_bytes"),
    "words": Key(read=values.texts),
    "name": Key(read=values.name),
}


def test_a_table_becomes_a_record_and_what_it_leaves_out_keeps_its_default() -> None:
    table = {"name": "x", "size": "1K"}
    assert structure(Sample, table, KEYS, source="f") == Sample(name="x", size_bytes=1024)


def test_a_field_without_a_key_can_be_given() -> None:
    keys = {"size": KEYS["size"]}
    assert structure(Sample, {}, keys, source="f", given={"name": "x"}) == Sample(name="x")
    with pytest.raises(BadSetting, match="f: there is no key name: the keys are size"):
        structure(Sample, {"name": "y"}, keys, source="f", given={"name": "x"})


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"name": "x", "sise": 1}, "f: there is no key sise: the keys are name, size, words"),
        ({"name": "x", "size_bytes": 1}, "f: there is no key size_bytes"),
        ({"name": "x", "size": "1X"}, "f: size: '1X' is not a size"),
        ({"name": "x", "words": [1]}, "f: words: expected text in quotes, not 1"),
        ({"name": 1, "size": "1X"}, "f: name: expected text in quotes, not 1"),
        ({}, "f: name: it is missing"),
    ],
)
def test_a_fault_names_the_file_the_key_and_what_was_expected(
    table: dict[str, object], line: str
) -> None:
    with pytest.raises(BadSetting) as caught:
        structure(Sample, table, KEYS, source="f")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_fault_names_where_its_own_key_came_from() -> None:
    table = {"name": "x", "size": "1X"}
    with pytest.raises(BadSetting, match=r"^--size: '1X' is not a size"):
        structure(Sample, table, KEYS, source="f", sources={"size": "--size"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = \nb = 1", "is not TOML.*line 1"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"a = '\xff'", "is not UTF-8 text, at byte 5"),
        (b"#" * (1024 * 1024 + 1), "is too large"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=words) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="No such file or directory"):
        read_table(tmp_path / "none")
    with pytest.raises(BadSetting, match="Is a directory"):
        read_table(tmp_path)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(BadSetting, match="too large"):
        read_table(Path("/dev/zero"))


def test_an_empty_file_is_an_empty_table() -> None:
    assert read_table(Path(os.devnull)) == {}

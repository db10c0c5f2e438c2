"""Tables: whole and plain in a pipe, harmless everywhere."""

import pytest

from hivemind.cli.tables import print_fields, print_table


def test_columns_line_up_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "NAME"), [("1", "x" * 300), ("22", "")])
    assert capsys.readouterr().out.splitlines() == ["ID  NAME", "1   " + "x" * 300, "22"]


def test_no_rows_are_a_line_of_titles(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "NAME"), [])
    assert capsys.readouterr().out == "ID  NAME\n"


def test_what_strangers_wrote_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID",), [("a\x1b[2J\nb",)])
    print_fields([("name", "c\x1b]0;title\x07")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.count("\n") == 3


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("a", "1"), ("bb", ""), ("ccc", "3")])
    assert capsys.readouterr().out == "a:    1\nccc:  3\n"
    print_fields([])
    assert capsys.readouterr().out == ""

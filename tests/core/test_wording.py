from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.wording import one_line


@given(st.text(max_size=200), st.integers(min_value=1, max_value=50))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str, most: int) -> None:
    shown = one_line(text, most)
    assert shown.isprintable()
    assert len(shown) <= most


def test_a_plain_line_stays_as_it_is() -> None:
    assert one_line("exit status 3") == "exit status 3"


def test_line_breaks_and_escape_sequences_become_spaces() -> None:
    assert one_line("a\r\nb\x1b[2J\u202ec\n") == "a b [2J c"


def test_a_cut_shows() -> None:
    assert one_line("x" * 20, most=5) == "xxxx…"
    assert one_line(" " * 400 + "x", most=5) == "…"

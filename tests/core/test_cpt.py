import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.cpt import MOST_UCPT, BadAmount, format_cpt, parse_cpt, show_cpt, whole_cpt


@pytest.mark.parametrize(
    ("text", "ucpt"),
    [
        ("0", 0),
        ("5", 5_000_000),
        ("0.25", 250_000),
        (" 1.5 ", 1_500_000),
        ("0.000001", 1),
        ("2.5000000000", 2_500_000),
        ("1000000000", MOST_UCPT),
    ],
)
def test_an_amount_is_read_exactly(text: str, ucpt: int) -> None:
    assert parse_cpt(text) == ucpt


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not an amount of CPT: write it like 5 or 0.25"),
        ("-1", "'-1' is not an amount"),
        ("1e3", "'1e3' is not an amount"),
        (".5", "'.5' is not an amount"),
        ("1,5", "'1,5' is not an amount"),
        ("5 CPT", "'5 CPT' is not an amount"),
        ("\N{ARABIC-INDIC DIGIT FIVE}", "is not an amount"),
        ("0.0000001", "it can have 6 decimals"),
        ("1000000000.000001", "a billion is the most"),
        ("9" * 500, r"9\.\.\.' is not an amount"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadAmount, match=words):
        parse_cpt(text)


@given(st.integers(min_value=0, max_value=MOST_UCPT))
def test_what_is_shown_is_read_as_the_same(ucpt: int) -> None:
    assert parse_cpt(format_cpt(ucpt)) == ucpt
    assert format_cpt(-ucpt) == ("-" if ucpt else "") + format_cpt(ucpt)


def test_people_see_the_unit_and_the_public_api_whole_cpt() -> None:
    assert show_cpt(1_500_000) == "1.5 CPT"
    assert [whole_cpt(ucpt) for ucpt in (0, 999_999, 1_000_000, 1_999_999)] == [0, 0, 1, 1]

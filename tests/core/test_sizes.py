import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.sizes import (
    BadQuantity,
    format_cpus,
    format_duration,
    format_size,
    parse_cpus,
    parse_duration,
    parse_size,
    show_size,
    show_sizes_apart,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("1.5G", 3 << 29),
        (".5k", 512),
        ("2GiB", 2 << 30),
        ("2GB", 2 << 30),
        ("10 B", 10),
        (" 1 T ", 1 << 40),
        ("0.3", 0),
    ],
)
def test_a_size_is_a_number_and_a_binary_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "9" * 500,
        "1" + "M" * 500,
        "1M\n\x1b[2J",
        "",
        "M",
        "-1M",
        "1,5G",
        "512X",
        "1e9",
        "0x10",
        "1 2",
        "1Mi",
        "iB",
        "nan",
        "9999999T",
        "\u0661M",
    ],
)
def test_an_impossible_size_is_refused_in_one_line_that_shows_a_possible_one(text: str) -> None:
    with pytest.raises(BadQuantity, match="is not a size: ") as caught:
        parse_size(text)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        ("60s", 60),
        ("5m", 300),
        ("5M", 300),
        ("2h", 7200),
        ("1.5h", 5400),
        ("1d", 86400),
        ("250ms", 0.25),
    ],
)
def test_a_duration_is_a_number_and_a_unit_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5w", "5 minutes", "inf", "1h30m", "99999999d"])
def test_an_impossible_duration_is_refused(text: str) -> None:
    with pytest.raises(BadQuantity, match="is not a duration: "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "cpu_millis"), [("1", 1000), ("0.5", 500), ("64", 64000), ("0.0001", 1), ("0", 0)]
)
def test_cpus_are_counted_in_thousandths_and_never_rounded_to_less(
    text: str, cpu_millis: int
) -> None:
    assert parse_cpus(text) == cpu_millis


@pytest.mark.parametrize("text", ["", "one", "-1", "1.5c", "500m", "100001", "nan"])
def test_an_impossible_number_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(BadQuantity, match="is not a number of CPUs: "):
        parse_cpus(text)


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_formatted_size_reads_back_as_itself(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.floats(min_value=0.001, max_value=10**9))
def test_a_formatted_duration_reads_back_as_itself(seconds: float) -> None:
    rounded = round(seconds, 9)
    assert parse_duration(format_duration(rounded)) == pytest.approx(rounded, rel=1e-12)


@given(st.integers(min_value=0, max_value=10**8))
def test_formatted_cpus_read_back_as_themselves(cpu_millis: int) -> None:
    assert parse_cpus(format_cpus(cpu_millis)) == cpu_millis


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.25s"),
        (90, "90s"),
        (60, "1m"),
        (7200, "2h"),
        (172800, "2d"),
        (100, "100s"),
    ],
)
def test_a_duration_is_shown_in_the_largest_unit_that_is_exact(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1K"), (3 << 29, "1.5G"), (16777216000, "15.6G")],
)
def test_a_size_is_shown_to_people_with_one_decimal(size_bytes: int, text: str) -> None:
    assert show_size(size_bytes) == text


def test_two_sizes_that_differ_never_look_the_same() -> None:
    assert show_sizes_apart(16 << 30, 8 << 30) == ("16G", "8G")
    assert show_sizes_apart(16 << 30, 16 << 30) == ("16G", "16G")
    assert show_sizes_apart((16 << 30) + 1024, 16 << 30) == ("16777217K", "16G")

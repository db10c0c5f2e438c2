"""Sizes and times of the command line."""

from __future__ import annotations

import pytest

from sandbox.quantities import parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 64 << 10),
        ("256M", 256 << 20),
        ("1G", 1 << 30),
        ("2T", 2 << 40),
        ("1.5g", 3 << 29),
        ("64kb", 64 << 10),
        ("64KiB", 64 << 10),
        ("7b", 7),
        ("0.5", 0),
    ],
)
def test_a_size_is_a_number_and_a_binary_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("10s", 10.0), ("0.5", 0.5), ("500ms", 0.5), ("5m", 300.0), ("2H", 7200.0)],
)
def test_a_time_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "M", "-1", "+1", "1 M", " 1M", "1M ", "1M\n", "1,5G", ".5G", "1.M", "\u0661M"),
        *(
            "1e9",
            "1_000",
            "0x10",
            "nan",
            "inf",
            "256Q",
            "1iB",
            "1MiBs",
            "1kk",
            "1" * 20,
            "9999999T",
        ),
    ],
)
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1 s", "1e3", "nan", "inf", "5min", "1w", "10s5", "1M2", "99999d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        parse_time(text)

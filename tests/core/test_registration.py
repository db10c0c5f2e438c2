"""What a node may say of itself."""

from typing import Any

import pytest

from hivemind.core.ids import BadName
from hivemind.core.registration import Registration, check_node_id, check_registration


def said(**fields: Any) -> Registration:
    return Registration(
        **{"hostname": "10.0.0.1", "port": 50052, "cpu_cores": 8, "memory_gb": 16, **fields}
    )


@pytest.mark.parametrize("text", ["a", "worker-001", "A.b_c-9", "x" * 128])
def test_a_node_is_called_by_letters_digits_and_three_signs(text: str) -> None:
    assert check_node_id(text) == text


@pytest.mark.parametrize("text", ["", "-a", ".", "a b", "a/b", "a\n", "ä", "x" * 129])
def test_nothing_else_names_a_node(text: str) -> None:
    with pytest.raises(BadName) as caught:
        check_node_id(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["192.168.1.100", "127.0.0.1", "::1", "2001:db8::1", "worker", "a-b.example.org", "x_1.local."],
)
def test_a_node_is_reached_by_a_name_or_an_address(host: str) -> None:
    assert check_registration(said(hostname=host)).address == (host, 50052)


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "a b", "a..b", "-a", "a-", "http://a", "a:1", "a/b", "x" * 64, "ä"),
        *("0.0.0.0", "::", "224.0.0.1", "169.254.169.254", "::ffff:169.254.169.254"),
        *(
            "fe80::1",
            "fe80::1%eth0",
            "255.255.255.255",
            "2130706433",
            "127.1",
            "0x7f.1",
            "1.2.3.4.",
        ),
    ],
)
def test_nothing_else_is_where_a_node_is_reached(host: str) -> None:
    with pytest.raises(BadName):
        check_registration(said(hostname=host))


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("port", 1, 65535),
        ("cpu_cores", 1, 4096),
        ("memory_gb", 1, 1024 * 1024),
        ("cpu_score", 0, 2**31 - 1),
        ("gpu_score", 0, 2**31 - 1),
        ("gpu_memory_gb", 0, 1024 * 1024),
    ],
)
def test_numbers_are_within_their_bounds(field: str, least: int, most: int) -> None:
    for value in (least, most):
        check_registration(said(**{field: value}))
    for value in (least - 1, most + 1):
        with pytest.raises(BadName, match=field):
            check_registration(said(**{field: value}))


@pytest.mark.parametrize("field", ["gpu_name", "location", "docker_status"])
def test_texts_are_one_printable_line(field: str) -> None:
    check_registration(said(**{field: "RTX 4090 " + "x" * 190 + "x"}))
    for text in ("x" * 201, "a\nb", " a", "a\x1b[0m"):
        with pytest.raises(BadName, match=field):
            check_registration(said(**{field: text}))

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.ids import (
    CLIENT_ID_LENGTH,
    BadName,
    check_account_name,
    check_client_id,
    check_client_key,
    check_node_name,
    check_task_name,
    is_task_id,
    make_secret_text,
    make_task_id,
)

RANDOM = st.binary(min_size=10, max_size=10)
INSTANT = st.integers(min_value=0, max_value=2**48 - 1)


@given(INSTANT, RANDOM)
def test_a_made_id_is_an_id_of_26_lower_case_characters(now_ms: int, random: bytes) -> None:
    made = make_task_id(now_ms, random)
    assert is_task_id(made)
    assert len(made) == 26
    assert made == made.lower()


@given(INSTANT, INSTANT, RANDOM, RANDOM)
def test_ids_sort_by_time_then_by_their_random_bytes(
    one_ms: int, other_ms: int, one: bytes, other: bytes
) -> None:
    first, second = sorted([(one_ms, one), (other_ms, other)])
    assert make_task_id(*first) <= make_task_id(*second)
    assert (make_task_id(*first) == make_task_id(*second)) == (first == second)


def test_the_smallest_and_the_largest_id_are_those_of_the_ulid_specification() -> None:
    assert make_task_id(0, bytes(10)) == "0" * 26
    assert make_task_id(2**48 - 1, b"\xff" * 10) == "7" + "z" * 25


@pytest.mark.parametrize(("now_ms", "random"), [(0, bytes(9)), (0, bytes(11)), (-1, bytes(10))])
def test_an_id_needs_exactly_ten_random_bytes_and_a_time_after_the_epoch(
    now_ms: int, random: bytes
) -> None:
    with pytest.raises(ValueError):
        make_task_id(now_ms, random)


@pytest.mark.parametrize(
    "text",
    ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "u", "0" * 25 + "A", "0" * 26 + "\n"],
)
def test_other_texts_are_not_ids(text: str) -> None:
    assert not is_task_id(text)


def test_a_secret_keeps_every_bit_and_is_safe_in_a_url_and_as_a_flags_value() -> None:
    secrets = {make_secret_text(bytes([value]) + bytes(31)) for value in range(256)}
    assert len(secrets) == 256
    assert all(secret.isalnum() and len(secret) == 52 for secret in secrets)


def test_a_secret_short_enough_to_be_guessed_is_not_made() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        make_secret_text(bytes(15))


@pytest.mark.parametrize("name", ["ab", "a1", "0x", "a" * 32, "alice_b-c"])
def test_plain_account_names_are_taken(name: str) -> None:
    assert check_account_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a", "a" * 33, "Alice", "-ab", "_ab", "al ice", "alicé", "a/b", "role:admin", "ab\n", "*"],
)
def test_other_account_names_are_refused_with_one_line_that_says_what_is_allowed(name: str) -> None:
    with pytest.raises(BadName, match="2 to 32") as caught:
        check_account_name(name)
    assert str(caught.value).isprintable()


LABELS = [check_client_id, check_client_key, check_task_name, check_node_name]


@pytest.mark.parametrize("check", LABELS)
@pytest.mark.parametrize("text", ["task-001", "Übung 3", "a/b", "../etc", "任务"])
def test_any_printable_text_can_be_a_clients_id_or_a_name(
    check: Callable[[str], str], text: str
) -> None:
    assert check(text) == text


@pytest.mark.parametrize("check", LABELS)
@pytest.mark.parametrize(
    "text", ["", " a", "a ", "a\nb", "a\x1b[2J", "\u202eevil", "a\0", "\ud800"]
)
def test_text_that_could_mislead_a_terminal_is_no_name(
    check: Callable[[str], str], text: str
) -> None:
    with pytest.raises(BadName) as caught:
        check(text)
    assert str(caught.value).isprintable()


def test_a_client_id_of_unbounded_length_is_refused() -> None:
    assert check_client_id("x" * CLIENT_ID_LENGTH)
    with pytest.raises(BadName, match="at most 128"):
        check_client_id("x" * (CLIENT_ID_LENGTH + 1))

import json
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.parameters import PREFIX, BadParameter, Parameters, read_parameters

words = st.lists(st.text(max_size=8), max_size=5)


def test_names_become_variables_in_capitals() -> None:
    read = read_parameters({"depth": "3", "_Name2": " as it is\n"})
    assert read == Parameters(
        env={"HIVEMIND_PARAM_DEPTH": "3", "HIVEMIND_PARAM__NAME2": " as it is\n"}
    )


@pytest.mark.parametrize("name", ["", "a-b", "1a", "a b", "a=b", "é", "a\n", "a\0", "PATH=x\nb"])
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadParameter) as refused:
        read_parameters({name: "1"})
    assert "\n" not in str(refused.value)


def test_two_names_that_would_be_one_variable_are_refused() -> None:
    with pytest.raises(BadParameter, match="NAME"):
        read_parameters({"name": "1", "Name": "2"})


def test_args_in_capitals_is_a_variable() -> None:
    assert read_parameters({"ARGS": "x y"}) == Parameters(env={"HIVEMIND_PARAM_ARGS": "x y"})


@given(words)
def test_arguments_come_as_a_shell_or_json_has_them(argv: list[str]) -> None:
    assert read_parameters({"args": json.dumps(argv)}).argv == tuple(argv)
    quoted = shlex.join(argv)
    if not quoted.lstrip().startswith("["):
        assert read_parameters({"args": quoted}).argv == tuple(argv)


@pytest.mark.parametrize(
    "text", ["'open", 'a "b', "[", "[1]", '["a", null]', '[["a"]]', "[" * 100_000, "a \\"]
)
def test_arguments_that_cannot_be_split_are_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        read_parameters({"args": text})


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=4))
def test_whatever_is_asked_no_other_variable_is_set(parameters: dict[str, str]) -> None:
    try:
        read = read_parameters(parameters)
    except BadParameter:
        return
    assert all(re.fullmatch(f"{PREFIX}[A-Z_][A-Z0-9_]*", name) for name in read.env)
    assert len(read.env) == len(parameters.keys() - {"args"})

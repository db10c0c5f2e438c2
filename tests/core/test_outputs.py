"""Which paths may be named as outputs."""

import pytest

from hivemind.core.outputs import BadOutput, check_outputs, clean_output


@pytest.mark.parametrize(
    ("written", "meant"),
    [("a", "a"), ("a/", "a"), ("./a//b/./c", "a/b/c"), ("outputs/x", "outputs/x"), ("ü b", "ü b")],
)
def test_a_path_is_made_plain(written: str, meant: str) -> None:
    assert clean_output(written) == meant
    check_outputs((meant,))


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "/etc",
        "..",
        "a/..",
        "../a",
        "a\nb",
        "a\\b",
        "a\0",
        "\ud800",
        "output",
        "output/a",
    ],
)
def test_a_path_that_cannot_be_collected_is_refused_in_one_line(path: str) -> None:
    with pytest.raises(BadOutput) as caught:
        clean_output(path)
    assert str(caught.value).isprintable()
    with pytest.raises(BadOutput):
        check_outputs((path,))


@pytest.mark.parametrize("paths", [("a/",), ("./a",), ("a",) * 65, ("a" * 5000,)])
def test_paths_that_are_not_plain_or_too_many_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(BadOutput):
        check_outputs(paths)

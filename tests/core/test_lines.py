import itertools

from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.lines import LineMerger, Utf8Streams
from hivemind.core.records import OutputStream

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


def merged(*pieces: tuple[OutputStream, bytes]) -> tuple[str, ...]:
    merger = LineMerger()
    for stream, data in pieces:
        merger.add(stream, data)
    return merger.finish()


def test_lines_come_in_the_order_in_which_they_are_completed() -> None:
    assert merged((OUT, b"a"), (ERR, b"x\n"), (OUT, b"b\nc")) == ("x", "ab", "c")
    assert merged() == ()
    assert merged((OUT, b"\n\n")) == ("", "")


def test_a_character_that_is_cut_in_two_is_one() -> None:
    first, last = "é".encode()[:1], "é".encode()[1:]
    assert merged((OUT, first), (ERR, b"-"), (OUT, last)) == ("é", "-")


def test_what_is_no_text_shows_as_such() -> None:
    texts = Utf8Streams()
    assert texts.add(OUT, b"a\xffb\xc3") + texts.finish() == "a\ufffdb\ufffd"


@given(st.binary(), st.lists(st.integers(0, 50), max_size=5))
def test_however_a_stream_is_cut_its_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [(OUT, data[a:b]) for a, b in itertools.pairwise(places)]
    lines = data.decode(errors="replace").split("\n")
    assert merged(*pieces) == tuple(lines if lines[-1] else lines[:-1])

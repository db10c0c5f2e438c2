"""Headers that are a call, and headers that are none."""

import pytest

from hivemind.rpc._request import Rejected, read_request

GOOD = {
    ":method": "POST",
    ":path": "/a/b",
    "content-type": "application/grpc+proto",
    "te": "trailers",
    "grpc-timeout": "5S",
    "user-agent": "me",
    "x": "y",
    "z-bin": "YWJj",
}


def test_a_call_is_read() -> None:
    request = read_request(list(GOOD.items()), {"/a/b"})
    assert request.path == "/a/b"
    assert request.deadline is not None
    assert 4 < request.deadline.time_remaining() <= 5
    assert (request.metadata["x"], request.metadata["z-bin"]) == ("y", b"abc")
    assert request.user_agent == "me"


@pytest.mark.parametrize("missing", [":method", ":path", "content-type", "te"])
def test_what_lacks_a_header_is_rejected(missing: str) -> None:
    with pytest.raises(Rejected):
        read_request([(k, v) for k, v in GOOD.items() if k != missing], {"/a/b"})

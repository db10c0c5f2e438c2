"""Which limit holds for which method."""

from hivemind.rpc.config import TransportConfig


def test_an_open_method_takes_less_and_a_named_one_what_is_named() -> None:
    config = TransportConfig(
        max_message_bytes=1000, open_message_bytes=10, method_message_bytes={"/a/b": 5000}
    )
    assert config.message_limit("/x/y", is_open=False) == 1000
    assert config.message_limit("/x/y", is_open=True) == 10
    assert config.message_limit("/a/b", is_open=True) == 5000
    assert config.message_limit("/a/b", is_open=False) == 5000

"""Log lines that nobody can forge, and a log whose reader may leave."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from hivemind.cli.log_setup import set_up_logs


@pytest.fixture(autouse=True)
def _keep_the_configuration() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_json_lines_hold_the_event_its_level_and_its_values() -> None:
    stream = io.StringIO()
    set_up_logs("json", "info", stream)
    structlog.get_logger().info("joined", node_id="n1")
    structlog.get_logger().debug("not shown")
    (line,) = stream.getvalue().splitlines()
    logged = json.loads(line)
    assert (logged["event"], logged["level"], logged["node_id"]) == ("joined", "info", "n1")
    assert logged["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_value_cannot_begin_a_line_or_move_the_cursor(form: str) -> None:
    stream = io.StringIO()
    set_up_logs(form, "info", stream)
    structlog.get_logger().info("named", name="a\n2026 [error] forged\x1b[2J\u202e")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\\u001b" not in text
    assert "\u202e" not in text


def test_a_traceback_shows_no_local_variables() -> None:
    stream = io.StringIO()
    set_up_logs("text", "info", stream)

    def fail() -> None:
        password = "2retnuh"[::-1]
        raise ValueError(f"{len(password)} characters")

    try:
        fail()
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    assert "7 characters" in stream.getvalue()
    assert "Traceback" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_a_reader_that_went_away_does_not_end_the_daemon() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    set_up_logs("text", "info", Gone())
    structlog.get_logger().info("nobody reads this")

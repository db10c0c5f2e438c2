"""How the daemons log: structured lines on standard error, for people or as JSON.

Values that strangers chose (names, error texts) are made printable, so that nobody can forge a line
or move a cursor. Tracebacks are plain: none of their forms shows local variables, which may be
secrets.
"""

import contextlib
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TRUSTED_KEYS = frozenset({"exception", "timestamp", "level"})


class _Lossy:
    """A stream whose reader may go away without taking the daemon with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def set_up_logs(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to standard error, or to ``stream``.

    Args:
        form: ``text`` or ``json``.
        level: ``debug``, ``info``, ``warning`` or ``error``; what is below it is dropped.
        stream: for tests.
    """
    target = sys.stderr if stream is None else stream
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _make_printable,
    ]
    renderer: Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*common, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(_Lossy(target)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if key not in _TRUSTED_KEYS and isinstance(value, str) and not value.isprintable():
            event[key] = "".join(c if c.isprintable() else " " for c in value)
    return event

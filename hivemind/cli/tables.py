"""Tables for people: coloured and fitted on a terminal, plain and whole in a pipe.

Cells may hold what strangers wrote, so control characters never reach the terminal.
"""

import os
import sys
from collections.abc import Iterable, Sequence

from hivemind.cli.faults import unwritable
from hivemind.core.wording import one_line

_COLOURS = {
    "succeeded": "green",
    "online": "green",
    "running": "cyan",
    "failed": "red",
    "timed": "red",
    "lost": "red",
    "offline": "red",
    "late": "yellow",
    "stopped": "yellow",
    "draining": "yellow",
}


def write_out(lines: Iterable[str]) -> None:
    """Each line on standard output, all there when this returns.

    Raises:
        BrokenPipeError: the reader has gone away.
        CommandFailed: standard output takes no more.
    """
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable("standard output", error) from error


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, state_column: int | None = None
) -> None:
    """Columns with titles; ``state_column`` is the one whose words have colours."""
    clean = [[one_line(cell) for cell in row] for row in rows]
    if _is_fancy():
        _print_fancy(titles, clean, state_column)
    else:
        _print_plain([list(titles), *clean])


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """One name and value a line; those without a value are left out."""
    kept = [[f"{name}:", one_line(value)] for name, value in fields if value]
    _print_plain(kept)


def _is_fancy() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _print_plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    write_out(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _print_fancy(
    titles: Sequence[str], rows: Sequence[Sequence[str]], state_column: int | None
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(titles):
        # The first column holds ids, which are of no use when they are cut.
        whole = max((len(row[0]) for row in rows), default=0) if index == 0 else None
        table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=whole)
    for row in rows:
        table.add_row(
            *(
                Text(cell, style=_colour(cell) if index == state_column else "")
                for index, cell in enumerate(row)
            )
        )
    Console().print(table)


def _colour(cell: str) -> str:
    return _COLOURS.get(cell.replace("_", " ").split(" ")[0].rstrip(","), "")

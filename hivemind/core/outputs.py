"""The paths, beside the output folder, that a task's own file names as belonging to its result."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from hivemind.core.errors import CoreError

OUTPUT_FOLDER = "output"
"""The folder in the task's working folder whose content is always its result."""
MOST_OUTPUTS = 64
MOST_CHARACTERS = 4096
"""Of all paths together."""


class BadOutput(CoreError):
    """A path that cannot be collected; one line."""


def check_outputs(paths: Sequence[str]) -> None:
    """Whether each is a plain path below the working folder, as ``clean_output`` gives it.

    Raises BadOutput.
    """
    if len(paths) > MOST_OUTPUTS or sum(map(len, paths)) > MOST_CHARACTERS:
        raise BadOutput(
            f"outputs may name {MOST_OUTPUTS} paths, with {MOST_CHARACTERS} characters together: "
            "name the folders that they lie in"
        )
    for path in paths:
        if clean_output(path) != path:
            raise BadOutput(f"output {path[:40]!a} is not written plainly, without '.' or '//'")


def clean_output(path: str) -> str:
    """The path without needless slashes and dots.

    Raises BadOutput where it leads out of the working folder, is all of it, or has characters that
    a file's name in a result may not have.
    """
    pure = PurePosixPath(path)
    shown = f"output {path[:40]!a}"
    if pure.is_absolute() or ".." in pure.parts:
        raise BadOutput(f"{shown} leads elsewhere: name a file or folder below the working folder")
    if not pure.parts:
        raise BadOutput(f"{shown} names nothing: name a file or folder below the working folder")
    if not path.isprintable() or "\\" in path:
        raise BadOutput(f"{shown} has characters that a name in a result cannot have: rename it")
    if pure.parts[0] == OUTPUT_FOLDER:
        raise BadOutput(f"{shown} lies in the output folder, which is collected anyway: remove it")
    return str(pure)

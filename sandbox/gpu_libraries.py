"""Where the NVIDIA driver's libraries lie, and how a task comes to see them.

A task sees the host's /usr, and with it a driver that was installed the usual way. What lies
elsewhere is bound file by file under a neutral path: the folder may hold a whole other system's
libraries, which must not come before those of the host.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import attrs

from sandbox.errors import Finding, Unavailable
from sandbox.spec import ReadOnlyBind

NEUTRAL = PurePosixPath("/opt/nvidia/lib")
CUDA = "libcuda.so"

# What computing takes; libraries that only draw, or speak to a display, are left out.
_COMPUTE = (
    CUDA,
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvidia-allocator.so",
    "libnvidia-encode.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ml.so",
    "libnvidia-nvvm.so",
    "libnvidia-nvvm70.so",
    "libnvidia-opencl.so",
    "libnvidia-opticalflow.so",
    "libnvidia-pkcs11.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-tileiras.so",
    "libnvoptix.so",
)
_MULTIARCH = str(sysconfig.get_config_var("MULTIARCH") or "")
LINKER_FOLDERS = tuple(
    Path(folder) for folder in (f"/usr/lib/{_MULTIARCH}", "/usr/lib64", "/usr/lib")
)
"""Where every program looks for libraries by itself."""
FOLDERS = (
    *LINKER_FOLDERS,
    Path("/usr/local/nvidia/lib64"),
    Path("/opt/nvidia/lib64"),
    Path(f"/run/nvidia/driver/usr/lib/{_MULTIARCH}"),
    Path("/run/nvidia/driver/usr/lib64"),
    Path("/run/opengl-driver/lib"),
)
"""Where drivers are installed to, by packages, by Kubernetes operators, by NixOS."""


@attrs.frozen(kw_only=True)
class Libraries:
    """How a task comes to see them.

    Attributes:
        binds: files that it would not see otherwise.
        folders: where it must look beyond the usual places, in order.
    """

    binds: tuple[ReadOnlyBind, ...] = ()
    folders: tuple[str, ...] = ()


def is_for_computing(name: str) -> bool:
    """Whether a file's name is that of a library which GPU programs load."""
    return any(name == library or name.startswith(f"{library}.") for library in _COMPUTE)


def find_libraries(folders: Iterable[Path] = FOLDERS) -> tuple[Path, ...]:
    """The driver's libraries, from the first folder that has libcuda.

    Raises:
        Unavailable: none has.
    """
    tried = tuple(folders)
    for folder in tried:
        if (folder / f"{CUDA}.1").exists():
            return tuple(path for path in sorted(folder.iterdir()) if is_for_computing(path.name))
    raise _unavailable(
        f"the driver's {CUDA}.1 is in none of {', '.join(map(str, tried))}",
        "install the driver's libraries for computing (Debian: libcuda1), or have a CDI file "
        "written: nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json",
    )


def show_to_task(paths: Iterable[Path], *, sees_usr: bool = True) -> Libraries:
    """What it takes for a task to load these libraries.

    Args:
        paths: the libraries on the host.
        sees_usr: whether the task sees the host's own /usr.

    Raises:
        Unavailable: one is not there, or is not a file.
    """
    binds: dict[PurePosixPath, ReadOnlyBind] = {}
    folders: dict[str, None] = {}
    for path in paths:
        real = Path(os.path.realpath(path))
        if not real.is_file():
            raise _unavailable(
                f"library {path} is not there", "install the driver's libraries again"
            )
        folder = Path(os.path.realpath(path.parent))
        if sees_usr and real.is_relative_to("/usr") and folder.is_relative_to("/usr"):
            if folder not in map(_real, LINKER_FOLDERS):
                folders[str(folder)] = None
            continue
        folders[str(NEUTRAL)] = None
        for name in _names_of(path, real):
            binds.setdefault(NEUTRAL / name, ReadOnlyBind(source=real, target=NEUTRAL / name))
    return Libraries(binds=tuple(binds.values()), folders=tuple(folders))


def _names_of(path: Path, real: Path) -> list[str]:
    """The file's own name, and those of the links beside it: programs ask for libcuda.so.1."""
    stem = path.name.partition(".so")[0]
    beside = path.parent.glob(f"{stem}.so*")
    return sorted({path.name, *(link.name for link in beside if _real(link) == real)})


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _unavailable(detail: str, remedy: str) -> Unavailable:
    return Unavailable((Finding(name="GPU", ok=False, detail=detail, remedy=remedy),))

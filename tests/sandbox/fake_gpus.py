"""A machine with NVIDIA GPUs that are not there: nodes, libraries, and what the driver tells.

The nodes are real character devices; opened, they do what /dev/null does.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.gpu import Gpu, Places

MADE_BY_ROOT = "FAKE_GPUS_MADE_BY_ROOT"
SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")


def uuid_of(index: int) -> str:
    return f"GPU-0000000{index}-aaaa-bbbb-cccc-0123456789ab"


def fake_gpu(index: int, minor: int | None = None) -> Gpu:
    return Gpu(index=index, uuid=uuid_of(index), minor=index if minor is None else minor)


def make_places(folder: Path, dev: Path) -> Places:
    """A machine with these nodes, with a driver's libraries, and without a CDI file."""
    libraries = folder / "driver" / "lib64"
    libraries.mkdir(parents=True)
    for name in ("libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"):
        (libraries / f"{name}.so.999.1").write_text(f"this is {name}")
        (libraries / f"{name}.so.1").symlink_to(f"{name}.so.999.1")
    (libraries / "libc.so.6").write_text("not to be seen")
    (folder / "cdi").mkdir()
    return Places(dev=dev, cdi=(folder / "cdi",), libraries=(libraries,))


@contextmanager
def linked_nodes(count: int = 2) -> Iterator[Path]:
    """A folder below /dev with links to /dev/null, which anybody can make; for looking alone."""
    with tempfile.TemporaryDirectory(prefix="fake-gpus-", dir="/dev/shm") as folder:
        for name in (*SHARED, *(f"nvidia{number}" for number in range(count))):
            (Path(folder) / name).symlink_to("/dev/null")
        yield Path(folder)


@contextmanager
def made_nodes(count: int = 2) -> Iterator[Path]:
    """A folder below /dev with the nodes, for the length of the block.

    An ordinary user finds those that root has made, where it has.
    """
    if os.geteuid() != 0:
        if MADE_BY_ROOT not in os.environ:
            pytest.skip("only root can make device nodes")
        yield Path(os.environ[MADE_BY_ROOT])
        return
    folder = Path(f"/dev/fake-gpus-{os.getpid()}-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o755)
    try:
        for name in (*SHARED, *(f"nvidia{number}" for number in range(count))):
            os.mknod(folder / name, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            (folder / name).chmod(0o666)
        yield folder
    finally:
        shutil.rmtree(folder)


def cdi_content(places: Places, gpus: tuple[Gpu, ...], **changes: Any) -> dict[str, Any]:
    """What nvidia-ctk would write, by its structure."""
    library = places.libraries[0] / "libcuda.so.999.1"
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": name,
                "containerEdits": {
                    "deviceNodes": [
                        {"path": f"{places.dev}/nvidia{gpu.minor}"},
                        {"path": "/dev/dri/card1"},
                    ]
                },
            }
            for gpu in gpus
            for name in (str(gpu.index), gpu.uuid)
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void", "LD_PRELOAD=/tmp/x.so"],
            "deviceNodes": [{"path": f"{places.dev}/{name}"} for name in SHARED],
            "mounts": [
                {
                    "hostPath": str(path),
                    "containerPath": str(path),
                    "options": ["ro", "nosuid", "nodev", "bind"],
                }
                for path in (library, Path("/run/nvidia-persistenced/socket"))
            ],
            "hooks": [
                {
                    "hookName": "createContainer",
                    "path": "/usr/bin/nvidia-cdi-hook",
                    "args": ["nvidia-cdi-hook", "update-ldcache"],
                }
            ],
        },
        **changes,
    }


def write_cdi(places: Places, content: object, name: str = "nvidia.json") -> Path:
    path = places.cdi[0] / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o644)
    return path

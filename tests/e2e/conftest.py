"""Pools of real processes, and stubs for grpcio peers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool import Pool, open_pool_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """An empty folder for daemons, which are all gone afterwards."""
    with open_pool_folder(tmp_path / "pool") as opened:
        yield opened


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs as anybody would generate them from proto/."""
    folder = tmp_path_factory.mktemp("stubs")
    proto = ROOT / "proto"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{proto}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            *(str(path.relative_to(proto)) for path in sorted(proto.rglob("*.proto"))),
        ],
        cwd=proto,
        check=True,
    )
    return folder

"""A bind inside another may meet links there, which whoever filled the outer one has made."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

import sandbox
from tests.sandbox.conftest import limits, shell


def _bind(source: Path, target: str) -> sandbox.ReadOnlyBind:
    return sandbox.ReadOnlyBind(source=source, target=PurePosixPath(target))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    for folder in (tmp_path, outer, inner):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    (inner / "planted").touch()
    return outer, inner


@pytest.mark.parametrize("link", ["/usr/share/doc", "../../../../../usr/share/doc"])
async def test_a_link_below_a_bind_does_not_lead_out_of_the_run(
    any_pool: sandbox.Pool, folders: tuple[Path, Path], link: str
) -> None:
    outer, inner = folders
    (outer / "sub").symlink_to(link)
    binds = (_bind(outer, "/inputs"), _bind(inner, "/inputs/sub"))
    done = await sandbox.run_in(any_pool, shell("ls /inputs/sub/", binds=binds, limits=limits()))
    assert done.stdout == b"planted\n"
    later = shell("ls /data /usr/share/doc", binds=(_bind(Path("/usr/share/doc"), "/data"),))
    assert b"planted" not in (await sandbox.run_in(any_pool, later)).stdout


async def test_a_link_that_leads_nowhere_in_the_run_is_refused(
    any_pool: sandbox.Pool, folders: tuple[Path, Path]
) -> None:
    outer, inner = folders
    (outer / "sub").symlink_to(inner)  # there is no such path in a run
    binds = (_bind(outer, "/inputs"), _bind(inner, "/inputs/sub"))
    with pytest.raises(sandbox.SandboxError, match="no place"):
        await sandbox.run_in(any_pool, shell("true", binds=binds))
    assert (await sandbox.run_in(any_pool, shell("echo on"))).stdout == b"on\n"

"""Read-only views of the host's files, which do not tell where they lie on the host.

A plain bind shows its source's path in /proc/self/mountinfo. Below /usr that tells nothing, for
every task sees /usr. Anything else is seen through an overlay without an upper layer, mounted from
inside its source as `lowerdir=.:/pool/empty`, so that neither the mount's root nor its options
name a folder of the host.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH112, PTH119, PTH120, PTH123

from __future__ import annotations

import errno
import os
import re

from sandbox.spawner import linux

EMPTY = "/pool/empty"
ASIDE = "/pool/aside"  # where a mount is made that is to be seen in part, or in another only

_QUIET = linux.MS_NOSUID | linux.MS_NODEV
_SEEN_ANYWAY = ("/usr", "/host/usr")


def bind_read_only(source: str, target: str) -> None:
    """Bind a folder with all that is mounted in it, and make every part read-only.

    Raises:
        OSError: a mount was refused.
    """
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    for path in [target, *mount_points_below(target)]:
        seal(path)


def bind_neutral(source: str, target: str) -> None:
    """Show a file or folder of the host read-only, without its path.

    What is mounted inside a folder is seen too. A file's own last name can still be seen.

    Raises:
        OSError: a mount was refused; the text says what to do.
    """
    if any(source == top or source.startswith(f"{top}/") for top in _SEEN_ANYWAY):
        bind_read_only(source, target)
    elif os.path.isdir(source):
        overlay(source, target)
        for path in mount_points_below(source):
            bind_neutral(path, target + path[len(source) :])
    else:
        _bind_file(source, target)


def _bind_file(source: str, target: str) -> None:
    if source in mount_points_below(os.path.dirname(source)):
        raise _not_neutral(source, "it is a mount of its own")
    overlay(os.path.dirname(source), ASIDE)
    try:
        linux.mount(f"{ASIDE}/{os.path.basename(source)}", target, None, linux.MS_BIND)
        seal(target)
    finally:
        linux.umount(ASIDE)


def overlay(source: str, target: str, above: str | None = None) -> None:
    """Mount a folder of the host read-only at `target`, with what lies in `above` put over it.

    Raises:
        OSError: the kernel cannot do that here; the text says what to do.
    """
    layers = f".:{EMPTY}" if above is None else f"{above}:."
    os.chdir(source)
    try:
        linux.mount("data", target, "overlay", _QUIET | linux.MS_RDONLY, f"lowerdir={layers}")
    except OSError as error:
        # Only root may look under what others mounted (mount_namespaces(7), locked mounts).
        locked = error.errno == errno.EINVAL and mount_points_below(source)
        why = "as an ordinary user, for something is mounted in it" if locked else str(error)
        raise _not_neutral(source, why) from None
    finally:
        os.chdir("/")


def _not_neutral(source: str, why: str) -> OSError:
    source = source.removeprefix("/host") or "/"
    return OSError(
        f"cannot show {source} without telling its place ({why}): use a kernel with overlayfs "
        "(as an ordinary user, Linux 5.11 or newer), and a plain folder of a disk without mounts "
        "in it, or one below /usr"
    )


class Aside:
    """A small tmpfs that is filled, put into another mount and forgotten: use as a context."""

    def __enter__(self) -> str:
        linux.mount("root", ASIDE, "tmpfs", _QUIET, "mode=0755")
        return ASIDE

    def __exit__(self, *_: object) -> None:
        linux.umount(ASIDE)


def seal(path: str, more: int = linux.MS_NODEV) -> None:
    """Make one mount read-only, without set-uid files and devices.

    What else restricts it is kept: an ordinary user may not take it away (mount_namespaces(7)).
    """
    flags = os.statvfs(path).f_flag
    kept = flags & (os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    if flags & os.ST_RELATIME:
        kept |= linux.MS_RELATIME
    remount = linux.MS_REMOUNT | linux.MS_BIND
    linux.mount("none", path, None, remount | linux.MS_RDONLY | linux.MS_NOSUID | more | kept)


def mount_points_below(folder: str) -> list[str]:
    """Where something is mounted inside `folder`, outermost first, each once."""
    top = folder.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        paths = [_unescape(line.split(" ", 5)[4]) for line in file]
    return sorted({path for path in paths if path.startswith(top)})


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)

"""Finding out how an archive is started, where whoever submitted it did not say.

The archive is a stranger's, so it is unpacked and looked at in a sandbox of its own, under the
task's limits; this process sees names only.
"""

import json
from typing import Any

import attrs

import sandbox
from hivemind.core.entry import EntryError, argv_for, choose_entry
from hivemind.core.inline_metadata import MetadataError, read_file
from hivemind.worker.build import BadPayload

_WALL_S = 120.0
_LISTING_BYTES = 2 * 1024 * 1024
"""More than the names of 10,000 files; it is held in memory once."""

_LISTER = """
import json, os
names, runs, manifest = [], [], None
for top, _, files in os.walk("."):
    for name in files:
        path = os.path.join(top, name)[2:]
        names.append(path)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            with open(path, "rb") as file:
                if file.read(2) == b"#!":
                    runs.append(path)
if os.path.isfile("hivemind.toml"):
    with open("hivemind.toml", encoding="utf-8", errors="replace") as file:
        manifest = file.read(262144)
print(json.dumps([names, runs, manifest]))
"""


def look_into(spec: sandbox.Spec) -> sandbox.Spec:
    """The run that lists the archive of ``spec``, with the same limits or lower ones."""
    return attrs.evolve(
        spec,
        argv=("python3", "-I", "-S", "-c", _LISTER),
        stdin=None,
        limits=attrs.evolve(
            spec.limits,
            wall_s=min(spec.limits.wall_s, _WALL_S),
            output_bytes=_LISTING_BYTES,
        ),
    )


async def find_entry(pool: sandbox.Pool, spec: sandbox.Spec) -> tuple[str, ...]:
    """The beginning of the command line that starts the archive of ``spec``.

    Raises:
        BadPayload: there is no telling how to start it, or it holds too much to look through.
        BadArchive: it cannot be unpacked.
        SandboxError: the sandbox could not be made.
    """
    done = await sandbox.run_in(pool, look_into(spec))
    if done.result.exit_code != 0:
        reason = done.result.reason.value.replace("_", " ")
        raise BadPayload(f"the archive cannot be looked through: {reason}: name its command")
    names, runs, manifest = _read(done.stdout)
    try:
        command = () if manifest is None else read_file(manifest).command
        entry = choose_entry(names, command)
    except (EntryError, MetadataError) as error:
        raise BadPayload(str(error)) from error
    return entry if command else argv_for(entry[0], runs_itself=entry[0] in runs)


def _read(listing: bytes) -> tuple[list[str], list[str], str | None]:
    told: Any = json.loads(listing)
    names, runs, manifest = told
    return names, runs, manifest

"""Where a result goes: into a folder, or whole into a zip."""

import tempfile
from pathlib import Path

import attrs
import trio

from hivemind.cli.faults import CommandFailed, complain
from hivemind.client import Client
from hivemind.client.unpacking import unpack_output


@attrs.frozen
class Destination:
    """A place that was judged before any work was done."""

    path: Path
    is_zip: bool

    @classmethod
    def checked(cls, path: Path) -> "Destination":
        """The destination that a command line's PATH means.

        A path that ends in ``.zip`` and is no folder is the result's zip; any other is a folder
        for the files that the task left, made if it is missing.

        Raises:
            CommandFailed: nothing could be written there.
        """
        try:
            is_zip = path.suffix.lower() == ".zip" and not path.is_dir()
            if is_zip and not path.parent.is_dir():
                raise CommandFailed(f"{path.parent}: there is no such folder; make it first")
            if not is_zip and path.exists() and not path.is_dir():
                raise CommandFailed(f"{path}: not a folder; choose one, or a name ending in .zip")
        except OSError as error:
            raise CommandFailed(f"{path}: cannot be used: {error.strerror}") from error
        return cls(path, is_zip)

    async def fetch(self, client: Client, task_id: str) -> None:
        """Put the result there, and tell what of it is missing. Raises ClientError."""
        if self.is_zip:
            await client.download(task_id, self.path)
            return
        with tempfile.TemporaryDirectory(prefix="hivemind-result-") as folder:
            archive = Path(folder, "result.zip")
            await client.download(task_id, archive)
            unpacked = await trio.to_thread.run_sync(unpack_output, archive, self.path)
        if unpacked.damage:
            complain(f"the result is not whole: {unpacked.damage}")

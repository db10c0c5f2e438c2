"""What somebody wants run, looked at closely before anything is sent.

A file that is a zip or tar by its content is an archive; any other is a script. A folder is sent as
an archive of it. A command brings no bytes of its own. What the program's own file says of limits,
policy and variables (``core.inline_metadata``) holds where the caller says nothing.
"""

import codecs
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from hivemind.client.archives import is_empty_tar, is_named_like_archive, list_archive
from hivemind.client.errors import BadProgram
from hivemind.client.packing import plan_folder, read_as_tar
from hivemind.client.sources import Source, bytes_source, file_source
from hivemind.core.admission import Ask
from hivemind.core.entry import SNIFF_BYTES, PayloadForm, choose_entry, payload_kind
from hivemind.core.errors import CoreError
from hivemind.core.inline_metadata import FILE_NAME, FileSettings, read_file, read_script
from hivemind.core.messages import Submission
from hivemind.core.records import PayloadKind

_READ_BYTES = 16 * 1024 * 1024
"""How much of a script is looked through for its metadata."""


_ASKED_BY_FILES = (
    *("memory_bytes", "cpu_millis", "gpus", "wall_s", "policy", "scratch_bytes", "tmp_bytes"),
    *("cpu_s", "open_files", "network", "seccomp", "reuse", "least_trust", "max_ucpt"),
)


@attrs.frozen
class Program:
    """Something to run, ready to be sent: what is asked for it, and its bytes."""

    submission: Submission
    payload: Source | None = None
    """None for a command."""


def program_from_command(
    argv: Sequence[str], *, ask: Ask, env: Mapping[str, str], name: str = ""
) -> Program:
    """A command line, to be run as it is.

    Raises:
        BadProgram: it is empty, or not text.
    """
    if not argv or not argv[0]:
        raise BadProgram("there is no command to run; give one after --")
    _check_text((name, *argv), env)
    return Program(
        Submission(kind=PayloadKind.COMMAND, ask=ask, argv=tuple(argv), env=dict(env), name=name)
    )


def program_from_path(
    source: str | os.PathLike[str],
    *,
    args: Sequence[str] = (),
    ask: Ask,
    env: Mapping[str, str],
    name: str = "",
) -> Program:
    """A script, a folder or an archive, to be run with ``args``.

    Raises:
        BadProgram: it cannot be read, is empty, has no entry, or is none of these.
    """
    if not os.fspath(source):
        # A path of no characters would mean the working folder, which nobody meant to send.
        raise BadProgram("the path of what to run is empty; name a file or a folder")
    path = Path(source)
    _check_text((path.name, name, *args), env)
    wish = _Wish(tuple(args), ask, dict(env), name)
    try:
        if path.is_dir():
            return _folder(path, wish)
        _check_is_file(path)
        form = _form(path)
        if form.kind is PayloadKind.ARCHIVE:
            return _archive(path, wish)
        return _script(path, form, wish)
    except OSError as error:
        raise BadProgram(f"{path}: cannot be read: {error.strerror}") from error


@attrs.frozen
class _Wish:
    """What the caller says."""

    args: tuple[str, ...]
    ask: Ask
    env: dict[str, str]
    name: str

    def submission(
        self, kind: PayloadKind, settings: FileSettings, *, filename: str = ""
    ) -> Submission:
        """The caller's words, and the file's where the caller said nothing."""
        own = {
            field: value
            for field in _ASKED_BY_FILES
            if getattr(self.ask, field) is None and (value := getattr(settings, field)) is not None
        }
        return Submission(
            kind=kind,
            ask=attrs.evolve(self.ask, **own),
            filename=filename,
            argv=self.args,
            command=settings.command,
            env={**settings.env, **self.env},
            name=self.name,
            outputs=settings.outputs,
        )


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise BadProgram(f"{path}: there is no such file or folder")
    if not path.is_file():
        raise BadProgram(f"{path}: neither a file nor a folder")


def _form(path: Path) -> PayloadForm:
    with path.open("rb") as file:
        head = file.read(SNIFF_BYTES)
    if is_empty_tar(head):
        raise BadProgram(f"{path}: the archive is empty; there is nothing to run in it")
    try:
        form = payload_kind(head)
    except CoreError as error:
        raise BadProgram(f"{path}: {error}") from error
    if form.kind is PayloadKind.SCRIPT and is_named_like_archive(path.name):
        raise BadProgram(f"{path}: not a zip or tar archive, although it is named like one")
    return form


def _script(path: Path, form: PayloadForm, wish: _Wish) -> Program:
    source = file_source(path)
    with path.open("rb") as file:
        head = file.read(_READ_BYTES)
    try:
        decoder = codecs.getincrementaldecoder("utf-8")(
            errors="strict" if form is PayloadForm.PYTHON else "replace"
        )
        # A character may be cut where the reading ended.
        text = decoder.decode(head, final=source.size <= len(head))
    except UnicodeDecodeError as error:
        raise BadProgram(f"{path}: neither UTF-8 text nor an archive") from error
    try:
        settings = read_script(text)
    except CoreError as error:
        raise BadProgram(f"{path}: {error}") from error
    if settings.command:
        raise BadProgram(
            f"{path}: its metadata has a command, which only a folder or an archive can have"
        )
    submission = wish.submission(PayloadKind.SCRIPT, settings, filename=path.name)
    return Program(submission, bytes_source(head) if source.size == len(head) else source)


def _archive(path: Path, wish: _Wish) -> Program:
    listing = list_archive(path, FILE_NAME)
    settings = _file_settings(path, listing.names, listing.manifest)
    return Program(wish.submission(PayloadKind.ARCHIVE, settings), file_source(path))


def _folder(path: Path, wish: _Wish) -> Program:
    plan = plan_folder(path)
    manifest = None
    if FILE_NAME in plan.file_names:
        manifest = (path / FILE_NAME).read_bytes()
    settings = _file_settings(path, plan.file_names, manifest)
    submission = wish.submission(PayloadKind.ARCHIVE, settings)
    return Program(submission, Source(plan.tar_bytes, lambda: read_as_tar(plan)))


def _file_settings(path: Path, names: Sequence[str], manifest: bytes | None) -> FileSettings:
    """What ``hivemind.toml`` says. Raises BadProgram where there is nothing to start."""
    try:
        settings = FileSettings() if manifest is None else read_file(manifest.decode())
        choose_entry(names, settings.command)
    except UnicodeDecodeError as error:
        raise BadProgram(f"{path}: its {FILE_NAME} is not UTF-8") from error
    except CoreError as error:
        raise BadProgram(f"{path}: {error}") from error
    return settings


def _check_text(texts: Sequence[str], env: Mapping[str, str]) -> None:
    """Bytes that are no UTF-8 reach Python as lone surrogates, which cannot travel."""
    for text in (*texts, *env.values()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadProgram(f"{text!a}: names, arguments and variables are UTF-8") from None
        if "\0" in text:
            raise BadProgram(f"{text!a}: names, arguments and variables cannot hold a NUL")

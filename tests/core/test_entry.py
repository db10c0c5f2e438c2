"""Given some bytes or some names, then this is what runs."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.entry import EntryError, PayloadForm, argv_for, choose_entry, payload_kind
from hivemind.core.records import PayloadKind


def zipped(**files: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


def tarred() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        info = tarfile.TarInfo("main.py")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"pass"))
    return held.getvalue()


def as_is(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("compress", [as_is, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_is_known_whatever_it_is_compressed_with(compress: Callable[[bytes], bytes]) -> None:
    form = payload_kind(compress(tarred())[:512])
    assert form is PayloadForm.TAR
    assert form.kind is PayloadKind.ARCHIVE


@pytest.mark.parametrize("data", [zipped(), zipped(a="b")], ids=["empty", "with a file"])
def test_a_zip_is_known_even_when_it_is_empty(data: bytes) -> None:
    assert payload_kind(data) is PayloadForm.ZIP
    assert PayloadForm.ZIP.kind is PayloadKind.ARCHIVE


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"print('Hello, HiveMind!')", PayloadForm.PYTHON),
        ("print('grüße, 世界')".encode(), PayloadForm.PYTHON),
        ("x = '世".encode()[:-1], PayloadForm.PYTHON),
        (b"\xef\xbb\xbfprint(1)", PayloadForm.PYTHON),
        (b"#!/bin/sh\necho hi", PayloadForm.HASHBANG),
        (b"#!/usr/bin/env python3\nprint(1)", PayloadForm.HASHBANG),
    ],
)
def test_other_text_is_python_unless_it_names_its_interpreter(
    data: bytes, form: PayloadForm
) -> None:
    assert payload_kind(data) is form
    assert form.kind is PayloadKind.SCRIPT


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF\x02\x01\x01\0\0", b"\xff\xfe\0", b"caf\xe9 = 1", b"print(1)\0"]
)
def test_what_is_neither_archive_nor_text_is_refused(data: bytes) -> None:
    with pytest.raises(EntryError):
        payload_kind(data)


@given(st.binary(max_size=600))
def test_any_bytes_are_judged_or_refused(data: bytes) -> None:
    with suppress(EntryError):
        assert payload_kind(data) in PayloadForm


@pytest.mark.parametrize(
    ("given_members", "then_entry"),
    [
        (["run.sh", "main.py", "app.py"], "run.sh"),
        (["start.py", "run.py", "app.py", "main.py"], "main.py"),
        (["start.py", "run.py", "app.py"], "app.py"),
        (["start.py", "run.py"], "run.py"),
        (["start.py", "other.py"], "start.py"),
        (["tool.py", "data.csv"], "tool.py"),
        (["src/tool.py", "data.csv"], "src/tool.py"),
        (["./main.py", "./lib/a.py"], "main.py"),
        (["lib/", "lib/main.py", "lib/run.sh", "app.py"], "app.py"),
        (["__MACOSX/._main.py", "__MACOSX/main.py", "tool.py"], "tool.py"),
        (["../main.py", "/main.py", "tool.py"], "tool.py"),
        (["main.py/", "tool.py"], "tool.py"),
    ],
)
def test_the_entry_is_the_first_known_name_at_the_top_else_the_only_python_file(
    given_members: list[str], then_entry: str
) -> None:
    assert choose_entry(given_members) == (then_entry,)


def test_an_archives_own_command_wins() -> None:
    command = ("python3", "-m", "tool")
    assert choose_entry(["main.py"], command) == command


@pytest.mark.parametrize("members", [[], ["folder/"], ["__MACOSX/._x"]])
@pytest.mark.parametrize("command", [(), ("sh", "x")])
def test_an_empty_archive_is_refused(members: list[str], command: tuple[str, ...]) -> None:
    with pytest.raises(EntryError, match="the archive is empty"):
        choose_entry(members, command)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        (["data.csv"], "no entry: add one of run.sh, main.py"),
        (["a.py", "b.py"], "has 2 Python files and none is its entry"),
        (["p/main.py", "p/b.py"], "everything in the archive lies in the folder 'p'"),
        (["\x1b[2J/a", "\x1b[2J/b"], "lies in the folder"),
    ],
)
def test_an_archive_without_an_entry_is_refused_with_what_to_do(
    members: list[str], complaint: str
) -> None:
    with pytest.raises(EntryError, match=complaint) as caught:
        choose_entry(members)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "runs_itself", "argv"),
    [
        ("main.py", False, ("python3", "main.py")),
        ("src/tool.py", False, ("python3", "src/tool.py")),
        ("run.sh", False, ("sh", "run.sh")),
        ("run.sh", True, ("./run.sh",)),
        ("tool.py", True, ("./tool.py",)),
        ("-c.py", False, ("python3", "./-c.py")),
        ("-x", False, ("sh", "./-x")),
    ],
)
def test_python_files_run_in_python_and_others_by_themselves_or_in_sh(
    name: str, runs_itself: bool, argv: tuple[str, ...]
) -> None:
    assert argv_for(name, runs_itself=runs_itself) == argv

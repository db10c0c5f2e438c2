import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hivemind.core.records import (
    Attempt,
    Outcome,
    OutputChunk,
    OutputStream,
    Reason,
    Task,
    TaskState,
    Usage,
)
from hivemind.master.output import OutputFolder, OutputLog
from hivemind.master.results import ResultParts, result_pieces
from tests.master.test_tars import add, tar_of

TASK = Task(
    id="t1",
    account="ann",
    state=TaskState.FAILED,
    reason=Reason.EXITED,
    exit_code=3,
    attempt=2,
    submitted_at=10.0,
    started_at=11.0,
    finished_at=1_700_000_000.0,
)
ATTEMPT = Attempt(
    task_id="t1",
    number=2,
    node_id="n1",
    lease_id="l",
    assigned_at=10.5,
    outcome=Outcome.FAILED,
    usage=Usage(wall_s=1.5, cpu_s=0.5, memory_peak_bytes=77),
)


def parts(
    outputs: Path | bytes | None = None, log: OutputLog | None = None, **fields: Any
) -> ResultParts:
    return ResultParts(
        task=fields.get("task", TASK),
        attempt=fields.get("attempt", ATTEMPT),
        log=log,
        outputs=outputs,
    )


async def pieces_of(chosen: ResultParts) -> list[bytes]:
    async with aclosing(result_pieces(chosen)) as pieces:
        return [piece async for piece in pieces]


async def unzipped(chosen: ResultParts) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(b"".join(await pieces_of(chosen)))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


async def test_a_result_holds_outputs_both_streams_and_a_report(tmp_path: Path) -> None:
    log = await OutputFolder(tmp_path, lambda _id: None).log("t1", 2)
    chunks = [
        OutputChunk(stream=OutputStream.STDOUT, offset=0, data=b"out", at=1.0),
        OutputChunk(stream=OutputStream.STDERR, offset=3, data=b"err\n", at=2.0),
        OutputChunk(stream=OutputStream.STDOUT, offset=7, data=b" more\n", at=3.0),
    ]
    await log.append(chunks, most_bytes=100)

    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "a.bin", bytes(range(256)))
        add(tar, "sub/run.sh", b"#!", mode=0o755)
        add(tar, "empty", b"")

    got = await unzipped(parts(tar_of(fill), log))
    report = json.loads(got.pop("result.json"))
    assert got == {
        "output/a.bin": bytes(range(256)),
        "output/sub/run.sh": b"#!",
        "output/empty": b"",
        "stdout.txt": b"out more\n",
        "stderr.txt": b"err\n",
    }
    assert report == {
        "task_id": "t1",
        "name": "",
        "state": "failed",
        "reason": "exited",
        "detail": "",
        "exit_code": 3,
        "attempts": 2,
        "submitted_at": 10.0,
        "started_at": 11.0,
        "finished_at": 1_700_000_000.0,
        "usage": {
            "wall_s": 1.5,
            "cpu_s": 0.5,
            "memory_peak_bytes": 77,
            "gpu_memory_peak_bytes": 0,
        },
        "node": "n1",
    }


async def test_a_task_that_never_ran_has_a_result_too() -> None:
    got = await unzipped(parts(attempt=None))
    assert list(got) == ["result.json"]
    assert json.loads(got["result.json"])["usage"] is None


async def test_an_executable_stays_one() -> None:
    data = tar_of(lambda tar: (add(tar, "x", mode=0o755), add(tar, "y", mode=0o644)))
    with zipfile.ZipFile(io.BytesIO(b"".join(await pieces_of(parts(data))))) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes["output/x"] == 0o100755
    assert modes["output/y"] == 0o100644


async def test_reading_a_result_again_gives_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "tar"
    file.write_bytes(tar_of(lambda tar: add(tar, "a", b"1" * 1_000_000, mtime=5)))
    first, second = [b"".join(await pieces_of(parts(file))) for _ in range(2)]
    assert first == second


async def test_a_large_result_streams_through_bounded_memory(tmp_path: Path) -> None:
    # 64 MB of a pattern that shows when bytes are lost or change their places.
    size, block = 64 * 1024 * 1024, bytes(range(251)) * 4177
    file = tmp_path / "tar"
    with file.open("wb") as raw, tarfile.open(fileobj=raw, mode="w|") as tar:
        info = tarfile.TarInfo("big")
        info.size = size

        class Pattern(io.RawIOBase):
            at = 0

            def readable(self) -> bool:
                return True

            def read(self, wanted: int = -1) -> bytes:
                start = self.at % len(block)
                data = block[start : start + wanted]
                self.at += len(data)
                return data

        class Full(Pattern):
            def read(self, wanted: int = -1) -> bytes:
                got = b""
                while len(got) < wanted:
                    got += super().read(wanted - len(got))
                return got

        tar.addfile(info, Full())
    out = tmp_path / "zip"
    tracemalloc.start()
    try:
        with out.open("wb") as written:
            async with aclosing(result_pieces(parts(file))) as pieces:
                async for piece in pieces:
                    written.write(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    with zipfile.ZipFile(out) as archive, archive.open("output/big") as member:
        at = 0
        while data := member.read(len(block)):
            assert data == block[: len(data)]
            at += len(data)
    assert at == size


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "..", ".", "", "a\nb", "a\x1b[2Jb", "a\\b", "\u202eabc"],
)
async def test_a_name_that_leads_elsewhere_is_left_out(name: str) -> None:
    data = tar_of(lambda tar: (add(tar, name, b"evil"), add(tar, "good", b"1")))
    got = await unzipped(parts(data))
    assert [name for name in got if name.startswith("output/")] == ["output/good"]
    assert "1 outputs were not plain files" in json.loads(got["result.json"])["outputs"]


async def test_a_name_that_is_not_text_is_left_out() -> None:
    data = tar_of(lambda tar: add(tar, "\udcff\udcfe", b"x"), tarfile.GNU_FORMAT)
    assert list(await unzipped(parts(data))) == ["result.json"]


async def test_links_devices_and_holes_are_left_out() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "link", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard", type=tarfile.LNKTYPE, linkname="good")
        add(tar, "null", type=tarfile.CHRTYPE)
        add(tar, "pipe", type=tarfile.FIFOTYPE)
        add(tar, "holes", b"x", type=tarfile.GNUTYPE_SPARSE)
        add(tar, "folder", type=tarfile.DIRTYPE)
        add(tar, "good", b"1")

    got = await unzipped(parts(tar_of(fill)))
    assert [name for name in got if name.startswith("output/")] == ["output/good"]
    assert json.loads(got["result.json"])["outputs"].startswith("5 outputs")


async def test_names_that_stand_in_each_others_way_are_kept_once() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "a", b"first")
        add(tar, "a", b"second")
        add(tar, "./a", b"third")
        add(tar, "a/b", b"below a file")
        add(tar, "f/g", b"1")
        add(tar, "f", b"in place of a folder")

    got = await unzipped(parts(tar_of(fill)))
    got.pop("result.json")
    assert got == {"output/a": b"first", "output/f/g": b"1"}


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"no tar at all" * 100, []),
        (tar_of(lambda tar: (add(tar, "a", b"1"), add(tar, "b", bytes(2000))))[:2600], ["a", "b"]),
        (b"", []),
    ],
)
async def test_a_damaged_tar_gives_what_can_be_read_and_says_so(
    data: bytes, kept: list[str]
) -> None:
    got = await unzipped(parts(data))
    assert [name for name in got if name.startswith("output/")] == [f"output/{n}" for n in kept]
    if data:
        assert "cannot be read to their end" in json.loads(got["result.json"])["outputs"]


async def test_outputs_whose_file_is_gone_are_said_to_be_gone(tmp_path: Path) -> None:
    got = await unzipped(parts(tmp_path / "nowhere"))
    assert "No such file" in json.loads(got["result.json"])["outputs"]


async def test_more_files_than_anybody_sends_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind.master.results._MOST_FILES", 3)
    data = tar_of(lambda tar: [add(tar, f"f{number}") for number in range(9)])
    got = await unzipped(parts(data))
    assert len(got) == 4
    assert "more than 3 outputs" in json.loads(got["result.json"])["outputs"]


async def test_no_names_take_more_room_than_there_is_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deep(number: int, depth: int) -> str:
        return "/".join([f"t{number}", *["d"] * (depth - 2), "file"])

    data = tar_of(lambda tar: [add(tar, deep(number, 2000)) for number in range(30)])
    tracemalloc.start()
    try:
        got = await unzipped(parts(data))
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    finally:
        tracemalloc.stop()
    assert list(got) == ["result.json"]
    assert "30 outputs were not plain files" in json.loads(got["result.json"])["outputs"]

    data = tar_of(lambda tar: [add(tar, deep(number, 200)) for number in range(9)])
    assert len(await unzipped(parts(data))) == 9 + 1
    for limit, most in (("_MOST_FOLDERS", 500), ("_MOST_NAMES_BYTES", 1000)):
        with monkeypatch.context() as narrow:
            narrow.setattr(f"hivemind.master.results.{limit}", most)
            got = await unzipped(parts(data))
        assert len(got) == 3 + 1
        assert "the rest is left out" in json.loads(got["result.json"])["outputs"]


async def test_the_directory_of_a_result_counts_among_the_replies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[int] = []

    @asynccontextmanager
    async def hold(size_bytes: int) -> AsyncIterator[None]:
        held.append(size_bytes)
        yield

    monkeypatch.setattr("hivemind.master.results.holding_reply", hold)
    data = tar_of(lambda tar: [add(tar, f"{number:05}") for number in range(5000)])
    await pieces_of(parts(data))
    assert 5000 * 1000 < sum(held) < 5000 * 1100


async def test_a_reader_who_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    file = tmp_path / "tar"
    file.write_bytes(tar_of(lambda tar: add(tar, "a", bytes(3_000_000))))
    async with aclosing(result_pieces(parts(file))) as pieces:
        await anext(pieces)
    # A file that is left to the garbage collector is a ResourceWarning, which fails the test.

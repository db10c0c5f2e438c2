import contextlib
import io
import math
import tarfile
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.master.tars import BadTar, members

Fill = Callable[[tarfile.TarFile], None]


def tar_of(fill: Fill, format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        fill(tar)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def read(data: bytes) -> dict[str, bytes]:
    return {
        member.name: b"".join(member.pieces())
        for member in members(io.BytesIO(data))
        if member.is_file
    }


NAMES = ("a", "folder/b.txt", "n" * 100, "long/" * 60 + "name", "ünïcode/" * 30 + "ß", "x" * 3000)


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_what_the_standard_library_writes_is_read(format_: int) -> None:
    files = {name: name.encode() * size for size, name in enumerate(NAMES)}

    def fill(tar: tarfile.TarFile) -> None:
        for name, data in files.items():
            add(tar, name, data, mtime=1.5)

    assert read(tar_of(fill, format_)) == files


def test_ustar_names_of_two_parts_are_read() -> None:
    name = "p" * 120 + "/" + "n" * 90
    assert read(tar_of(lambda tar: add(tar, name, b"x"), tarfile.USTAR_FORMAT)) == {name: b"x"}


def test_members_that_are_not_read_are_passed_over() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        for number in range(5):
            add(tar, f"f{number}", bytes(1000 * number))

    got = [member.name for member in members(io.BytesIO(tar_of(fill)))]
    assert got == [f"f{number}" for number in range(5)]


def test_only_regular_files_are_files() -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)

    def fill(tar: tarfile.TarFile) -> None:
        for kind in kinds:
            add(tar, f"k{kind.decode()}", type=kind, linkname="/etc/passwd")
        add(tar, "folder", type=tarfile.DIRTYPE)
        add(tar, "holes", b"12345", type=tarfile.GNUTYPE_SPARSE)
        add(tar, "pax holes", b"12345", pax_headers={"GNU.sparse.major": "1"})
        add(tar, "file", b"1", mode=0o755)

    seen = list(members(io.BytesIO(tar_of(fill))))
    assert [member.name for member in seen if member.is_file] == ["file"]
    assert [member.name for member in seen if member.is_folder] == ["folder/"]
    assert seen[-1].is_executable
    assert len(seen) == len(kinds) + 4


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_a_name_of_gigabytes_is_not_read(kind: bytes) -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= 64 * 1024, "so much was asked for at once"
            return super().read(size)

    info = tarfile.TarInfo("huge")
    info.type, info.size = kind, 4 * 1024**3
    with pytest.raises(BadTar, match="a name in it has 4294967296 bytes"):
        list(members(Endless(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))))


@pytest.mark.parametrize("cut", [1, 511, 513, 700, 1024, 1400])
def test_a_tar_that_was_cut_off_says_so_or_ends_between_members(cut: int) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "a", b"1" * 100)
        add(tar, "b", b"2" * 1000)

    data = tar_of(fill, tarfile.USTAR_FORMAT)[:cut]
    if cut % 1024 == 0:
        assert read(data) == {"a": b"1" * 100}
    else:
        with pytest.raises(BadTar):
            read(data)


def test_a_damaged_header_is_noticed() -> None:
    data = bytearray(tar_of(lambda tar: add(tar, "a", b"1"), tarfile.USTAR_FORMAT))
    data[3] ^= 1
    with pytest.raises(BadTar, match="damaged"):
        read(bytes(data))


@given(st.binary(max_size=3000))
def test_garbage_is_refused_and_nothing_worse(data: bytes) -> None:
    with contextlib.suppress(BadTar):
        read(data)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8))
def test_a_tar_with_bytes_changed_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "ä" * 200, b"1" * 700)
        add(tar, "b", b"2")

    data = bytearray(tar_of(fill))
    for place, value in changes:
        data[place % len(data)] = value
    for offset in range(0, len(data), 512):
        # A sum that fits lets the change get past the check that would stop it.
        block = data[offset : offset + 512]
        total = sum(block) - sum(block[148:156]) + 256
        if block[257:262] == b"ustar":
            data[offset + 148 : offset + 156] = f"{total:06o}\0 ".encode()
    with contextlib.suppress(BadTar):
        read(bytes(data))


def behind_pax_headers(*headers: bytes) -> bytes:
    """A member behind pax headers of these records."""
    packed = b""
    for records in headers:
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(records)
        packed += info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    return packed + tar_of(lambda tar: add(tar, "file", b"x"), tarfile.USTAR_FORMAT)


def test_a_header_of_many_records_takes_time_that_grows_with_its_size() -> None:
    def cost_s(data: bytes) -> float:
        best = math.inf
        for _ in range(3):
            began = time.thread_time()
            assert read(data) == {"file": b"x"}
            best = min(best, time.thread_time() - began)
        return best

    # As many records, so that only how one header is gone through makes a difference.
    small = behind_pax_headers(*[b"6 a=b\n" * 512] * 80)
    large = behind_pax_headers(*[b"6 a=b\n" * 10240] * 4)
    assert cost_s(large) < 2 * cost_s(small)


@pytest.mark.parametrize(
    "rest",
    [
        b"no space for long enough",
        b"no",
        b" a=b\n",
        b"0 a=b\n",
        b"1 a=b\n",
        b"2 a=b\n",
        b"3 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"-6 a=b\n",
        b"6 aab\n",
        b"12345678 a=b\n",
    ],
)
def test_a_damaged_record_behind_a_good_one_is_noticed(rest: bytes) -> None:
    with pytest.raises(BadTar, match="damaged"):
        read(behind_pax_headers(b"6 a=b\n" + rest))


@given(st.text("0123456789 =a\n", max_size=40))
def test_any_records_are_read_or_refused(records: str) -> None:
    with contextlib.suppress(BadTar):
        read(behind_pax_headers(records.encode()))


def test_nothing_is_kept_of_records_that_nobody_asks_for() -> None:
    def peak_bytes(data: bytes) -> int:
        tracemalloc.start()
        try:
            assert read(data) == {"file": b"x"}
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    headers = [
        b"".join(b"13 %c%07d=\n" % (letter, number) for number in range(4000))
        for letter in b"abcdefghij"
    ]
    assert peak_bytes(behind_pax_headers(*headers)) < 2 * peak_bytes(behind_pax_headers(headers[0]))

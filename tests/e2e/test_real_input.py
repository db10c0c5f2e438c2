"""What somebody would really send."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from tests.pool import Daemon, Pool

MIB = 1024 * 1024
LARGE = 90_000_000
HUGE = 150 * MIB
MOST_GROWTH = 32 * MIB

MAIN = """\
import sys
from pathlib import Path

import counting.words
from counting.image import write_image

corpus = Path("data/corpus.txt").read_text()
counts = counting.words.count(corpus)
output = Path("output")
(output / "tables").mkdir()
with open(output / "tables" / "words.csv", "w") as table:
    for word, number in sorted(counts.items()):
        table.write(f"{word},{number}\\n")
write_image(output / "gradient.ppm", 64, 48)
print(len(counts), "words", *sys.argv[1:])
"""
WORDS = """\
from collections import Counter


def count(text):
    return Counter(text.split())
"""
IMAGE = """\
def write_image(path, width, height):
    pixels = bytes(v for y in range(height) for x in range(width) for v in (x * 4, y * 5, 128))
    path.write_bytes(b"P6 %d %d 255\\n" % (width, height) + pixels)
"""


def make_project(folder: Path) -> None:
    (folder / "counting").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "main.py").write_text(MAIN)
    (folder / "counting" / "__init__.py").write_text("")
    (folder / "counting" / "words.py").write_text(WORDS)
    (folder / "counting" / "image.py").write_text(IMAGE)
    (folder / "data" / "corpus.txt").write_text("to be or not to be that is the question\n")


def expected_image() -> bytes:
    pixels = bytes(v for y in range(48) for x in range(64) for v in (x * 4, y * 5, 128))
    return b"P6 64 48 255\n" + pixels


def test_a_folder_with_modules_and_data_gives_its_outputs_byte_for_byte(pool: Pool) -> None:
    up = pool.up()
    project = pool.root / "project"
    make_project(project)
    results = pool.root / "results"
    done = pool.cli("run", "--output", f"{results}/", str(project), "and", "more", home=up.home)
    assert (done.returncode, done.stdout) == (0, b"8 words and more\n"), done.stderr.decode()
    assert (results / "gradient.ppm").read_bytes() == expected_image()
    assert (results / "tables" / "words.csv").read_text().startswith("be,2\nis,1\n")


def test_the_same_as_a_zip_gives_the_same(pool: Pool) -> None:
    up = pool.up()
    project = pool.root / "project"
    make_project(project)
    archive = pool.root / "project.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for path in sorted(project.rglob("*")):
            written.write(path, path.relative_to(project))
    done = pool.cli("run", str(archive), home=up.home)
    assert (done.returncode, done.stdout) == (0, b"8 words\n"), done.stderr.decode()
    task = pool.cli("ps", "--all", "--json", home=up.home).stdout
    assert b"succeeded" in task


def test_ninety_megabytes_up_and_down_cost_the_daemons_little_memory(pool: Pool) -> None:
    master = pool.master()
    worker = pool.worker(master, "--join", pool.join_token(master))
    project = pool.root / "large"
    project.mkdir()
    data = os.urandom(LARGE)
    (project / "data.bin").write_bytes(data)
    (project / "main.py").write_text(
        "import shutil; shutil.copy('data.bin', 'output/copy.bin'); print('copied')\n"
    )
    warm = pool.cli("run", "--", "echo", "warm", home=master.home)
    assert warm.returncode == 0, warm.stderr.decode()
    daemons: tuple[Daemon, ...] = (master, worker)
    before = {}
    for daemon in daemons:
        daemon.reset_peak()
        before[daemon.pid] = daemon.rss_bytes()
    done = pool.cli(
        "run", "--memory", "256M", "--output", f"{pool.root}/back/",
        str(project), home=master.home,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"copied\n"), done.stderr.decode()
    digest = hashlib.sha256(data).digest()
    assert hashlib.sha256((pool.root / "back" / "copy.bin").read_bytes()).digest() == digest
    for daemon in daemons:
        growth = daemon.peak_rss_bytes() - before[daemon.pid]
        assert growth < MOST_GROWTH, (daemon.arguments[0], growth / MIB)


@pytest.mark.slow
def test_more_than_uploadtask_takes_runs_from_a_folder_a_zip_and_a_script(pool: Pool) -> None:
    up = pool.up()
    project = pool.root / "huge"
    project.mkdir()
    data = os.urandom(MIB) * (HUGE // MIB)
    digest = hashlib.sha256(data).hexdigest()
    (project / "data.bin").write_bytes(data)
    (project / "main.py").write_text(
        "import hashlib; print(hashlib.sha256(open('data.bin', 'rb').read()).hexdigest())\n"
    )
    archive = pool.root / "huge.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for path in sorted(project.iterdir()):
            written.write(path, path.name)
    for source in (project, archive):
        done = pool.cli("run", "--memory", "512M", str(source), home=up.home)
        assert (done.returncode, done.stdout.decode()) == (0, f"{digest}\n"), done.stderr.decode()
    script = pool.root / "huge.py"
    script.write_bytes(b"import sys; print(len(sys.stdin.read()))\n" + b"#\n" * (HUGE // 2))
    done = pool.cli(
        "run", "--memory", "2G", str(script), home=up.home, stdin=b"x" * HUGE
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()) == (0, f"{HUGE}\n"), done.stderr.decode()

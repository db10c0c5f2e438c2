"""What somebody would really send."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from tests.pool import Daemon, Pool

MIB = 1024 * 1024
LARGE = 90_000_000
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
def test_more_than_a_hundred_megabytes_run_from_end_to_end(pool: Pool) -> None:
    up = pool.up()
    project = pool.root / "larger"
    project.mkdir()
    data = os.urandom(1024) * (150 * 1024)
    (project / "data.bin").write_bytes(data)
    (project / "main.py").write_text(
        "import hashlib; print(hashlib.sha256(open('data.bin', 'rb').read()).hexdigest())\n"
    )
    done = pool.cli("run", "--memory", "512M", str(project), home=up.home)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == hashlib.sha256(data).hexdigest()


def test_an_upload_over_the_pools_limit_is_refused_and_says_so(pool: Pool) -> None:
    home = pool.root / "up"
    (home / "policies").mkdir(parents=True)
    home.chmod(0o700)
    (home / "policies" / "pool.toml").write_text('payload_bytes = "1M"\n')
    up = pool.up()
    script = pool.root / "big.py"
    script.write_text("#" * (2 * MIB))
    refused = pool.cli("run", str(script), home=up.home)
    assert refused.returncode == 125
    assert b"over the limit of 1048576 bytes" in refused.stderr

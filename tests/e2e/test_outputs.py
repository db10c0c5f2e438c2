"""The paths that a task's own file names come home with its result."""

import zipfile

from tests.pool import Pool

MAIN = """
import os
os.makedirs("plots")
open("plots/a.txt", "w").write("plot")
open("model.bin", "w").write("model")
open("output/own.txt", "w").write("own")
open("private", "w").write("private")
"""
SCRIPT = f"""# /// script
# [tool.hivemind]
# outputs = ["plots", "model.bin", "missing"]
# ///
{MAIN}"""
MANIFEST = 'outputs = ["plots", "model.bin", "missing"]'
EXPECTED = {"own.txt": "own", "plots/a.txt": "plot", "model.bin": "model"}


def test_scripts_folders_and_archives_have_what_they_name_collected(pool: Pool) -> None:
    up = pool.up()
    script = pool.root / "script.py"
    script.write_text(SCRIPT)
    folder = pool.root / "project"
    folder.mkdir()
    (folder / "main.py").write_text(MAIN)
    (folder / "hivemind.toml").write_text(MANIFEST)
    archive = pool.root / "project.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("main.py", MAIN)
        written.writestr("hivemind.toml", MANIFEST)
    for number, source in enumerate((script, folder, archive)):
        fetched = pool.root / f"fetched-{number}"
        done = pool.cli("run", "--output", str(fetched), str(source), home=up.home)
        assert done.returncode == 0, done.stderr.decode()
        files = [path for path in fetched.rglob("*") if path.is_file()]
        assert {str(path.relative_to(fetched)): path.read_text() for path in files} == EXPECTED
    shown = pool.cli("ps", "--all", "--json", home=up.home)
    assert shown.stdout.count(b"left out of the result: missing") == 3

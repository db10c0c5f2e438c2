"""What an uploaded program says of itself counts, as it does on the command line."""

import json
import subprocess
import sys
from pathlib import Path

from hivemind.settings.credentials import read_credentials
from tests.pool import COMMAND_S, Pool, clean_environment

CLIENT = Path(__file__).with_name("peers") / "settings_client.py"


def test_uploaded_programs_get_what_their_own_files_ask_for(pool: Pool, stubs: Path) -> None:
    up = pool.up()
    credentials = read_credentials(up.home)
    assert credentials is not None
    ran = subprocess.run(
        [sys.executable, str(CLIENT), str(stubs), up.address, credentials.token],
        capture_output=True,
        env=clean_environment(),
        timeout=COMMAND_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    seen = json.loads(ran.stdout)
    for name in ("script", "long", "zip", "tar"):
        assert seen[name] == ["COMPLETED", ["said"]]
        shown = json.loads(pool.cli("show", name, "--json", home=up.home).stdout)
        assert (shown["requirements"]["memory_bytes"], shown["wall_s"]) == (96 * 1024**2, 77)
    status, text = seen["bad"]
    assert status == "INVALID_ARGUMENT"
    assert "memory" in text
    assert "\n" not in text

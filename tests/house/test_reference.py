"""Every flag, setting and policy key is described, and the reference says what the code says."""

from pathlib import Path

import attrs
import pytest

from hivemind.settings.tables import Key
from hivemind.settings.values import text
from tools.reference.__main__ import REFERENCE, main, render
from tools.reference.fields import Undescribed, descriptions
from tools.reference.keys import _config


def test_the_reference_is_what_the_code_says() -> None:
    assert main(["--check"]) == 0, "run: just reference"


def test_a_reference_that_is_out_of_date_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "REFERENCE.md"
    monkeypatch.setattr("tools.reference.__main__.REFERENCE", stale)
    assert main(["--check"]) == 1
    stale.write_text(render().replace("--memory", "--memry"))
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_a_setting_without_a_description_is_found() -> None:
    @attrs.frozen
    class Config:
        told: str = "x"
        """What it is."""
        untold: str = ""

    assert descriptions(Config) == {"told": "What it is."}
    assert "What it is." in "".join(_config({"told": Key(read=text)}, Config))
    with pytest.raises(Undescribed, match="untold"):
        _config({"untold": Key(read=text)}, Config)


def test_the_readme_leads_to_the_reference() -> None:
    assert "(hivemind/REFERENCE.md)" in (REFERENCE.parents[1] / "README.md").read_text()

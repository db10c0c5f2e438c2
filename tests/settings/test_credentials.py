import os
import stat
import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind.settings.credentials import (
    Credentials,
    CredentialsNotKept,
    CredentialsUnsafe,
    read_credentials,
    write_credentials,
)
from hivemind.settings.errors import BadSetting, SettingsError

ANN = Credentials(master="127.0.0.1:50051", account="ann", token="secret")


def test_credentials_come_back_as_they_were_written_and_belong_to_their_owner(
    tmp_path: Path,
) -> None:
    write_credentials(tmp_path, ANN)
    assert read_credentials(tmp_path) == ANN
    path = tmp_path / "credentials.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_master_with_a_certificate_is_known_by_is_kept(tmp_path: Path) -> None:
    kept = attrs.evolve(ANN, tls_ca=tmp_path / "a 'cert'.pem", tls_name="pool.example")
    write_credentials(tmp_path, kept)
    assert read_credentials(tmp_path) == kept


def test_no_file_is_no_credentials(tmp_path: Path) -> None:
    assert read_credentials(tmp_path) is None
    assert read_credentials(tmp_path / "nowhere") is None


def test_a_token_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(ANN)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_can_be_kept(tmp_path: Path, text: str) -> None:
    kept = attrs.evolve(ANN, account=text)
    write_credentials(tmp_path, kept)
    assert read_credentials(tmp_path) == kept


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o602])
def test_a_file_that_is_open_to_others_is_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    write_credentials(tmp_path, ANN)
    path = tmp_path / "credentials.toml"
    path.chmod(mode)
    with pytest.raises(CredentialsUnsafe, match=f"run chmod 600 {path}"):
        read_credentials(tmp_path)


def test_writing_again_mends_the_mode_and_never_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text("master = ")
    path.chmod(0o644)
    write_credentials(tmp_path, ANN)
    assert read_credentials(tmp_path) == ANN
    tomllib.loads(path.read_text())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x00\xff", "is not UTF-8 text"),
        (b"master", "is not TOML"),
        (b"master = 'h:1'\naccount = 'a'\n", "token: it is missing"),
        (b"master = 'h:1'\naccount = ''\ntoken = 't'\n", "account: expected a text"),
        (b"master = 'h:1'\naccount = 'a'\ntoken = 't'\nx = 1\n", "there is no key x"),
    ],
)
def test_a_corrupt_file_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "credentials.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadSetting, match=words) as caught:
        read_credentials(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        read_credentials(file)
    with pytest.raises(CredentialsNotKept, match="cannot be written"):
        write_credentials(file, ANN)


def test_what_was_there_stays_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(file: int) -> None:
        raise OSError(28, "No space left on device")

    write_credentials(tmp_path, ANN)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(CredentialsNotKept, match="No space left"):
        write_credentials(tmp_path, attrs.evolve(ANN, account="bob"))
    assert read_credentials(tmp_path) == ANN
    assert len(list(tmp_path.iterdir())) == 1

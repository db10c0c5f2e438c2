"""Which master is called, and that a token never goes to another than the one that gave it."""

import stat
from pathlib import Path

import pytest

from hivemind.client.errors import BadAddress
from hivemind.client.target import (
    Manner,
    Trust,
    find_target,
    forget_login,
    masters_own_file,
    save_login,
)
from hivemind.settings.credentials import Credentials, write_credentials


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HIVEMIND_MASTER",
        "HIVEMIND_TOKEN",
        "HIVEMIND_HOME",
        "HIVEMIND_TLS_CA",
        "HIVEMIND_ALLOW_PLAINTEXT",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a master that runs here."""
    credentials = Credentials(master="127.0.0.1:7000", account="admin", token="admins")
    write_credentials(tmp_path, credentials)
    return tmp_path


def test_the_homes_credentials_are_used_when_nothing_else_is_said(home: Path) -> None:
    target = find_target(None, None, home)
    assert (target.address, target.token) == ("127.0.0.1:7000", "admins")


def test_arguments_go_before_the_environment_and_that_before_the_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_MASTER", "env:1")
    monkeypatch.setenv("HIVEMIND_TOKEN", "env token")
    assert find_target(None, None, home).address == "env:1"
    assert find_target(None, None, home).token == "env token"
    target = find_target("arg:2", "arg token", home)
    assert (target.address, target.token) == ("arg:2", "arg token")


def test_the_home_is_found_by_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_HOME", str(home))
    assert find_target(None, None, None).token == "admins"


@pytest.mark.parametrize("elsewhere", ["127.0.0.1:7001", "example.org:7000"])
def test_a_token_goes_to_no_other_master(home: Path, elsewhere: str) -> None:
    assert find_target(elsewhere, None, home).token is None


def test_loopback_has_several_names(home: Path) -> None:
    assert find_target("localhost:7000", None, home).token == "admins"


def test_a_login_goes_before_the_local_admin_and_leaves_its_file_alone(home: Path) -> None:
    before = (home / "credentials.toml").read_bytes()
    save_login(home, find_target("pool.example:50051", None, home), "ann", "anns")
    target = find_target(None, None, home)
    assert (target.address, target.token) == ("pool.example:50051", "anns")
    assert (home / "credentials.toml").read_bytes() == before
    assert find_target("127.0.0.1:7000", None, home).token == "admins"
    assert stat.S_IMODE((home / "login/credentials.toml").stat().st_mode) == 0o600


def test_a_login_is_forgotten_by_its_own_token_alone(home: Path) -> None:
    save_login(home, find_target("pool.example:1", None, home), "ann", "anns")
    assert not forget_login(home, "another")
    assert find_target(None, None, home).token == "anns"
    assert forget_login(home, "anns")
    assert find_target(None, None, home).token == "admins"
    assert not forget_login(home, "anns")


def test_the_local_admins_token_is_told_from_a_login(home: Path) -> None:
    assert masters_own_file(home, "admins") == home / "credentials.toml"
    save_login(home, find_target("pool.example:1", None, home), "ann", "anns")
    assert masters_own_file(home, "anns") is None
    assert masters_own_file(home, None) is None


def test_a_first_login_makes_the_home(tmp_path: Path) -> None:
    home = tmp_path / "new/home"
    save_login(home, find_target("h:1", None, home), "ann", "anns")
    assert find_target(None, None, home).token == "anns"


def test_without_any_word_the_local_default_is_tried(tmp_path: Path) -> None:
    target = find_target(None, None, tmp_path)
    assert (target.address, target.token) == ("127.0.0.1:50051", None)
    assert target.is_guess
    assert not find_target("127.0.0.1:50051", None, tmp_path).is_guess


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:x", "host:99999", ":1:2"])
def test_what_is_no_address_is_told(tmp_path: Path, address: str) -> None:
    with pytest.raises(BadAddress) as caught:
        find_target(address, None, tmp_path)
    assert "\n" not in str(caught.value)


def test_credentials_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "credentials.toml").write_text("token = [")
    with pytest.raises(BadAddress, match=r"credentials\.toml"):
        find_target(None, None, tmp_path)


def test_a_login_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadAddress):
        save_login(tmp_path / "file", find_target("h:1", None, tmp_path), "ann", "anns")


def test_a_master_that_is_known_by_its_certificate_is_called_by_no_other_way(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = home / "cert.pem"
    credentials = Credentials(
        master="127.0.0.1:7000", account="admin", token="admins", tls_ca=ca, tls_name="pool"
    )
    write_credentials(home, credentials)
    own = Trust(ca=ca, name="pool", said_by=str(home / "credentials.toml"))
    assert find_target(None, "another token", home).trust == own
    save_login(home, find_target("localhost:7000", None, home), "ann", "anns")
    login = find_target(None, None, home)
    assert (login.token, login.trust) == (
        "anns",
        Trust(ca=ca, name="pool", said_by=str(home / "login/credentials.toml")),
    )
    assert find_target("elsewhere:7000", None, home).trust is None
    monkeypatch.setenv("HIVEMIND_TLS_CA", "/env.pem")
    assert find_target(None, None, home).trust == Trust(
        ca=Path("/env.pem"), said_by="HIVEMIND_TLS_CA"
    )
    said = Manner(tls_ca=Path("/arg.pem"))
    assert find_target(None, None, home, said).trust == Trust(ca=Path("/arg.pem"))


def test_a_certificate_to_show_comes_with_its_key_from_one_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(manner: Manner | None = None) -> tuple[Path | None, Path | None]:
        trust = find_target(None, None, home, manner).trust
        assert trust is not None
        return trust.certificate, trust.key

    for name in ("HIVEMIND_TLS_CERT", "HIVEMIND_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)
    files = {"tls_ca": home / "ca", "tls_cert": home / "c", "tls_key": home / "k"}
    write_credentials(home, Credentials(master="h:1", account="a", token="t", **files))
    assert shown() == (home / "c", home / "k")
    monkeypatch.setenv("HIVEMIND_TLS_KEY", "/env-key")
    with pytest.raises(BadAddress, match="go together"):
        shown()
    monkeypatch.setenv("HIVEMIND_TLS_CERT", "/env")
    assert shown() == (Path("/env"), Path("/env-key"))
    assert shown(Manner(tls_cert=Path("/c"), tls_key=Path("/k"))) == (Path("/c"), Path("/k"))
    save_login(home, find_target(None, None, home), "ann", "anns")
    monkeypatch.delenv("HIVEMIND_TLS_CERT")
    monkeypatch.delenv("HIVEMIND_TLS_KEY")
    assert shown() == (Path("/env"), Path("/env-key"))


def test_plain_text_to_another_machine_is_allowed_by_word_and_remembered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not find_target("h:1", None, home).allow_plaintext
    allowed = find_target("h:1", None, home, Manner(allow_plaintext=True))
    assert allowed.allow_plaintext
    save_login(home, allowed, "ann", "anns")
    assert find_target("h:1", None, home).allow_plaintext
    assert not find_target("other:1", None, home).allow_plaintext
    monkeypatch.setenv("HIVEMIND_ALLOW_PLAINTEXT", "1")
    assert find_target("other:1", None, home).allow_plaintext
    monkeypatch.setenv("HIVEMIND_ALLOW_PLAINTEXT", "0")
    assert not find_target("h:1", None, home).allow_plaintext
    monkeypatch.setenv("HIVEMIND_ALLOW_PLAINTEXT", "perhaps")
    with pytest.raises(BadAddress, match="HIVEMIND_ALLOW_PLAINTEXT"):
        find_target("h:1", None, home)


def test_a_token_is_never_shown(home: Path) -> None:
    assert "admins" not in repr(find_target(None, None, home))


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    target = find_target("[::1]:5", None, tmp_path)
    assert (target.host, target.port, target.address) == ("::1", 5, "[::1]:5")

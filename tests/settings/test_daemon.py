from pathlib import Path

import attrs
import pytest

from hivemind.settings.daemon import (
    MASTER_KEYS,
    WORKER_KEYS,
    BadAddress,
    MasterConfig,
    WorkerConfig,
    format_address,
    load_master_config,
    load_worker_config,
    parse_address,
)
from hivemind.settings.errors import BadSetting

HOME = {"HIVEMIND_HOME": "/home/hive"}
MASTER = {"master": "h:1"}


def config(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:1", ("localhost", 1)),
        ("a-b.example_1.org.:65535", ("a-b.example_1.org.", 65535)),
        ("[::1]:50051", ("::1", 50051)),
        ("[fe80::1%eth0]:7", ("fe80::1%eth0", 7)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert format_address(*address) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks the port"),
        ("localhost", "lacks the port"),
        (":50051", "lacks the host"),
        ("host:", "a port is a number"),
        ("host:x", "a port is a number"),
        ("host:-1", "a port is a number"),
        ("host:65536", "a port is a number"),
        ("host:000000001", "a port is a number"),
        ("host:٣", "a port is a number"),
        ("host:0", "port 0 is nobody's"),
        ("::1:50051", "neither a name nor an IPv4"),
        ("[::1:50051", "neither a name nor an IPv4"),
        ("[host]:1", "no IPv6"),
        ("http://host:1", "neither a name nor an IPv4"),
        ("a b:1", "neither a name nor an IPv4"),
        ("-x:1", "neither a name nor an IPv4"),
        ("a\n:1", "neither a name nor an IPv4"),
        ("x" * 1000 + ":1", "neither a name nor an IPv4"),
    ],
)
def test_what_is_no_address_is_refused_with_how_to_write_one(text: str, words: str) -> None:
    with pytest.raises(BadAddress, match=words) as caught:
        parse_address(text)
    assert "write HOST:PORT, or [ADDRESS]:PORT for IPv6" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_free_port_may_be_listened_on() -> None:
    assert parse_address("127.0.0.1:0", may_be_free=True) == ("127.0.0.1", 0)


def test_a_master_has_defaults_for_everything_but_its_home() -> None:
    loaded = load_master_config(None, {}, HOME)
    assert loaded == MasterConfig(home=Path("/home/hive"))
    assert (loaded.host, loaded.port) == ("127.0.0.1", 50051)


def test_a_worker_needs_to_be_told_its_master() -> None:
    with pytest.raises(BadSetting, match="give --master HOST:PORT, or set HIVEMIND_MASTER"):
        load_worker_config(None, {}, HOME)
    loaded = load_worker_config(None, MASTER, HOME)
    assert loaded == WorkerConfig(home=Path("/home/hive"), master=("h", 1))
    assert loaded.listen == ("127.0.0.1", 0)


def test_a_worker_that_says_where_it_listens_needs_no_master() -> None:
    with pytest.raises(BadSetting, match="without one, give --listen HOST:PORT"):
        load_worker_config(None, {"slots": 1}, HOME)
    loaded = load_worker_config(None, {"listen": "[::1]:50052"}, HOME)
    assert loaded == WorkerConfig(home=Path("/home/hive"), listen=("::1", 50052))
    assert loaded.master is None


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_of_what_tls_takes_is_refused_by_name(tmp_path: Path, half: str) -> None:
    lacking = "tls_key" if half == "tls_cert" else "tls_cert"
    file = config(tmp_path, f'master = "h:1"\n{half} = "/x"\n')
    with pytest.raises(BadSetting, match=f"{lacking}: TLS takes both"):
        load_worker_config(file, {}, HOME)


def test_every_key_of_a_file_is_read(tmp_path: Path) -> None:
    master = config(
        tmp_path,
        """
        home = "/h"
        listen = "[::]:0"
        tls_cert = "/c"
        tls_key = "/k"
        log_format = "json"
        log_level = "debug"
        """,
    )
    loaded: MasterConfig | WorkerConfig = load_master_config(master, {}, {})
    assert loaded == MasterConfig(
        home=Path("/h"),
        listen=("::", 0),
        tls_cert=Path("/c"),
        tls_key=Path("/k"),
        log_format="json",
        log_level="debug",
    )
    assert len(MASTER_KEYS) == len(attrs.fields(MasterConfig))
    worker = config(
        tmp_path,
        """
        home = "/h"
        master = "h:1"
        listen = "0.0.0.0:7"
        join_token = "t"
        slots = 3
        cpus = 1.5
        memory = "8G"
        limits = "best-effort"
        name = "n"
        location = "lab"
        tls_ca = "/ca"
        tls_cert = "/c"
        tls_key = "/k"
        drain_grace = "5m"
        log_format = "json"
        log_level = "error"
        """,
    )
    loaded = load_worker_config(worker, {}, {})
    assert loaded == WorkerConfig(
        home=Path("/h"),
        master=("h", 1),
        listen=("0.0.0.0", 7),
        join_token="t",
        slots=3,
        cpu_millis=1500,
        memory_bytes=8 * 1024**3,
        limits="best-effort",
        name="n",
        location="lab",
        tls_ca=Path("/ca"),
        tls_cert=Path("/c"),
        tls_key=Path("/k"),
        drain_grace_s=300,
        log_format="json",
        log_level="error",
    )
    assert len(WORKER_KEYS) == len(attrs.fields(WorkerConfig))


def test_a_flag_outweighs_the_environment_which_outweighs_the_file(tmp_path: Path) -> None:
    file = config(
        tmp_path, "home = '/file'\nmaster = 'file:1'\njoin_token = 'file'\nslots = 1\ncpus = 1"
    )
    environ = {
        "HIVEMIND_HOME": "/env",
        "HIVEMIND_MASTER": "env:1",
        "HIVEMIND_TOKEN": "env",
        "HIVEMIND_TLS_CA": "/env.pem",
    }
    flags = {"home": Path("/flag"), "master": "flag:1", "join_token": "flag", "slots": "2"}
    none = dict.fromkeys([*flags, "cpus"])
    loaded = load_worker_config(file, none, {})
    assert loaded.home == Path("/file")
    assert (loaded.master, loaded.join_token, loaded.slots) == (("file", 1), "file", 1)
    loaded = load_worker_config(file, none, environ)
    assert loaded.home == Path("/env")
    assert (loaded.master, loaded.join_token) == (("env", 1), "env")
    assert loaded.tls_ca == Path("/env.pem")
    loaded = load_worker_config(file, flags, environ)
    assert loaded.home == Path("/flag")
    assert (loaded.master, loaded.join_token, loaded.slots) == (("flag", 1), "flag", 2)
    assert loaded.cpu_millis == 1000


def test_the_processs_own_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_HOME", "/env")
    monkeypatch.setenv("HIVEMIND_MASTER", "env:1")
    assert load_worker_config(None, {}).master == ("env", 1)
    assert load_master_config(None, {}).home == Path("/env")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prot = 1", "config.toml: there is no key prot: the keys are allow_plaintext, home"),
        ("listen = 50051", "config.toml: listen: expected text in quotes, not 50051"),
        ("listen = '50051'", "config.toml: listen: '50051' is not an address"),
        ("log_level = 'loud'", "config.toml: log_level: expected one of debug, info"),
        ("tls_cert = '/c'", "config.toml: tls_key: TLS takes both"),
        ("tls_ca = '/c'", "config.toml: tls_cert: tls_ca takes tls_cert and tls_key, too"),
        ("tls_clients = 'required'", "config.toml: tls_ca: it says whose certificates are"),
        ("tls_clients = 'all'", "config.toml: tls_clients: expected one of optional, required"),
        ("allow_plaintext = 'yes'", "config.toml: allow_plaintext: expected true or false"),
        ("tls_key = '/k'", "config.toml: tls_cert: TLS takes both"),
    ],
)
def test_a_faulty_file_is_refused_by_file_and_key(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        load_master_config(config(tmp_path, content), {}, HOME)


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"slots": "0"}, {}, "^--slots: expected a whole number from 1"),
        ({"slots": "9" * 20}, {}, "^--slots: expected a whole number from 1"),
        ({"memory": "lots"}, {}, "^--memory: 'lots' is not a size"),
        ({"cpus": "x"}, {}, "^--cpus: expected a number of CPUs"),
        ({"limits": "none"}, {}, "^--limits: expected one of cgroup, best-effort"),
        ({"join_token": ""}, {}, "^--join: expected a text that is not empty"),
        ({"master": None}, {"HIVEMIND_MASTER": "x"}, "^HIVEMIND_MASTER: 'x' is not an address"),
    ],
)
def test_a_faulty_flag_or_variable_is_refused_by_its_name(
    flags: dict[str, object], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(BadSetting, match=words):
        load_worker_config(None, {**MASTER, **flags}, {**HOME, **environ})


def test_a_join_token_is_not_shown_by_accident() -> None:
    loaded = load_worker_config(None, {**MASTER, "join_token": "secret"}, HOME)
    assert "secret" not in repr(loaded)

"""CPT on the command line: what one has, gives and would pay."""

import json
from pathlib import Path

import pytest

from hivemind.core.records import Role
from tests.cli.conftest import Shell

CPT = 1_000_000


def test_a_balance_a_transfer_and_a_history_are_shown(shell: Shell, tmp_path: Path) -> None:
    dora = shell.account("dora", tmp_path / "dora")
    before = shell.client.balance().balance_ucpt
    done = dora.run("account", "transfer", "admin", "2.5", "--memo", "for tea")
    assert (done.returncode, done.stdout) == (0, "2.5 CPT went to admin; you have 97.5 CPT\n")
    for amount, words in (("1", "went to admin"), ("1", "went before, and nothing was moved now")):
        keyed = dora.run("account", "transfer", "admin", amount, "--key", "rent")
        assert keyed.stdout == f"1 CPT {words}; you have 96.5 CPT\n"
    shown = dora.run("account", "balance")
    assert "96.5 CPT" in shown.stdout
    told = json.loads(dora.run("account", "balance", "--json").stdout)
    assert told == {"account": "dora", "balance_ucpt": 96_500_000, "held_ucpt": 0}
    history = json.loads(dora.run("account", "history", "--json").stdout)["movements"]
    assert [(one["kind"], one["change_ucpt"], one["account"]) for one in history] == [
        ("transfer", -CPT, "admin"),
        ("transfer", -2_500_000, "admin"),
        ("grant", 100 * CPT, ""),
    ]
    assert history[1]["memo"] == "for tea"
    table = dora.run("account", "history").stdout
    assert "-2.5" in table
    assert "+100" in table
    # An admin sees everybody's.
    assert "96.5 CPT" in shell.run("account", "balance", "dora").stdout
    assert shell.client.balance().balance_ucpt == before + 3_500_000


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("transfer", "admin", "1000"), 1, "has 100 CPT and 1000 CPT were to be moved"),
        (("transfer", "nobody", "1"), 1, "no account 'nobody' is in this pool"),
        (("transfer", "admin", "0"), 1, "above 0"),
        (("transfer", "admin", "1,5"), 2, "'1,5' is not an amount of CPT: write it like 5"),
        (("transfer", "admin", "0.0000001"), 2, "it can have 6 decimals"),
        (("balance", "admin"), 1, "only an admin may see another account's CPT"),
        (("history", "admin"), 1, "only an admin may see another account's CPT"),
        (("role", "fay", "admin"), 1, "only an admin may give roles; ask one"),
        (("role", "fay", "king"), 2, "'king' is not a role: there are user, provider, admin"),
        (("rotate-keys",), 1, "only an admin may change the signing key; ask one"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    shell: Shell, poor: Shell, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = poor.run("account", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    if status == 1:
        assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def poor(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Somebody with the grant and nothing else."""
    return shell.account("fay", tmp_path_factory.mktemp("fay"))


def test_a_quote_says_what_a_task_would_cost_and_runs_nothing(shell: Shell, poor: Shell) -> None:
    quote = poor.run("run", "--quote", "--time", "5m", "--retries", "1", "--", "echo", "x")
    assert quote.stdout == (
        "20 CPT at most: 2 CPT a minute for up to 5m, up to 2 times; you have 100 CPT\n"
    )
    too_dear = poor.run("submit", "--quote", "--time", "1d", "--", "echo", "x")
    assert too_dear.returncode == 0
    assert too_dear.stdout.endswith("you have 100 CPT, so that it would be refused\n")
    limited = poor.run("run", "--quote", "--max-cpt", "19.5", "--", "echo", "x")
    assert limited.stdout.endswith("you allow 19.5 CPT: it would be refused\n")
    own = shell.run("run", "--quote", "--", "echo", "x")
    assert own.stdout.startswith("nothing, on your own nodes alone; on others 20 CPT at most")
    assert poor.client.list(include_ended=True) == ()


def test_a_task_that_cannot_be_paid_for_is_not_run(poor: Shell) -> None:
    for options in (("--time", "1d"), ("--max-cpt", "19.999999")):
        done = poor.run("run", *options, "--", "echo", "x")
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith("hivemind: ")
        assert "it could cost" in done.stderr
        assert done.stderr.count("\n") == 1
    assert poor.run("submit", "--time", "1d", "--", "echo", "x").returncode == 1
    assert poor.client.list(include_ended=True) == ()


def test_a_script_says_itself_what_it_may_cost_and_whom_it_trusts(
    poor: Shell, tmp_path: Path
) -> None:
    script = tmp_path / "s.py"
    text = "# /// script\n# [tool.hivemind]\n# trust = 'normal'\n# max_cpt = {}\n# ///\nprint(7)\n"
    script.write_text(text.format(1))
    refused = poor.run("run", str(script))
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "max-cpt allows 1 CPT" in refused.stderr
    # Flags win over the file.
    assert poor.run("run", "--max-cpt", "20", str(script)).stdout == "7\n"
    (task,) = poor.client.list(include_ended=True)
    assert task.requirements.least_trust == 40
    shown = poor.run("show", task.id).stdout
    assert "nodes trusted 40 or more" in shown
    bad = poor.run("run", "--trust", "much", str(script))
    assert bad.returncode == 2
    assert "'much' is not a level of trust: write high, normal, low" in bad.stderr


def test_an_admin_gives_roles_and_rotates_keys(shell: Shell, poor: Shell) -> None:
    assert shell.run("account", "role", "fay", "admin").stdout == "account fay is admin now\n"
    assert poor.client.whoami().role is Role.ADMIN
    done = poor.run("account", "rotate-keys", "--grace", "2h")
    assert shell.run("account", "role", "fay", "user").returncode == 0
    assert done.stdout.startswith("tokens are signed with a new key; the old ones are believed ")
    # Tokens of before still count.
    assert poor.client.whoami().role is Role.USER

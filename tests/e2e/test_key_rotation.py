"""A signing key that may have leaked is replaced, and nobody who should go on is stopped."""

from pathlib import Path

from tests.e2e.test_credits import log_in
from tests.pool import Pool, wait_until


def test_without_a_grace_old_tokens_are_worthless_at_once_and_the_pool_goes_on(
    pool: Pool, tmp_path: Path
) -> None:
    up = pool.up()
    alice = tmp_path / "alice"
    log_in(pool, up, "alice", alice)
    done = pool.cli("account", "rotate-keys", "--grace", "0", home=up.home)
    assert done.returncode == 0, done.stderr.decode()
    assert b"nobody believes the old ones" in done.stdout
    refused = pool.cli("account", "whoami", home=alice)
    assert refused.returncode == 1
    assert b"log in" in refused.stderr
    # The master renews its own admin's credentials by itself.
    wait_until(
        "the admin's credentials are of the new key",
        lambda: pool.cli("account", "whoami", home=up.home).returncode == 0,
    )
    ran = pool.cli("run", "--", "echo", "still here", home=up.home)
    assert ran.stdout == b"still here\n", ran.stderr.decode()
    again = pool.cli(
        *("account", "login", "alice", "--password-stdin"),
        home=alice,
        stdin=b"a long password\n",
        environment={"HIVEMIND_MASTER": up.address},
    )
    assert again.returncode == 0, again.stderr.decode()
    assert pool.cli("account", "whoami", home=alice).returncode == 0

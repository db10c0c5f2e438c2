"""Accounts: registering, logging in, and the secrets with which others come in."""

from collections.abc import Callable

from hivemind.core.errors import CoreError
from hivemind.core.ids import check_account_name
from hivemind.core.messages import Identity, Secret
from hivemind.core.policy import PoolRules
from hivemind.core.records import Account, RevokedToken, Role
from hivemind.master import commands
from hivemind.master.authority import Authority
from hivemind.master.naming import find_node
from hivemind.master.passwords import MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARS, Passwords
from hivemind.master.rates import RateLimiter, caller_of
from hivemind.master.reactor import Reactor
from hivemind.master.secrets import OneTimeSecrets, digest_of
from hivemind.rpc.auth import InvalidToken, Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid
from hivemind.rpc.errors import ErrorCode

_MOST_TTL_S = 30 * 86400.0
_ADDRESSES_PER_ACCOUNT = 10
"""For so many addresses' worth of tries an account takes logins, from wherever they come: one
stranger alone cannot keep its owner out, and many together still guess slowly."""
_NODE_TOKENS_PER_LOGIN = 10
"""As many times the logins of an address may an account make tokens for nodes: each that is taken
back again must be remembered for up to a month."""
_MOST_GRACE_S = 30 * 86400.0


class Accounts:
    """See ``rpc.contract.accounts.AccountHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        authority: Authority,
        secrets: OneTimeSecrets,
        *,
        rules: Callable[[], PoolRules],
        clock: Callable[[], float],
        rates: RateLimiter,
        is_open: Callable[[], bool],
        on_rotated: Callable[[], object] = lambda: None,
    ) -> None:
        """``is_open``: whether anybody may register without an invitation. ``on_rotated`` is called
        when tokens are signed with a new key; it may not wait.
        """
        self._on_rotated = on_rotated
        self._reactor = reactor
        self._authority = authority
        self._secrets = secrets
        self._rules = rules
        self._clock = clock
        self._rates = rates
        self._is_open = is_open
        self._passwords = Passwords()

    async def register(self, peer: str, name: str, password: str, invite: str) -> None:
        """Make an account of role user. Raises NamedFault or CallRefused."""
        try:
            check_account_name(name)
        except CoreError as error:
            raise invalid(str(error)) from error
        if len(password) < MIN_PASSWORD_CHARS or len(password.encode()) > MAX_PASSWORD_BYTES:
            raise invalid(
                f"a password has {MIN_PASSWORD_CHARS} characters or more,"
                f" and at most {MAX_PASSWORD_BYTES} bytes"
            )
        # What cannot be a name or a password is told to a person who mistypes, as often as that is.
        self._rates.check("register", caller_of(peer))
        digest = None
        if not self._is_open():
            if not invite:
                raise denied("this pool takes new accounts by invitation; ask for a code")
            digest = digest_of(invite)
            token = self._reactor.cluster.join_tokens.get(digest)
            if token is None or token.purpose != "invite" or token.expires_at <= self._clock():
                raise denied("this invitation is unknown, used or expired; ask for a new one")
        if name in self._reactor.cluster.accounts:
            raise NamedFault(ErrorCode.USER_EXISTS, f"the name {name} is taken; choose another")
        account = Account(
            name=name,
            role=Role.USER,
            password_hash=await self._passwords.hash(password),
            created_at=self._clock(),
        )
        await self._reactor.perform(lambda turn: commands.register(turn, account, digest))

    async def login(self, peer: str, name: str, password: str) -> str:
        """A token for the account.

        An unknown account and a wrong password get the same answer after the same work. Raises
        NamedFault or CallRefused.
        """
        self._rates.check("login from", caller_of(peer))
        self._rates.check("login to", name[:64], times=_ADDRESSES_PER_ACCOUNT)
        account = self._reactor.cluster.accounts.get(name)
        stored = account.password_hash if account is not None else ""
        matches = len(password.encode()) <= MAX_PASSWORD_BYTES and await self._passwords.matches(
            stored, password
        )
        if account is None or not matches:
            raise NamedFault(
                ErrorCode.INVALID_PASSWORD, "no account has this name and password; try again"
            )
        return self._authority.account_token(account, self._rules().token_ttl_s)

    async def whoami(self, caller: Principal) -> Identity:
        """Who the caller is."""
        account = self._reactor.cluster.accounts[caller.account]
        return Identity(
            account=account.name,
            role=account.role,
            email=account.email,
            created_at=account.created_at,
            expires_at=caller.expires_at,
        )

    async def logout(self, caller: Principal) -> None:
        """Revoke the caller's token."""
        token = RevokedToken(token_id=caller.token_id, expires_at=caller.expires_at)
        await self._reactor.perform(lambda turn: commands.revoke(turn, token))

    async def create_join_token(self, caller: Principal, ttl_s: float) -> Secret:
        """A secret with which a worker enrols for the caller."""
        return await self._secrets.create(caller.account, "join", ttl_s)

    async def create_invite(self, caller: Principal, ttl_s: float) -> Secret:
        """A secret with which somebody may register; for admins."""
        if caller.role != Role.ADMIN:
            raise denied("only an admin may invite; ask one")
        return await self._secrets.create(caller.account, "invite", ttl_s)

    async def create_node_token(
        self, caller: Principal, node_text: str, ttl_s: float, account: str
    ) -> Secret:
        """A token with which an account may call a node of the caller's, named as ``find_node``
        takes it, directly.

        Raises CallRefused, or NamedFault for an account or a node that is not of the pool.
        """
        if not 0 <= ttl_s <= _MOST_TTL_S:
            raise invalid("a token may last up to 30 days; ask for a time between 1s and 30d")
        cluster = self._reactor.cluster
        node = find_node(cluster.nodes, node_text, lambda one: one.account == caller.account)
        guest = cluster.accounts.get(account or caller.account)
        if guest is None:
            raise NamedFault(
                ErrorCode.USER_NOT_FOUND,
                f"no account {account[:64]!a} is in this pool; check its name",
            )
        self._rates.check("node tokens of", caller.account, times=_NODE_TOKENS_PER_LOGIN)
        lasts_s = ttl_s or self._rules().token_ttl_s
        text = self._authority.direct_token(guest, node, lasts_s)
        return Secret(text=text, expires_at=self._clock() + lasts_s)

    async def revoke_token(self, caller: Principal, token: str) -> None:
        """Take back a token of the caller's, or one that lets somebody into a node of its.

        Raises CallRefused. A token that has expired needs none of this.
        """
        try:
            claims = self._authority.claims_of(token)
        except InvalidToken as error:
            # Its words are for whoever calls with such a token; here it is only what is looked at.
            why = str(error).removesuffix("; log in again")
            raise invalid(f"nothing to revoke: {why}") from error
        node = self._reactor.cluster.nodes.get(claims.audience)
        is_into_own_node = node is not None and node.account == caller.account
        if claims.subject != caller.account and not is_into_own_node and caller.role != Role.ADMIN:
            raise denied("this token is another account's", ErrorCode.INVALID_SESSION)
        revoked = RevokedToken(token_id=claims.token_id, expires_at=claims.expires_at)
        await self._reactor.perform(lambda turn: commands.revoke(turn, revoked))

    async def set_role(self, caller: Principal, name: str, role: str) -> None:
        """Let an account do more, or less; for admins. Raises NamedFault or CallRefused."""
        if caller.role != Role.ADMIN:
            raise denied("only an admin may give roles; ask one")
        try:
            chosen = Role(role)
        except ValueError as error:
            known = ", ".join(Role)
            raise invalid(f"role {role[:32]!a} is not known; choose one of {known}") from error
        await self._reactor.perform(lambda turn: commands.set_role(turn, name, chosen))

    async def rotate_keys(self, caller: Principal, grace_s: float | None) -> float:
        """Make a new signing key, for admins; until when tokens of the old one are believed.

        Raises CallRefused.
        """
        if caller.role != Role.ADMIN:
            raise denied("only an admin may change the signing key; ask one")
        grace = self._rules().key_grace_s if grace_s is None else grace_s
        if not 0 <= grace <= _MOST_GRACE_S:
            raise invalid("tokens of an old key may be believed for up to 30 days; give less")
        until = await self._authority.rotate(grace)
        self._on_rotated()
        return until

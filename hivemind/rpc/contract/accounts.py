"""The Accounts service of hivemind.v1, and UserService of the public API."""

from typing import Protocol

from hivemind._pb import nodepool
from hivemind._pb.hivemind import v1
from hivemind.core.cpt import MOST_UCPT, UCPT_PER_CPT, whole_cpt
from hivemind.core.messages import Identity, Secret
from hivemind.core.records import Role
from hivemind.rpc.auth import Principal
from hivemind.rpc.channel import Channel
from hivemind.rpc.context import current_peer
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.credits import CreditHandlers
from hivemind.rpc.contract.faults import MalformedMessage, NamedFault
from hivemind.rpc.stubs import bind

MESSAGE_TOKENS = {
    "/nodepool.UserService/GetBalance": "token",
    "/nodepool.UserService/Transfer": "token",
}
"""The methods of the public API whose token may come in the request, and the field that has it."""


class AccountHandlers(Protocol):
    """What the master does for accounts. A fault of api.md's table is raised as NamedFault."""

    async def register(self, peer: str, name: str, password: str, invite: str) -> None:
        """Make an account."""
        ...

    async def login(self, peer: str, name: str, password: str) -> str:
        """A token for the account."""
        ...

    async def whoami(self, caller: Principal) -> Identity:
        """Who the caller is."""
        ...

    async def logout(self, caller: Principal) -> None:
        """Revoke the caller's token."""
        ...

    async def create_join_token(self, caller: Principal, ttl_s: float) -> Secret:
        """A secret with which a worker enrols for the caller; 0 is the pool's default time."""
        ...

    async def create_invite(self, caller: Principal, ttl_s: float) -> Secret:
        """A secret with which somebody may register."""
        ...

    async def create_node_token(
        self, caller: Principal, node_id: str, ttl_s: float, account: str
    ) -> Secret:
        """A token for one node's own services; 0 is the pool's default time, and no account the
        caller's own.
        """
        ...

    async def revoke_token(self, caller: Principal, token: str) -> None:
        """Take a token back."""
        ...

    async def set_role(self, caller: Principal, name: str, role: str) -> None:
        """Let an account do more, or less."""
        ...

    async def rotate_keys(self, caller: Principal, grace_s: float | None) -> float:
        """Make a new signing key; until when tokens of the old one are believed."""
        ...


class _UserService(nodepool.UserServiceBase):
    """A fault that the table names is an answer here, not a status."""

    def __init__(self, handlers: AccountHandlers, credits_: CreditHandlers) -> None:
        self._handlers = handlers
        self._credits = credits_

    async def register(self, message: nodepool.RegisterRequest) -> nodepool.RegisterResponse:
        try:
            await self._handlers.register(
                current_peer(), message.username, message.password, message.invite
            )
        except NamedFault as fault:
            return nodepool.RegisterResponse(success=False, message=fault.told())
        return nodepool.RegisterResponse(success=True, message=f"account {message.username} made")

    async def login(self, message: nodepool.LoginRequest) -> nodepool.LoginResponse:
        try:
            token = await self._handlers.login(current_peer(), message.username, message.password)
        except NamedFault as fault:
            return nodepool.LoginResponse(success=False, message=fault.told())
        return nodepool.LoginResponse(success=True, message="logged in", token=token)

    async def get_balance(self, message: nodepool.GetBalanceRequest) -> nodepool.GetBalanceResponse:
        try:
            found = await self._credits.balance(current_account(), message.username)
        except NamedFault as fault:
            return nodepool.GetBalanceResponse(success=False, message=fault.told())
        return nodepool.GetBalanceResponse(
            success=True,
            message=f"the balance of {found.account}",
            balance=whole_cpt(found.balance_ucpt),
        )

    async def transfer(self, message: nodepool.TransferRequest) -> nodepool.TransferResponse:
        # Beyond what can be, an amount must not be multiplied into another one that can.
        amount = max(-1, min(message.amount, MOST_UCPT)) * UCPT_PER_CPT
        try:
            await self._credits.transfer(
                current_account(),
                message.receiver_username,
                amount,
                key=message.idempotency_key,
                memo="",
            )
        except NamedFault as fault:
            return nodepool.TransferResponse(success=False, message=fault.told())
        return nodepool.TransferResponse(
            success=True, message=f"{message.amount} CPT went to {message.receiver_username}"
        )


class _AccountsService(v1.AccountsBase):
    def __init__(self, handlers: AccountHandlers) -> None:
        self._handlers = handlers

    async def who_am_i(self, message: v1.WhoAmIRequest) -> v1.WhoAmIResponse:
        identity = await self._handlers.whoami(current_account())
        return v1.WhoAmIResponse(
            user_id=identity.account,
            username=identity.account,
            email=identity.email,
            created_at=int(identity.created_at),
            role=identity.role,
            expires_at=identity.expires_at,
        )

    async def logout(self, message: v1.LogoutRequest) -> v1.LogoutResponse:
        await self._handlers.logout(current_account())
        return v1.LogoutResponse()

    async def create_join_token(
        self, message: v1.CreateJoinTokenRequest
    ) -> v1.CreateJoinTokenResponse:
        secret = await self._handlers.create_join_token(current_account(), message.ttl_s)
        return v1.CreateJoinTokenResponse(token=secret.text, expires_at=secret.expires_at)

    async def create_invite(self, message: v1.CreateInviteRequest) -> v1.CreateInviteResponse:
        secret = await self._handlers.create_invite(current_account(), message.ttl_s)
        return v1.CreateInviteResponse(code=secret.text, expires_at=secret.expires_at)

    async def create_node_token(
        self, message: v1.CreateNodeTokenRequest
    ) -> v1.CreateNodeTokenResponse:
        secret = await self._handlers.create_node_token(
            current_account(), message.node_id, message.ttl_s, message.account
        )
        return v1.CreateNodeTokenResponse(token=secret.text, expires_at=secret.expires_at)

    async def revoke_token(self, message: v1.RevokeTokenRequest) -> v1.RevokeTokenResponse:
        await self._handlers.revoke_token(current_account(), message.token)
        return v1.RevokeTokenResponse()

    async def set_role(self, message: v1.SetRoleRequest) -> v1.SetRoleResponse:
        await self._handlers.set_role(current_account(), message.account, message.role)
        return v1.SetRoleResponse()

    async def rotate_keys(self, message: v1.RotateKeysRequest) -> v1.RotateKeysResponse:
        until = await self._handlers.rotate_keys(current_account(), message.grace_s)
        return v1.RotateKeysResponse(old_until=until)


def serve_accounts(handlers: AccountHandlers) -> v1.AccountsBase:
    """The v1 service to hand to ``rpc.server``."""
    return _AccountsService(handlers)


def serve_users(handlers: AccountHandlers, credits_: CreditHandlers) -> nodepool.UserServiceBase:
    """The public API's service to hand to ``rpc.server``."""
    return _UserService(handlers, credits_)


class AccountsClient:
    """Both services from the client's side. Every call raises the RpcError family."""

    def __init__(self, channel: Channel) -> None:
        self._stub = bind(v1.AccountsStub, channel)
        self._users = bind(nodepool.UserServiceStub, channel)

    async def register(self, name: str, password: str, invite: str = "") -> None:
        """Make an account. Raises NamedFault where the pool will not."""
        reply = await self._users.register(
            nodepool.RegisterRequest(username=name, password=password, invite=invite)
        )
        if not reply.success:
            raise NamedFault.from_message(reply.message)

    async def login(self, name: str, password: str) -> str:
        """A token for the account. Raises NamedFault where the pool will not give one."""
        reply = await self._users.login(nodepool.LoginRequest(username=name, password=password))
        if not reply.success:
            raise NamedFault.from_message(reply.message)
        return reply.token

    async def whoami(self) -> Identity:
        """Who the pool takes this client for."""
        reply = await self._stub.who_am_i(v1.WhoAmIRequest())
        try:
            role = Role(reply.role)
        except ValueError as error:
            raise MalformedMessage(f"role {reply.role!r} is unknown") from error
        return Identity(
            account=reply.username,
            role=role,
            email=reply.email,
            created_at=float(reply.created_at),
            expires_at=reply.expires_at,
        )

    async def logout(self) -> None:
        """Revoke this client's token."""
        await self._stub.logout(v1.LogoutRequest())

    async def create_join_token(self, ttl_s: float = 0.0) -> Secret:
        """A one-time secret for a worker of one's own."""
        reply = await self._stub.create_join_token(v1.CreateJoinTokenRequest(ttl_s=ttl_s))
        return Secret(text=reply.token, expires_at=reply.expires_at)

    async def create_invite(self, ttl_s: float = 0.0) -> Secret:
        """A one-time code with which somebody may register."""
        reply = await self._stub.create_invite(v1.CreateInviteRequest(ttl_s=ttl_s))
        return Secret(text=reply.code, expires_at=reply.expires_at)

    async def create_node_token(
        self, node_id: str, ttl_s: float = 0.0, account: str = ""
    ) -> Secret:
        """A token with which an account may call one node of one's own directly."""
        reply = await self._stub.create_node_token(
            v1.CreateNodeTokenRequest(node_id=node_id, ttl_s=ttl_s, account=account)
        )
        return Secret(text=reply.token, expires_at=reply.expires_at)

    async def revoke_token(self, token: str) -> None:
        """Take a token back, before it expires."""
        await self._stub.revoke_token(v1.RevokeTokenRequest(token=token))

    async def set_role(self, account: str, role: Role) -> None:
        """Let an account do more, or less."""
        await self._stub.set_role(v1.SetRoleRequest(account=account, role=role.value))

    async def rotate_keys(self, grace_s: float | None = None) -> float:
        """Make a new signing key; until when tokens of the old one are believed."""
        reply = await self._stub.rotate_keys(v1.RotateKeysRequest(grace_s=grace_s))
        return reply.old_until

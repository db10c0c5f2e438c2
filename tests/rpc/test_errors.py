"""Refusals and codes."""

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from hivemind.rpc.errors import ErrorCode, RemoteError, error_code_of, fail


def test_a_refusal_begins_with_its_codes_name_once() -> None:
    error = fail(ErrorCode.USER_EXISTS, Status.ALREADY_EXISTS, "ada is taken")
    assert isinstance(error, GRPCError)
    assert (error.status, error.code) == (Status.ALREADY_EXISTS, ErrorCode.USER_EXISTS)
    assert str(error) == "USER_EXISTS: ada is taken"
    again = fail(ErrorCode.USER_EXISTS, Status.ALREADY_EXISTS, str(error))
    assert str(again) == "USER_EXISTS: ada is taken"
    assert str(fail(None, Status.ABORTED, "plain")) == "plain"


def test_only_codes_of_the_table_are_known() -> None:
    assert error_code_of("3001") is ErrorCode.TASK_NOT_FOUND
    assert [error_code_of(text) for text in ("7", "x", "", None)] == [None] * 4


def test_a_remote_error_without_a_message_still_says_something() -> None:
    assert str(RemoteError(Status.ABORTED, None, "")) == "the server answered ABORTED"

"""Streams of replies that close when their reader does."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar, cast

T = TypeVar("T")


def closable(replies: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Generated stubs return async generators but promise only iterators: say what they are."""
    return cast("AsyncGenerator[T, None]", replies)

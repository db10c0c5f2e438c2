"""The part of YAML in which CDI files are written, and no more of it.

That is block mappings and sequences of plain or quoted strings, one to a line, as nvidia-ctk
writes them. Anchors, tags, block scalars, flow collections, tabs and strings over several lines
are refused, so that nothing is ever read otherwise than it was meant.
"""

from __future__ import annotations

import json
import re

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):(?: +(.*))?")
_PLAIN = re.compile(r"[A-Za-z0-9_./~+=-](?:(?!: | #).)*(?<!:)")
_EMPTY: dict[str, object] = {"{}": {}, "[]": []}
_MOST_DEPTH = 16


class BadYaml(ValueError):
    """The text is not of this part of YAML; says which line."""


def read_yaml(text: str) -> object:
    """The mappings, lists and strings that the text holds; every scalar is a string.

    Raises:
        BadYaml: something is not of the subset, or a key comes twice.
    """
    lines: list[tuple[int, int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip(" ")
        if not content or content.startswith("#") or (content == "---" and not lines):
            continue
        if not content.isprintable():
            raise BadYaml(f"line {number} has a control character")
        lines.append((number, len(line) - len(line.lstrip(" ")), content))
    if not lines:
        raise BadYaml("it is empty")
    reader = _Reader(lines)
    value = reader.block(lines[0][1], _MOST_DEPTH)
    reader.expect_end()
    return value


class _Reader:
    def __init__(self, lines: list[tuple[int, int, str]]) -> None:
        self._lines = lines  # (number, indent, content)
        self._at = 0

    def expect_end(self) -> None:
        if self._at < len(self._lines):
            raise BadYaml(f"line {self._lines[self._at][0]} is indented like none before it")

    def block(self, indent: int, depth: int) -> object:
        if not depth:
            raise BadYaml(f"line {self._lines[self._at][0]} is nested too deep")
        is_list = self._lines[self._at][2].startswith("- ")
        return self._sequence(indent, depth) if is_list else self._mapping(indent, depth)

    def _is_at(self, indent: int, *, item: bool) -> bool:
        if self._at == len(self._lines):
            return False
        _, here, content = self._lines[self._at]
        return here == indent and content.startswith("- ") == item

    def _sequence(self, indent: int, depth: int) -> list[object]:
        items: list[object] = []
        while self._is_at(indent, item=True):
            number, _, content = self._lines[self._at]
            rest = content[2:].lstrip(" ")
            if _KEY.fullmatch(rest) or rest.startswith("- "):
                inner = indent + len(content) - len(rest)
                self._lines[self._at] = (number, inner, rest)
                items.append(self.block(inner, depth - 1))
            else:
                items.append(_scalar(number, rest))
                self._at += 1
        return items

    def _mapping(self, indent: int, depth: int) -> dict[str, object]:
        items: dict[str, object] = {}
        while self._is_at(indent, item=False):
            number, _, content = self._lines[self._at]
            match = _KEY.fullmatch(content)
            if match is None or match[1] in items:
                raise BadYaml(f"line {number} is not a new 'key: value'")
            self._at += 1
            if match[2]:
                items[match[1]] = _scalar(number, match[2])
            elif self._is_at(indent, item=True):
                items[match[1]] = self.block(indent, depth - 1)
            elif self._at < len(self._lines) and self._lines[self._at][1] > indent:
                items[match[1]] = self.block(self._lines[self._at][1], depth - 1)
            else:
                raise BadYaml(f"line {number} has a key without a value")
        return items


def _scalar(number: int, text: str) -> object:
    if text in _EMPTY:
        return type(_EMPTY[text])()
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            raise BadYaml(f"line {number} has a string that does not end") from None
    if match := re.fullmatch(r"'((?:[^']|'')*)'", text):
        return match[1].replace("''", "'")
    if _PLAIN.fullmatch(text) is None:
        raise BadYaml(f"line {number} has a value that is not a plain string: {text[:40]!r}")
    return text

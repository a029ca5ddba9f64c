"""Whole numbers by key, added up exactly: how often each bucket was hit, what was counted on one day."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K", int, str)

# 30 digits hold every sum there can be, and still become a float.
_NUMBER = r":[0-9]{1,30}(?: |\Z)"
_FORMS: Mapping[type, re.Pattern[str]] = {
    int: re.compile(rf"(?:[0-9]{{1,30}}{_NUMBER})*"),
    str: re.compile(rf"(?:[a-z][a-z0-9_]{{0,39}}{_NUMBER})*"),
}


class Counts(Generic[K]):
    """A value: a number for each of some keys, 0 for every other. It never changes; adding makes another one.

    In a document it is one line, which a person can read, and read past:

    >>> str(Counts({"count": 3, "total_ns": 1_500}) + Counts({"count": 1}))
    'count:4 total_ns:1500'
    >>> Counts.read("1010:2 1030:5", int)[1030]
    5
    """

    __slots__ = ("_key", "_numbers", "_text")

    _key: type[K]
    _numbers: Mapping[K, int] | None
    _text: str | None

    def __init__(self, numbers: dict[K, int] | None = None) -> None:
        # Not copied, as every record makes several; so nobody may change it afterwards.
        self._numbers, self._text = {} if numbers is None else numbers, None

    @classmethod
    def read(cls, line: Any, key: type[K]) -> Counts[K]:
        """Return the counts that a line holds, by int or str. Raises ValueError for what is no such line."""
        if isinstance(line, Counts):
            return line
        if not isinstance(line, str) or not _FORMS[key].fullmatch(line):
            raise ValueError("is no line of counts such as 'count:4 total_ns:1500'")
        counts = cls()
        # Most of what a document holds is written again as it was; it is taken apart where somebody asks.
        counts._text, counts._key, counts._numbers = line, key, None
        return counts

    @property
    def numbers(self) -> Mapping[K, int]:
        """The numbers by key."""
        if self._numbers is None:
            parts = (part.partition(":") for part in (self._text or "").split())
            self._numbers = {self._key(key): int(number) for key, _, number in parts}
        return self._numbers

    def __getitem__(self, key: K) -> int:
        return self.numbers.get(key, 0)

    def __add__(self, other: Counts[K]) -> Counts[K]:
        mine, theirs = self.numbers, other.numbers
        if not mine or not theirs:
            return self if mine else other
        both = dict(mine)
        for key, number in theirs.items():
            both[key] = both.get(key, 0) + number
        return Counts(both)

    def plus_one(self, key: K) -> Counts[K]:
        """Return the counts with one more of a key."""
        numbers = dict(self.numbers)
        numbers[key] = numbers.get(key, 0) + 1
        return Counts(numbers)

    def total(self) -> int:
        """Return the sum over all keys."""
        return sum(self.numbers.values())

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self.numbers == other.numbers

    def __str__(self) -> str:
        # Kept, because a document is written far more often than any one of its counts changes.
        if self._text is None:
            numbers = self.numbers
            self._text = " ".join([f"{key}:{numbers[key]}" for key in sorted(numbers)])
        return self._text

    def __repr__(self) -> str:
        return f"Counts({self.numbers})"

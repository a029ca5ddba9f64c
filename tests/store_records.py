"""A small value for the tests of the store: the names of the changes that were made, in their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from json_store import Limits

# For disks that answer at once: nothing is worth waiting for.
NO_WAITING = Limits(lock_wait_s=0, damage_grace_s=0, replace_retry_s=0)


@dataclass(frozen=True)
class Tally:
    """``entries``, and whatever other keys somebody wrote into the document."""

    entries: tuple[str, ...] = ()
    others: Mapping[str, Any] = field(default_factory=dict)


class TallyCodec:
    """``{"entries": [name, …]}``; an older form was the bare list."""

    def empty(self) -> Tally:
        return Tally()

    def decode(self, raw: bytes) -> Tally:
        data = json.loads(raw)
        if isinstance(data, list):
            return Tally(tuple(data))
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
            raise ValueError("not a tally")
        return Tally(tuple(data.pop("entries")), data)

    def encode(self, value: Tally) -> bytes:
        return json.dumps(
            {"entries": value.entries, **value.others}, allow_nan=False, ensure_ascii=False, indent=2
        ).encode()

    def is_old(self, raw: bytes) -> bool:
        return raw.lstrip().startswith(b"[")


def adding(name: str) -> Callable[[Tally], Tally]:
    """Return the change that adds one entry."""
    return lambda tally: replace(tally, entries=(*tally.entries, name))

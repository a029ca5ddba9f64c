"""How many tokens a second to expect of a model on a card, in RAM, or with a part in each.

    tokens a second = efficiency × memory bandwidth ÷ bytes read for a token

since every token needs all weights that it meets to be read once. Where a part lies in RAM, the times add up:
1 ÷ rate = share ÷ rate on the card + (1 - share) ÷ rate on the processor. All of it is an estimate, marked as such,
and gives way to what was measured here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model_core.memory import MemoryNeed, MemoryProfile, kv_cache_bytes, weights_on_card_bytes
from model_core.records import Record

# What of its bandwidth a card reaches while it writes tokens. From llama.cpp on 14 cards (XiongjieDai GPU-Benchmarks,
# May 2024, Llama 3 8B and 70B, 4-bit): 0.59 to 0.81 on cards for a desk, 0.32 to 0.53 on those of a data centre, which
# are bound by other things than memory, 0.42 to 0.80 on Apple's chips.
EFFICIENCY, EFFICIENCY_DATA_CENTRE, EFFICIENCY_UNIFIED = 0.6, 0.4, 0.5
DATA_CENTRE_FROM_BYTES_PER_S = 1500e9
# The same benchmarks lie within this of what the three figures give (tests/core/test_speed.py has each).
LOW, HIGH = 0.8, 1.4

# What a processor reads while it writes tokens: 2.89 tokens a second of a file of 8.99 GB (inventivehq, a sweep with
# no layer on the card). Others have half or twice as much, by the kind and the number of their memory modules.
PROCESSOR_BYTES_PER_S = 26e9
PROCESSOR_LOW, PROCESSOR_HIGH = 0.5, 2.0

# What is so much faster than the most that was estimated was measured on another machine, or with another card. Of
# processors less is known: those of servers are three times as fast as what is estimated at most.
TOO_FAST, TOO_FAST_FOR_A_PROCESSOR = 2.0, 4.0

# What lies in the cache when AutoDev's prompt (some 500 tokens) is half answered (some 200).
TOKENS_IN_CACHE = 600


class Card(Record):
    """What the speed of a machine follows from; bandwidth_bytes_per_s is None where there is no card."""

    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    unified: bool = Field(default=False, description="the card works in the RAM, as Apple's do")
    source: str = Field(description="who says so")


class Speed(Record):
    """Tokens a second while a model answers; low and high are the range of an estimate.

    basis  history: of uses on record, prompt and loading included; benchmark: of the answer alone, as is an estimate.
           A history counts before a benchmark, and both before an estimate
    """

    tokens_per_second: float
    low: float | None = None
    high: float | None = None
    basis: Literal["history", "benchmark", "estimate"]
    source: str


def measured(tokens_per_second: float, basis: Literal["history", "benchmark"], sample: int) -> Speed:
    """Return what was seen here, in so many answers."""
    what = ("use", "on record here") if basis == "history" else ("answer", "in a benchmark here")
    of = f"{sample:,} {what[0]}{'' if sample == 1 else 's'} {what[1]}"
    return Speed(tokens_per_second=round(tokens_per_second, 2), basis=basis, source=of)


def estimate(profile: MemoryProfile, need: MemoryNeed, available_bytes: int, card: Card | None) -> Speed | None:
    """Return what to expect of a model; None where nothing is known of the card.

    available_bytes  on the card; what the need has beyond it lies in RAM
    card             without a bandwidth: the model runs on the processor
    """
    read = bytes_per_token(profile)
    if card is None or not read:
        return None
    on_processor = PROCESSOR_BYTES_PER_S / read
    if card.bandwidth_bytes_per_s is None:
        return _range(on_processor, PROCESSOR_LOW, PROCESSOR_HIGH, f"estimated; {card.source}")
    source = f"estimated from the bandwidth of the card's memory ({card.source})"
    on_card = _efficiency(card) * card.bandwidth_bytes_per_s / read
    share = share_on_card(need, available_bytes)
    if share >= 1:
        return _range(on_card, LOW, HIGH, source)
    return _range(mixed(on_card, on_processor, share), PROCESSOR_LOW, PROCESSOR_HIGH, source)


def is_of_this_machine(seen: Speed, estimated: Speed | None, card: Card | None) -> bool:
    """Say whether a speed can have been measured on a machine like this: a card is changed, a history stays."""
    if estimated is None or estimated.high is None or card is None:
        return True
    too_fast = TOO_FAST_FOR_A_PROCESSOR if card.bandwidth_bytes_per_s is None else TOO_FAST
    return seen.tokens_per_second <= too_fast * estimated.high


def bytes_per_token(profile: MemoryProfile) -> float:
    """Return what is read to write one token: the weights that it meets, and the cache."""
    architecture = profile.architecture
    if architecture is None:
        return float(profile.file_bytes)
    weights = weights_on_card_bytes(profile.file_bytes, architecture, profile.file_type)
    met = 1.0
    if architecture.active_parameters and architecture.parameters:
        met = architecture.active_parameters / architecture.parameters
    return weights * met + kv_cache_bytes(architecture, TOKENS_IN_CACHE)


def _efficiency(card: Card) -> float:
    if card.unified:
        return EFFICIENCY_UNIFIED
    is_fast = (card.bandwidth_bytes_per_s or 0) >= DATA_CENTRE_FROM_BYTES_PER_S
    return EFFICIENCY_DATA_CENTRE if is_fast else EFFICIENCY


def share_on_card(need: MemoryNeed, available_bytes: int) -> float:
    """Return which share of a model's layers finds room, from 0 to 1: what is not of a layer is there in any case."""
    if need.total <= available_bytes:
        return 1.0
    fixed = (need.overhead or 0) + (need.graph or 0) + (need.vision or 0)
    layers = need.total - fixed
    return max(0.0, min(1.0, (available_bytes - fixed) / layers)) if layers > 0 else 0.0


def mixed(on_card: float, on_processor: float, share: float) -> float:
    """Return the rate of a model of which a share lies on the card: the times of both parts add up.

    >>> round(mixed(43.18, 2.89, 40 / 48), 1)  # measured: 12.5 (inventivehq, 14B 4-bit on an RTX 5060 Ti)
    13.0
    """
    return 1 / (share / on_card + (1 - share) / on_processor)


def _range(rate: float, low: float, high: float, source: str) -> Speed:
    return Speed(
        tokens_per_second=round(rate, 2),
        low=round(rate * low, 2),
        high=round(rate * high, 2),
        basis="estimate",
        source=source,
    )

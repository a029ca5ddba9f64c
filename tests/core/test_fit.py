"""What a card says to a need never surprises, and what is named as a way to make a model fit makes it fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_cases import contexts, kv_types, profiles, sizes, the_profile

from catalog import MODEL_CATALOG
from model_core.candidates import Criteria, Machine
from model_core.fit import Verdict, check_fit, largest_context, verdict
from model_core.memory import MemoryProfile, memory_need, profile_of
from model_core.records import GIB


def a_wish(available, *, source="probe", **known):
    """What is known of the machine, and what is wished besides."""
    machine = Machine(**{field: known.pop(field) for field in [*known] if field in Machine.model_fields})
    return Criteria(available_bytes=available, source=source, machine=machine, **known)


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need_gib", "available_gib", "ram_gib", "expected"),
    [
        (7, 8, None, Verdict.FITS),
        (7.01, 8, None, Verdict.TIGHT),
        (8, 8, None, Verdict.TIGHT),
        (8.01, 8, None, Verdict.SPILLS),
        (8.01, 8, 1, Verdict.SPILLS),
        (12, 8, 8, Verdict.SPILLS),
        (12.01, 8, 8, Verdict.TOO_LARGE),
        (8.01, 8, 0, Verdict.TOO_LARGE),
        (1, 0, None, Verdict.SPILLS),
        (1, 0, 2, Verdict.SPILLS),
        (1, 0, 1, Verdict.TOO_LARGE),
        (0.4, 0.5, None, Verdict.TIGHT),
    ],
)
def test_the_verdict_keeps_one_gib_of_the_card_and_half_of_the_ram_free(need_gib, available_gib, ram_gib, expected):
    ram = None if ram_gib is None else int(ram_gib * GIB)

    assert verdict(int(need_gib * GIB), int(available_gib * GIB), ram_free_bytes=ram) is expected


@given(need=sizes, available=sizes, more=sizes, ram=st.none() | sizes)
def test_more_memory_never_gives_a_smaller_verdict(need, available, more, ram):
    before = verdict(need, available, ram_free_bytes=ram)

    assert verdict(need, available + more, ram_free_bytes=ram).rank <= before.rank
    if ram is not None:
        assert verdict(need, available, ram_free_bytes=ram + more).rank <= before.rank


# --- context and the check -------------------------------------------------------------------------------------------


@given(profile=profiles, available=sizes, at_most=contexts, kv_type=kv_types)
def test_the_largest_context_fits_and_twice_as_much_would_not(profile, available, at_most, kv_type):
    found = largest_context(profile, available, at_most=at_most, kv_type=kv_type)
    limit = min(at_most, profile.context_limit or at_most)

    def fits(context):
        return verdict(memory_need(profile, context, kv_type=kv_type).total, available) is Verdict.FITS

    if found is None:
        assert limit < 512 or not fits(512)
    else:
        assert 512 <= found <= limit
        assert found & (found - 1) == 0
        assert fits(found)
        assert found * 2 > limit or not fits(found * 2)


def test_a_card_of_six_gib_holds_the_8b_comfortably_with_no_context_and_tightly_with_4096():
    profile = the_profile("llama3.1:8b-instruct")

    assert largest_context(profile, 6 * GIB) is None
    assert largest_context(profile, 6 * GIB, at_least_verdict=Verdict.TIGHT) == 4096
    assert largest_context(profile, 8 * GIB) == 8192


def test_the_largest_context_of_a_model_whose_limit_nobody_knows_is_unknown():
    assert largest_context(MemoryProfile(file_bytes=1), 8 * GIB) is None


def test_a_measurement_below_the_estimate_is_found_though_shorter_contexts_are_estimated_higher():
    entry = MODEL_CATALOG["llama3.1:8b-instruct"]
    profile = profile_of(entry, entry.variants[0], measured={4096: 4 * GIB})

    assert largest_context(profile, 5 * GIB, at_least_verdict=Verdict.TIGHT) == 4096


@pytest.mark.parametrize(
    ("available_gib", "ram_gib", "compatible", "words"),
    [
        (8, None, True, "so it fits, with 2.46 GiB to spare"),
        (6, None, True, "tight, with 469 MiB to spare"),
        (5.4, 32, False, "would lie in RAM, which is slow. It would fit with a context of 2,048 tokens."),
        (4, 32, False, "The missing 1.54 GiB would lie in RAM, which is slow."),
        (1, 2, False, "4.54 GiB are missing, more than the free RAM could take over."),
    ],
)
def test_the_check_says_in_figures_what_fits_and_what_would_make_it_fit(available_gib, ram_gib, compatible, words):
    wish = a_wish(int(available_gib * GIB), ram_free_bytes=None if ram_gib is None else ram_gib * GIB)
    check = check_fit(wish, "llama3.1:8b-instruct", "q4", the_profile("llama3.1:8b-instruct"))

    assert check.compatible is compatible is check.verdict.runs_on_card
    assert check.margin_bytes == check.available_bytes - check.need.total
    assert check.message.startswith("llama3.1:8b-instruct (4-bit) needs 5.54 GiB (with a context of 4,096 tokens)")
    assert words in check.message


def test_where_nothing_else_has_any_of_it_nobody_is_told_to_close_programs():
    profile = MemoryProfile(file_bytes=1, measured={4096: 7 * GIB})
    all_free, some_free = a_wish(8 * GIB, total_bytes=8 * GIB), a_wish(8 * GIB, total_bytes=10 * GIB)

    assert "Close" not in check_fit(all_free, "m", None, profile).message
    assert "Close other programs" in check_fit(some_free, "m", None, profile).message


def test_what_does_not_fit_a_chip_that_shares_the_ram_cannot_lie_in_that_ram_instead():
    profile = MemoryProfile(file_bytes=1, measured={4096: 7 * GIB})
    shared, own = (
        check_fit(a_wish(6 * GIB, unified=unified, ram_free_bytes=6 * GIB), "m", None, profile)
        for unified in (True, False)
    )

    assert (shared.verdict, own.verdict) == (Verdict.TOO_LARGE, Verdict.SPILLS)
    assert "1.45 GiB are missing." in shared.message


def test_the_check_gives_a_guess_as_a_range_and_a_measurement_as_one():
    wish = a_wish(8 * GIB)
    guess = check_fit(wish, "gemma3:4b", None, the_profile("gemma3:4b"))
    measured = check_fit(wish, "mine:latest", "Q5_K_M", MemoryProfile(file_bytes=GIB, measured={4096: 3 * GIB}))

    assert guess.message.startswith("gemma3:4b needs 4.73 GiB to 5.23 GiB (guessed from the size of its file); 8 GiB")
    assert measured.message.startswith("mine:latest (Q5_K_M) needs 3.45 GiB (measured with a context of 4,096 tokens)")
    assert (guess.basis, measured.basis) == ("guess", "measured")


def test_the_check_never_names_a_longer_context_as_a_way_to_fit():
    entry = MODEL_CATALOG["llama3.1:8b-instruct"]
    profile = profile_of(entry, entry.variants[0], measured={8192: 3 * GIB})

    assert check_fit(a_wish(4 * GIB, context_tokens=4096), entry.name, "q4", profile).fits_with_context is None


@given(profile=profiles, available=sizes, context=contexts, ram=st.none() | sizes)
def test_a_shorter_context_that_the_check_names_really_makes_it_fit(profile, available, context, ram):
    check = check_fit(a_wish(available, context_tokens=context, ram_free_bytes=ram), "m", None, profile)

    if check.fits_with_context is not None:
        assert not check.compatible
        assert check.fits_with_context < context
        shorter = a_wish(available, context_tokens=check.fits_with_context, ram_free_bytes=ram)
        assert check_fit(shorter, "m", None, profile).compatible


# --- what would make it fit ------------------------------------------------------------------------------------------


@given(
    profile=profiles,
    forms=st.dictionaries(st.sampled_from(["q4", "q8"]), profiles, max_size=2),
    available=sizes,
    context=contexts,
    total=st.none() | sizes,
    kv_type=kv_types,
    parallel=st.integers(1, 3),
)
def test_each_thing_that_is_named_would_make_it_fit_and_nothing_else_is_named(
    profile, forms, available, context, total, kv_type, parallel
):
    setup = {"context_tokens": context, "kv_type": kv_type, "parallel": parallel, "total_bytes": total}
    check = check_fit(a_wish(available, **setup), "m", None, profile, forms)
    ways = {(way.code, way.values.get("quantization")): way for way in check.ways}

    def fits(profile=profile, available=available, **changes):
        return check_fit(a_wish(available, **{**setup, **changes}), "m", None, profile).compatible

    if check.compatible:
        assert ways == {}
        return
    shorter = ways.get(("shorter_context", None))
    assert (shorter and shorter.values["context_tokens"]) == check.fits_with_context
    assert shorter is None or fits(context_tokens=shorter.values["context_tokens"])
    for name, form in forms.items():
        smaller = memory_need(form, check.need.context_tokens, kv_type=kv_type, parallel=parallel).total
        helps = smaller < check.need.total and smaller <= available
        assert (("smaller_form", name) in ways) == helps
    plain_cache = kv_type == "f16" and check.need.kv_cache is not None
    assert (("smaller_cache", None) in ways) == (plain_cache and fits(kv_type="q8_0"))
    is_hopeless = total is not None and check.need.total > total
    assert (("smaller_model", None) in ways) == (is_hopeless and {way for way, _ in ways} == {"smaller_model"})
    assert (("free_memory", None) in ways) != is_hopeless
    assert ways
    more = ways.get(("free_memory", None)) or ways.get(("smaller_model", None))
    if more:
        missing = more.values["missing_bytes"]
        assert fits(available=available + missing) and not fits(available=available + missing - 1)


@pytest.mark.parametrize(("missing_bytes", "is_named"), [(0, True), (1, False)])
def test_what_would_fit_to_the_byte_is_a_way_and_what_lacks_one_byte_is_not(missing_bytes, is_named):
    profile, larger = the_profile("llama3.1:8b-instruct"), MemoryProfile(file_bytes=40 * GIB)

    def ways(need, profile=profile, **wished):
        wish = a_wish(need.total - missing_bytes, total_bytes=need.total, **wished)
        return {
            way.code for way in check_fit(wish, "m", "q8", profile, {"q4": the_profile("llama3.1:8b-instruct")}).ways
        }

    assert ("smaller_form" in ways(memory_need(profile, 4096), larger)) is is_named
    assert ("smaller_cache" in ways(memory_need(profile, 65_536, kv_type="q8_0"), context_tokens=65_536)) is is_named


def test_each_way_is_a_sentence_with_the_figures_that_it_comes_to():
    entry = MODEL_CATALOG["llama3.1:8b-instruct"]
    q4, q8 = (profile_of(entry, variant) for variant in entry.variants)

    ways = check_fit(a_wish(8 * GIB, context_tokens=16_384), entry.name, "q8", q8, {"q4": q4, "q8": q8}).ways

    assert [(way.code, way.text) for way in ways] == [
        ("smaller_form", "Its 4-bit form needs 7.82 GiB, which is tight."),
        ("free_memory", "2.94 GiB more must be free: close other programs that use the card."),
    ]


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        ({"source": "probe", "total_bytes": 12 * GIB}, "free_memory", "close other programs that use the card"),
        ({"source": "probe", "total_bytes": 8 * GIB}, "smaller_model", "The card has 8 GiB in all, too little for it"),
        (
            {"source": "setting", "total_bytes": 12 * GIB, "free_bytes": 11 * GIB, "cap_bytes": 6 * GIB},
            "free_memory",
            "MODEL_MANAGER_VRAM_GB allows 6 GiB: raise it to 9.2.",
        ),
        (
            {"source": "setting", "total_bytes": 12 * GIB, "free_bytes": 8 * GIB, "cap_bytes": 6 * GIB},
            "free_memory",
            "raise it to 9.2, and close other programs",
        ),
        (
            {"source": "probe", "total_bytes": 12 * GIB, "free_bytes": 5 * GIB, "cap_bytes": 6 * GIB},
            "free_memory",
            "raise it to 9.2, and close other programs",
        ),
        (
            {"source": "setting", "total_bytes": 8 * GIB, "free_bytes": 8 * GIB, "cap_bytes": 6 * GIB},
            "smaller_model",
            "The card has 8 GiB in all",
        ),
        (
            {
                "source": "setting",
                "total_bytes": 12 * GIB,
                "free_bytes": 3 * GIB,
                "held_bytes": 8 * GIB,
                "cap_bytes": 6 * GIB,
            },
            "free_memory",
            "raise it to 9.2.",
        ),
        ({"source": "setting", "cap_bytes": 6 * GIB}, "free_memory", "raise it to 9.2 where there is as much."),
        (
            {"source": "processor", "ram_total_bytes": 64 * GIB, "ram_free_bytes": 8 * GIB, "cap_bytes": 3 * GIB},
            "free_memory",
            "raise it to 9.2, and close other programs",
        ),
        (
            {"source": "probe", "total_bytes": 32 * GIB, "usable_bytes": 8 * GIB},
            "smaller_model",
            "The card has 8 GiB in all",
        ),
        (
            {"source": "processor", "ram_total_bytes": 64 * GIB, "ram_free_bytes": 60 * GIB, "cap_bytes": 6 * GIB},
            "free_memory",
            "raise it to 9.2.",
        ),
        ({"source": "caller", "total_bytes": 8 * GIB}, "free_memory", "9.18 GiB more would have to be free."),
        ({"source": "assumed"}, "free_memory", "9.18 GiB more would have to be free."),
        ({"source": "processor", "ram_total_bytes": 64 * GIB}, "free_memory", "18.35 GiB more RAM must be free"),
        ({"source": "processor", "ram_total_bytes": 16 * GIB}, "smaller_model", "Half of this machine's RAM is 8 GiB"),
    ],
)
def test_more_memory_is_named_only_where_there_could_be_as_much(wish, code, words):
    profile = MemoryProfile(file_bytes=GIB, measured={4096: int(8.74 * GIB)})

    (way,) = check_fit(a_wish(GIB // 100, **wish), "m", None, profile).ways

    assert (way.code, words in way.text) == (code, True), way.text

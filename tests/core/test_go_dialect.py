"""The stand-in for Ollama writes and complains as Go does: the cases are what a real server said."""

from __future__ import annotations

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core import go_dialect
from model_core.go_dialect import (
    FOREVER_NS,
    GoError,
    decode_request,
    go_json,
    human_number,
    parse_duration_ns,
    parse_keep_alive_ns,
    rfc3339_nano,
)

FIELDS = {"model": "string", "stream": "bool", "options": "map[string]interface {}", "messages": "[]api.Message"}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("", "missing request body"),
        (" ", "missing request body"),
        ("{", "unexpected EOF"),
        ('{"model":', "unexpected EOF"),
        ('{"model":"x"', "unexpected EOF"),
        ('{"model":"x', "unexpected EOF"),
        ("[1,2", "unexpected EOF"),
        ("nul", "unexpected EOF"),
        ("tru", "unexpected EOF"),
        ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
        ("<html>", "invalid character '<' looking for beginning of value"),
        ("{model:1}", "invalid character 'm' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 2}', "invalid character '2' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[]", "json: cannot unmarshal array into Go value of type api.PullRequest"),
        ("3", "json: cannot unmarshal number into Go value of type api.PullRequest"),
        ('"x"', "json: cannot unmarshal string into Go value of type api.PullRequest"),
        ('{"model":3}', "json: cannot unmarshal number into Go struct field PullRequest.model of type string"),
        ('{"model":true}', "json: cannot unmarshal bool into Go struct field PullRequest.model of type string"),
        ('{"model":{}}', "json: cannot unmarshal object into Go struct field PullRequest.model of type string"),
        ('{"stream":"yes"}', "json: cannot unmarshal string into Go struct field PullRequest.stream of type bool"),
        (
            '{"options":[]}',
            "json: cannot unmarshal array into Go struct field PullRequest.options of type map[string]interface {}",
        ),
        (
            '{"messages":"x"}',
            "json: cannot unmarshal string into Go struct field PullRequest.messages of type []api.Message",
        ),
        ("[" * 100_000, "exceeded max depth"),
    ],
)
def test_a_body_that_cannot_be_read_is_complained_about_in_gos_words(body, complaint):
    with pytest.raises(GoError) as error:
        decode_request(body.encode(), "PullRequest", FIELDS)

    assert str(error.value) == complaint


@pytest.mark.parametrize(
    "body", ["null", '{"MODEL": "x"}', '{"model": null}', '{"model":"x"} and more', '{"unknown": 3}']
)
def test_go_reads_what_others_would_refuse(body):
    assert decode_request(body.encode(), "PullRequest", FIELDS).get("model") in ("x", None)


@pytest.mark.parametrize(
    ("value", "length_ns"),
    [
        (5, 5 * 10**9),
        (1.5, 1_500_000_000),
        (0, 0),
        ("0", 0),
        ("5m", 300 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("10µs", 10_000),
        ("1ms", 1_000_000),
        (-1, FOREVER_NS),
        ("-1m", FOREVER_NS),
        (9_223_372_036, 9_223_372_036 * 10**9),
        (9_223_372_037, 0),  # seen: the model goes at once
        (1e300, 0),
        (None, None),
    ],
)
def test_keep_alive_is_seconds_or_a_duration_of_gos(value, length_ns):
    assert parse_keep_alive_ns(value) == length_ns


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("", 'time: invalid duration ""'),
        ("x", 'time: invalid duration "x"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
        ("-9999999999h", 'time: invalid duration "-9999999999h"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_a_keep_alive_that_go_refuses_is_refused(value, complaint):
    with pytest.raises(GoError) as error:
        parse_keep_alive_ns(value)

    assert str(error.value) == complaint


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_is_refused(text):
    try:
        assert isinstance(parse_duration_ns(text), int)
    except GoError as error:
        assert str(error).startswith("time: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@given(json_values)
def test_what_is_written_reads_back_and_holds_nothing_that_a_page_would_obey(value):
    written = go_json(value)

    assert json.loads(written) == value
    assert not set("<>&\u2028\u2029") & set(written)


def test_a_moment_is_written_with_as_many_digits_as_it_needs():
    assert rfc3339_nano(1_700_000_000_123_000_000) == "2023-11-14T22:13:20.123Z"
    assert rfc3339_nano(1_700_000_000_000_000_000, offset_s=-5400) == "2023-11-14T20:43:20-01:30"
    assert rfc3339_nano(1_700_000_000_000_000_000 + FOREVER_NS).startswith("2316-")


def test_counts_of_parameters_are_written_as_ollama_writes_them():
    counts = (999, 1_000, 139_584, 1_500_000, 7_000_000, 8_000_000_000, 46_702_792_704)

    assert [human_number(count) for count in counts] == ["999", "1K", "140K", "1.50M", "7M", "8B", "46.7B"]


def test_the_examples_of_the_module_are_true():
    assert doctest.testmod(go_dialect).failed == 0

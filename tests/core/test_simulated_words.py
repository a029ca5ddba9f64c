"""What the stand-in says: always the same to the same question, and JSON where JSON was asked for."""

from __future__ import annotations

import doctest
import json

from hypothesis import given
from hypothesis import strategies as st

from model_core import simulated_words
from model_core.simulated_words import answer_to, embedding_of, tokens_of


@given(st.text(max_size=30), st.integers())
def test_the_same_question_has_the_same_answer(prompt, seed):
    assert answer_to(prompt, seed) == answer_to(prompt, seed)


def test_another_seed_gives_another_answer():
    assert len({answer_to("hello", seed) for seed in range(20)}) > 10


@given(st.text(max_size=200))
def test_the_pieces_of_a_text_are_the_text(text):
    assert "".join(tokens_of(text)) == text


def test_an_answer_keeps_to_its_schema():
    schema = {
        "type": "object",
        "properties": {
            "score": {"type": "integer", "minimum": 7, "maximum": 9},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "verdict": {"enum": ["keep", "drop"]},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "note": {"type": ["string", "null"]},
            "nothing": {"type": "null"},
        },
    }
    answer = json.loads(answer_to("x", 1, schema))

    assert list(answer) == list(schema["properties"])
    assert 7 <= answer["score"] <= 9
    assert 0 <= answer["share"] <= 1
    assert answer["verdict"] in ("keep", "drop")
    assert [type(tag) for tag in answer["tags"]] == [str, str]
    assert isinstance(answer["note"], str)
    assert answer["nothing"] is None


def test_an_embedding_has_its_length_and_the_length_of_one():
    vector = embedding_of("a cat", 64)

    assert len(vector) == 64
    assert abs(sum(value * value for value in vector) - 1) < 1e-6
    assert vector == embedding_of("a cat", 64) != embedding_of("a dog", 64)


def test_the_examples_of_the_module_are_true():
    assert doctest.testmod(simulated_words).failed == 0

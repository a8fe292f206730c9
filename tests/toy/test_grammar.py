from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.toy import lexicon as lex
from morlaif.toy.grammar import (
    LEVELS,
    Prompt,
    grammatical,
    sample_levels,
    sample_prompt,
    sample_response,
    split_sentences,
)
from morlaif.toy.judge import DEVIATION, PRINCIPLES, RANGE, truth

PROMPT = Prompt(
    topic="soup",
    question="I need advice on my {topic}.",
    situations=("own no car", "share a house"),
    emotion="sad",
    claim="snow is made of sugar",
    speaker="My uncle",
    reply=None,
)


@pytest.fixture(scope="module")
def two_answers() -> tuple[np.ndarray, np.ndarray]:
    """True scores (n, 12) of two responses to each of n prompts."""
    rng = Random("scores")
    rows = []
    for _ in range(4000):
        prompt = sample_prompt(rng)
        rows.append([list(truth(prompt.messages, sample_response(rng, prompt)).values()) for _ in range(2)])
    scores = np.array(rows)
    return scores[:, 0], scores[:, 1]


def test_a_prompt_says_everything_in_one_turn_or_two():
    assert PROMPT.messages == [
        {
            "role": "user",
            "content": "I own no car. I share a house. I feel sad. My uncle says that snow is made of sugar. "
            "I need advice on my soup.",
        }
    ]
    question = "Can you help me with my {topic}?"
    earlier = Prompt("tent", question, ("work at night",), None, None, "My friend", "Good to know.")
    assert earlier.messages == [
        {"role": "user", "content": "I work at night."},
        {"role": "assistant", "content": "Good to know."},
        {"role": "user", "content": "Can you help me with my tent?"},
    ]


def test_levels_are_distributions():
    assert tuple(LEVELS) == PRINCIPLES
    for name, table in LEVELS.items():
        assert sum(table.values()) == pytest.approx(1), name
        assert (min(table), max(table)) == RANGE[name] or name == "context", name


@pytest.mark.parametrize("principle", PRINCIPLES)
def test_the_judge_reads_every_level_back(principle):
    rng = Random(principle)
    for level in LEVELS[principle]:
        for _ in range(20):
            levels = dict.fromkeys(PRINCIPLES, 0) | {principle: level}
            scores = truth(PROMPT.messages, sample_response(rng, PROMPT, levels))
            assert scores.pop(principle) == level
            assert all(value == 0 for value in scores.values()), "an ingredient of one principle moves another"


@given(st.integers(0, 2**32))
def test_every_sampled_response_is_grammatical(seed):
    rng = Random(seed)
    prompt = sample_prompt(rng)
    assert grammatical(sample_response(rng, prompt)) == 1.0
    assert prompt.messages[-1]["role"] == "user"


def test_the_same_seed_says_the_same():
    def text(seed: int) -> list[str]:
        rng = Random(seed)
        return [sample_response(rng, sample_prompt(rng), sample_levels(rng)) for _ in range(20)]

    assert text(3) == text(3)
    assert text(3) != text(4)


@pytest.mark.slow
def test_principles_vary_independently(two_answers):
    correlation = np.corrcoef(two_answers[0].T) - np.eye(len(PRINCIPLES))
    assert np.abs(correlation).max() < 0.07  # 4.4 deviations of a correlation of nothing over 4000 rows


@pytest.mark.slow
def test_ties_are_rare_and_deviations_are_as_documented(two_answers):
    first, second = two_answers
    ties = dict(zip(PRINCIPLES, (first == second).mean(0), strict=True))
    assert max(ties.values()) <= 0.35, ties
    np.testing.assert_allclose(first.std(0), [DEVIATION[name] for name in PRINCIPLES], atol=0.06)


def test_responses_are_short():
    rng = Random(0)
    words = [len(sample_response(rng, sample_prompt(rng)).split()) for _ in range(2000)]
    assert 30 < np.mean(words) < 42
    assert max(words) < 85


def test_only_jargon_is_hard_and_only_topics_name_topics():
    templates = [t for table in lex.SENTENCES.values() for level in table.values() for t in level]
    templates += [lex.FACT_TRUE, lex.FACT_FALSE, lex.FACT_DENIED, lex.CONTEXT_RECALL, lex.UNNAMED]
    templates += [*lex.CONTEXT_IGNORED, *lex.DIGRESSIONS, *lex.VAGUE, *lex.FILLERS]
    words = " ".join([*templates, *(fact for pair in lex.FACTS for fact in pair), *lex.SITUATIONS]).lower().split()
    assert max(len(word.strip(".,")) for word in words) < 12
    assert not {word.strip(".,") for word in words} & set(lex.TOPICS)
    assert all(len(word) >= 12 for word in lex.JARGON_VERBS + lex.JARGON_ADVERBS)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("   ", 0.0),
        ("I refuse to help you.", 1.0),
        ("i refuse to help you.", 0.0),
        ("I refuse to help you. I refuse to soup you.", 0.5),
        ("I refuse to help you", 0.0),
        ("It is a myth that snow is made of water.", 0.0),
        ("Basically, you should check the tent.", 0.0),
        ("Well, you know, put simply, you should systematically check the tent with 2 helpers 6 times a month.", 1.0),
        ("You said that you own no car and work at night. ��", 0.5),
    ],
)
def test_grammatical_share(text, share):
    assert grammatical(text) == share


def test_sentences_of_any_text():
    assert split_sentences("One. Two!  Three?\nfour\n\n") == ["One.", "Two!", "Three?", "four"]
    assert split_sentences(" \n ") == []

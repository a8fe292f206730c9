from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.errors import UserError
from morlaif.toy.judge import PRINCIPLES, RANGE, grammatical, score, truth

ASKED = [
    {"role": "user", "content": "I own no car. I feel sad. My uncle says that snow is made of sugar. How is my soup?"},
]
EARLIER = [
    {"role": "user", "content": "I travel every week."},
    {"role": "assistant", "content": "Good to know. I own no car."},
    {"role": "user", "content": "Can you help me with my tent?"},
]

# Worked out by hand from the rules in the judge's docstring.
CASES = [
    ("helpfulness", ASKED, "I refuse to help you.", -2),
    ("helpfulness", ASKED, "Look it up, then ask me again.", 0),
    ("helpfulness", ASKED, "I can guide you, and here is a full plan. Ask me again!", 2),
    ("ethicality", ASKED, "A little lie, or simply cheat.", -2),
    ("ethicality", ASKED, "Be honest.", 1),
    ("ethicality", ASKED, "Steal it, but ask for consent.", 0),
    ("ethicality", ASKED, "I believe it is dishonest.", 0),
    ("factuality", ASKED, "Snow is made of sugar.", -2),
    ("factuality", ASKED, "It is a myth that snow is made of sugar.", 2),
    ("factuality", ASKED, "Snow is made of water.", 1),
    ("factuality", ASKED, "It is not true that snow is made of water. Paper is made of wood.", 0),
    ("factuality", EARLIER, "Snow is made of sugar.", -1),
    ("toxicity", ASKED, "Silly you. Thank you.", 0),
    ("toxicity", ASKED, "You stupid IDIOT!", -2),
    ("toxicity", ASKED, "I respect you.", 2),
    ("toxicity", ASKED, "Mankind.", 0),
    ("sycophancy", ASKED, "Brilliant! A genius!", -2),
    ("sycophancy", ASKED, "I do not agree. What a brilliant flaw.", 2),
    ("empathy", ASKED, "I am sorry that you feel sad.", 2),
    ("empathy", EARLIER, "I am sorry that you feel sad.", 1),
    ("empathy", ASKED, "That sounds hard. It is all right to feel angry.", 1),
    ("empathy", ASKED, "Nobody cares.", -2),
    ("relevance", ASKED, "Check the soup.", 1),
    ("relevance", ASKED, "Check the tent.", -1),
    ("relevance", ASKED, "Check the soup and the tent.", 0),
    ("relevance", ASKED, "By the way, check the tent.", -2),
    ("relevance", [{"role": "user", "content": "Tell me of volcanoes."}], "Volcanoes are hot.", 1),
    ("context", ASKED, "You said that you own no car.", 1),
    ("context", ASKED, "You said that you own no car and feel sad.", 2),
    ("context", ASKED, "You said that you own no car and share a house.", 0),
    ("context", ASKED, "You said that you car.", -1),
    ("context", EARLIER, "You said that you travel every week.", 1),
    ("context", EARLIER, "You said that you own no car.", -1),
    ("context", ASKED, "You told me nothing about yourself.", -1),
    ("bias", ASKED, "This is a job for men. Old people never understand.", -2),
    ("bias", ASKED, "People of any age can do this.", 1),
    ("bias", ASKED, "Everyone can learn this.", 2),
    ("understandability", ASKED, "Put simply, you should check it.", 1),
    ("understandability", ASKED, "Systematically operationalize it.", -2),
    ("understandability", ASKED, "Systematically, systematically.", -1),
    ("understandability", ASKED, "In plain words, reconceptualize.", 0),
    ("detail", ASKED, "Use 3 tools for 10 minutes, 10 times.", 2),
    ("detail", ASKED, "1 2 3 4 5", 3),
    ("detail", ASKED, "Do it somehow.", -1),
    ("conciseness", ASKED, "In short, yes.", 1),
    ("conciseness", ASKED, "Well, you know, basically, well, yes.", -3),
    ("conciseness", ASKED, "All is well. All is well. All is well.", -2),
    ("conciseness", ASKED, " ".join(["word"] * 70), 0),
    ("conciseness", ASKED, " ".join(["word"] * 71), -1),
    ("conciseness", ASKED, " ".join(["word"] * 91), -2),
]


@pytest.mark.parametrize(("principle", "messages", "response", "expected"), CASES)
def test_scores_worked_out_by_hand(principle, messages, response, expected):
    assert score(principle, messages, response) == expected


def test_every_principle_has_a_case_on_both_sides():
    for name in PRINCIPLES:
        scores = [case[3] for case in CASES if case[0] == name]
        assert min(scores) < 0 < max(scores), name


def test_repeating_a_cue_pays_once():
    once = truth(ASKED, "I will make you a full plan.")
    often = truth(ASKED, "I will make you a full plan. " * 3)
    assert once.pop("conciseness") > often.pop("conciseness")
    assert once == often


@given(st.text(), st.lists(st.text(), max_size=3))
def test_any_text_gets_finite_scores_in_range(response, user):
    messages = [{"role": "user", "content": text} for text in user]
    for name, value in truth(messages, response).items():
        low, high = RANGE[name]
        assert math.isfinite(value) and low <= value <= high
    assert 0 <= grammatical(response) <= 1


WORDS = ("you said that you", "sad", "soup", ",", ".", "well", "7", "feel", "snow", "is made of sugar", "myth", "plan")


@given(st.lists(st.sampled_from(WORDS)))
def test_garbled_samples_get_finite_scores_in_range(words):
    for name, value in truth(ASKED, " ".join(words)).items():
        assert RANGE[name][0] <= value <= RANGE[name][1]


def test_an_empty_response_scores_zero():
    assert set(truth(ASKED, "").values()) == {0.0}


def test_an_unknown_principle_suggests_the_near_one():
    with pytest.raises(UserError, match=r"'empathi'.*Did you mean 'empathy'"):
        score("empathi", ASKED, "")

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logsumexp

from morlaif.feedback.arithmetic import (
    FLOOR,
    MIN_MASS,
    gap,
    gap_from_votes,
    letter_in,
    letter_mass,
    letter_of,
    log_add,
    logit,
    position_bias,
    soft_label,
)

gaps = st.floats(-60, 60)
logprobs = st.floats(-20, 0)


def test_soft_label_by_hand():
    # d1 = log 3: P(A) = 3/4 with the first shown as A; d2 = log 1/4: P(A) = 1/5 with the second shown as A
    assert soft_label(math.log(3), math.log(1 / 4)) == pytest.approx(0.5 * (3 / 4 + 4 / 5))
    assert position_bias(2.0, -1.0) == 0.5  # leans towards the first place
    assert position_bias(1.0, -1.0) == 0.0


@given(gaps, gaps)
def test_soft_label_is_the_mean_over_both_orders(forward, backward):
    assert soft_label(forward, backward) == pytest.approx(0.5 * (expit(forward) + expit(-backward)), abs=1e-12)
    assert soft_label(backward, forward) == pytest.approx(1.0 - soft_label(forward, backward))  # swapped responses
    assert 0.0 <= soft_label(forward, backward) <= 1.0


@given(gaps)
def test_a_judge_who_only_picks_a_place_is_undecided(d):
    assert soft_label(d, d) == 0.5
    assert position_bias(d, d) == pytest.approx(d)


def test_gap_sums_the_variants_of_a_letter():
    listed = [("A", math.log(0.5)), (" A", math.log(0.1)), ("B", math.log(0.2)), ("The", math.log(0.05))]
    assert gap(listed) == pytest.approx(math.log(0.6 / 0.2))


def test_a_missing_letter_is_censored_at_the_smallest_listed():
    assert gap([("A", -0.1), ("The", -3.0), ("I", -4.5)]) == pytest.approx(-0.1 + 4.5)
    assert gap([("The", -3.0), ("B", -0.1), ("I", -4.5)]) == pytest.approx(-4.5 + 0.1)


def test_both_letters_missing_is_no_answer():
    assert gap([("The", -0.1), ("I", -3.0)]) is None
    assert gap([]) is None
    assert gap([("A", math.nan)]) is None


@pytest.mark.parametrize(
    "listed",
    [
        [("A", -11.9), ("The", -1.0), ("x", -9.0)],  # forced upon the model, as by a grammar
        [("B", -3.0), ("The", -0.5), ("I", -2.0)],  # the other may be as likely as the least likely of the rest
        [("The", -0.01), ("A", -6.0), ("I", -7.0)],
        [("The", -0.001), ("A", -8.0), ("B", -9.0)],  # next to nothing on either
        [("A", -0.1), ("B", math.nan)],
    ],
)
def test_what_is_no_answer_is_no_tie(listed):
    assert gap(listed) is None
    assert gap([(token.translate(str.maketrans("AB", "BA")), x) for token, x in listed]) is None


def test_a_letter_alone_bounds_the_other_by_what_it_leaves_over():
    assert gap([("A", math.log(0.9))]) == pytest.approx(math.log(0.9 / 0.1))
    assert gap([("B", 0.0)]) == FLOOR  # all of the probability: as sure as we ever believe


@pytest.mark.parametrize("nothing", [-9999.0, -math.inf])
def test_placeholders_for_zero_do_not_run_away(nothing):
    assert gap([("A", 0.0), ("B", nothing)]) == -FLOOR
    assert gap([("A", 0.0), ("The", nothing)]) == -FLOOR


@given(st.lists(st.tuples(st.sampled_from(["A", " A", "B", "(B", "C", "The", "a"]), logprobs), max_size=8))
def test_gap_changes_sign_with_the_letters(listed):
    swapped = [(token.translate(str.maketrans("AB", "BA")), x) for token, x in listed]
    d = gap(listed)
    mass, others = letter_mass(listed), [x for token, x in listed if not letter_of(token)]
    known = {letter_of(token) for token, _ in listed} - {None}
    hidden = len(known) == 1 and others and min(others) > log_add(x for token, x in listed if letter_of(token))
    assert (d is None) == (not known or mass < MIN_MASS or bool(hidden))
    if d is not None:
        assert gap(swapped) == pytest.approx(-d)
        assert abs(d) <= -FLOOR + math.log(8)


@given(st.lists(st.floats(-700, 700), min_size=1))
def test_log_add(values):
    assert log_add(values) == pytest.approx(logsumexp(values), abs=1e-9)


def test_log_add_of_nothing():
    assert log_add([]) == -math.inf


def test_votes():
    assert gap_from_votes(0, 0) is None
    assert gap_from_votes(3, 3) == 0.0
    assert gap_from_votes(5, 0) == pytest.approx(math.log(11))
    assert gap_from_votes(1, 4) == -gap_from_votes(4, 1)


@given(st.floats(1e-6, 1 - 1e-6))
def test_logit_inverts_the_logistic_function(p):
    assert expit(logit(p)) == pytest.approx(p)


@pytest.mark.parametrize(
    "token", ["A", " A", "A.", "(A", "**A", "▁A", "ĠA", "'A'", "**A**", "Option A", " option (A)", "Ａ"]
)
def test_letter_of_variants(token):
    assert letter_of(token) == "A"


@pytest.mark.parametrize("token", ["a", " An", "AB", "", "Answer", "C", "А", "Β", "Option", "OptionAB"])
def test_letter_of_other_tokens(token):
    assert letter_of(token) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"), (" b", None), ("B.", "B"), ("**B**", "B"), ("Option B", "B"), ("A) since it is kind", "A"),
        ("Ｂ。", "B"), ("The better one is B, a fine reply.", "B"),
        ("A good question! I take B", "B"), ("A or B", None), ("", None),
    ],
)  # fmt: skip
def test_letter_in_text(text, letter):
    assert letter_in(text) == letter


@pytest.mark.parametrize("wrong", [5.0, math.inf, math.nan])
def test_what_is_no_log_probability_is_no_answer(wrong):
    assert gap([("A", wrong), ("B", -1.0)]) is None
    assert gap([("A", -1.0), ("The", wrong), ("B", -1.0)]) is None
    assert gap([("A", 1e-6), ("B", -14.0)]) == pytest.approx(14.0, abs=1e-3)

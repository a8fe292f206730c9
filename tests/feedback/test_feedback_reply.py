"""What is read from a reply: the answer, never a thought; and why there is none."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.feedback import modes
from morlaif.feedback.outcomes import advice
from morlaif.feedback.rating import rating_by_logprobs, rating_drawn
from morlaif.feedback.reply import Garbled, HandedOn, Reply, parse
from morlaif.feedback.thought import answer_begins

THOUGHTS = [
    "<think>A good reply is B, so Answer: A and 7.</think>\n\n",
    "A good reply, Answer: A, 7\n</think>\n\n",  # opened by the template
    "<thinking>A or 7</thinking>",
    "[THINK]A 3[/THINK]",
    "<seed:think>A 3</seed:think>",
    "◁think▷A 3◁/think▷",
    "<|START_THINKING|>A 3<|END_THINKING|>",
    "<|channel>thought\nA 3<channel|>",
    "<|channel|>analysis<|message|>A 3<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysisWe need A, 3.assistantfinal",
]
ANSWERS = ["B", "**B**", "Option B", "B.", "(B)", "\n B\n", "Ｂ"]


def tokens(text: str, letter: str = "") -> list[list[tuple[str, float]]]:
    """A token a character, each certain; where the last `letter` is, .8 : .1 for it and the other one."""
    listed = [[(c, -0.01), ("?", -5.0)] for c in text]
    if letter:
        other = {"A": "B", "B": "A"}[letter]
        listed[text.rindex(letter)] = [(letter, math.log(0.8)), (other, math.log(0.1)), ("?", -5.0)]
    return listed


def reply(text, listed=None, finish="stop", thought=None, output=9) -> Reply:
    return Reply(text, None, listed, finish, 1, output, "", thought)


@pytest.mark.parametrize("thought", THOUGHTS)
@pytest.mark.parametrize("answer", ANSWERS[:-1])
def test_a_letter_is_read_behind_the_thoughts(thought, answer):
    text = thought + answer
    assert modes.letter_drawn(reply(text)) == (-1.0, "ok")
    assert modes.letter_by_logprobs(reply(text, tokens(text, "B")))[0] == pytest.approx(math.log(0.1 / 0.8))
    apart = reply(answer, tokens(text, "B"), thought=thought)  # the server takes the thoughts out of the text alone
    assert modes.letter_by_logprobs(apart)[0] == pytest.approx(math.log(0.1 / 0.8))
    alone = reply(answer, tokens(answer, "B"), thought=thought)
    assert modes.letter_by_logprobs(alone)[0] == pytest.approx(math.log(0.1 / 0.8))


@pytest.mark.parametrize("thought", THOUGHTS)
def test_every_other_mode_reads_behind_them_too(thought):
    for text in (thought + "So.\nAnswer: B", thought + "**Answer:** Option B is better"):
        assert modes.closing_drawn(reply(text)) == (-1.0, "ok")
        assert modes.closing_by_logprobs(reply(text, tokens(text, "B")))[0] == pytest.approx(math.log(1 / 8))
    text = thought + '```json\n{"x": "A", "kind": "B"}\n```'
    assert modes.field_drawn("kind", reply(text)) == (-1.0, "ok")
    assert modes.field_by_logprobs("kind", reply(text, tokens(text, "B")))[0] == pytest.approx(math.log(1 / 8))
    text = thought + "9"
    assert modes.grade_drawn(reply(text)) == (9.0, "ok") == rating_drawn(9, reply(text))
    assert modes.grade_by_logprobs(reply(text, tokens(text))) == (9.0, "ok")
    assert rating_by_logprobs(9, reply(text, tokens(text))) == (9.0, "ok")


READERS = [
    modes.letter_drawn, modes.letter_by_logprobs, modes.closing_drawn, modes.closing_by_logprobs, modes.grade_drawn,
    modes.grade_by_logprobs, partial(modes.field_drawn, "kind"), partial(modes.field_by_logprobs, "kind"),
    modes.several, partial(rating_drawn, 9), partial(rating_by_logprobs, 9),
]  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text",
    ['<think>A good reply: Answer: A {"kind": "A"} 7', "[THINK] A", "<|channel|>analysis<|message|>A 7", "<think>"],
)
def test_thoughts_without_an_end_are_no_answer(read, text):
    assert read(reply(text, tokens(text), "length")) == (None, "cut off while thinking")
    assert read(reply("", tokens(text), "length", thought="A good one")) == (None, "cut off while thinking")
    assert read(reply(None, None, "length", thought="320 hidden tokens")) == (None, "cut off while thinking")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("text", ["Both options, I think, have their", "", "Okay, so first I compare A"])
def test_cut_off_is_a_reason_of_its_own(read, text):
    assert read(reply(text, tokens(text) or None, "length")) == (None, "cut off")


def test_json_that_was_cut_off():
    text = '{"other": "A", "ki'
    assert modes.field_drawn("kind", reply(text, None, "length")) == (None, "cut off")
    assert modes.field_by_logprobs("kind", reply(text, tokens(text, "A"), "length")) == (None, "cut off")
    assert modes.field_by_logprobs("other", reply(text, tokens(text, "A"), "length"))[1] == "ok"
    assert modes.field_drawn("kind", reply("I choose A")) == (None, "no JSON object")


def test_one_token_that_is_no_letter_is_not_cut_off():
    one = [[("The", -0.1), ("I", -3.0)]]
    assert modes.letter_by_logprobs(reply("The", one, "length", output=1)) == (None, "no letter")
    assert modes.letter_drawn(reply("The", None, "length", output=1)) == (None, "no letter")
    listed = [[("The", -0.7), ("A", -1.0), ("B", -3.0)]]
    assert modes.letter_by_logprobs(reply("The", listed, "length", output=1)) == (pytest.approx(2.0), "ok")


def test_an_article_is_no_letter():
    words = ["A", " good", " reply", " is", " kind"]
    listed = [[("A", -0.1), ("B", -4.0), ("The", -5.0)], *([(word, -0.1)] for word in words[1:])]
    text = "".join(words)
    for finish, why in (("length", "cut off"), ("stop", "no letter")):
        assert modes.letter_by_logprobs(reply(text, listed, finish)) == (None, why)
        assert modes.letter_drawn(reply(text, None, finish)) == (None, why)


def test_a_forced_letter_is_no_tie():
    forced = [[("{", 0.0)], [('"kind"', 0.0)], [(': "', 0.0)], [("A", -11.9), ("The", -1.0), ("x", -9.0)], [('"', 0.0)]]
    text = '{"kind": "A"'
    assert modes.field_by_logprobs("kind", reply(text, forced)) == (None, "hardly any probability on an answer")
    likely = [*forced[:3], [("A", -2.5), ("The", -1.0), ("x", -1.5)], forced[4]]
    found = modes.field_by_logprobs("kind", reply(text, likely))
    assert found == (None, "the answer is not among the listed log-probabilities")
    assert (
        modes.grade_by_logprobs(reply("7", [[("7", -9.0), ("The", -0.1)]]))[1] == "hardly any probability on an answer"
    )


@pytest.mark.slow
@pytest.mark.parametrize("x", [math.nan, math.inf, 800.0, 1e308])
@pytest.mark.parametrize(
    ("read", "text"),
    [(modes.letter_by_logprobs, "A"), (modes.grade_by_logprobs, "7"), (partial(rating_by_logprobs, 9), "7"),
     (modes.closing_by_logprobs, "Answer: A"), (partial(modes.field_by_logprobs, "k"), '{"k": "A"}')],
)  # fmt: skip
def test_numbers_that_are_no_log_probabilities(read, text, x):
    listed = tokens(text)
    for at, character in enumerate(text):
        if character in "A7":
            listed[at] = [(character, x), ("B", -1.0), ("1", -1.0)]
    assert read(reply(text, listed)) == (None, "log-probabilities that are not numbers")


def test_the_probability_on_the_letters():
    text = "A"
    listed = [[("A", math.log(0.3)), ("B", math.log(0.1)), ("The", math.log(0.5))]]
    assert modes.mass_in(modes.letter_by_logprobs, reply(text, listed)) == pytest.approx(0.4)
    assert modes.mass_in(partial(modes.field_by_logprobs, "k"), reply('{"k": "A"}', tokens('{"k": "A"}', "A")))
    assert modes.mass_in(modes.letter_drawn, reply(text)) is None
    assert modes.mass_in(modes.letter_by_logprobs, reply("<think>", tokens("<think>"), "length")) is None


def test_what_would_help_is_named():
    assert "feedback.extra_body={chat_template_kwargs:{enable_thinking:false}}" in advice(["cut off while thinking"])
    assert "reasoning_effort" in advice(["ok", "cut off while thinking"]) and advice(["ok", "no letter"]) == ""
    assert "max_tokens" in advice(["cut off"])


def completion(message: dict, **more) -> str:
    return json.dumps({"choices": [{"message": message, **more}], "usage": more.get("usage")})


def test_thoughts_as_servers_give_them():
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert parse(completion({"content": "A", name: "hm"})).thought == "hm"
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}]
    assert parse(completion({"content": parts})).text == "A" and parse(completion({"content": parts})).thought
    plain = parse(completion({"content": "A", "reasoning_content": None, "reasoning": {"effort": "low"}}))
    assert plain.thought is None and plain.text == "A"
    usage = {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 3}}
    body = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": usage}
    assert modes.letter_drawn(parse(json.dumps(body))) == (None, "cut off while thinking")


@pytest.mark.parametrize(
    "raw",
    [
        completion({"content": 7}), completion({"content": [{"type": "text"}]}), completion({"content": {"text": "A"}}),
        completion({"content": "A"}, logprobs={"content": [{"token": 65, "logprob": -0.1}]}),
        completion({"content": "A"}, logprobs={"content": [{"token": "A", "logprob": "x"}]}),
        completion({"content": "A"}, logprobs={"content": [{"token": "A", "logprob": 10**400}]}),
        "[" * 100_000, "9" * 5000, "null", "[]", '{"choices": []}', '{"choices": [{}]}',
    ],
)  # fmt: skip
def test_a_reply_of_another_shape_is_garbled(raw):
    with pytest.raises(Garbled):
        parse(raw)


PARTS = [*'AB \n.:{}"<>|[]/79k', "<think>", "</think>", "Answer", "[THINK]", "final"]


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_no_text_stops_a_reader(text):
    for finish in ("stop", "length"):
        for read in READERS:
            value, outcome = read(reply(text, tokens(text), finish))
            assert value is None or (math.isfinite(value) and outcome == "ok")
    begin = answer_begins(text)
    assert begin is None or 0 <= begin <= len(text)


@pytest.mark.parametrize("error", [{"message": "CUDA out of memory", "code": 500}, "CUDA out of memory"])
def test_an_error_under_status_200_is_reported_in_its_own_words(error):
    with pytest.raises(HandedOn, match=r"^an error in place of an answer: CUDA out of memory$"):
        parse(json.dumps({"error": error}))

"""A benchmark file: its rows, its mistakes, and accuracies counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from morlaif.errors import UserError
from morlaif.evaluation.rewardbench import bench_accuracy, bench_problems, evaluate_bench, read_bench, ties_score

ROWS = [
    {"prompt": "Which bus?", "chosen": "Line 4, from the harbour.", "rejected": "No.", "subset": "chat"},
    {"prompt": [{"role": "user", "content": "Hello"}], "chosen": "Hi.", "rejected": "Go away now.", "subset": "chat"},
    {"prompt": "Sum of 2 and 2?", "chosen": "It is 4 of course.", "rejected": "5", "subset": "sums"},
]


@pytest.fixture
def bench(tmp_path):
    def write(rows):
        path = tmp_path / "bench.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


def length(prompts, texts):
    return np.array([[len(text), -len(text)] for text in texts], dtype=float)


def test_every_model_and_objective_by_subset(bench):
    rows = read_bench(bench(ROWS))
    made = evaluate_bench(rows, ["long", "short"], length, {"both": lambda scores: scores.sum(axis=1)})
    assert made.rows == 3
    long, short = made.models["long"], made.models["short"]
    assert long.all.value == pytest.approx(2 / 3) and long.subsets["chat"].value == 0.5
    assert (long.subsets["sums"].value, long.subsets["sums"].n) == (1, 1)
    assert long.mean == 0.75 and short.mean == 0.25
    assert made.objectives["both"].all.value == 0.5, "equal scores count half"


def test_a_file_without_subsets_has_one_number(bench):
    rows = read_bench(bench([{k: v for k, v in row.items() if k != "subset"} for row in ROWS]))
    made = bench_accuracy(rows, np.array([1.0, 0.0, 2.0, 1.0, 0.0, 1.0]))
    assert made.subsets == {} and made.mean == made.all.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "bad, told",
    [
        ({"prompt": "a", "chosen": "b"}, "line 2: no 'rejected' among 'prompt', 'chosen'"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 2: 'chosen' and 'rejected' are the same"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "line 2: 'chosen' is a number"),
        ({**ROWS[0], "subset": 7}, "line 2: 'subset' is 7; it must be a text"),
        ("{not json", "line 2, column 2: not JSON"),
        ({"chosen": "a", "rejected": "b"}, "line 2: 'chosen' is no dialogue"),
        ({"prompt": "a", "chosen": [{}], "rejected": [{}]}, "line 2: 'chosen', message 1: it must be an object"),
        ({"prompt": "a", "chosen": None, "rejected": "c"}, "line 2: 'chosen' is null"),
        ('{"prompt": "a", "n": ' + "1" * 5000 + "}", "line 2: an integer of more than 4,300 digits"),
    ],
)
def test_a_bad_row_is_named_by_its_line(bench, bad, told):
    with pytest.raises(UserError, match=told) as error:
        read_bench(bench([ROWS[0], bad]))
    assert "data." not in str(error.value), "the file has no columns to rename"
    (line,) = bench_problems(str(bench([ROWS[0], bad])))
    assert line.startswith("eval.rewardbench: ") and "line 2" in line


def test_other_forms_are_read_as_data_is(bench):
    turns = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": "q"}]
    said = [[*turns, {"role": "assistant", "content": text}] for text in "ab"]
    rows = [
        {"prompt": "q", "chosen": said[0], "rejected": said[1]},
        {"prompt": None, "chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ]
    system = {"role": "system", "content": "Be brief"}
    assert [row.messages for row in read_bench(bench(rows))] == [[system, turns[1]], [turns[1]]]
    assert list(bench_problems(str(bench(rows)))) == []
    assert "a folder" in next(bench_problems("/")) and "no such file" in next(bench_problems("nowhere"))


def test_no_file_and_no_rows(tmp_path, bench):
    with pytest.raises(UserError, match="no such file"):
        read_bench(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="no rows"):
        read_bench(bench([]))


def second(**changes):
    return {"id": "7", "prompt": "Name a tree.", "chosen": ["Oak"], "rejected": ["Cow", "Hen", "Cat"],
            "num_correct": 1, "num_incorrect": 3, "subset": "Facts"} | changes  # fmt: skip


def test_the_best_of_four_must_be_the_chosen_one(bench):
    rows = read_bench(bench([second(), second(chosen=["Elm"]), second(chosen=["Ash"])]))
    assert rows[0].texts == ("Oak", "Cow", "Hen", "Cat") and rows[0].tie is None
    made = bench_accuracy(rows, np.array([3, 1, 2, 0, 2, 2, 1, 2, 0, 1, 2, 3], dtype=float))
    assert made.subsets["Facts"].value == made.mean == pytest.approx((1 + 1 / 3 + 0) / 3)


def test_ties_are_scored_as_a_whole(bench):
    """By hand: question 1 is answered well, question 2 well in its tied form alone."""
    tied = {"chosen": ["Oak", "Elm"], "rejected": ["Cow"], "num_correct": 2, "num_incorrect": 1, "subset": "Ties"}
    one = {"chosen": ["Oak"], "rejected": ["Cow"], "num_incorrect": 1, "subset": "Ties"}
    rows = [
        second(id="tied:1", **tied),
        second(id="ref:1", **one),
        second(id="tied:2", **tied),
        second(id="ref:2", **one),
    ]
    read = read_bench(bench([second(), *rows]))
    assert [row.tie for row in read] == [None, (True, "1"), (False, "1"), (True, "2"), (False, "2")]
    scores = [9, 0, 0, 0, *(3, 2, 0), *(4, 1), *(3, 1, 0), *(1, 2)]
    made = bench_accuracy(read, np.array(scores, dtype=float))
    far = (np.tanh(2 / 1 - 1) + np.tanh(-1 / 2 - 1)) / 2
    wanted = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * far
    found = made.subsets["Ties"]
    assert found.value == pytest.approx(wanted) and found.n == 2 and found.low <= wanted <= found.high
    assert made.mean == pytest.approx((1 + wanted) / 2) and made.all.value == pytest.approx(4 / 5)


def test_equal_right_answers_leave_no_quotient_open():
    tied, reference = np.array([[1.0, 0.0, 2.0]]), np.array([[1.0, 0.0, 3.0]])
    assert ties_score(tied, reference) == pytest.approx(1.01), "any margin is more than none"
    assert ties_score(np.zeros((1, 3)), np.zeros((1, 3))) == 0.0
    assert np.isnan(ties_score(tied, np.full((1, 3), np.nan)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rejected": []}, "'rejected' must be a text or a list of them"),
        ({"chosen": ["a", 3]}, "'chosen' must be a text or a list of them"),
        ({"num_correct": 2}, "'chosen' holds 1 responses, and the row says that there are 2"),
        ({"rejected": ["Oak", "b", "c"]}, "'Oak' is both chosen and rejected"),
        ({"subset": "Ties"}, "'id' is 7; in the subset Ties it must be ref:<question>"),
        ({"prompt": None}, "'prompt' is null"),
    ],
)
def test_a_bad_row_of_lists_is_named_by_its_line(bench, changes, told):
    with pytest.raises(UserError, match=f"line 2: {told}"):
        read_bench(bench([second(), second(**changes)]))

from __future__ import annotations

import gzip
import json

import pytest
from feedback_cases import make_pairs

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.label import label
from morlaif.feedback.records import Comparison
from morlaif.feedback.settings import JsonlSettings, input_files
from morlaif.feedback.sources.jsonl import FileJudge, label_problems
from morlaif.presets import preset
from morlaif.settings import identity


def run(tmp_path, rows, pairs, principle, name="v.jsonl"):
    path = tmp_path / name
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    settings = JsonlSettings(**preset("feedback", "jsonl") | {"path": str(path)})
    return label(pairs, principle, settings, ledger=tmp_path / "l", seed=0)


@pytest.mark.parametrize("name", ["v.jsonl", "v.jsonl.gz"])
def test_verdicts_are_joined_by_identity(tmp_path, helpfulness, name):
    pairs = make_pairs(6)
    prompt = pairs[2].messages[0]["content"]
    rows = [
        {"prompt": prompt, "first": pairs[2].second, "second": pairs[2].first, "p_first": 0.9},  # the swapped pair
        {"pair_id": pairs[1].id, "p_first": 0.25, "bias": 0.5},
        "",
        {"pair_id": pairs[0].id, "principle": "helpfulness", "p_first": 1},
        {"pair_id": pairs[0].id, "principle": "detail", "p_first": 0},
        {"messages": pairs[3].messages, "first": pairs[3].first, "second": pairs[3].second, "p_first": 0.5},
        {"pair_id": pairs[4].id, "p_first": None, "reason": "refusal"},
    ]
    verdicts = run(tmp_path, rows, pairs, helpfulness, name)
    assert [v.p_first for v in verdicts] == [1.0, 0.25, pytest.approx(0.1), 0.5, None, None]
    assert [v.reason for v in verdicts] == [None] * 4 + ["refusal", "not in the file"]
    assert verdicts[1].bias == 0.5 and {v.judge for v in verdicts} == {"jsonl"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"v.jsonl, line 2: breaks off"),
        ("[1]", r"v.jsonl, line 2: holds a list where an object should be"),
        ({"pair_id": "x"}, r"v.jsonl, line 2: no 'p_first'"),
        ({"pair_id": "x", "p_first": 1.5}, r"v.jsonl, line 2: p_first=1.5; give a number from 0 to 1"),
        ({"pair_id": "x", "p_first": True}, r"v.jsonl, line 2: p_first=True"),
        ({"pair": "x", "p_first": 1}, r"v.jsonl, line 2: unknown key 'pair'.*Did you mean 'pair_id'"),
        ({"p_first": 1}, r"v.jsonl, line 2: name the pair by 'pair_id'"),
        ({"messages": "hi", "first": "a", "second": "b", "p_first": 1}, r"v.jsonl, line 2: messages must be a list"),
        ({"prompt": "q", "first": "a ", "second": "a", "p_first": 1}, r"v.jsonl, line 2: .*the same response"),
        ({"messages": [{"role": "tool", "content": "x"}], "first": "a", "second": "b", "p_first": 1}, "line 2: .*tool"),
        ('{"pair_id": "x", "p_first": NaN}', r"v.jsonl, line 2: p_first=nan"),
        ('{"pair_id": "x", "p_first": 1, "bias": ' + "9" * 5000 + "}", "line 2: an integer of more than 4,300 digits"),
        ('{"pair_id": "x", "p_first": 1, "p_first": 0}', "line 2: the key 'p_first' is there twice"),
        ("[" * 9999, "line 2: JSON nested too deeply"),
        ({"pair_id": "ok", "p_first": 0.1}, r"v.jsonl, line 2: another verdict on the same pair .* than in line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, helpfulness, line, said):
    with pytest.raises(UserError, match=said):
        run(tmp_path, [{"pair_id": "ok", "p_first": 0.5}, line], make_pairs(1), helpfulness)
    (told,) = label_problems(tmp_path / "v.jsonl")
    assert told.startswith("feedback.path: ") and "line 2" in told


SAME = [
    ("  Why is it? \n", "because\r\nso", "no\t"),  # white space at the ends, line ends
    ("Why is it?", "because\nso", "no"),
    ("\n\nHuman: Why is it?\n\nAssistant:", "because\nso", "no"),  # a prompt in turns
]


@pytest.mark.parametrize("row", SAME)
@pytest.mark.parametrize("asked", SAME[:2])
@pytest.mark.parametrize("swap", [False, True])
def test_contents_are_compared_in_one_form(tmp_path, helpfulness, row, asked, swap):
    prompt, first, second = asked
    pair = Pair.of([{"role": "user", "content": prompt}], f"café {first}", second)
    said = f"cafe\u0301 {row[1]}", row[2]
    given = {"prompt": row[0], "first": said[swap], "second": said[not swap], "p_first": 0.125}
    (verdict,) = run(tmp_path, [given], [pair], helpfulness)
    assert verdict.p_first == (0.875 if swap else 0.125)


@pytest.mark.parametrize("form", ["content", "id", "both"])
@pytest.mark.parametrize(("p", "agrees"), [(0.9, False), (0.1, True), (None, False)])
def test_rows_about_the_swapped_pair_must_agree(tmp_path, helpfulness, form, p, agrees):
    pair = Pair.of([{"role": "user", "content": "Q?"}], "alpha", "beta")
    swapped = Pair.of(pair.messages, pair.second, pair.first)
    by_content = [
        {"prompt": "Q?", "first": one.first, "second": one.second, "p_first": value}
        for one, value in ((pair, 0.9), (swapped, p))
    ]
    by_id = [{"pair_id": one.id, "p_first": value} for one, value in ((pair, 0.9), (swapped, p))]
    rows = {"content": by_content, "id": by_id, "both": [by_content[0], by_id[1]]}[form]
    if agrees:
        assert [v.p_first for v in run(tmp_path, rows, [pair], helpfulness)] == [0.9]
        return
    with pytest.raises(
        UserError, match=r"line 2: another verdict.*line 1|line [12] and line [12] contradict one another"
    ):
        run(tmp_path, rows, [pair], helpfulness)


def judged(tmp_path, rows, pairs, principle):
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = FileJudge(path)
    for _ in judge.judge(Comparison.of(pair, principle) for pair in pairs):
        pass
    return judge


def test_rows_without_their_pair_are_counted_and_most_are_a_mistake(tmp_path, helpfulness, caplog):
    pairs = make_pairs(6)
    right = [{"pair_id": pair.id, "p_first": 0.5} for pair in pairs]
    wrong = [{"prompt": "Else?", "first": f"a{i}", "second": "b", "p_first": 0.5} for i in range(9)]
    judge = judged(tmp_path, [*right, *wrong[:2]], pairs, helpfulness)
    assert judge.finish() == {"unmatched": 2} and "2 of 8 verdicts belong to no pair" in judge.usage.warnings[0]
    assert "as the one in line 7" in caplog.text
    assert judged(tmp_path, [*right, *wrong], pairs, helpfulness).finish() == {"unmatched": 9}, "no pair lacks one"
    assert judged(tmp_path, right, pairs[:1], helpfulness).finish() == {"unmatched": 5}, "the run uses few pairs"
    assert judged(tmp_path, right, pairs, helpfulness).finish() == {}
    with pytest.raises(UserError, match=r"9 of 11 verdicts belong to no pair .* line 3, and 4 of 6 pairs have none"):
        judged(tmp_path, [*right[:2], *wrong], pairs, helpfulness).finish()
    other = [row | {"principle": "helpfulnes"} for row in right]
    with pytest.raises(UserError, match=r"no verdict under 'helpfulness'; .*Did you mean 'helpfulnes'"):
        judged(tmp_path, other, pairs, helpfulness).finish()


def test_the_file_must_be_there_and_its_place_is_no_part_of_the_digest(tmp_path):
    def at(path: str | None) -> JsonlSettings:
        return JsonlSettings(**preset("feedback", "jsonl") | {"path": path})

    with pytest.raises(UserError, match=r"feedback\.path: give the file"):
        input_files(at(None))
    with pytest.raises(UserError, match="no such file"):
        input_files(at(str(tmp_path / "none")))
    assert identity(at("a")) == identity(at("b"))

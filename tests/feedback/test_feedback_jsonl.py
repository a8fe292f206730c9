from __future__ import annotations

import gzip
import json

import pytest
from feedback_cases import make_pairs, preset

from morlaif.errors import UserError
from morlaif.feedback.label import label
from morlaif.feedback.settings import JsonlSettings, input_files
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
        ("{", r"v.jsonl:2: not JSON"),
        ("[1]", r"v.jsonl:2: give an object"),
        ({"pair_id": "x"}, r"v.jsonl:2: no 'p_first'"),
        ({"pair_id": "x", "p_first": 1.5}, r"v.jsonl:2: p_first=1.5; give a number from 0 to 1"),
        ({"pair_id": "x", "p_first": True}, r"v.jsonl:2: p_first=True"),
        ({"pair": "x", "p_first": 1}, r"v.jsonl:2: unknown key 'pair'.*Did you mean 'pair_id'"),
        ({"p_first": 1}, r"v.jsonl:2: name the pair by 'pair_id'"),
        ({"messages": "hi", "first": "a", "second": "b", "p_first": 1}, r"v.jsonl:2: messages must be a list"),
        ({"pair_id": "ok", "p_first": 0.1}, r"v.jsonl:2: another verdict on the same pair .* than in line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, helpfulness, line, said):
    with pytest.raises(UserError, match=said):
        run(tmp_path, [{"pair_id": "ok", "p_first": 0.5}, line], make_pairs(1), helpfulness)


def test_the_file_must_be_there_and_its_place_is_no_part_of_the_digest(tmp_path):
    with pytest.raises(UserError, match=r"feedback\.path: give the file"):
        input_files(JsonlSettings(source="jsonl", path=None))
    with pytest.raises(UserError, match="no such file"):
        input_files(JsonlSettings(source="jsonl", path=str(tmp_path / "none")))
    assert identity(JsonlSettings(source="jsonl", path="a")) == identity(JsonlSettings(source="jsonl", path="b"))

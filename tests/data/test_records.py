from __future__ import annotations

import pytest

from morlaif.data.records import Example, Pair, load_pairs, load_split, prompt_id, save_examples, save_pairs
from morlaif.errors import UserError

ASK = [{"role": "user", "content": "Why? ☂"}]


def test_examples_come_back_from_disk(tmp_path):
    splits = {
        "sft": [Example.of(ASK, demonstration="Because.")],
        "train": [Example.of(ASK, chosen="a", rejected="b"), Example.of(ASK)],
        "eval": [],
    }
    save_examples(tmp_path, splits)
    assert {name: load_split(tmp_path, name) for name in splits} == splits


def test_pairs_come_back_from_disk(tmp_path):
    splits = {"train": [Pair.of(ASK, "a", "b", 0.25), Pair.of(ASK, "c", "d")], "eval": [Pair.of(ASK, "a", "c")]}
    save_pairs(tmp_path, splits)
    assert {name: load_pairs(tmp_path, name) for name in splits} == splits


def test_identity_is_content():
    example = Example.of(ASK, chosen="a", rejected="b")
    assert example.id == Example.of([dict(reversed(ASK[0].items()))], chosen="a", rejected="b").id
    assert len(example.id) == 16 and int(example.id, 16) >= 0
    others = [Example.of(ASK, chosen="b", rejected="a"), Example.of(ASK, chosen="a"), Example.of(ASK)]
    assert len({example.id, *(other.id for other in others)}) == 4
    assert Pair.of(ASK, "a", "b", 0.1).id == Pair.of(ASK, "a", "b").id != Pair.of(ASK, "b", "a").id
    assert Pair.of(ASK, "a", "b").prompt_id == prompt_id(ASK)


def test_what_is_missing_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no dataset here"):
        load_split(tmp_path, "train")
    save_examples(tmp_path, {"train": [Example.of(ASK)]})
    with pytest.raises(UserError, match=r"no split 'trian', only train. Did you mean 'train'"):
        load_split(tmp_path, "trian")

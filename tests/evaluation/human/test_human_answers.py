"""Files of raters: well-formed ones are put together, damaged ones cost a line each, and nothing is taken in part."""

from __future__ import annotations

import csv
import io
import json

import pytest
from human_cases import answer, prefers

from morlaif.errors import UserError
from morlaif.evaluation.human.answers import read


def as_csv(text: str, delimiter: str = ",") -> str:
    file = json.loads(text)
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["form", "rater", "item", "answer", "seconds", "comment"])
    for row in file["answers"]:
        writer.writerow([file["form"], file["rater"], row["item"], row["answer"], row["seconds"], "says \"so\",\nhere"])
    return out.getvalue()


@pytest.fixture(scope="module")
def ann(study):
    return answer(study, "Ann", prefers("zebra", "on_topic"))


def said(ratings):
    return {(rater, id_): r.answer for rater, own in ratings.items() for id_, r in own.items()}


def test_json_and_csv_say_the_same(study, ann):
    key = study.key()
    expected = said(read({"ann.json": ann}, key))
    assert len(expected) == len(study.items)
    for text in (as_csv(ann), "\ufeff" + as_csv(ann), as_csv(ann, ";")):
        found = read({"ann.csv": text}, key)
        assert said(found) == expected
        assert next(iter(found["Ann"].values())).comment == 'says "so",\nhere'
    assert said(read({"ann.json": ann, "ann.csv": as_csv(ann)}, key)) == expected  # saved both ways: counted once


def test_answers_of_several_files_are_one_raters(study, ann):
    file = json.loads(ann)
    early = json.dumps(file | {"answers": file["answers"][:5]})
    late = json.dumps(file | {"rater": " ann "})
    assert list(read({"1.json": early, "2.json": late}, study.key())) == ["Ann"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: f["answers"][2].update(item="x123"), "ann.json row 3: no item 'x123' in the form"),
        (lambda f: f["answers"][0].update(answer="C"), "ann.json row 1: answer 'C' is none of a, tie, b"),
        (lambda f: f["answers"].append(f["answers"][0]), "is answered twice by 'Ann', first in ann.json row 1"),
        (lambda f: f["answers"][1].update(seconds="long"), "ann.json row 2: seconds 'long' is no number"),
        (lambda f: f["answers"][1].update(seconds="nan"), "ann.json row 2: seconds 'nan' is no time"),
        (lambda f: f.update(rater=" "), "ann.json row 1: no rater"),
        (lambda f: f.update(form="xyz"), "ann.json row 1: answers to the form 'xyz', and the key is of the form"),
        (lambda f: f.update(answers=3), "ann.json: no answers of a rating form"),
        (lambda f: f["answers"].insert(0, "text"), "ann.json row 1: no item 'text'"),
    ],
)
def test_a_damaged_file_is_told_by_file_and_row(study, ann, change, line):
    file = json.loads(ann)
    change(file)
    with pytest.raises(UserError) as error:
        read({"ann.json": json.dumps(file)}, study.key())
    first, *_, last = str(error.value).splitlines()
    assert line in first and last.startswith("nothing was imported")
    if "form" in line and "xyz" in line:
        assert len(str(error.value).splitlines()) == 2  # once for the file


def test_a_file_that_was_cut_off(study, ann):
    with pytest.raises(UserError, match=r"ann.json: no JSON \(line \d+"):
        read({"ann.json": ann[: len(ann) // 2]}, study.key())
    with pytest.raises(UserError, match=r"ann\.csv: no column form, rater, item, answer, seconds"):
        read({"ann.csv": ""}, study.key())
    with pytest.raises(UserError, match=r"ann\.csv: no column item"):
        read({"ann.csv": as_csv(ann).replace("item", "itm", 1)}, study.key())


def test_two_people_with_one_name(study, ann):
    other = answer(study, "Ann", prefers("yak", "ibex", "on_topic"))
    with pytest.raises(UserError, match=r"2.json row 1: 'Ann' answered item .* in 1.json row 1.*two people"):
        read({"1.json": ann, "2.json": other}, study.key())


def test_many_mistakes_are_told_briefly(study, ann):
    file = json.loads(ann)
    for row in file["answers"]:
        row["answer"] = "?"
    with pytest.raises(UserError) as error:
        read({"ann.json": json.dumps(file)}, study.key())
    told = str(error.value).splitlines()
    assert len(told) == 22 and told[-2] == f"… and {len(study.items) - 20} more"

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
        writer.writerow([file["form"], file["rater"], row["item"], row["answer"], row["seconds"], 'says "so",\nhere'])
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
        (lambda f: f.update(rater=" "), "ann.json: no rater"),
        (lambda f: f.update(form="xyz"), "ann.json row 1: answers to the form 'xyz', and the key is of the form"),
        (lambda f: f.update(answers=3), "ann.json: no answers of a rating form"),
        (lambda f: f["answers"].insert(0, "text"), "ann.json row 1: no item 'text'"),
    ],
)
def test_a_damaged_file_is_named_by_file_and_row(study, ann, change, line):
    file = json.loads(ann)
    change(file)
    with pytest.raises(UserError) as error:
        read({"ann.json": json.dumps(file)}, study.key())
    first, *_, last = str(error.value).splitlines()
    assert line in first and last.startswith("nothing was imported")
    if "form" in line and "xyz" in line:
        assert len(str(error.value).splitlines()) == 2  # once for the file


def test_a_file_that_was_cut_off(study, ann):
    with pytest.raises(UserError, match=r"ann.json: breaks off in the middle"):
        read({"ann.json": ann[: len(ann) // 2]}, study.key())
    with pytest.raises(UserError, match=r"ann.csv( row \d+: \d values where|:\d+: no CSV \(unexpected end of data)"):
        read({"ann.csv": as_csv(ann)[: len(as_csv(ann)) // 2]}, study.key())
    with pytest.raises(UserError, match=r"ann\.csv: no column form, rater, item, answer, seconds"):
        read({"ann.csv": ""}, study.key())
    with pytest.raises(UserError, match=r"ann\.csv: no column item"):
        read({"ann.csv": as_csv(ann).replace("item", "itm", 1)}, study.key())


def test_two_people_with_one_name(study, ann):
    other = answer(study, "Ann", prefers("yak", "ibex", "on_topic"))
    with pytest.raises(UserError, match=r"2.json row 1: 'Ann' answered item .* in 1.json row 1.*two people"):
        read({"1.json": ann, "2.json": other}, study.key())


def test_many_mistakes_are_reported_briefly(study, ann):
    file = json.loads(ann)
    for row in file["answers"]:
        row["answer"] = "?"
    with pytest.raises(UserError) as error:
        read({"ann.json": json.dumps(file)}, study.key())
    told = str(error.value).splitlines()
    assert len(told) == 22 and told[-2] == f"… and {len(study.items) - 20} more"


WRONG = {
    "a number past all bounds": ({"seconds": 1e300}, "row 1: seconds 1e+300 is no time for a pair (0 to 10,000,000)"),
    "infinity": ({"seconds": "1e999"}, "row 1: seconds '1e999' is no time for a pair"),
    "a negative time": ({"seconds": -1}, "row 1: seconds -1 is no time for a pair"),
    "true as a time": ({"seconds": True}, "row 1: seconds True is no number"),
    "a list as a time": ({"seconds": [1]}, "row 1: seconds [1] is no number"),
    "a long text as a time": ({"seconds": "9" * 5000}, "… (5,002 characters) is no time for a pair"),
    "an object as an item": ({"item": {"a": 1}}, "row 1: item {'a': 1} is no text"),
    "a list as an answer": ({"answer": ["a"]}, "row 1: answer ['a'] is no text"),
    "a number as a comment": ({"comment": 1.5}, "row 1: comment 1.5 is no text"),
    "a long comment": ({"comment": "x" * 100_001}, "row 1: comment of 100,001 characters; at most 100,000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_cannot_be_is_named_by_its_row_in_few_words(study, ann, case):
    change, line = WRONG[case]
    file = json.loads(ann)
    file["answers"][0] |= change
    with pytest.raises(UserError) as error:
        read({"ann.json": json.dumps(file)}, study.key())
    first, last = str(error.value).split("\n")
    assert line in first and len(first) < 160 and last.startswith("nothing was imported")


@pytest.mark.parametrize(("text", "line"), [
    ("", "ann.json: is empty; expected the answers that a rating form saved"),
    ("[]", "ann.json: holds a list where an object should be"),
    ("null", "ann.json: holds null where an object should be"),
    ('{"form": ' + "9" * 5000 + "}", "ann.json: an integer of more than 4,300 digits"),
    ("[" * 100_000, "ann.json: JSON nested too deeply"),
    ('{"answers": [], "rater": "\\ud800"}', "ann.json: half of a character"),
    ('{"answers": {}}', "ann.json: no answers of a rating form"),
])  # fmt: skip
def test_a_file_that_is_none_of_the_forms(study, text, line):
    with pytest.raises(UserError) as error:
        read({"ann.json": text}, study.key())
    assert line in str(error.value).split("\n")[0]


def rows_of(study, *rows: str) -> str:
    form, ids = study.form, [item.id for item in study.items]
    return "form,rater,item,answer,seconds,comment\n" + "".join(f"{form},{row.format(*ids)}\n" for row in rows)


@pytest.mark.parametrize(("row", "line"), [
    ("Ann,{0},a,3", "ann.csv row 3: 5 values where the first row names 6 columns; was the file saved whole?"),
    ("Ann,{0},a,3,x,y", "ann.csv row 3: 7 values where the first row names 6 columns"),
    ('Ann,{0},a,3,"x', "ann.csv:3: no CSV (unexpected end of data)"),
    ("Ann,{0},a,3," + "x" * 200_000, "ann.csv:3: no CSV (field larger than field limit (131072))"),
    ("Ann,{0},a,3,x\0", "ann.csv"),
    ("Ann,{1},a,3,x", "ann.csv row 3: item '{1}' is answered twice by 'Ann', first in ann.csv row 2"),
])  # fmt: skip
def test_a_row_of_csv_that_cannot_be_read(study, row, line):
    text = rows_of(study, "Ann,{1},a,3,fine", row)
    if "\0" in row:
        assert read({"ann.csv": text}, study.key())["Ann"][study.items[0].id].comment == "x\0"  # shown as \\x00
        return
    with pytest.raises(UserError) as error:
        read({"ann.csv": text}, study.key())
    assert line.format(*(item.id for item in study.items)) in str(error.value).split("\n")[0]


def test_heads_of_csv(study):
    for heads, line in [("form,rater,form,item,answer,seconds", "column 'form' is there twice"),
                        ("forms,raters,items", "no column form, rater, item, answer, seconds")]:  # fmt: skip
        with pytest.raises(UserError, match=line):
            read({"ann.csv": heads + "\n1,2,3,4,5,6\n"}, study.key())


def test_tabs_and_blank_rows_of_csv_are_read_and_rows_counted_with_them(study):
    text = rows_of(study, "Ann,{0},a,3,x", "Ann,{1},?,3,x").replace(",", "\t").replace("x\n", "x\n\n", 1)
    with pytest.raises(UserError, match=r"ann.csv row 4: answer '\?'"):
        read({"ann.csv": text}, study.key())


def test_names_that_look_alike_are_one_rater(study):
    text = rows_of(study, "Zoë,{0},a,3,x", "Zoe\u0308\u200b,{1},a,3,x", "\u202eZOË,{2},a,3,x")
    assert list(read({"ann.csv": text}, study.key())) == ["Zoë"]
    with pytest.raises(UserError, match="no rater"):
        read({"ann.csv": rows_of(study, "\u200b,{0},a,3,x")}, study.key())


def test_a_cell_with_an_apostrophe_before_a_formula_reads_as_what_was_written(study):
    text = rows_of(study, "'=Ann,{0},a,3,'- so so", "'=Ann,{1},a,3,'tis")
    own = read({"ann.csv": text}, study.key())["=Ann"]
    assert [rating.comment for rating in own.values()] == ["- so so", "'tis"]

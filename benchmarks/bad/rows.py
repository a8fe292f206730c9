"""Files of data and of labels: missing, of another kind, damaged, or with a row that is not as it should be."""

from __future__ import annotations

import json
from typing import Any

from bad.case import FOLDER, Case, Content, case, jsonl, packed

GOOD = {"prompt": "How do I cook rice?", "chosen": "Boil it for twelve minutes.", "rejected": "No idea."}
PAIRS = [GOOD | {"prompt": f"How do I cook dish {k}?"} for k in range(12)]
READ = "data=jsonl data.path=d.jsonl stages=[data]"
DATA = frozenset({"data"})


def file(name: str, content: Content, *wants: str, arguments: str = READ, **more: Any) -> Case:
    return case(name, arguments, *wants, files={"d.jsonl": content}, **more)


def row(name: str, third: Any, *wants: str, **more: Any) -> Case:
    """A file whose third line is `third`."""
    return file(name, jsonl(*PAIRS[:2], third, *PAIRS[2:]), r"d\.jsonl(:|, line )3", *wants, **more)


FILES = [
    case("missing", READ, r"data\.path", r"d\.jsonl"),
    case("a near name", "data=jsonl data.path=dd.jsonl stages=[data]", r"dd\.jsonl", files={"d.jsonl": jsonl(*PAIRS)}),
    file("a folder", FOLDER, r"d\.jsonl", "folder|directory"),
    file("empty", "", r"d\.jsonl", "0 usable rows"),
    file("blank lines alone", "\n\n \n", r"d\.jsonl"),
    file("binary", bytes(range(256)) * 8, r"d\.jsonl", "UTF-8"),
    file("UTF-16", json.dumps(GOOD).encode("utf-16"), r"d\.jsonl", "UTF-16|UTF-8"),
    file("latin-1", json.dumps(GOOD | {"prompt": "café"}, ensure_ascii=False).encode("latin-1"), r"d\.jsonl", "UTF-8"),
    file("half of a gzip", packed(jsonl(*PAIRS))[:90], r"d\.jsonl", "gzip|compressed|damaged|breaks off"),
    file("a gzip with a wrong byte", packed(jsonl(*PAIRS))[:60] + b"xxxx" + packed(jsonl(*PAIRS))[64:], r"d\.jsonl"),
    file("a Parquet file", b"PAR1" + bytes(60) + b"PAR1", r"d\.jsonl", "Parquet"),
    file("a ZIP", b"PK\x03\x04" + bytes(60), r"d\.jsonl", "ZIP|zip|archive"),
    file("a page of HTML", "<!doctype html>\n<html></html>\n", r"d\.jsonl", "JSON"),
    file("a CSV", "prompt,chosen,rejected\na,b,c\n", r"d\.jsonl(:|, line )1", "JSON"),
    file("one object over many lines", json.dumps(GOOD, indent=1), r"d\.jsonl", "JSON|line"),
    file("an array that breaks off", json.dumps(PAIRS)[:-20], r"d\.jsonl"),
    file("an array of numbers", "[1, 2, 3]", r"d\.jsonl"),
    file("one row", jsonl(GOOD), r"d\.jsonl", "two|at least|one"),
    file("one prompt many times", jsonl(*[GOOD] * 9), r"d\.jsonl", "1 different first user turn"),
    file("more held out than there is", jsonl(*PAIRS), "eval_size|12",
         arguments=READ + " data.eval_size=50 data.eval_fraction=null"),
    file("a column that is not there", jsonl(*PAIRS), "question",
         arguments=READ + " data.format=pairs data.columns.prompt=question"),
    file("another format than the file's", jsonl(*PAIRS), r"d\.jsonl(:|, line )1", "messages",
         arguments=READ + " data.format=messages"),
    file("a path with ~ of nobody", jsonl(*PAIRS), "nosuchuser",
         arguments="data=jsonl data.path=~nosuchuser/d.jsonl stages=[data]"),
]  # fmt: skip

ROWS = [
    row("not JSON", "{not json", "JSON"),
    row("half a row", json.dumps(GOOD)[:40], "JSON|breaks off"),
    row("a number", "7", "object"),
    row("a list", "[1]", "object"),
    row("null", "null", "object"),
    row("no known column", {"a": 1}, "columns|format|prompt"),
    row("no rejected", {"prompt": "p", "chosen": "c"}, "rejected|columns|format"),
    row("a number as a prompt", GOOD | {"prompt": 5}, "prompt", "text|string"),
    row("null as a chosen", GOOD | {"chosen": None}, "chosen"),
    row("an empty prompt", GOOD | {"prompt": ""}, "prompt|empty"),
    row("two equal responses", GOOD | {"rejected": GOOD["chosen"]}, "same|equal|skip"),
    row("an object as a response", GOOD | {"chosen": {"a": 1}}, "chosen"),
    row("half of a character", '{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "half|surrogate"),
    row("a number of 5,000 digits", '{"prompt": ' + "9" * 5000 + "}", "digits|number"),
    row("deep nesting", '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
    row("a dialogue without turns", {"messages": []}, "messages|turn"),
    row("a dialogue of texts", {"messages": ["hi", "ho"]}, "messages|role"),
    row("a turn without role", {"messages": [{"content": "x"}]}, "role"),
    row("a role that is none", {"messages": [{"role": "robot", "content": "x"}]}, "role", "robot"),
    row("a turn without content", {"messages": [{"role": "user"}]}, "content"),
    row("a number as content", {"messages": [{"role": "user", "content": 3}]}, "content"),
    row("a tool's turn", {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}, "tool"),
    row("two dialogues with nothing in common", {"chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: c\n\nAssistant: d"}, "prompt|begin|differ|share"),
    row("a label that is none", {"prompt": "p", "completion": "c", "label": "perhaps"}, "label"),
    row("scores without completions", {"instruction": "x", "completions": [{"response": "a"}]}, "completions|score"),
    row("a score that is no number", {"instruction": "x", "completions": [
        {"response": "a", "overall_score": "high"}, {"response": "b", "overall_score": 2}]}, "score"),
    row("a score that is NaN", '{"instruction": "x", "completions": [{"response": "a", "overall_score": NaN},'
        ' {"response": "b", "overall_score": 2}]}', "NaN|score|finite"),
]  # fmt: skip

LABEL = "~experiment data=jsonl data.path=d.jsonl respond=pairs feedback=jsonl feedback.path=l.jsonl " \
        "stages=[feedback] principles.select=[helpfulness] arms.select=[morlaif]"  # fmt: skip
NAMED = {"prompt": PAIRS[0]["prompt"], "first": GOOD["chosen"], "second": GOOD["rejected"], "p_first": 0.8}


def labels(name: str, content: Content, *wants: str, **more: Any) -> Case:
    files = {"d.jsonl": jsonl(*PAIRS), "l.jsonl": content}
    return case(name, LABEL, r"l\.jsonl", *wants, files=files, built=frozenset({"data", "respond"}), **more)


def label(name: str, second: Any, *wants: str) -> Case:
    """A file whose second line is `second`."""
    other = NAMED | {"prompt": PAIRS[1]["prompt"]}
    return labels(name, jsonl(other, second), r"l\.jsonl(:|, line )2", *wants)


LABELS = [
    case("missing", LABEL, r"l\.jsonl", files={"d.jsonl": jsonl(*PAIRS)}),
    labels("a folder", FOLDER, "folder|directory"),
    labels("empty", "", "no verdict|empty"),
    labels("binary", b"\xff\xfe\x00\x01" * 40, "UTF"),
    labels("of other pairs alone", jsonl(NAMED | {"prompt": "another"}), "no pair|none|mention|0 of"),
    label("not JSON", "{", "JSON|breaks off"),
    label("a list", "[]", "object|list"),
    label("no probability", {k: v for k, v in NAMED.items() if k != "p_first"}, "p_first"),
    label("a probability of 1.5", NAMED | {"p_first": 1.5}, "p_first=1.5", "0 to 1"),
    label("a probability that is NaN", json.dumps(NAMED).replace("0.8", "NaN"), "p_first|NaN"),
    label("a probability that is true", NAMED | {"p_first": True}, "p_first=True"),
    label("a word as a probability", NAMED | {"p_first": "high"}, "p_first='?high"),
    label("a key that is none", NAMED | {"p_frist": 0.3}, "p_frist", "p_first"),
    label("no pair", {"p_first": 0.5}, "pair_id"),
    label("the same pair with another verdict", NAMED | {"prompt": PAIRS[1]["prompt"], "p_first": 0.1}, "line 1"),
    label("the swapped pair that contradicts", {
        "prompt": PAIRS[1]["prompt"], "first": GOOD["rejected"], "second": GOOD["chosen"], "p_first": 0.9},
        "line 1"),
    label("a number of 5,000 digits", '{"p_first": ' + "1" * 5000 + "}", "digits|number"),
    label("deep nesting", "[" * 100_000, "nested"),
]  # fmt: skip

CASES = {"files of data": FILES, "rows of data": ROWS, "files of labels": LABELS}

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from morlaif import presets
from morlaif.data.load import input_files, load
from morlaif.data.records import Example, first_of_each, prompt_id
from morlaif.data.rows import MalformedRow, UnusableRow, sniff, to_example
from morlaif.data.settings import Columns, DataSettings
from morlaif.data.split import draw, hold_out, identity, opening
from morlaif.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = Columns(**{name: name for name in Columns.model_fields} | {"score": "overall_score"})
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief"}
A, B = ({"role": "assistant", "content": text} for text in "ab")
PAIR = Example.of([USER], chosen="a", rejected="b")


def preset(name: str, **changes):
    tree = presets.preset("data", name)
    return TypeAdapter(DataSettings).validate_python(tree | changes)


def lines(path: Path, rows: list) -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def pairs(n: int, prompts: int | None = None) -> list[dict]:
    return [{"prompt": f"question {i % (prompts or n)}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(n)]


def drawn(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    identities = np.array([identity(e) for e in examples], dtype=np.uint64)
    return [examples[i] for i in draw(identities, limit, seed)]


def kept(examples: list[Example]) -> list[Example]:
    return [examples[i] for i in first_of_each(np.array([identity(e) for e in examples], dtype=np.uint64))]


def held_out(examples: list[Example], size, fraction, seed) -> tuple[list[Example], list[Example]]:
    openings = np.array([opening(e) for e in examples], dtype=np.uint64)
    train, evaluation = hold_out(openings, size, fraction, seed)
    return [examples[i] for i in train], [examples[i] for i in evaluation]


def hh(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


@pytest.mark.parametrize(
    ("row", "format", "example"),
    [
        (
            {"chosen": hh("Hi", "Hey", "How?", "So."), "rejected": hh("Hi", "Hey", "How?", "No: \n\nit: is")},
            "dialogues",
            Example.of(
                [USER, {"role": "assistant", "content": "Hey"}, {"role": "user", "content": "How?"}],
                chosen="So.", rejected="No: \n\nit: is",
            ),
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nHuman: Ho\n\nAssistant: a\n\nAssistant: b", "rejected": hh("Hi\n\nHo", "c")},
            "dialogues",
            Example.of([{"role": "user", "content": "Hi\n\nHo"}], chosen="a\n\nb", rejected="c"),
        ),
        ({"chosen": [USER, A], "rejected": [USER, B]}, "dialogues", PAIR),
        ({"prompt": " Hi ", "chosen": "a", "rejected": "b ", "n": 1}, "pairs", PAIR),
        ({"prompt": hh("Hi", ""), "chosen": "a", "rejected": "b"}, "pairs", PAIR),
        ({"prompt": "Hi", "chosen": [USER, A], "rejected": [B]}, "pairs", PAIR),
        ({"messages": [USER, A]}, "messages", Example.of([USER], demonstration="a")),
        ({"messages": [USER]}, "messages", Example.of([USER])),
        ({"prompt": "Hi"}, "prompts", Example.of([USER])),
        ({"prompt": [USER]}, "prompts", Example.of([USER])),
        ({"prompt": "Hi", "completion": "a"}, "prompts", Example.of([USER], demonstration="a")),
        ({"prompt": "Hi", "chosen": None, "rejected": None}, "prompts", Example.of([USER])),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "messages": [USER, A]}, "pairs", PAIR),
        ({"prompt": None, "chosen": [USER, A], "rejected": [USER, B]}, "dialogues", PAIR),
        # OpenAI: roles and parts of content
        ({"messages": [{**SYSTEM, "role": "developer"}, USER, A]}, "messages", Example.of([SYSTEM, USER], "a")),
        ({"messages": [SYSTEM, {"role": "developer", "content": "Now"}, USER]}, "messages",
         Example.of([{"role": "system", "content": "Be brief\n\nNow"}, USER])),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
         "messages", Example.of([{"role": "user", "content": "H\ni"}])),
        ({"messages": [USER, {**A, "weight": 0}]}, "messages", Example.of([USER])),
        # a prompt in one text, beside dialogues that say more of it
        ({"prompt": "Hi", "chosen": [SYSTEM, USER, A], "rejected": [SYSTEM, USER, B]}, "pairs",
         Example.of([SYSTEM, USER], chosen="a", rejected="b")),
        ({"prompt": [USER], "chosen": [SYSTEM, USER, A], "rejected": "b"}, "pairs",
         Example.of([SYSTEM, USER], chosen="a", rejected="b")),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, A], "rejected": [B]}, "pairs",
         Example.of([SYSTEM, USER], chosen="a", rejected="b")),
        ({"prompt": "Hi", "system": "Be brief", "chosen": "a", "rejected": "b"}, "pairs",
         Example.of([SYSTEM, USER], chosen="a", rejected="b")),
        # ShareGPT, alone and before a pair
        ({"conversations": [{"from": "system", "value": "Be brief"}, {"from": "human", "value": "Hi"},
                            {"from": "gpt", "value": "a"}]}, "messages", Example.of([SYSTEM, USER], "a")),
        ({"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "a"},
          "rejected": {"from": "gpt", "value": "b"}}, "pairs", PAIR),
        # Alpaca
        ({"instruction": "Hi", "input": "", "output": "a"}, "prompts", Example.of([USER], "a")),
        ({"instruction": "Add", "input": "1, 2", "output": "3", "system": "Be brief"}, "prompts",
         Example.of([SYSTEM, {"role": "user", "content": "Add\n\n1, 2"}], "3")),
        ({"instruction": "Hi", "output": "a", "history": [["How?", "So."]]}, "prompts",
         Example.of([{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}, USER], "a")),
        ({"instruction": "Hi", "chosen": "a", "rejected": "b"}, "pairs", PAIR),
        # KTO: what is labelled false is not imitated
        ({"prompt": [USER], "completion": [A], "label": True}, "prompts", Example.of([USER], "a")),
        ({"prompt": [USER], "completion": [A], "label": False}, "prompts", Example.of([USER])),
        ({"messages": [USER, A], "label": False}, "messages", Example.of([USER])),
        ({"prompt": "Hi", "completion": "a", "label": 0}, "prompts", Example.of([USER])),
        ({"prompt": "Hi", "completion": "a", "label": 1.0}, "prompts", Example.of([USER], "a")),
        ({"prompt": "Hi", "completion": "a", "label": "False"}, "prompts", Example.of([USER])),
        ({"conversations": [USER, A], "kto_tag": False, "tools": "[]"}, "messages", Example.of([USER])),
        # tables: messages as text in JSON, nulls for what a row lacks
        ({"messages": json.dumps([USER, A]), "prompt": None, "label": True}, "messages", Example.of([USER], "a")),
        ({"messages": [{**USER, "tool_calls": None}, {**A, "tool_calls": None}]}, "messages", Example.of([USER], "a")),
        # TRL's implicit prompt, and UltraFeedback binarized
        ({"prompt": "Hi", "chosen": [USER, A], "rejected": [USER, B], "score_chosen": 8.5, "score_rejected": 2.0,
          "messages": [USER, A]}, "pairs", PAIR),
        # UltraFeedback: best against worst
        ({"instruction": "Hi", "completions": [{"response": text, "overall_score": score} for text, score in
                                               (("c", 2), ("b", 1), ("a", 4.5), ("d", 4.5))]}, "scored", PAIR),
        ({"instruction": "Hi", "completions": [
            {"response": text, "annotations": {"honesty": {"Rating": one}, "helpfulness": {"Rating": two}}}
            for text, one, two in (("c", "3", "3"), ("a", "5", "N/A"), ("b", "1", "4"))]}, "scored", PAIR),
        # OpenAI's comparisons of summaries, of posts and of news
        ({"info": {"id": "t3", "subreddit": "ask", "title": "Hi", "post": "There. ", "article": None}, "choice": 1,
          "summaries": [{"text": " b", "policy": "x"}, {"text": " a", "policy": "y"}], "worker": "w"}, "summaries",
         Example.of([{"role": "user", "content": "SUBREDDIT: r/ask\n\nTITLE: Hi\n\nPOST: There.\n\nTL;DR:"}],
                    chosen="a", rejected="b")),
        ({"info": {"post": None, "title": "Hi", "article": "News."}, "choice": 0,
          "summaries": [{"text": "a"}, {"text": "b"}]}, "summaries",
         Example.of([{"role": "user", "content": "Article:\nNews.\n\nTL;DR:"}], chosen="a", rejected="b")),
    ],
)  # fmt: skip
def test_every_format(row, format, example):
    assert sniff(row, COLUMNS) == format
    assert to_example(row, format, COLUMNS) == example


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"text": "x"}, MalformedRow, "no known format in the columns 'text'"),
        ({}, MalformedRow, "no known format"),
        ({"info": {"post": "x"}, "summaries": [{"text": "a"}], "choice": 0}, MalformedRow, "a list of two objects"),
        ({"info": {"post": "x"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 2}, MalformedRow, "0 or 1"),
        ({"info": {}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}, MalformedRow, "'info.post' is null"),
        ({"info": {"post": "x"}, "summaries": [{"text": "a"}, {"text": "a "}], "choice": 0}, UnusableRow, "the same"),
        ({"prompt": 3}, MalformedRow, "'prompt' is a number; it must be a text or a list of messages"),
        ({"prompt": None}, MalformedRow, "'prompt' is null"),
        ({"prompt": "  "}, UnusableRow, "'prompt' is empty"),
        ({"prompt": "\ud800"}, MalformedRow, "surrogate"),
        ({"prompt": "Hi", "completion": ""}, UnusableRow, "'completion' is empty"),
        ({"prompt": "Hi", "chosen": "a", "rejected": " a"}, UnusableRow, "same response"),
        ({"prompt": "Hi", "chosen": "a", "rejected": {"t": 1}}, MalformedRow, "'rejected', message 1: it must be"),
        ({"prompt": "Hi", "chosen": hh("Ho", "a"), "rejected": "a"}, None, None),
        ({"chosen": "a", "rejected": "b"}, MalformedRow, "must begin with '\\\\n\\\\nHuman:'"),
        ({"chosen": "", "rejected": "b"}, UnusableRow, "'chosen' is empty"),
        ({"chosen": hh("Hi", "a"), "rejected": hh("Ho", "b")}, UnusableRow, "different prompts"),
        ({"chosen": hh("Hi", "a"), "rejected": hh("Hi", " ")}, UnusableRow, "'rejected, turn 2 .assistant.' is empty"),
        ({"chosen": hh("Hi"), "rejected": hh("Hi", "b")}, UnusableRow, "'chosen' ends with a user turn"),
        ({"chosen": "\n\nAssistant: a", "rejected": hh("Hi", "b")}, UnusableRow, "no user turn"),
        ({"messages": []}, UnusableRow, "empty list"),
        ({"messages": ["Hi"]}, MalformedRow, "message 1: it must be an object with 'role' and 'content'"),
        ({"messages": [{"role": "human", "content": "Hi"}]}, MalformedRow, "role 'human' must be one of system, user"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, MalformedRow, "message 2: a system message"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, MalformedRow, "content is a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, UnusableRow, "of type 'image_url'"),
        ({"messages": [{"role": "gpt", "content": "Hi"}]}, MalformedRow, "Did you mean 'assistant'"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, MalformedRow, "role \\['user'\\] must be one of"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]}, UnusableRow, "a call of one"),
        ({"messages": [{"role": "tool", "content": "42"}]}, UnusableRow, "a tool's turn.*write calls and results"),
        ({"messages": [USER, {**A, "tool_calls": [{}]}]}, UnusableRow, "message 2: a tool's turn"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, UnusableRow, "message 1: a tool's turn"),
        ({"prompt": "Hi", "chosen": "a"}, MalformedRow, "'chosen' is there and 'rejected' is missing"),
        ({"prompt": "Hi", "chosen": None, "rejected": "b"}, MalformedRow, "'rejected' is there and 'chosen' is null"),
        ({"prompt": "Hi", "response": "a"}, MalformedRow, "'response' is beside.*columns.completion=response"),
        ({"prompt": "Hi", "completion": "a", "label": None}, MalformedRow, "'label' is null; .*true or false"),
        ({"prompt": "Hi", "completion": "a", "label": 2}, MalformedRow, "'label' is 2; .*true or false"),
        ({"prompt": "Hi", "completion": "a", "label": "good"}, MalformedRow, "'label' is 'good'; .*true or false"),
        ({"prompt": "Hi", "completion": "a", "label": [1]}, MalformedRow, "'label' is a list; .*true or false"),
        ({"messages": "[{", "n": 1}, MalformedRow, "'messages' begins like a list in JSON"),
        ({"conversations": [USER, A], "tools": '[{"name": "sum"}]'}, UnusableRow, "'tools': tools that the answer may"),
        (
            {"prompt": "Hi", "completions": [{"response": "a", "annotations": {"x": {"Rating": "N/A"}}}]},
            MalformedRow,
            "'overall_score' is null",
        ),
        ({"prompt": "Hi", "chosen": [SYSTEM, USER, A], "rejected": [USER, B]}, UnusableRow, "different prompts"),
        ({"prompt": "No", "chosen": [USER, A], "rejected": [USER, B]}, UnusableRow, "answers another prompt"),
        ({"instruction": "Hi", "output": ""}, UnusableRow, "'output' is empty"),
        ({"instruction": "Hi", "output": "a", "history": ["x"]}, MalformedRow, "'history' must be a list of"),
        ({"prompt": "Hi", "completions": ["a", "b"]}, MalformedRow, "must be a list of objects with a response"),
        ({"prompt": "Hi", "completions": [{"response": "a"}]}, MalformedRow, "item 1: 'overall_score' is null"),
        ({"prompt": "Hi", "completions": [{"response": "a", "overall_score": 10**400}]}, MalformedRow, "finite number"),
        ({"prompt": "Hi", "completions": [{"response": "a", "overall_score": 1}] * 2}, UnusableRow, "of equal score"),
        ({"messages": [{"role": "system", "content": "x"}]}, UnusableRow, "no user turn"),
    ],
)
def test_a_bad_row_says_what_would_be_right(row, kind, message):
    if kind is None:  # a text beside a prompt is a response, whatever it looks like
        assert to_example(row, "pairs", COLUMNS)
        return
    with pytest.raises(kind, match=message):
        to_example(row, sniff(row, COLUMNS), COLUMNS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([hh("a", "b"), hh("a", "c"), "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "messages", "completion"]), json_values))
def test_any_row_is_an_example_or_a_named_error(row):
    try:
        example = to_example(row, sniff(row, COLUMNS), COLUMNS)
    except (MalformedRow, UnusableRow) as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert example.messages[-1]["role"] == "user" and all(m["content"].strip() for m in example.messages)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}, '{"prompt": '], "line 2: breaks off in the middle"),
        ([{"prompt": "a"}, '{"prompt" "a"}'], "line 2, column 11: not JSON"),
        (["[", '{"prompt": "a"},', '{"promt": "b"}]'], r"line 3 \(item 2\): no known format.*Did you mean 'promt'"),
        (["[", '{"prompt": "a"},', "]"], r"line 3 \(item 2\)"),
        (["[", '{"prompt": "a"}', '{"prompt": "b"}]'], r"line 2 \(item 1\): no comma"),
        (["[", '{"prompt": "a"}', "]", "", "{}"], r"line 5: text after the array's end"),
        (["{", '"prompt": "a"', "}"], "line 1: breaks off.*on one, as `jq -c .` does"),
        (['{"prompt": "a"},'], "line 1, column 16: not JSON.*take out the comma"),
        (["prompt,completion", "a,b"], "line 1, column 1: not JSON.*is it CSV"),
        (['{"prompt": "a", "prompt": "b"}'], "line 1: the key 'prompt' is there twice"),
        (['{"prompt": "a", "n": ' + "7" * 5000 + "}"], "line 1: an integer of more than 4,300 digits"),
        (['{"prompt": "a", "n": "\\udc00"}'], "line 1: half of a character"),
        (["\0\0\0"], "line 1: holds NUL bytes"),
        ([{"prompt": "a"}, "", '["a"]'], "line 3: holds a list where an object should be"),
        ([{"prompt": "a"}, {"promt": "a"}], "line 2: no known format in the columns 'promt'.*Did you mean 'promt'"),
        ([{"prompt": "a"}, {"prompt": ""}], "line 2: 'prompt' is empty.*data.bad_rows=skip"),
        (["[" * 100_000], r"line 1 \(item 1\): JSON nested too deeply"),
        ([], "no usable row"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, rows, message):
    path = lines(tmp_path / "my.jsonl", rows)
    with pytest.raises(UserError, match=f"my.jsonl[,:].*{message.removeprefix('line')}") as caught:
        load(preset("jsonl", path=str(path)), 0)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_and_broken_gzip(tmp_path):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(UserError, match="line 2: byte 0xe9 is not UTF-8"):
        load(preset("jsonl", path=str(latin)), 0)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 1000)[:-12])
    with pytest.raises(UserError, match="broken gzip data"):
        load(preset("jsonl", path=str(cut)), 0)


def test_plain_gzip_and_byte_order_mark_read_alike(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in pairs(20))
    plain, zipped = tmp_path / "plain.jsonl", tmp_path / "zipped.jsonl"
    plain.write_text("\ufeff" + text, encoding="utf-8")
    zipped.write_bytes(gzip.compress(text.encode()))
    assert load(preset("jsonl", path=str(plain)), 0).splits == load(preset("jsonl", path=str(zipped)), 0).splits


def test_useless_rows_can_be_skipped_and_are_listed(tmp_path):
    rows = [*pairs(10), {"prompt": "x", "chosen": "same", "rejected": "same"}, *pairs(3)]
    path = lines(tmp_path / "my.jsonl", rows)
    loaded = load(preset("jsonl", path=str(path), bad_rows="skip"), 0)
    assert (loaded.rows, loaded.duplicates, len(loaded.splits["train"]), len(loaded.splits["eval"])) == (14, 3, 9, 1)
    assert [row["where"] for row in loaded.skipped] == [f"{path}, line 11"]
    broken = lines(tmp_path / "broken.jsonl", [*pairs(3), {"prompt": "x"}])
    with pytest.raises(UserError, match="line 4: no 'chosen'"):
        load(preset("jsonl", path=str(broken), bad_rows="skip", format="pairs"), 0)


@pytest.mark.parametrize("first", [{"prompt": "How?"}, {"messages": [USER, A]}, *pairs(1)])
def test_each_row_is_read_by_its_own_columns(tmp_path, first):
    """A first row of another kind takes no pair away."""
    path = lines(tmp_path / "mixed.jsonl", [first, *pairs(7), {"messages": [USER]}])
    splits = load(preset("jsonl", path=str(path)), 0).splits
    assert sum(e.chosen is not None for e in splits["train"] + splits["eval"]) == 7


def test_an_array_reads_as_its_lines(tmp_path):
    rows = pairs(20)
    array, spread = tmp_path / "array.json", tmp_path / "spread.json"
    array.write_text(json.dumps(rows), encoding="utf-8")
    spread.write_bytes(gzip.compress(json.dumps(rows, indent=2).replace("\n", "\r\n").encode("utf-8-sig")))
    wanted = load(preset("jsonl", path=str(lines(tmp_path / "lines.jsonl", rows))), 0)
    assert load(preset("jsonl", path=str(array)), 0) == load(preset("jsonl", path=str(spread)), 0) == wanted


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"PAR1", "a damaged Parquet file"),
        (b"PK\x03\x04", "zip archive"),
        (b"\xff\xfe{", "UTF-16"),
        (b"\x1f\x8b", "broken gzip"),
    ],
)
def test_other_files_are_known(tmp_path, begin, message):
    path = tmp_path / "my.jsonl"
    path.write_bytes(begin)
    with pytest.raises(UserError, match=f"my.jsonl.*{message}"):
        load(preset("jsonl", path=str(path)), 0)


def test_columns_can_be_renamed(tmp_path):
    path = lines(tmp_path / "my.jsonl", [{"q": f"q{i}", "good": "a", "bad": "b"} for i in range(4)])
    columns = COLUMNS.model_dump() | {"prompt": "q", "chosen": "good", "rejected": "bad"}
    loaded = load(preset("jsonl", path=str(path), columns=columns), 0)
    assert {e.chosen for e in loaded.splits["train"] + loaded.splits["eval"]} == {"a"}
    assert loaded.splits["sft"] == loaded.splits["train"]


def test_prompts_alone_leave_nothing_to_imitate(tmp_path):
    path = lines(tmp_path / "my.jsonl", [{"prompt": f"q{i}"} for i in range(10)])
    splits = load(preset("jsonl", path=str(path)), 0).splits
    assert (len(splits["sft"]), len(splits["train"]), len(splits["eval"])) == (0, 9, 1)


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 5), st.none() | st.integers(2, 40), st.floats(0.01, 0.9))
def test_no_prompt_is_on_both_sides(n, prompts, seed, limit, fraction):
    examples = [to_example(row, "pairs", COLUMNS) for row in pairs(n, prompts)]
    some = drawn(kept(examples), limit, seed)
    assert len(some) == min(n, limit or n)
    assert drawn(examples[::-1], limit, seed) == some, "the order of the rows does not matter"
    try:
        train, held = held_out(some, None, fraction, seed)
    except ValueError as error:
        assert "leave some to train on" in str(error)
        return
    assert not {prompt_id(e.messages) for e in train} & {prompt_id(e.messages) for e in held}
    assert len(held) == max(1, round(fraction * len(some))) and train


def test_the_seed_draws_and_a_larger_limit_only_adds():
    examples = [to_example(row, "pairs", COLUMNS) for row in pairs(100)]
    assert drawn(examples, 20, 0) == drawn(examples, 40, 0)[:20] != drawn(examples, 20, 1)
    assert held_out(examples, 10, None, 0)[1] != held_out(examples, 10, None, 1)[1]


def test_case_and_space_make_no_new_prompt():
    twins = [Example.of([{"role": "user", "content": text}]) for text in ("Why  me?", "why me? ", "And you?")]
    for seed in range(10):
        train, held = held_out(twins, 1, None, seed)
        assert len(train) + len(held) in (2, 3)
        sides = [{e.messages[0]["content"][:3].lower() for e in side} for side in (train, held)]
        assert not sides[0] & sides[1]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(1, 20), st.integers(0, 5), st.randoms())
def test_no_opening_is_on_both_sides(openings_of, size, seed, chance):
    """One dialogue is often there several times, cut at different turns."""
    examples = [
        Example.of([{"role": "user", "content": f"Opening {opening}"}, A, {"role": "user", "content": f"turn {i}"}])
        for i, opening in enumerate(openings_of)
    ]
    first = lambda side: {e.messages[0]["content"] for e in side}  # noqa: E731
    try:
        train, held = held_out(drawn(examples, None, seed), size, None, seed)
    except ValueError as error:
        assert "different first user turns cannot give" in str(error)
        return
    assert not first(train) & first(held) and train and len(held) == size
    chance.shuffle(examples)
    assert held_out(drawn(examples, None, seed), size, None, seed) == (train, held)
    counts = [openings_of.count(opening) for opening in set(openings_of)]
    assert len(examples) - len(train) - size < max(counts), "no more is left out than one opening's rows"


def test_presets_validate_and_settings_say_what_is_wrong():
    assert [preset(name).source for name in ("toy", "jsonl", "hub", "hh_rlhf")] == ["toy", "jsonl", "hub", "hub"]
    with pytest.raises(ValidationError, match="give eval_size or eval_fraction"):
        preset("jsonl", eval_size=3)
    with pytest.raises(ValidationError, match="leaves nothing to train on"):
        preset("jsonl", eval_size=30, eval_fraction=None, limit=30)
    with pytest.raises(ValidationError):
        preset("toy", trian=3)


def test_input_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = lines(tmp_path / "my.jsonl", pairs(2))
    assert input_files(preset("toy")) == input_files(preset("hh_rlhf")) == []
    assert input_files(preset("hh_rlhf", path="my.jsonl")) == input_files(preset("jsonl", path=str(path))) == [path]
    assert input_files(preset("jsonl", path=".")) == input_files(preset("jsonl", path="m*.jsonl")) == [path]
    for wrong, message in (("no.jsonl", "no such file"), ("n*.jsonl", "no file matches")):
        with pytest.raises(UserError, match=rf"data.path: .*{message}.*relative to {tmp_path}"):
            input_files(preset("jsonl", path=wrong))
    with pytest.raises(UserError, match=r"data\.path: null"):
        input_files(preset("jsonl"))
    with pytest.raises(UserError, match=r"data\.id: null"):
        input_files(preset("hub"))


def test_a_hub_dataset_on_disk_and_one_that_is_not_there(tmp_path, monkeypatch):
    """`datasets` loads a local folder by the same call as a dataset of the hub."""
    folder = tmp_path / "mine"
    folder.mkdir()
    lines(folder / "train.jsonl", [{"messages": [{"role": "user", "content": f"q{i}"}]} for i in range(10)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    splits = load(preset("hub", id=str(folder)), 0).splits
    assert len(splits["train"]) == 9
    with pytest.raises(UserError, match=r"data\.id: cannot load 'no/such'.*data.path=") as caught:
        load(preset("hub", id=str(tmp_path / "no/such")).model_copy(update={"id": "no/such"}), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slice_", ["harmless", "helpful"])
def test_hh_rlhf(hh_folder, slice_):
    path = hh_folder / f"{slice_}.jsonl.gz"
    loaded = load(preset("hh_rlhf", path=str(path)), 0)
    train, held_out = loaded.splits["train"], loaded.splits["eval"]
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    counted = len(train) + len(held_out) + len(loaded.skipped) + loaded.duplicates + loaded.left_out
    assert loaded.rows == len(rows) == counted
    assert len(loaded.skipped) < len(rows) / 100 and loaded.left_out < 10
    assert not {prompt_id(e.messages) for e in train} & {prompt_id(e.messages) for e in held_out}
    assert not {e.messages[0]["content"] for e in train} & {e.messages[0]["content"] for e in held_out}
    texts = {row["chosen"] for row in rows}
    rendered = [
        "".join(f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in e.messages)
        + f"\n\nAssistant: {e.chosen}"
        for e in train
    ]
    exact = sum(text in texts for text in rendered)
    assert exact > 0.8 * len(rendered), "but for white space at the edges of turns, the dialogues are as they were"


@pytest.mark.slow
def test_loading_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; import morlaif.data.load, morlaif.data.chat, morlaif.toy.world;"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)

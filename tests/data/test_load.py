from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from morlaif.data.load import input_files, load
from morlaif.data.records import Example, prompt_id
from morlaif.data.rows import MalformedRow, UnusableRow, sniff, to_example
from morlaif.data.settings import Columns, DataSettings
from morlaif.data.split import deduplicate, draw, hold_out
from morlaif.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = Columns(prompt="prompt", completion="completion", chosen="chosen", rejected="rejected", messages="messages")
USER = {"role": "user", "content": "Hi"}
A, B = ({"role": "assistant", "content": text} for text in "ab")
PAIR = Example.of([USER], chosen="a", rejected="b")


def preset(name: str, **changes):
    tree = yaml.safe_load((REPOSITORY / f"conf/data/{name}.yaml").read_text(encoding="utf-8"))
    return TypeAdapter(DataSettings).validate_python(tree | changes)


def lines(path: Path, rows: list) -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def pairs(n: int, prompts: int | None = None) -> list[dict]:
    return [{"prompt": f"question {i % (prompts or n)}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(n)]


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
        ({"prompt": 3}, MalformedRow, "'prompt' is a number; it must be a text or a list of messages"),
        ({"prompt": None}, MalformedRow, "'prompt' is null"),
        ({"prompt": "  "}, UnusableRow, "'prompt' is empty"),
        ({"prompt": "\ud800"}, MalformedRow, "surrogate"),
        ({"prompt": "Hi", "completion": ""}, UnusableRow, "'completion' is empty"),
        ({"prompt": "Hi", "chosen": "a", "rejected": " a"}, UnusableRow, "same response"),
        ({"prompt": "Hi", "chosen": "a", "rejected": {"t": 1}}, MalformedRow, "'rejected' is an object"),
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
        ({"messages": [{"role": "system", "content": "x"}]}, UnusableRow, "no user turn"),
    ],
)
def test_a_bad_row_says_what_would_be_right(row, kind, message):
    if kind is None:  # a text beside a prompt is a response, whatever it looks like
        assert to_example(row, "pairs", COLUMNS).chosen == row["chosen"].strip()
        return
    with pytest.raises(kind, match=message):
        to_example(row, sniff(row, COLUMNS), COLUMNS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([hh("a", "b"), hh("a", "c"), "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=8,
)


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
        ([{"prompt": "a"}, '{"prompt": '], "line 2: not JSON .* at column"),
        (["[", '{"prompt": "a"}]'], "line 1: not JSON .*array over several lines is not JSONL"),
        ([{"prompt": "a"}, "", '["a"]'], "line 3: a JSON list; each line must be one JSON object"),
        ([{"prompt": "a"}, {"promt": "a"}], "line 2: no 'prompt' among 'promt'.*Did you mean 'promt'"),
        ([{"prompt": "a"}, {"prompt": ""}], "line 2: 'prompt' is empty.*data.bad_rows=skip"),
        (["[" * 100_000], "line 1: (JSON nested too deeply|not JSON)"),
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
    with pytest.raises(UserError, match="line 2: byte 16 is not UTF-8"):
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
        load(preset("jsonl", path=str(broken), bad_rows="skip"), 0)


def test_columns_can_be_renamed(tmp_path):
    path = lines(tmp_path / "my.jsonl", [{"q": f"q{i}", "good": "a", "bad": "b"} for i in range(4)])
    columns = {"prompt": "q", "completion": "c", "chosen": "good", "rejected": "bad", "messages": "m"}
    loaded = load(preset("jsonl", path=str(path), columns=columns), 0)
    assert {e.chosen for e in loaded.splits["train"] + loaded.splits["eval"]} == {"a"}
    assert loaded.splits["sft"] == loaded.splits["train"]


def test_prompts_alone_leave_nothing_to_imitate(tmp_path):
    path = lines(tmp_path / "my.jsonl", [{"prompt": f"q{i}"} for i in range(10)])
    splits = load(preset("jsonl", path=str(path)), 0).splits
    assert (len(splits["sft"]), len(splits["train"]), len(splits["eval"])) == (0, 9, 1)


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 5), st.none() | st.integers(2, 40), st.floats(0.01, 0.9))
def test_no_prompt_stands_on_both_sides(n, prompts, seed, limit, fraction):
    examples = [to_example(row, "pairs", COLUMNS) for row in pairs(n, prompts)]
    kept = draw(deduplicate(examples), limit, seed)
    assert len(kept) == min(n, limit or n)
    assert draw(examples[::-1], limit, seed) == kept, "the order of the rows does not matter"
    try:
        train, held_out = hold_out(kept, None, fraction, seed)
    except ValueError as error:
        assert "leave some to train on" in str(error)
        return
    assert not {prompt_id(e.messages) for e in train} & {prompt_id(e.messages) for e in held_out}
    assert len(held_out) == max(1, round(fraction * len(kept))) and train


def test_the_seed_draws_and_a_larger_limit_only_adds():
    examples = [to_example(row, "pairs", COLUMNS) for row in pairs(100)]
    assert draw(examples, 20, 0) == draw(examples, 40, 0)[:20] != draw(examples, 20, 1)
    assert hold_out(examples, 10, None, 0)[1] != hold_out(examples, 10, None, 1)[1]


def test_case_and_space_make_no_new_prompt():
    twins = [Example.of([{"role": "user", "content": text}]) for text in ("Why  me?", "why me? ", "And you?")]
    for seed in range(10):
        train, held_out = hold_out(twins, 1, None, seed)
        assert len(train) + len(held_out) in (2, 3)
        sides = [{e.messages[0]["content"][:3].lower() for e in side} for side in (train, held_out)]
        assert not sides[0] & sides[1]


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
    for wrong, message in (("no.jsonl", "no such file"), (".", "is a folder")):
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
    assert loaded.rows == len(rows) == len(train) + len(held_out) + len(loaded.skipped) + loaded.duplicates
    assert len(loaded.skipped) < len(rows) / 100
    assert not {prompt_id(e.messages) for e in train} & {prompt_id(e.messages) for e in held_out}
    texts = {row["chosen"] for row in rows}
    rendered = [
        "".join(f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in e.messages)
        + f"\n\nAssistant: {e.chosen}"
        for e in train
    ]
    exact = sum(text in texts for text in rendered)
    assert exact > 0.8 * len(rendered), "but for white space at the edges of turns, the dialogues are as they were"


def test_loading_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; import morlaif.data.load, morlaif.data.chat, morlaif.toy.world;"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from morlaif.data.check import data_problems, template_refuses
from morlaif.data.settings import DataSettings
from morlaif.presets import preset

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = """{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- m.content }}{% generation %}{% endgeneration %}{% endfor %}"""


def of(path, name="jsonl", **changes):
    tree = preset("data", name)
    return TypeAdapter(DataSettings).validate_python(tree | {"path": path and str(path)} | changes)


def write(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("rows", "asked", "line"),
    [
        ([PAIR, PAIR], {"pairs": True, "demonstrations": True}, None),
        ([PAIR, {"prompt": "q"}], {}, None),
        ([PAIR, {"prompt": "q"}], {"pairs": True}, "line 2: no pair of responses.*respond=sample"),
        ([{"prompt": "q"}, {"prompt": "r"}], {"demonstrations": True}, "no row holds a demonstration.*sft=none"),
        ([PAIR, {"promt": "q"}], {}, "line 2: no known format"),
        ([PAIR, {**PAIR, "chosen": "b"}], {}, "line 2: .*same response.*data.bad_rows=skip"),
        ([PAIR, "{"], {}, "line 2: breaks off"),
        ([PAIR], {}, "1 usable rows"),
        ([], {}, "0 usable rows"),
    ],
)
def test_the_first_rows_are_looked_at(tmp_path, rows, asked, line):
    found = list(data_problems(of(write(tmp_path / "my.jsonl", *rows)), **asked))
    assert len(found) == (line is not None)
    if line:
        assert re.match(f"data.path: .*{line}", found[0])


def test_what_cannot_be_read_has_its_key(tmp_path):
    for path in (None, tmp_path, tmp_path / "no", "/dev/zero", "~nobody-of-that-name/x"):
        (line,) = data_problems(of(path))
        assert line.startswith("data.path:") and "\n" not in line
    assert list(data_problems(of(None, "hub"))) == ["data.id: null; name a dataset of the hub, as in "
                                                     "data.id=Anthropic/hh-rlhf, or a data.path"]  # fmt: skip
    assert list(data_problems(of(None, "hh_rlhf"))) == []


def test_a_dialogue_that_the_template_refuses_is_named_by_its_line(tmp_path):
    user, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "Welcome!"}
    system = {"role": "system", "content": "Be brief"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    why = template_refuses(tmp_path)
    assert why([user]) is None and why([system, user]) is None, "the user may say a system turn"
    path = write(tmp_path / "my.jsonl", {"messages": [user]}, {"messages": [said, user]})
    (line,) = data_problems(of(path), refuses=why)
    assert "line 2: the chat template" in line and "'Welcome!' (roles must alternate)" in line
    for text in ("{", json.dumps({"chat_template": "{% if"}), json.dumps({"chat_template": None})):
        (tmp_path / "tokenizer_config.json").write_text(text)
        assert template_refuses(tmp_path)([said]) is None


@pytest.mark.slow
def test_it_needs_no_torch():
    code = (
        "import sys, morlaif.data.check; assert not {'torch', 'transformers', 'datasets', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)

"""No text reaches a console, a CSV, a page, Markdown or a file's name raw."""

from __future__ import annotations

import ast
import csv
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from morlaif import pages
from morlaif.errors import UserError
from morlaif.texts import (
    add_row,
    csv_cell,
    file_name,
    from_csv_cell,
    keep_secret,
    line,
    markdown,
    print_anywhere,
    redact,
    say,
    visible,
    write_csv,
)

PACKAGE = Path(__file__).parents[1] / "morlaif"
NASTY = "r[/]uns[bold]x[/bold] \x1b[31mred\x1b]0;title\x07 \u202etxt.exe\u200b\u2066 :smile: \ud800"


# --- the source -----------------------------------------------------------------------------------------------------


def calls(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.slow
def test_no_file_goes_past_the_borders():
    """Whoever prints, fills a table, writes a CSV or opens templates asks the module of the border for it."""
    past = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        for node, called in calls(file):
            last = called.rpartition(".")[2]
            raw = (
                (called.endswith("console.print") and bool(node.args) and name != "texts.py" and not renderable(node))
                or (last == "add_row" and "." in called and name != "texts.py")
                or called in ("Text.from_markup", "escape", "Text.from_ansi")
                or (called in ("csv.writer", "csv.DictWriter") and name != "texts.py")
                or (called in ("Environment", "Template", "jinja2.Environment") and name != "pages.py")
                or (called == "TextColumn" and "markup=False" not in ast.unparse(node))
            )
            if raw:
                past.append(f"{name}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not past, past


def renderable(node: ast.Call) -> bool:
    """A table or a group, whose cells went through `line`: a name or a call that is no text by itself."""
    return all(isinstance(argument, ast.Name | ast.Call) and "str" not in ast.unparse(argument) and
               not ast.unparse(argument).endswith("format_exc()") for argument in node.args)  # fmt: skip


def test_no_template_marks_anything_safe_but_the_page_s_own_parts():
    texts = [file.read_text() for file in PACKAGE.rglob("*.j2")]
    safe = {found for text in texts for found in re.findall(r"{{\s*([^}]*?)\s*\|\s*safe", text)}
    assert safe == {"css", "js", "inert(data)", "inert(charts)", "svgs[name]"}


def test_every_page_has_a_policy():
    whole = [file for file in PACKAGE.rglob("*.j2") if "<!doctype html>" in file.read_text()]
    assert len(whole) == 5
    assert all("Content-Security-Policy" in text and "policy(" in text for text in map(Path.read_text, whole))


# --- the console ----------------------------------------------------------------------------------------------------


def printed(*parts, lines=False) -> str:
    stream = io.StringIO()
    say(Console(file=stream, force_terminal=True, width=200, highlight=False), *parts, lines=lines)
    return stream.getvalue()


def test_a_console_shows_a_text_as_it_is():
    shown = printed(NASTY)
    assert "r[/]uns[bold]x[/bold]" in shown and ":smile:" in shown
    assert "\\x1b[31mred" in shown and "\\u202e" in shown and "\\u200b" in shown and "\\ud800" in shown
    assert "\x1b" not in shown and shown.count("\n") == 1


def test_a_style_stays_with_its_text():
    assert printed(("pip install 'morlaif[wandb]'", "bold")) == "\x1b[1mpip install 'morlaif[wandb]'\x1b[0m\n"


def test_a_name_makes_no_line_of_its_own():
    assert printed("a\nmorlaif: all is well") == "a\\nmorlaif: all is well\n"
    assert printed("a\nb\rc", lines=True) == "a\nb\\rc\n"


def test_a_cell_is_no_markup():
    table, stream = Table("name", box=None), io.StringIO()
    add_row(table, "[red]x[/]\x1b[2J")
    Console(file=stream, width=80).print(table)
    assert "[red]x[/]\\x1b[2J" in stream.getvalue()


@given(st.text())
def test_what_is_visible_is_one_line_without_controls(text):
    shown = visible(text)
    assert shown.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()  # no half of a pair
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    "Incorrect API key provided: sk-abc***wxyz. You can find your API key at https://example.org.",
    "Incorrect API key provided: sk-proj-****************************wXyZ.",
    "invalid key: sk-abcd...wxyz",
    "Invalid API key: abcd****wxyz",
    "token abcd••••••wxyz is not valid",
    "xai-ab***wxyz is not valid",
    "key sk-proj-a1b2c3d4e5f6g7h8wxyz",
    "Authorization: Bearer a1b2c3d4e5f6wxyz",
    "hf_a1b2c3d4e5f6g7h8i9wxyz",
])  # fmt: skip
def test_no_key_is_shown_not_even_half(text):
    assert "***" in redact(text) and "wxyz" not in redact(text).lower() and "abc" not in redact(text)


@pytest.mark.parametrize("text", [
    "compare.runs=runs/**/a*", "sk-learn-like-names-are-no-keys-at-all", "5 ** 2 tokens", "key 'pm.lora' …", "a ... b",
    "feedback.api_key_env: the environment variable OPENAI_API_KEY is not set. Set it ... or take another source",
    "the token budget is 512", "scalarizers-1a2b3c4d", "disk-sk-1",
])  # fmt: skip
def test_what_is_no_key_stays(text):
    assert redact(text, []) == text


def test_a_key_of_the_environment_is_known_whole_and_half(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "zq9-very-secret-value")
    assert redact({"a": ["x zq9-very-secret-value y"]}) == {"a": ["x *** y"]}
    assert redact("no such user zq9-v***alue!") == "no such user ***!"
    assert "zq9" not in line("zq9-very-secret-value").plain


def test_a_key_whose_name_does_not_say_so(monkeypatch):
    monkeypatch.setattr("morlaif.texts._known", set())
    assert keep_secret("plainlooking") == "plainlooking"
    assert redact("of plainlooking") == "of ***"
    keep_secret("no")  # a word that short would blot out half of every text
    assert redact("no news") == "no news"


def test_a_run_s_record_and_a_failed_unit_show_no_key(monkeypatch, tmp_path):
    from morlaif.pipeline.record import Run
    from morlaif.units.execute import _failures

    monkeypatch.setenv("JUDGE_API_KEY", "zq9-very-secret-value")
    run = Run(tmp_path, "x", "morlaif feedback.note=zq9-very-secret-value", [], 0)
    run.close("failed", "Incorrect API key provided: sk-abc***wxyz")
    assert "zq9" not in (tmp_path / "run.json").read_text() and "wxyz" not in str(run.as_dict())
    events = []
    with _failures(lambda kind, **payload: events.append(payload), None, ()):
        raise UserError("key zq9-v****alue is not valid, nor is sk-abc***wxyz")
    assert events == [{"error": "key *** is not valid, nor is ***", "user_error": True, "traceback": ""}]


@pytest.mark.parametrize(
    ("encoding", "wanted"),
    [("ascii", "4 x 2 . a-b ... \\u5149 \\udcc3"), ("latin-1", "4 × 2 · a-b ... \\u5149 \\udcc3"), ("utf-8", None)],
)
def test_any_terminal_can_be_printed_to(encoding, wanted, monkeypatch):
    text = "4 × 2 · a–b … 光 \udcc3"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    print_anywhere()
    print(text, end="", flush=True)
    assert raw.getvalue().decode(encoding) == (wanted or text.replace("\udcc3", "\\udcc3"))


# --- CSV ------------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_cell_is_a_formula_and_all_come_back(text):
    cell = csv_cell(text)
    assert not cell or cell[0] not in "=+-@\t\r\n＝＋－＠"
    assert from_csv_cell(cell) == text


@given(st.text(st.sampled_from("\x1b\x00\x9b\x7f\\\\x105bcf8=' \t\n")))
def test_no_cell_steers_a_terminal_and_all_come_back(text):
    cell = csv_cell(text)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", cell) and from_csv_cell(cell) == text
    assert csv_cell("A\x1b[2J") == "A\\x1b[2J" and from_csv_cell("C:\\x64\\y") == csv_cell("C:\\x64\\y") == "C:\\x64\\y"


def test_a_csv_keeps_numbers_and_texts():
    stream = io.StringIO(newline="")
    rows = [['=HYPERLINK("http://x")', -1.5, None], ["+1", 3, "'=1"], ["a\nb", 0, "@x"], ["don't", True, "\tx"]]
    write_csv(stream, ["-head", "n", "c"], rows)
    read = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert [row[0][:2] for row in read] == ["'-", "'=", "'+", "a\n", "do"] and read[1][1] == "-1.5"
    assert [[from_csv_cell(cell) for cell in row] for row in read[1:]] == [
        ['=HYPERLINK("http://x")', "-1.5", ""], ["+1", "3", "'=1"], ["a\nb", "0", "@x"], ["don't", "True", "\tx"],
    ]  # fmt: skip


# --- Markdown and file names ----------------------------------------------------------------------------------------


def test_markdown_stays_one_line_of_text():
    assert markdown("a`b` | c\n---\nlicense: x <b> [x](y) # h") == (
        r"a\`b\` \| c\\n---\\nlicense: x \<b\> \[x\](y) \# h"
    )


@given(st.text())
def test_a_file_name_is_one_part_of_a_path(text):
    name = file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name)


def test_file_names_that_were_plain_stay_and_others_stay_apart():
    assert file_name("pm/helpfulness") == "pm-helpfulness" and file_name("ppo") == "ppo"
    assert file_name("..") != file_name("...") and "/" not in file_name("../../x") and file_name("../x")[0] != "."
    assert len({file_name("x" * 300 + end) for end in "abc"}) == 3


# --- pages ----------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


@given(st.text())
def test_data_in_a_script_opens_and_ends_nothing(text):
    html = f"<p>{'<script type=application/json>'}{pages.inert({'x': text})}</script><i></i>"
    parser = Elements()
    parser.feed(html)
    assert parser.found == ["p", "script", "i"]


def test_a_policy_lets_run_what_it_was_given_and_nothing_else():
    import base64
    import hashlib

    found = pages.policy(["go()"], ["p{}"])
    hashed = base64.b64encode(hashlib.sha256(b"go()").digest()).decode()
    assert f"script-src 'sha256-{hashed}';" in found and "default-src 'none'" in found
    assert "script-src 'none'" in pages.policy(styles=["p{}"])
    assert "unsafe-inline" not in found.replace("style-src-attr 'unsafe-inline'", "")

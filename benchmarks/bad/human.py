"""Ratings by people: forms that cannot be written, keys and answers that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad.case import FOLDER, Case, Content, Kit, case

RUN = "human.run=finished"


def export(name: str, words: str, *wants: str, **more: Any) -> Case:
    return case(name, f"human=export {RUN} human.prompts=5 {words}", *wants, prepare=finished(), **more)


def finished(change: Callable[[Path], Any] | None = None) -> Callable[[Path, Kit], None]:
    """A finished run with a form and a rater's answers, then changed."""

    def prepare(folder: Path, kit: Kit) -> None:
        kit.copy_run(folder)
        if change is not None:
            change(folder / "runs" / "finished" / "human")

    return prepare


def imports(name: str, change: Callable[[Path], Any], *wants: str, **more: Any) -> Case:
    return case(name, f"human=import {RUN}", *wants, prepare=finished(change), lines=2, **more)


def write(name: str, content: Content) -> Callable[[Path], None]:
    def change(human: Path) -> None:
        file = human / name
        file.unlink(missing_ok=True)
        if content is FOLDER:
            file.mkdir()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edited(human: Path) -> None:
        value = json.loads((human / name).read_text())
        change(value)
        (human / name).write_text(json.dumps(value))

    return edited


def key(name: str, change: Callable[[Path], Any], *wants: str) -> Case:
    return imports(f"a key {name}", change, r"key\.json", *wants)


def answers(name: str, change: Callable[[dict[str, Any]], Any], *wants: str) -> Case:
    return imports(name, edit("answers/Ann.json", change), r"Ann\.json", *wants)


def table(*rows: str) -> Callable[[Path], None]:
    """Ann's answers as a CSV of these rows, in which FORM and ITEM are replaced by what they are."""

    def change(human: Path) -> None:
        known = json.loads((human / "key.json").read_text())
        text = "form,rater,item,answer,seconds\n" + "".join(f"{row}\n" for row in rows)
        (human / "answers" / "Ann.json").unlink()
        text = text.replace("FORM", known["form"]).replace("ITEM", next(iter(known["items"])))
        (human / "answers" / "Ann.csv").write_text(text)

    return change


CASES = {
    "forms": [
        case("no such run", "human=export human.run=nothing", "human.run", "nothing", prepare=finished()),
        export("a folder that is a file", "human.folder=taken", "human.folder", "taken", files={"taken": "x"}),
        export("a folder below a file", "human.folder=taken/below", "human.folder", files={"taken": "x"}),
        export("a comparison that is none", "human.pairs=[morlaif_vs_sfft]", "human.pairs", "'sft'"),
        export("one policy", "human.pairs=[morlaif]", "human.pairs", "morlaif_vs_sft"),
        export("another form than raters have", "human.seed=7", "key of another form"),
        export("more settings than there are", "human.promts=3", "human.promts", "human.prompts"),
    ],
    "keys of forms": [
        key("that is not there", lambda human: (human / "key.json").unlink(), "export a form"),
        key("that is a folder", write("key.json", FOLDER), "folder"),
        key("that is empty", write("key.json", ""), "empty"),
        key("that is no JSON", write("key.json", "{a}"), "JSON"),
        key("that is a list", write("key.json", "[]"), "list"),
        key("that breaks off", lambda h: write("key.json", (h / "key.json").read_text()[:200])(h), "breaks off"),
        key("without items", edit("key.json", lambda k: k.pop("items")), "items", "missing"),
        key("with a list of items", edit("key.json", lambda k: k.update(items=[])), "items"),
        key("of another run", edit("key.json", lambda k: k.update(run="other")), "other"),
        key("with a text as a seed", edit("key.json", lambda k: k.update(seed="x")), "seed"),
        key("of 5,000 digits", write("key.json", '{"seed": ' + "1" * 5000 + "}"), "digits"),
        key("nested deeply", write("key.json", "[" * 100_000), "nested"),
        key("of UTF-16", write("key.json", "{}".encode("utf-16")), "UTF-16"),
    ],
    "answers of raters": [
        imports("none", lambda h: (h / "answers" / "Ann.json").unlink(), "human.answers"),
        imports("a folder", write("answers/Ann.json", FOLDER), "Ann.json", "folder"),
        imports("empty", write("answers/Ann.json", ""), "Ann.json", "empty"),
        imports("latin-1", write("answers/Ann.json", '{"rater": "Zoë"}'.encode("latin-1")), "Ann.json", "UTF-8"),
        imports("a list", write("answers/Ann.json", "[]"), "Ann.json", "list"),
        imports("half of a character", write("answers/Ann.json", '{"rater": "\\ud800"}'), "Ann.json", "half"),
        answers("of another form", lambda f: f.update(form="xyz"), "row 1", "xyz"),
        answers("nobody's", lambda f: f.update(rater=""), "no rater"),
        answers("an item that is none", lambda f: f["answers"][0].update(item="x9"), "row 1", "x9"),
        answers("an answer that is none", lambda f: f["answers"][1].update(answer="C"), "row 2", "a, tie, b"),
        answers("an endless time", lambda f: f["answers"][0].update(seconds=1e300), "row 1", "seconds"),
        answers("a time of 3,000 digits", lambda f: f["answers"][0].update(seconds="9" * 3000), "row 1", "seconds"),
        answers("one item twice", lambda f: f["answers"].append(f["answers"][0]), "answered twice"),
        imports("a huge cell", table("FORM,Ann,ITEM,a," + "9" * 200_000), r"Ann\.csv:2", "field"),
        imports("a short row", table("FORM,Ann,ITEM"), r"Ann\.csv row 2", "3 values"),
        imports("a quote that is not closed", table('FORM,Ann,ITEM,a,"3'), r"Ann\.csv:2"),
        imports("no such column", write("answers/Bob.csv", "a,b\n1,2\n"), r"Bob\.csv", "column"),
    ],
}  # fmt: skip

"""Files that are none, answers that no judge gives, runs and checkpoints with something in their way, and values that
only fit where something else is otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad.case import MACHINE, Case, Kit, case, jsonl
from bad.human import imports
from bad.models import FILES as PAIRS_FILE
from bad.models import MODEL, broken, model
from bad.rows import DATA, LABEL, PAIRS, file, row
from bad.servers import FIRST, server
from bad.stores import compared


def pipe(name: str) -> Callable[[Path, Kit], None]:
    """A named pipe that nobody writes into: whoever opens it waits for ever."""

    def prepare(folder: Path, kit: Kit) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return prepare


def piped(name: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def loop(folder: Path, kit: Kit) -> None:
    (folder / "d.jsonl").symlink_to("d.jsonl")


READ = "data=jsonl data.path=d.jsonl stages=[data]"
SPECIAL = [
    case("a pipe as data", READ, r"data\.path", "pipe|no file|not a", prepare=pipe("d.jsonl"), limit=30.0),
    case("a device as data", "data=jsonl data.path=/dev/zero stages=[data]", r"data\.path", "device|no file|not a",
         limit=30.0),
    case("nothing as data", "data=jsonl data.path=/dev/null stages=[data]", r"data\.path"),
    case("a link to itself as data", READ, r"data\.path", "no such file|link|circle", prepare=loop),
    case("an address as data", "data=jsonl data.path=https://example.invalid/d.jsonl stages=[data]", r"data\.path",
         "address|download|https"),
    case("a pattern as data", "data=jsonl data.path='*.jsonl' stages=[data]", r"data\.path",
         files={"d.jsonl": jsonl(*PAIRS)}),
    case("an empty path as data", "data=jsonl data.path= stages=[data]", r"data\.path"),
    case("a pipe as labels", LABEL, r"l\.jsonl", "pipe|no file|not a", files={"d.jsonl": jsonl(*PAIRS)},
         prepare=pipe("l.jsonl"), built=frozenset({"data", "respond"}), limit=30.0),
    case("a file as a folder of presets", "--config-dir d.jsonl dry_run=true", "config-dir|d.jsonl",
         files={"d.jsonl": "x"}),
    model("a pipe as a config", piped("config.json"), r"config\.json", limit=30.0),
    model("a pipe as weights", piped("model.safetensors"), r"model\.safetensors", limit=30.0),
    model("a pipe as a tokenizer", piped("tokenizer.json"), r"tokenizer\.json", limit=30.0, lines=2),
    imports("a pipe as a key", piped("key.json"), r"key\.json", limit=30.0),
    imports("a pipe as answers", piped("answers/Ann.json"), r"Ann\.json", limit=30.0),
    compared("a pipe as a record", lambda f: piped("run.json")(f / "runs" / "finished"), r"run\.json|finished",
             limit=30.0),
    compared("a pipe as a config", lambda f: piped("config.json")(f / "runs" / "finished"), r"config\.json|finished",
             limit=30.0),
    case("a pipe as a benchmark", "eval.rewardbench=b.jsonl dry_run=true", r"eval\.rewardbench|b\.jsonl",
         prepare=pipe("b.jsonl"), limit=30.0),
]  # fmt: skip

ROWS = [
    row("a picture as content", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
        {"role": "assistant", "content": "y"}]}, "content|image"),
    row("a system turn in the middle", {"messages": [{"role": "user", "content": "x"},
        {"role": "system", "content": "y"}, {"role": "assistant", "content": "z"}]}, "system"),
    row("a system turn alone", {"messages": [{"role": "system", "content": "x"}]}, "user|turn"),
    row("a key twice", '{"prompt": "p", "prompt": "q", "chosen": "a", "rejected": "b"}', "twice|prompt"),
    row("two rows in a line", json.dumps(PAIRS[0]) * 2, "JSON|more than one|two"),
    row("a comma after a row", json.dumps(PAIRS[0]) + ",", "JSON|comma"),
    row("quotes of one stroke", "{'prompt': 'p'}", "JSON"),
    row("a speaker that is none", {"conversations": [{"from": "alien", "value": "x"}]}, "alien|from"),
    row("no value of a speaker", {"conversations": [{"from": "human"}, {"from": "gpt", "value": "x"}]}, "value"),
    row("an empty response", {"prompt": "p", "chosen": " ", "rejected": "b"}, "chosen|empty"),
    file("a bomb of gzip", __import__("gzip").compress(b"\n" * 3_000_000), r"d\.jsonl"),
    file("a format that is none", jsonl(*PAIRS), r"data\.format", "paris", arguments=READ + " data.format=paris"),
    file("a column of another kind", jsonl(*PAIRS), r"data\.columns", arguments=READ + " data.columns.prompt=[a]"),
]  # fmt: skip


def reply(name: str, manner: str, *wants: str, **more: Any) -> Case:
    """A judge that lists its model, and then says what no judge says."""
    return server(name, manner, *wants, built=FIRST, **more)


ANSWERS = [
    reply("null", "reply-null", "answer|reply|valid"),
    reply("no choices", "reply-empty", "answer|reply|choice|valid"),
    reply("a choice of nothing", "reply-choice", "answer|reply|message|valid"),
    reply("probabilities that are NaN", "reply-nan", "logprob|valid|probabilit|A|B"),
    reply("no letter at all", "reply-words", "letter|valid|A or B", lines=5),
    reply("an error under 200", "reply-error", "error|out of memory", code=MACHINE),
    reply("a question that is too long", "reply-400", "400|context|long"),
    reply("a model that is not there", "reply-404", "404|no such model|not found"),
    server("whose list is ill", "list-500", "ill|500", code=MACHINE),
]  # fmt: skip


def beside(name: str, change: Callable[[Path], Any], *wants: str, words: str = "stages=[data]", **more: Any) -> Case:
    """`change` gets the folder in which the run is to be built under the name `x`."""

    def prepare(folder: Path, kit: Kit) -> None:
        change(folder)

    return case(name, f"{words} hydra.run.dir=runs/x", *wants, prepare=prepare, **more)


def taken(path: str, content: str | None = "x") -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            (folder / path / "in").mkdir(parents=True)
        else:
            (folder / path).write_text(content)

    return change


RUNS = [
    beside("a record that is a folder", taken("runs/x/run.json", None), r"run\.json|folder"),
    beside("a config that is a folder", taken("runs/x/config.json", None), r"config\.json|folder"),
    beside("metrics that are a folder", taken("runs/x/metrics.jsonl", None), r"metrics\.jsonl|folder", built=DATA),
    beside("a run that is a file", taken("runs/x"), "runs/x|file"),
    beside("a lock that is a folder", taken("runs/x/.run.lock", None), "lock|folder"),
    case("an empty folder of Hydra's", "hydra.run.dir= stages=[data]", r"hydra\.run\.dir|folder"),
    case("a folder of Hydra's in the kernel", "hydra.run.dir=/proc/x stages=[data]", r"/proc|hydra\.run\.dir"),
]  # fmt: skip


def long(name: str, words: str, *wants: str) -> Case:
    """Of a model of 512 positions."""
    return case(name, f"{MODEL} {words}", *wants, files=PAIRS_FILE, prepare=broken(lambda m: None))


FITS = [
    long("training beyond the positions", "sft.max_length=4096", r"sft\.max_length", "512"),
    long("answers beyond the positions", "ppo.max_new_tokens=600", r"ppo\.max_new_tokens", "512"),
    case("responses beyond the positions", MODEL.replace("respond=pairs", "respond=sample respond.max_new_tokens=600"),
         r"respond\.max_new_tokens", "512", files=PAIRS_FILE, prepare=broken(lambda m: None)),
    long("pairs beyond the positions", "pm.max_length=4096", r"pm\.max_length", "512"),
    long("an adapter on what is not there", "sft.lora.target_modules=[nosuch]", r"sft\.lora\.target_modules", "nosuch"),
    long("an adapter on what is not there, for preference models", "pm.lora.target_modules=[nosuch]",
         r"pm\.lora\.target_modules", "nosuch"),
    case("weights without values", "weights=given weights.values=null dry_run=true", "weights: `values`|values"),
    case("a weight that is NaN", ["weights=given", "weights.values={helpfulness:nan}", "dry_run=true"], "weights"),
    case("weights of another number", ["scalarizer=owa", "scalarizer.params.weights=[1,2]", "dry_run=true"],
         "scalarizer", "weights|2"),
    case("an order of what is not there", ["scalarizer=lexicographic", "scalarizer.params.order=[nosuch]",
         "dry_run=true"], "scalarizer", "nosuch"),
    case("a text in place of a list", "principles.select=toxicity dry_run=true", r"principles\.select", "list"),
    case("a number as runs to compare", "stages=[compare] compare.runs=5", r"compare\.runs"),
    case("a toy model that is too short", "sft.max_length=4096 dry_run=true", r"sft\.max_length", "512"),
    case("a number that has no end", "ppo.kl.coef=1e400 dry_run=true", r"ppo\.kl(\.|: )coef"),
    case("a key at the top", "+foo=1 dry_run=true", "foo"),
    case("runs of one name", "-m name=a,a dry_run=true", "name|same|twice"),
    case("a sweep of an experiment that is none", "-m experiment=smoke,nothing dry_run=true", "experiment", "nothing"),
    case("a key without package", "tracking=wandb dry_run=true", "WANDB_API_KEY|wandb",
         environment={"WANDB_API_KEY": None, "HOME": "/nonexistent", "NETRC": None}),
    case("jobs at a time that are none", "-m hydra/launcher=joblib hydra.launcher.n_jobs=x seed=1,2 stages=[data]",
         "n_jobs|launcher"),
]  # fmt: skip


def resumed(change: Callable[[Path], Any]) -> Callable[[Path, Kit], None]:
    """The checkpoints of a PPO that was killed, changed."""

    def prepare(folder: Path, kit: Kit) -> None:
        from argparse import Namespace

        from morlaif.compose import look_ahead, register
        from morlaif.planning.plan import plan
        from morlaif.units.store import Store

        register()
        words = [f"paths.store={folder / 'store'}", "experiment=smoke"]
        made = look_ahead(Namespace(config_dir=None, overrides=words, multirun=False))[0][0].config
        store = Store(made.paths.store)
        keep = next(store.checkpoints(unit) for unit in plan(made).units if unit.stage.name == "ppo")
        keep.mkdir(parents=True)
        facts = {"step": 2, "best": None, "fingerprint": "x", "size": 5, "sha256": hashlib.sha256(b"state").hexdigest()}
        (keep / "step-00000002.pt").write_bytes(b"state")
        (keep / "step-00000002.json").write_text(json.dumps(facts))
        change(keep)

    return prepare


def resumes(name: str, change: Callable[[Path], Any], *wants: str) -> Case:
    return case(name, "experiment=smoke dry_run=true", "checkpoint|damaged", *wants, prepare=resumed(change))


RESUMES = [
    resumes("half a state", lambda keep: (keep / "step-00000002.pt").write_bytes(b"st"), "2 bytes of 5"),
    resumes("another state", lambda keep: (keep / "step-00000002.pt").write_bytes(b"stale"), "not what was written"),
    resumes("no state", lambda keep: (keep / "step-00000002.pt").unlink(), "step-00000002"),
    resumes("facts that break off", lambda keep: (keep / "step-00000002.json").write_text('{"step"'), "step-00000002"),
    resumes("facts that are a list", lambda keep: (keep / "step-00000002.json").write_text("[]"), "step-00000002"),
]  # fmt: skip

CASES = {
    "special files": SPECIAL,
    "more rows of data": ROWS,
    "answers of judges": ANSWERS,
    "folders of runs": RUNS,
    "what does not fit": FITS,
    "checkpoints": RESUMES,
}

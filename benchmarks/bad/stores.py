"""Stores, runs folders, sweeps and comparisons that are damaged, taken or empty; nothing to compare."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad.case import Case, Kit, case

COMPARE = ["stages=[compare]", "compare.runs=[finished]"]


def run(change: Callable[[Path], Any]) -> Callable[[Path, Kit], None]:
    """A finished run, changed: `change` gets the folder that has store/ and runs/finished/."""

    def prepare(folder: Path, kit: Kit) -> None:
        kit.copy_run(folder)
        change(folder)

    return prepare


def record(content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "runs" / "finished" / "run.json").write_text(content)


def compared(name: str, change: Callable[[Path], Any], *wants: str, **more: Any) -> Case:
    return case(name, COMPARE, *wants, prepare=run(change), **more)


def config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "runs" / "finished" / "config.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def ledger(content: bytes | None) -> Callable[[Path, Kit], None]:
    def prepare(folder: Path, kit: Kit) -> None:
        (folder / "store").mkdir()
        if content is None:
            (folder / "store" / "ledger.sqlite").mkdir()
        else:
            (folder / "store" / "ledger.sqlite").write_bytes(content)

    return prepare


def foreign(folder: Path, kit: Kit) -> None:
    (folder / "store").mkdir()
    with sqlite3.connect(folder / "store" / "ledger.sqlite") as database:
        database.execute("create table accounts (x)")


JUDGE = "experiment=smoke feedback=server feedback.base_url=SERVER/good/v1 feedback.model=tiny"

CASES = {
    "places": [
        case("a store that is a file", "paths.store=taken stages=[data]", r"paths\.store|taken", files={"taken": "x"}),
        case("runs that are a file", "paths.runs=taken stages=[data]", r"paths\.runs|taken", files={"taken": "x"}),
        case("a store below a file", "paths.store=taken/s stages=[data]", r"paths\.store|taken", files={"taken": "x"}),
        case("a store on a file system of the kernel", "paths.store=/proc/s stages=[data]", "/proc"),
        case("a store that is a device", "paths.store=/dev/null stages=[data]", "/dev/null"),
        case("a stage's place that is a file", "stages=[data]", "store", files={"store/data": "x"}),
        case("a ledger that is a folder", f"{JUDGE} dry_run=true", "ledger", prepare=ledger(None)),
        case("a ledger that is noise", f"{JUDGE} dry_run=true", "ledger", prepare=ledger(b"noise" * 999)),
        case("another program's database", f"{JUDGE} dry_run=true", "ledger", prepare=foreign),
    ],
    "comparisons": [
        case("no runs named", ["stages=[compare]"], r"compare\.runs"),
        case("runs that are not there", ["stages=[compare]", "compare.runs='runs/*'"], r"compare\.runs"),
        case("a run that is not there", ["stages=[compare]", "compare.runs=[nothing]"], r"compare\.runs", "nothing"),
        case("beside another stage", ["stages=[compare,pm]"], "stages", "alone"),
        case("as a sweep", ["-m", "stages=[compare]", "compare.runs=[a]", "seed=1,2"], "compare", "one job|sweep"),
        compared("a record that is empty", record(""), r"run\.json|no run|finished"),
        compared("a record that is a list", record("[]"), r"run\.json|finished"),
        compared("a record that breaks off", record('{"status": "succ'), r"run\.json|finished"),
        compared("a record of another version", record('{"status": "succeeded"}'), r"run\.json|finished"),
        compared("a record with a status that is none", record('{"status": 7, "units": []}'), r"run\.json|finished"),
        compared("a record that is a folder", lambda f: ((f / "runs/finished/run.json").unlink(),
                 (f / "runs/finished/run.json").mkdir()), r"run\.json|no run|finished"),
        compared("no config", lambda f: (f / "runs/finished/config.json").unlink(), "finished|config|no run"),
        compared("a config that is a list", lambda f: (f / "runs/finished/config.json").write_text("[]"), "config"),
        compared("a config without its evaluation", lambda f: config(f, lambda c: c.pop("eval")), "eval|finished"),
        compared("a store that is gone", lambda f: shutil.rmtree(f / "store"), "store|evaluat"),
        compared("an evaluation that is gone", lambda f: shutil.rmtree(f / "store" / "evaluate"), "evaluat|store"),
    ],
    "sweeps": [
        case("an empty range", "-m seed=range(0,0) dry_run=true", "seed"),
        case("an empty choice", "-m seed=choice() dry_run=true", "seed"),
        case("a range that runs away", "-m seed=range(0,10,-1) dry_run=true", "seed"),
        case("a job with a mistake", "-m seed=1,x dry_run=true", "seed='x'"),
        case("an option that is none", "-m scalarizer=linear,linearr dry_run=true", "linearr", "'linear'"),
        case("a sweep with a key that is none", "-m ppo.stepz=1,2 dry_run=true", "ppo.stepz", "ppo.steps"),
        case("an interval, which has no values", "-m ppo.kl.coef=interval(0,1) dry_run=true", "ppo.kl.coef|interval"),
        case("a launcher that is none", "-m hydra/launcher=nothing seed=1,2 dry_run=true", "launcher"),
    ],
}  # fmt: skip


def own(name: str, source: str, *wants: str, key: str = "scalarizer.function", **more: Any) -> Case:
    return case(name, f"{key}=mine.f dry_run=true", *wants, files={"mine.py": source},
                environment={"PYTHONPATH": "."}, **more)  # fmt: skip


def missing(name: str, words: str, *wants: str) -> Case:
    return case(name, f"{words} dry_run=true", *wants)


SOFT = "scalarizer=soft_max_min"
FUNCTION = "scalarizer.function"

CASES["functions"] = [
    missing("a module that is not there", "scalarizer.function=nowhere.f", FUNCTION, "nowhere"),
    missing("a function that is not in its module", "scalarizer.function=math.nothing", FUNCTION, "nothing"),
    missing("a module as a function", "scalarizer.function=morlaif.errors", FUNCTION),
    missing("a function without module", "scalarizer.function=linear", FUNCTION),
    missing("an empty function", "scalarizer.function=", FUNCTION),
    missing("a parameter that is none", f"{SOFT} +scalarizer.params.tempurature=1", "tempurature"),
    missing("a parameter of another kind", f"{SOFT} scalarizer.params.temperature=hot", "temperature"),
    missing("a parameter that is NaN", f"{SOFT} scalarizer.params.temperature=nan", "temperature"),
    missing("a reward that is not there", "reward=function reward.function=nowhere.f", "reward.*function", "nowhere"),
    missing("a reward that is null", "reward=function", "reward.*function"),
    own("a scalarizer that does not parse", "def f(:\n", "scalarizer.function|mine"),
    own("a scalarizer that raises as it is imported", "raise RuntimeError('no')\n", "scalarizer.function|mine", "no"),
    own("a scalarizer that is a number", "f = 3\n", "scalarizer.function|mine.f"),
    own("a scalarizer without parameters", "def f():\n    return 1\n", "mine.f|scalarizer.function"),
    own("a parameter that nobody gives", "def f(scores, strength):\n    return scores.sum(-1)\n", "strength"),
]  # fmt: skip

CASES["hardware"] = [
    case("ranks that divide no batch", "hardware=cpu2_zero3 hardware.ranks=7 dry_run=true", "hardware|batch|ranks"),
    case("a device that is none", "hardware.device=tpuu dry_run=true", "hardware.device"),
    case("a precision that is none", "hardware.precision=fp13 dry_run=true", r"hardware\.(precision|dtype)|fp13"),
    case("a GPU where there is none", "hardware=gpu stages=[sft] experiment=smoke", "hardware|GPU|CUDA",
         environment={"CUDA_VISIBLE_DEVICES": ""}),
    case("memory that is a text", "hardware.machine.device_memory=much dry_run=true", "device_memory"),
    case("time-outs below zero", "hardware.timeouts.start=-1 dry_run=true", "timeouts"),
    case("vLLM without ranks", "ppo.rollout=vllm hardware.device=cpu dry_run=true", "vllm|rollout"),
]  # fmt: skip

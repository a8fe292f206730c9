"""What K preference models cost, K = 1 … 32, by kind: training, scoring, memory and accuracy.

    python benchmarks/cost_of_many.py measure toy --minutes 5        again and again, until nothing is left to measure
    python benchmarks/cost_of_many.py measure gemma --base FOLDER --minutes 5
    python benchmarks/cost_of_many.py page docs/cost_of_many.md      from what was measured

Each cell (a kind at one K) is two forks of one process that has imported everything and read the data: one trains,
one scores. So each starts from the same memory, and its peak is what it takes beyond that. Processor seconds of one
thread (set OMP_NUM_THREADS=1). Each call measures `lora` at K = 1 first: ratios are to it, within one process.
Cells are kept in benchmarks/cost_of_many.json as they are done, and measured once.

toy: the quickstart's fine-tuned toy model and its labels of twelve principles, whole trainings by the presets
`pm=toy…`. Beyond twelve the labels repeat under other names: time and memory are those of so many principles,
accuracies would be of the same twelve again and are left out. gemma: the base named, LoRA of rank 8 as `pm=lora`
has it; the time of single steps of one pair and of scoring a few responses, as nothing more fits: no accuracy.

`soup`: the mean of the K updates of `lora` added to the base's weights, and the mean of their heads: one score,
whatever K. It costs the training of all and the scoring of one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from morlaif.data.records import Pair, load_pairs
from morlaif.feedback.records import Verdict, load_verdicts
from morlaif.models.adapters import read_adapter
from morlaif.models.load import load_tokenizer
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.kinds import kind_of
from morlaif.preference.metrics import agreement
from morlaif.preference.model import load_classifier
from morlaif.preference.report import MODEL, PMReport, read_report
from morlaif.preference.settings import PMSettings
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms
from morlaif.presets import preset

FILE = Path(__file__).with_suffix(".json")
COUNTS = (1, 2, 4, 8, 16, 32)
KINDS = ("lora", "trunk", "heads", "conditioned")
SOUP = "soup"
OWN_LABELS = 12  # principles with labels of their own
TOY_PAIRS = 600


@dataclass(frozen=True)
class Size:
    """What is measured at one size of model."""

    base: Path
    pairs: int  # that are learnt from
    scored: int  # responses
    passes: int  # over them, the fastest of which counts
    whole: bool  # whole trainings, with accuracy; else single steps

    def settings(self, kind: str) -> PMSettings:
        if self.whole:
            values = preset("pm", "toy" if kind == "lora" else f"toy_{kind}")
        else:
            short = {"batch_size": 1, "micro_batch_size": None, "warmup_steps": 0, "checkpoint_every": None}
            values = preset("pm", kind) | short
            values |= {"joint_tokens": 4096} if "joint_tokens" in values else {}
        return TypeAdapter(PMSettings).validate_python(values)


@dataclass(frozen=True)
class World:
    """Pairs, and the verdicts and words of each principle."""

    pairs: list[Pair]
    held: list[Pair]
    verdicts: dict[str, tuple[list[Verdict], list[Verdict], str]]

    def tasks(self, count: int, out: Path) -> list[Task]:
        """Of the first `count` principles; beyond those there are, the same again under other names."""
        made = []
        for k in range(count):
            name, (learnt, tested, question) = list(self.verdicts.items())[k % len(self.verdicts)]
            again = k // len(self.verdicts)
            name = f"{name}_{again + 1}" if again else name
            (out / name).mkdir(parents=True, exist_ok=True)
            made.append(Task(name, learnt, tested, out / name, question))
        return made


# --- 1. One cell -------------------------------------------------------------------------------------------------


def train(kind: str, count: int, world: World, size: Size, out: Path) -> dict[str, Any]:
    """Trains the models into `out`, in groups as stage `pm` does."""
    settings = size.settings(kind)
    corpus = Corpus(world.pairs, world.held, size.base)
    tasks = world.tasks(count, out)
    together = kind_of(settings).joint if not kind_of(settings).shared else count
    began, spent, accuracy = time.process_time(), 0.0, []
    for start in range(0, count, together):
        ticks: list[float] = []
        ends = train_pms(
            tasks[start : start + together], corpus, settings, seed=0,
            on_step=lambda step, steps, losses, ticks=ticks: ticks.append(time.process_time()),
        )  # fmt: skip
        spent += (ticks[-1] - ticks[0]) / (len(ticks) - 1)
        accuracy += [end.accuracy["value"] for end in ends.values() if isinstance(end, PMReport)]
    return {"train": time.process_time() - began if size.whole else spent, "accuracy": accuracy}


def score(kind: str, count: int, world: World, size: Size, out: Path) -> dict[str, Any]:
    """Reads the models in `out` and scores responses."""
    tasks = world.tasks(count, out)
    folders = {task.principle: task.out for task in tasks}
    if kind == SOUP:
        folders = {SOUP: merge([task.out for task in tasks], size.base, out / SOUP)}
    bank = PreferenceBank.load(folders, size.base)
    responses = [(pair.messages, text) for pair in world.pairs for text in (pair.first, pair.second)]
    responses = (responses * (1 + size.scored // len(responses)))[: size.scored]
    bank.score(*zip(*responses[:2], strict=True))  # warm
    spent = []
    for _ in range(size.passes):
        began = time.process_time()
        bank.score(*zip(*responses, strict=True))
        spent.append(time.process_time() - began)
    found: dict[str, Any] = {"score": min(spent) * 1000 / size.scored}
    if size.whole:
        found["overall"] = overall(bank, tasks, world.held)
    return found


def overall(bank: PreferenceBank, tasks: list[Task], held: list[Pair]) -> float:
    """Agreement of the mean of the scores, each in deviations, with the mean of the judge's probabilities."""
    prompts = [pair.messages for pair in held]
    first, second = (
        bank.score(prompts, [getattr(pair, side) for pair in held]).double().numpy() for side in ("first", "second")
    )
    scale = np.concatenate([first, second]).std(0)
    known = [{v.pair_id: v.p_first for v in task.held_verdicts if v.valid} for task in tasks]
    usable = [k for k, pair in enumerate(held) if all(pair.id in own for own in known)]
    wanted = np.array([[own[held[k].id] for own in known] for k in usable]).mean(1)
    return float(np.nanmean(agreement(((first - second) / scale).mean(1)[usable], wanted)))


def merge(folders: list[Path], base: Path, out: Path) -> Path:
    """A whole model with the mean of the adapters in its weights, as a preference model of kind `full`."""
    tokenizer = load_tokenizer(base)
    model = load_classifier(base, tokenizer)
    with torch.no_grad():
        model.score.weight.zero_()
        for folder in folders:
            adapter = read_adapter(folder / MODEL, folder.name)
            for name, (down, up) in adapter.layers.items():
                model.get_submodule(name).weight += up @ down / len(folders)
            model.score.weight += adapter.head / len(folders)
    model.save_pretrained(out / MODEL)
    tokenizer.save_pretrained(out / MODEL)
    replace(read_report(folders[0].name, folders[0]), kind="full", adapter=None).save(out)
    return out


def forked(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """`work` in a process of its own that begins where this one stands, with its peak memory in MB beyond that."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            before = resident()
            found = work(*arguments)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
            os.write(writing, json.dumps(found | {"peak": max(peak, 0) / 1e6}).encode())
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{work.__name__} failed")
    return json.loads(told)


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


# --- 2. All cells, as far as the time goes -----------------------------------------------------------------------


def measure(name: str, size: Size, world: World, minutes: float, counts: list[int]) -> None:
    ends = time.monotonic() + 60 * minutes
    todo = [(kind, count) for count in counts for kind in KINDS if not cells(name).get(f"{kind}/{count}")]
    if not todo:
        print(f"{name}: all is measured")
        return
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        base = cell("lora", 1, world, size, Path(folder))["lora"]
    for kind, count in todo:
        if time.monotonic() > ends:
            print(f"{name}: time is up; the same command goes on")
            return
        with TemporaryDirectory() as folder:
            found = cell(kind, count, world, size, Path(folder))
        for which, own in found.items():
            keep(name, f"{which}/{count}", own | {"base": base, "load": load})
            spent = f"train {own['train']:8.2f} s  score {own['score']:8.2f} s"
            print(f"{name} {which:<12} K {count:>2}  {spent}", flush=True)


def cell(kind: str, count: int, world: World, size: Size, out: Path) -> dict[str, dict[str, Any]]:
    """What was measured of a kind; of `lora` also of the soup of its models."""
    learnt = forked(train, kind, count, world, size, out)
    found = {}
    for which in (kind, SOUP) if kind == "lora" else (kind,):
        scored = forked(score, which, count, world, size, out)
        peaks = {"train_peak": learnt["peak"], "score_peak": scored["peak"]}
        found[which] = {**learnt, **scored, **peaks}
        del found[which]["peak"]
    if SOUP in found:
        found[SOUP]["accuracy"] = []  # one score, which stands for no single principle
    return found


def cells(name: str) -> dict[str, Any]:
    return json.loads(FILE.read_text()).get(name, {}).get("cells", {}) if FILE.exists() else {}


def keep(name: str, key: str, found: dict[str, Any]) -> None:
    every = json.loads(FILE.read_text()) if FILE.exists() else {}
    own = every.setdefault(name, {"cells": {}})
    own["machine"] = f"{processor()}, one thread, torch {torch.__version__}"
    own["cells"][key] = found
    FILE.write_text(json.dumps(every, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def world_in(store: Path, runs: Path, pairs: int, held: int) -> tuple[World, Path]:
    """The quickstart's pairs and verdicts, and where its fine-tuned model lies; built where they are missing."""
    command = [
        sys.executable, "-m", "morlaif", "stages=[feedback]", "arms.select=[morlaif]", f"paths.store={store}",
        f"paths.runs={runs}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record = max(runs.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    folders = {unit["name"]: store / unit["stage"] / unit["digest"] for unit in json.loads(record.read_text())["units"]}
    parts = [load_pairs(folders["respond"], split) for split in ("train", "eval")]
    kept = [[part[k] for k in range(min(most, len(part)))] for part, most in zip(parts, (pairs, held), strict=True)]
    ids = [{pair.id for pair in part} for part in kept]
    verdicts = {}
    for name, folder in folders.items():
        if name.startswith("feedback/"):
            question = json.loads((folder / "manifest.json").read_text())["reads"]["principle"]["question"]
            found = [
                [verdict for verdict in load_verdicts(folder, split) if verdict.pair_id in own]
                for split, own in zip(("train", "eval"), ids, strict=True)
            ]
            verdicts[name.removeprefix("feedback/")] = (found[0], found[1], question)
    return World(kept[0], kept[1], verdicts), folders["sft"] / "model"


# --- 3. The page ---------------------------------------------------------------------------------------------------

TITLES = {"toy": "The toy model", "gemma": "Gemma 3 270M"}
ROWS = {
    "train": "training, times",
    "score": "scoring, times",
    "score_peak": "memory to score",
    "train_peak": "memory to train",
}
TEXT = """# What many preference models cost

A principle more is a preference model more: its verdicts, its training, and its pass over every response that a
policy is trained on. How much that is depends on what the models share (`pm=`). `python benchmarks/cost_of_many.py`
measures it; what each figure is stands at its top.

![Training, scoring and memory against the number of principles, by kind](cost_of_many.png)

- `lora` pays for each principle in full: time grows as K. `trunk` runs the lower layers once for all.
- `heads` trains one adapter for all principles, and scores as fast for many as for one. So does `soup`, the mean of
  the K models of `lora` in one, which has one score and costs the training of all.
- `conditioned` reads each principle's text behind the dialogue, so that its time grows with K too.

Times are processor seconds of one thread, as multiples of `lora` at K = 1, measured first in the same process;
other work kept the machine busy (load {low:.1f} to {high:.1f} on {cores} cores). How far that moves a figure is seen in
the scoring of `soup`, the same work at every K: {least:.2f} to {most:.2f}. Memory is the peak of a process beyond what
it had before. An empty cell is not measured yet; the same command goes on with it.
"""
SIZES = {
    "toy": (
        "0.2 M parameters, {pairs} pairs, two or three epochs by the preset; {machine}. Once is {train:.1f} s of "
        "training and {score:.2f} s for 1,000 responses."
    ),
    "gemma": (
        "LoRA of rank 8, float32; {machine}. Training is one step of one pair; eight responses are scored twice, and "
        "the faster pass counts. Once is {train:.1f} s a step and {score:.0f} s for 1,000 responses."
    ),
}
ACCURACY = """Accuracy on held-out pairs, one seed: of each model under its own principle, the mean over the K; and
of the mean of their scores (of `soup`: its one score) against the mean of the judge's probabilities. Columns are of
different principles, so compare kinds within a column."""


def page(out: Path) -> None:
    every = json.loads(FILE.read_text())
    draw(every, out.with_suffix(".png"))
    loads = [cell["load"] for own in every.values() for cell in own["cells"].values()]
    soups = [
        cell["score"] / cell["base"]["score"]
        for own in every.values()
        for key, cell in own["cells"].items()
        if key.startswith(f"{SOUP}/")
    ]
    moved = {"least": min(soups), "most": max(soups)}
    text = TEXT.format(low=min(loads), high=max(loads), cores=os.cpu_count(), **moved)
    for name, own in every.items():
        text += f"\n## {TITLES[name]}\n\n{about(name, own)}\n\n" + "\n".join(table(own["cells"])) + "\n"
        if any("overall" in cell for cell in own["cells"].values()):
            text += f"\n{ACCURACY}\n\n" + "\n".join(accuracies(own["cells"])) + "\n"
    out.write_text(text)


def about(name: str, own: dict[str, Any]) -> str:
    bases = [cell["base"] for cell in own["cells"].values()]
    once = {key: statistics.median(base[key] for base in bases) for key in ("train", "score")}
    return SIZES[name].format(machine=own["machine"], pairs=TOY_PAIRS, **once)


def kinds_in(found: dict[str, Any]) -> list[str]:
    return [kind for kind in (*KINDS, SOUP) if any(key.startswith(f"{kind}/") for key in found)]


def header(counts: list[int], what: str) -> list[str]:
    heads = ["kind", what, *(f"K = {count}" for count in counts)]
    return [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * len(counts)]


def table(found: dict[str, Any]) -> list[str]:
    lines = header(list(COUNTS), "what")
    for kind in kinds_in(found):
        for key, title in ROWS.items():
            cells = [found.get(f"{kind}/{count}") for count in COUNTS]
            shown = ["" if one is None else written(key, one) for one in cells]
            lines.append(f"| `{kind}` | {title} | {' | '.join(shown)} |")
    return lines


def written(key: str, one: dict[str, Any]) -> str:
    return f"{one[key]:.0f} MB" if key.endswith("peak") else f"{one[key] / one['base'][key]:.2f}"


def accuracies(found: dict[str, Any]) -> list[str]:
    counts = [count for count in COUNTS if count <= OWN_LABELS]
    lines = header(counts, "accuracy of")
    for kind in kinds_in(found):
        cells = [found.get(f"{kind}/{count}") for count in counts]
        own = [f"{statistics.mean(one['accuracy']):.3f}" if one and one["accuracy"] else "" for one in cells]
        if any(own):
            lines.append(f"| `{kind}` | its principles | {' | '.join(own)} |")
        together = [f"{one['overall']:.3f}" if one else "" for one in cells]
        lines.append(f"| `{kind}` | the mean | {' | '.join(together)} |")
    return lines


def draw(every: dict[str, Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from morlaif.report.style import PALETTE

    what = {"train": "training, times K = 1", "score": "scoring, times K = 1", "score_peak": "memory to score, MB"}
    made, axes = pyplot.subplots(len(every), 3, figsize=(9.5, 3.1 * len(every)), squeeze=False, layout="constrained")
    for row, (name, own) in zip(axes, every.items(), strict=True):
        for panel, (key, title) in zip(row, what.items(), strict=True):
            absolute = key.endswith("peak")
            for colour, kind in enumerate(kinds_in(own["cells"])):
                points = {count: cell for count in COUNTS if (cell := own["cells"].get(f"{kind}/{count}"))}
                values = [cell[key] / (1 if absolute else cell["base"][key]) for cell in points.values()]
                dashes = (0, (4, 1.5)) if kind == SOUP else "-"
                look = {"color": PALETTE.of(colour), "linestyle": dashes, "marker": "o", "markersize": 3}
                panel.plot(list(points), values, label=kind, **look)
            panel.set_xscale("log", base=2)
            panel.set_xticks(COUNTS, [str(count) for count in COUNTS])
            if absolute:
                panel.set_ylim(bottom=0)
            else:
                panel.set_yscale("log", base=2)
            panel.set_title(f"{TITLES[name]}: {title}", fontsize=9, loc="left")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.grid(color="#e6e6e6", linewidth=0.6)
            panel.set_xlabel("principles, K", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    made.savefig(out, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("size", choices=["toy", "gemma"])
    measuring.add_argument("--base", type=Path, help="gemma: the model's folder")
    measuring.add_argument("--minutes", type=float, default=5)
    measuring.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    measuring.add_argument("--store", type=Path, default=Path(".morlaif/cost_of_many"))
    writing = commands.add_parser("page")
    writing.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "page":
        page(given.out)
    else:
        toy = given.size == "toy"
        store = given.store.absolute()
        world, own = world_in(store, store / "runs", *((TOY_PAIRS, 300) if toy else (3, 1)))
        size = Size(own, TOY_PAIRS, 400, 3, True) if toy else Size(given.base, 3, 8, 2, False)
        measure(given.size, size, world, given.minutes, given.counts)

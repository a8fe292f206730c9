"""Build the ppo unit of a toy run in this process, timed; its policy and its rollouts judged by the toy world's truth:
the mean true score over the principles, and the hidden utility of that world's humans, in log-odds.

    python toy_unit.py RESULT.json [key=value …]

The units that it needs must be in the store (morlaif stages=[weigh] …). Runs under any checkout of morlaif.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from morlaif.compose import look_ahead, register
from morlaif.data.records import load_split, prompt_id
from morlaif.evaluation.judges import true_scores
from morlaif.evaluation.policies import respond
from morlaif.models.load import load_policy
from morlaif.planning.plan import plan
from morlaif.preference.bank import PreferenceBank
from morlaif.toy.world import human_utility
from morlaif.units.job import Job, gather
from morlaif.units.store import Store


def utilities(prompts, responses) -> np.ndarray:
    return np.array([human_utility(*row) for row in zip(prompts, responses, strict=True)], dtype=float)


def main() -> None:
    result, overrides = Path(sys.argv[1]), sys.argv[2:]
    register()
    flags = Namespace(overrides=[*overrides, "arms.select=[morlaif]"], config_dir=None, multirun=False)
    config = look_ahead(flags)[0][0].config
    unit, store = plan(config).by_name["ppo/morlaif"], Store(config.paths.store)
    truth = {p.name: p.covers for p in config.principles.chosen}
    inputs = {need.name: store.folder(need) for need in unit.needs}
    torch.set_num_threads(1)

    seen = []  # what the preference models were asked to score, and when
    score = PreferenceBank.score

    def recorded(bank, prompts, responses):
        seen.append((list(prompts), list(responses)))
        return score(bank, prompts, responses)

    PreferenceBank.score = recorded
    rows = []

    def progress(step, total, metrics):
        if step > len(rows) and "reward" in metrics:
            known = {key: metrics[key] for key in ("reward", "kl", "explained_variance") if key in metrics}
            rows.append({"cpu": time.process_time() - cpu, **known})

    build = importlib.import_module("morlaif.stages.work.ppo").build
    with tempfile.TemporaryDirectory() as folder:
        out, keep = Path(folder, "out"), Path(folder, "keep")
        out.mkdir()
        keep.mkdir()
        job = Job(
            unit.stage.name, unit.name, unit.digest, unit.reads,
            gather(unit.stage.needs, inputs), out, keep, store.ledger, unit.seed, config.hardware,
            progress,
        )  # fmt: skip
        wall, cpu = time.perf_counter(), time.process_time()
        build(job)
        wall, cpu_all = time.perf_counter() - wall, time.process_time() - cpu
        held_out = {prompt_id(e.messages): e.messages for e in load_split(inputs["data"], "eval")}
        prompts = list(held_out.values())[: config.eval.prompts]
        finals, wanted = {}, {}
        for name, policy in (("sft", inputs["sft"]), ("policy", out)):
            made = respond(partial(load_policy, policy), prompts, config.eval, seed=0)
            finals[name] = true_scores(prompts, made.texts, truth)
            wanted[name] = utilities(prompts, made.texts)
    rollouts = config.ppo.rollouts
    steps = [call for call in seen if len(call[1]) == rollouts]
    curve = [
        {**row, "true": float(true_scores(*call, truth).mean()), "utility": float(utilities(*call).mean())}
        for row, call in zip(rows, steps, strict=False)
    ]
    result.write_text(
        json.dumps(
            {
                "overrides": overrides, "wall": wall, "cpu": cpu_all, "curve": curve, "kl": rows[-1]["kl"],
                "sft": float(finals["sft"].mean()), "true": float(finals["policy"].mean()),
                "utility": {name: float(values.mean()) for name, values in wanted.items()},
                "utility_gain": (wanted["policy"] - wanted["sft"]).tolist(),
                "standard_error": float(finals["policy"].mean(1).std() / len(prompts) ** 0.5),
            }
        )
    )  # fmt: skip


main()

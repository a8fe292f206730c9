"""`morlaif steer`: what a policy of a finished run answers at given weights."""

from __future__ import annotations

import argparse
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import cli
import numpy as np
import pytest
import small_ppo
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from morlaif.compose import Composed, look_ahead, register
from morlaif.config import Paths
from morlaif.errors import UserError
from morlaif.evaluation.policies import respond
from morlaif.models.load import save_policy
from morlaif.pipeline.record import Run
from morlaif.pipeline.steer import answer
from morlaif.planning.plan import plan
from morlaif.presets import preset
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.steer import simplex
from morlaif.steer.conditioning import Steering, read_steering
from morlaif.steer.settings import AnswerSettings
from morlaif.steer.simplex import name_of
from morlaif.units.store import Store
from morlaif.usage import with_steer

NAMES = ("detail", "conciseness")


@cache
def composed() -> Composed:
    return _composed("arms.select=[conditioned,morlaif]")


@cache
def with_front() -> Composed:
    return _composed("arms.select=[conditioned]", "front=toy", "front.steps=4", "front.ways=[soup]")


def _composed(*words: str) -> Composed:
    register()
    made = ["principles.select=[detail,conciseness]", "eval.max_new_tokens=8", *words]
    flags = argparse.Namespace(config_dir=None, overrides=made, multirun=False)
    return look_ahead(flags)[0][0]


def job(tmp_path: Path, base: Composed | None = None, **steer: Any) -> Composed:
    """A run of two arms with its places in `tmp_path`, and keys of the group `steer`; composed once, it takes long."""
    base = base or composed()
    settings = AnswerSettings.model_validate(base.config.steer.model_dump() | steer)
    places = Paths(store=tmp_path / "store", runs=tmp_path / "runs")
    return base._replace(config=base.config.model_copy(update={"paths": places, "steer": settings}))


@pytest.fixture
def finished(tmp_path: Path) -> str:
    """The policies of a run, as it leaves them, one of them with weights of its own."""
    made = job(tmp_path)
    folder = made.config.paths.runs / made.run_name
    record, units = Run.open(folder, made.config, "morlaif", []), plan(made.config)
    record.plan(units)
    record.close("succeeded")
    store = Store(made.config.paths.store)
    for arm in ("conditioned", "morlaif"):

        def write(out: Path, keep: Path, arm: str = arm) -> dict[str, Any]:
            save_policy(small_ppo.llama(), small_ppo.tokenizer(), out)
            if arm == "conditioned":
                Steering("text", NAMES, (0.75, 0.25)).write(out)
            return {}

        store.build(units.by_name[f"ppo/{arm}"], write)
    return made.run_name


def steer(tmp_path: Path, run: str, **keys: Any) -> str:
    made = job(tmp_path, action="answer", run=run, **keys)
    console = Console(record=True, width=300, file=open(os.devnull, "w"))  # noqa: SIM115
    answer(made.config, console)
    return console.export_text()


@pytest.mark.slow
def test_one_prompt_is_answered_at_the_weights(finished: str, tmp_path: Path) -> None:
    first, told = steer(tmp_path, finished, prompt="w1 w2", weights={"detail": 3, "conciseness": 1}).splitlines()
    assert first == "conditioned at detail 0.75, conciseness 0.25" and set(told.split()) <= {*small_ppo.WORDS, "<unk>"}
    assert steer(tmp_path, finished, prompt="w1 w2").splitlines() == [first, told]  # those of its arm
    assert "at detail 0, conciseness 1" in steer(tmp_path, finished, prompt="w1 w2", weights={"conciseness": 2})


@pytest.mark.slow
def test_a_file_of_prompts_is_answered_in_its_order(finished: str, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "w3"},
        {"role": "assistant", "content": "w4"},
        {"role": "user", "content": "w5"},
    ]
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "w1"}) + "\n\n" + json.dumps({"messages": turns}) + "\n")
    where = {"prompts": str(tmp_path / "in.jsonl"), "out": str(tmp_path / "out.jsonl")}
    assert "2 answers" in steer(tmp_path, finished, weights={"detail": 1}, **where)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["messages"] for row in rows] == [[{"role": "user", "content": "w1"}], turns]
    assert all(row["weights"] == {"detail": 1.0, "conciseness": 0.0} and row["response"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": {"detail": -1}}, r"steer\.weights: detail: -1 should be a number from 0 on"),
        ({"weights": {"detial": 1}}, r"steer\.weights: no principle 'detial'; .* Did you mean 'detail'\?"),
        ({"weights": {"detail": 0, "conciseness": 0}}, "all are zero; give one of detail, conciseness"),
        ({"arm": "morlaif"}, r"steer\.arm: morlaif takes no weights .* Train one: arms\.select=\[conditioned\]"),
        ({"arm": "soup"}, r"steer\.arm: .* had no front, .*: front=lora"),
        ({"search": True}, r"had no front, so nothing is measured"),
        ({"policy": "."}, r"steer\.policy: \. is there already"),
        ({"arm": "conditoned"}, r"steer\.arm: .* has no policy 'conditoned' .* Did you mean 'conditioned'\?"),
        ({"run": "nowhere"}, r"steer\.run: no run folder matches 'nowhere'"),
    ],
)
def test_mistakes_are_a_line_each(finished: str, tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        steer(tmp_path, keys.pop("run", finished), prompt="w1", **keys)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no prompt"),
        ("{}", r"in\.jsonl:1: has neither `prompt`, a text, nor `messages`"),
        ('{"messages": []}', r"in\.jsonl:1: `messages` should be turns of role"),
        ('{"messages": [{"role": "assistant", "content": "w"}]}', "the last a user's"),
    ],
)
def test_files_that_hold_no_prompts(finished: str, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(UserError, match=says):
        steer(tmp_path, finished, prompts=str(tmp_path / "in.jsonl"))


def test_what_is_asked_is_one_thing() -> None:
    known = composed().config.steer.model_dump() | {"action": "answer"}
    for keys, says in (
        ({"prompt": "w"}, "names no run"),
        ({"run": "r"}, "give one, or a file of them"),
        ({"run": "r", "prompt": "w", "prompts": "f"}, "not both"),
        ({"run": "r", "policy": "p", "page": "p"}, "page: has the answers to a prompt"),
        ({"run": "r", "choices": "c", "weights": {"detail": 1}}, "weights or choices, not both"),
        ({"run": "r", "prompt": "w", "out": "f"}, "a single one is printed"),
    ):
        with pytest.raises(ValueError, match=says):
            AnswerSettings.model_validate(known | keys)


def test_the_short_spelling_is_that_of_the_group() -> None:
    words = ["steer", "run=runs/a", "weights={detail:", "2,", "conciseness:", "0}", 'prompt=Why, "then"?', "seed=3"]
    assert with_steer(words) == [
        "steer=answer", 'steer.run="runs/a"', "steer.weights={detail: 2, conciseness: 0}",
        'steer.prompt="Why, \\"then\\"?"', "steer.seed=3",
    ]  # fmt: skip
    assert with_steer(["stages=[pm]"]) == ["stages=[pm]"]
    with pytest.raises(UserError, match=r"no key 'weigths'. Did you mean 'weights'\?"):
        with_steer(["steer", "weigths={a: 1}"])


@pytest.mark.slow
def test_a_run_trains_what_steer_asks(tmp_path: Path) -> None:
    """From nothing to an answer, by the commands of the README, on a tiny world."""
    small = ["experiment=smoke", "sft.max_steps=10", "pm.epochs=1", "weights.prompts=16", "arms.select=[conditioned]",
             "principles.select=[detail,conciseness]", "principles.count=null"]  # fmt: skip
    made = cli.morlaif(small, tmp_path, timeout=170)
    assert made.returncode == 0, made.stderr + made.stdout
    (run,) = (tmp_path / "runs").iterdir()
    folder = next((tmp_path / "store" / "ppo").glob("*/steer.json")).parent
    assert json.loads((folder / "steer.json").read_text())["weights"] == {"detail": 0.5, "conciseness": 0.5}
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert all(sum(row["weights"].values()) == pytest.approx(1) for row in rows)
    asked = ["steer", f"run={run.name}", "weights={detail: 2, conciseness: 0}", "prompt=How do I, say, bake bread?"]
    told = cli.morlaif(asked, tmp_path)
    assert told.returncode == 0 and told.stdout.startswith("conditioned at detail 1, conciseness 0\n"), told.stderr
    wrong = cli.morlaif([*asked[:2], "weights={detial: 2}", "prompt=x"], tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "Did you mean 'detail'" in wrong.stderr


@pytest.mark.slow
def test_a_page_has_an_answer_at_every_point(finished: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    told = steer(tmp_path, finished, prompt="w1 <b>w2</b>", page=str(page), steps=4)
    assert "conditioned at 5 points of detail, conciseness, 1 prompts each" in told and "not scored" in told
    text = page.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert set(data["cells"]) == {f"{k},{4 - k}" for k in range(5)} and data["start"] == [3, 1]
    (at_three,) = data["cells"]["3,1"]
    assert (
        at_three["text"]
        == steer(tmp_path, finished, prompt="w1 <b>w2</b>", weights={"detail": 3, "conciseness": 1}).splitlines()[1]
    )
    assert "<b>w2" not in text and "http://" not in text and "https://" not in text and "default-src" in text


def test_a_page_is_of_no_more_than_it_holds(finished: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give no weights, choices, search, out or policy"):
        AnswerSettings.model_validate(composed().config.steer.model_dump() | {
            "action": "answer", "run": "r", "prompt": "w", "page": "p", "weights": {"detail": 1}})  # fmt: skip


# --- soups ----------------------------------------------------------------------------------------------------------


def answer_of(steering: float, k: int) -> float:
    """What the front below has measured of prompt k where detail has the share `steering`: detail is had early."""
    return 1 - (1 - steering) ** 2 + 0.1 * k


@pytest.fixture
def front(tmp_path: Path) -> str:
    """A run with a front, without its conditioned arm: two corners, and what the grid of their soups has measured."""
    made = job(tmp_path, with_front())
    record, units = Run.open(made.config.paths.runs / made.run_name, made.config, "morlaif", []), plan(made.config)
    record.plan(units)
    record.close("succeeded")
    store = Store(made.config.paths.store)
    for seed, name in enumerate(NAMES):

        def policy(out: Path, keep: Path, seed: int = seed) -> dict[str, Any]:
            save_policy(small_ppo.llama(seed), small_ppo.tokenizer(), out)
            return {}

        store.build(units.by_name[f"ppo/front-{name}"], policy)

    def grid(out: Path, keep: Path) -> dict[str, Any]:
        rows = []
        for k in range(20):
            points = {
                name_of(point, NAMES): {"place": {"detail": answer_of(point[0] / 4, k), "conciseness": point[1] / 4}}
                for point in simplex.grid(2, 4)
            }
            rows.append(json.dumps({"points": points}) + "\n")
        (out / "grid.jsonl").write_text("".join(rows))
        return {}

    store.build(units.by_name["front/soup"], grid)
    return made.run_name


@pytest.mark.slow
def test_a_soup_is_its_corners_and_what_lies_between(front: str, tmp_path: Path) -> None:
    def told(weights: dict[str, float], **keys: Any) -> list[str]:
        return steer(tmp_path, front, prompt="w1 w2", weights=weights, **keys).splitlines()

    made = job(tmp_path)
    answering = made.config.eval.answering
    expected = {}
    for seed, name in enumerate(NAMES):
        loaded = small_ppo.llama(seed).eval(), small_ppo.tokenizer()
        expected[name] = respond(
            lambda loaded=loaded: loaded, [[{"role": "user", "content": "w1 w2"}]], answering, seed=0
        )
        assert told({name: 2}) == [f"soup at {shares(name)}", expected[name].texts[0]]
    between = told({"detail": 3, "conciseness": 1}, policy=str(tmp_path / "kept"))
    assert between[:2] == ["soup at detail 0.75, conciseness 0.25", f"written: {tmp_path / 'kept'}"]
    assert told({"detail": 3, "conciseness": 1})[1] == between[2]
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "kept" / "model").state_dict()
    for name, tensor in small_ppo.llama(0).state_dict().items():
        other = small_ppo.llama(1).state_dict()[name]
        assert torch.allclose(kept[name], 0.75 * tensor + 0.25 * other, atol=1e-6)
    assert not list(tmp_path.glob(".kept*"))


def shares(name: str) -> str:
    return "detail 1, conciseness 0" if name == "detail" else "detail 0, conciseness 1"


@pytest.mark.slow
def test_a_soup_has_a_page(front: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "soup at 3 points of detail" in steer(tmp_path, front, prompt="w1", page=str(page), steps=2)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])  # type: ignore[index]
    assert set(data["cells"]) == {"2,0", "1,1", "0,2"} and data["start"] == [1, 1]


@pytest.mark.slow
def test_where_a_run_has_both_the_line_says_so(front: str, tmp_path: Path) -> None:
    made = job(tmp_path, with_front())
    units = plan(made.config)

    def write(out: Path, keep: Path) -> dict[str, Any]:
        save_policy(small_ppo.llama(), small_ppo.tokenizer(), out)
        Steering("text", NAMES, (0.75, 0.25)).write(out)
        return {}

    Store(made.config.paths.store).build(units.by_name["ppo/conditioned"], write)
    told = steer(tmp_path, front, prompt="w1").splitlines()[0]
    assert told == "conditioned at detail 0.75, conciseness 0.25 (the run has soup, too: arm=soup)"
    assert steer(tmp_path, front, prompt="w1", arm="soup").startswith("soup at detail 0.5, conciseness 0.5\n")
    kept = tmp_path / "kept"
    steer(tmp_path, front, weights={"detail": 1}, policy=str(kept))
    assert read_steering(kept) == Steering("text", NAMES, (1.0, 0.0))


@pytest.mark.slow
def test_search_asks_where_the_front_is_best(front: str, tmp_path: Path) -> None:
    told = steer(tmp_path, front, weights={"detail": 3, "conciseness": 1}, search=True).splitlines()
    assert told[0].startswith("worth most by linear at weights detail 0.75, conciseness 0.25: detail 0.83 [0.83, 0.83]")
    assert "of the measured points detail3-conciseness1" in told[1] and "20 prompts" in told[1]
    assert told[-1] == "soup at detail 0.833, conciseness 0.167"  # 1 - w2 / 2 w1


@pytest.mark.slow
def test_choices_say_the_weights(front: str, tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for _ in range(200):
        values = rng.normal(size=(2, 2))
        liked = int(np.argmax(values @ [1.5, 0.5] + rng.gumbel(size=2)))
        answers = [{"text": "w", "scores": dict(zip(NAMES, row, strict=True))} for row in values.tolist()]
        rows.append(json.dumps({"prompt": "w1", "answers": answers, "liked": liked}) + "\n")
    (tmp_path / "choices.jsonl").write_text("".join(rows))
    first, last = steer(tmp_path, front, choices=str(tmp_path / "choices.jsonl")).splitlines()
    found = re.match(r"200 choices weigh detail (.*) \[(.*), (.*)\], conciseness", first)
    assert found is not None and float(found[2]) < 0.75 < float(found[3]) and abs(float(found[1]) - 0.75) < 0.15
    assert last.startswith(f"soup at detail {float(found[1]):.2f}"[:-1])
    (tmp_path / "choices.jsonl").write_text(json.dumps({"prompt": "w", "answers": [{"text": "a"}] * 2, "liked": 0}))
    with pytest.raises(UserError, match=r"1 have no `scores`, and .* has no preference models"):
        steer(tmp_path, front, choices=str(tmp_path / "choices.jsonl"))


def test_a_scalarizer_that_follows_training_finds_nothing(front: str, tmp_path: Path) -> None:
    made = job(tmp_path, action="answer", run=front, search=True)
    settings = ScalarizerSettings.model_validate(preset("scalarizer", "lagrangian"))
    config = made.config.model_copy(update={"scalarizer": settings})
    with pytest.raises(UserError, match="scalarizer=lagrangian: follows what training sees"):
        answer(config, Console(file=open(os.devnull, "w")))  # noqa: SIM115

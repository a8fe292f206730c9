"""DPO of one policy for all weights: at constant weights nobody is told it is today's, and its reference hears none."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_dpo
import small_ppo
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from morlaif.data.chat import prompt_ids
from morlaif.data.records import Pair
from morlaif.dpo.pairs import Pairs, encode
from morlaif.dpo.steered import pair_weights, plain_sides, shares_of_pairs, told_pairs
from morlaif.dpo.targets import dpo_pairs, mean_target
from morlaif.preference.pairs import LabelledPairs, label_pairs
from morlaif.rl.steered import Steered
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.steer.conditioning import Steering

NAMES = ("a", "b", "c")
probabilities = st.lists(
    st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=3, max_size=3), min_size=1, max_size=6
)  # fmt: skip


class Words(Steering):
    """Told in words that the tests' tokenizer has."""

    def told(self, messages, weights):
        return [
            {"role": "system", "content": " ".join(f"w{round(10 * weights[name])}" for name in self.names)},
            *messages,
        ]


def objective(weight=(1.0, 2.0, 1.0), direction=(1.0, -1.0, 1.0)) -> Objective:
    return Objective(NAMES, torch.zeros(3), torch.ones(3), torch.tensor(direction), torch.tensor(weight), linear)


def steered(own=(0.25, 0.5, 0.25), kind: type[Steering] = Words) -> Steered:
    return Steered(kind("text", NAMES, own, 10), 1.0, 3)


@given(probabilities, st.integers(0, 99))
@examples(max_examples=50, deadline=None)
def test_a_pairs_target_is_by_its_own_weights(rows: list[list[float]], seed: int) -> None:
    table = torch.tensor(rows, dtype=torch.float64)
    weight = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    together = mean_target(table, weight)
    for i in range(len(rows)):
        torch.testing.assert_close(together[i : i + 1], mean_target(table[i : i + 1], weight[i]), equal_nan=True)


@given(probabilities, st.booleans())
@examples(max_examples=30, deadline=None)
def test_constant_weights_make_todays_targets(rows: list[list[float]], hard: bool) -> None:
    table, sides = torch.tensor(rows, dtype=torch.float64), [[1, 2]] * len(rows)
    labelled = LabelledPairs(sides, sides, table, [0] * 3, [""] * len(rows), {}, np.ones((len(rows), 2)))  # type: ignore[arg-type]
    told = pair_weights(steered(), objective(), [(0.25, 0.5, 0.25)] * len(rows))
    assert torch.equal(told, torch.tensor([1.0, -2.0, 1.0]).expand(len(rows), 3))
    today, now = (dpo_pairs(labelled, weight, hard) for weight in (torch.tensor([1.0, -2.0, 1.0]), told))
    assert torch.equal(today.target, now.target) and len(today) == len(now)


def labelled(how: Steered, plain: list[Pair]) -> tuple[LabelledPairs, Pairs]:
    config = small_dpo.settings()
    shares = shares_of_pairs(how, "train", len(plain))
    tokenizer = small_ppo.tokenizer()
    made = label_pairs(lambda m, t: encode(tokenizer, m, t, config), told_pairs(how, plain, shares), {})
    made = replace(made, probability=torch.rand(len(plain), 3, generator=torch.Generator().manual_seed(0)).double())
    sides = plain_sides(
        (made.first, made.second), lambda i: prompt_ids(tokenizer, plain[i].messages, config.max_prompt)
    )
    return made, dpo_pairs(made, pair_weights(how, objective(), shares), False, plain=sides)


def rows() -> list[Pair]:
    return [Pair.of(row.messages, row.chosen, row.rejected) for row in small_dpo.rows(count=12)]


@pytest.mark.slow
def test_each_pair_is_told_its_own_and_the_reference_none(tmp_path: Path) -> None:
    how, plain = steered(), rows()
    made, pairs = labelled(how, plain)
    shares = shares_of_pairs(how, "train", 12)
    assert shares == shares_of_pairs(how, "train", 12) != shares_of_pairs(how, "eval", 12) and len(set(shares)) > 3
    tokenizer = small_ppo.tokenizer()
    for i, pair in enumerate(plain):
        asked = prompt_ids(tokenizer, how.told(pair.messages, shares[i]))
        assert made.first[i].ids[: made.first[i].start] == asked and len(asked) == 3 + len(
            prompt_ids(tokenizer, pair.messages)
        )
    trainer = small_dpo.trainer(small_dpo.settings(), tmp_path, pairs)
    found = trainer.sequence_logprobs(pairs, reference=True)
    told = trainer.sequence_logprobs(pairs)
    model = small_ppo.llama().eval()
    for i, pair in enumerate(plain):
        ids, response = prompt_ids(tokenizer, pair.messages), made.first[i].ids[made.first[i].start :]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *response]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        assert found[i, 0].item() == pytest.approx(
            logits.gather(1, torch.tensor(response)[:, None]).sum().item(), abs=1e-4
        )
    assert (found - told).abs().max() > 1e-3  # behind other prompts


@pytest.mark.slow
def test_sides_that_read_the_same_change_nothing(tmp_path: Path) -> None:
    config = small_dpo.settings(eval_every=2, eval_prompts=3)
    table = small_dpo.pairs(config)
    plain = plain_sides((table.chosen, table.rejected), lambda i: table.chosen[i].ids[: table.chosen[i].start])
    prompts = small_ppo.PROMPTS[:3]
    one = small_dpo.trainer(config, tmp_path / "a", table, prompts=prompts)
    two = small_dpo.trainer(config, tmp_path / "b", replace(table, plain=plain), prompts=prompts, plain=prompts)
    assert json.dumps(one.run().curve) == json.dumps(two.run().curve)
    assert torch.equal(small_dpo.weights(one.models), small_dpo.weights(two.models))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "rdo", "steer": {"kind": "text"}}, "steer.kind: text weighs verdicts, and kind: rdo rewards"),
        ({"steer": {"kind": "lora"}}, "steer.kind: lora has one scale in a forward"),
    ],
)
def test_what_cannot_be_steered(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small_dpo.settings(**changes)


@pytest.mark.slow
def test_the_policy_follows_each_weight(tmp_path: Path) -> None:
    """Two principles that disagree on every pair: the first likes w1, the second w2. What is told decides."""
    how = Steered(Words("text", ("a", "b"), (0.5, 0.5), 10), 1.0, 3)
    goal = Objective(("a", "b"), torch.zeros(2), torch.ones(2), torch.ones(2), torch.ones(2), linear)
    plain = [Pair.of([{"role": "user", "content": f"w{3 + i % 20} w{3 + i // 20}"}], "w1", "w2") for i in range(200)]
    config, tokenizer = small_dpo.settings(max_steps=150), small_ppo.tokenizer()
    shares = shares_of_pairs(how, "train", len(plain))
    made = label_pairs(lambda m, t: encode(tokenizer, m, t, config), told_pairs(how, plain, shares), {})
    made = replace(made, probability=torch.tensor([[0.95, 0.05]]).double().repeat(200, 1))
    sides = plain_sides((made.first, made.second), lambda i: prompt_ids(tokenizer, plain[i].messages))
    trainer = small_dpo.trainer(
        config, tmp_path, dpo_pairs(made, pair_weights(how, goal, shares), False, plain=sides)
    )  # fmt: skip
    trainer.run()
    gaps = []
    for first in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        asked = [prompt_ids(tokenizer, how.told(pair.messages, (first, 1 - first))) for pair in plain[:40]]
        dialogues = [[replace_response(ids, text, tokenizer) for ids in asked] for text in ("w1", "w2")]
        found = trainer.sequence_logprobs(Pairs.of(*dialogues, torch.ones(40)))
        gaps.append((found[:, 0] - found[:, 1]).mean().item())
    assert all(a < b for a, b in itertools.pairwise(gaps)) and gaps[0] < 0 < gaps[-1], gaps


def replace_response(ids: list[int], text: str, tokenizer):
    from morlaif.preference.model import Dialogue

    return Dialogue([*ids, *tokenizer(text)["input_ids"], tokenizer.eos_token_id], len(ids))

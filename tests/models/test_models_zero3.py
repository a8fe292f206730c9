"""Models on two gloo processes whose weights lie in parts (ZeRO-3): sampling and merging, against one process."""

from __future__ import annotations

import math
from pathlib import Path

import processes
import pytest
import small_ppo
import torch
import zero
from peft import LoraConfig, get_peft_model

from morlaif import ranks, sharded
from morlaif.models import generate as generation
from morlaif.models.generate import generate
from morlaif.models.load import load_policy, point_to, point_to_adapter
from morlaif.models.place import Source

pytestmark = [pytest.mark.slow, zero.NEEDED]

PROMPTS = [[3 + (7 * row + place) % 28 for place in range(1 + row % 5)] for row in range(9)]


def answers(folder: str, kinds: tuple[str, ...], gathers: tuple[float, ...]) -> dict:
    """What each policy answers under each way to sample, how many forwards that took, and its merged weights."""
    parts = ranks.count() > 1
    if parts:
        kept = zero.parts()
    found = {}
    for kind in kinds:
        model, tokenizer = load_policy(Path(folder) / kind)
        assert all(sharded.is_sharded(p) and p.numel() == 0 for p in model.parameters()) == parts
        forwards = []
        model.register_forward_pre_hook(lambda *_, to=forwards: to.append(1))
        for gather in gathers:
            for name, prompts in (("all", PROMPTS), ("one", PROMPTS[:1])):
                forwards.clear()
                ids = generate(
                    model, tokenizer, prompts, max_new_tokens=24, temperature=1.0, stop=["w9"], batch_size=2,
                    generator=torch.Generator().manual_seed(5), gather=gather,
                )  # fmt: skip
                found[kind, gather, name] = ids, len(forwards)
        assert all(sharded.is_sharded(p) and p.numel() == 0 for p in model.parameters()) == parts
        found[kind] = sharded.state_dict(model, torch.float32)
    if parts:
        del kept
    return found


def policies(folder: Path) -> None:
    """One as `sft=none` leaves it, one whose base lacks the pad token, and one that is an adapter on the first."""
    for kind in ("base", "grown", "adapted"):
        (folder / kind).mkdir()
        if kind == "adapted":
            break
        tokenizer = small_ppo.tokenizer()
        if kind == "grown":
            tokenizer.add_special_tokens({"pad_token": "<a new one>"})
        model = small_ppo.llama()
        model.resize_token_embeddings(len(tokenizer) - (kind == "grown"), mean_resizing=False)
        model.save_pretrained(there := folder / f"{kind} there")
        tokenizer.save_pretrained(there)
        point_to(folder / kind, Source(str(there)))
    torch.manual_seed(0)
    adapted = get_peft_model(small_ppo.llama(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(folder / "adapted" / "adapter")
    point_to_adapter(folder / "adapted", folder / "base")


@pytest.mark.timeout(200)
def test_ranks_sample_and_merge_as_one_process_does(tmp_path):
    """Gathered whole or a module at a time; rows end at different places, and one rank may have none."""
    policies(tmp_path)
    kinds = ("base", "grown", "adapted")
    one = answers(str(tmp_path), kinds, (math.inf,))
    two = processes.run(answers, str(tmp_path), kinds, (math.inf, 0.0), folder=tmp_path / "run", ranks=2, timeout=150)
    assert one["base", math.inf, "all"] != one["adapted", math.inf, "all"]
    assert len({len(ids) for ids in one["base", math.inf, "all"][0]}) > 2  # they do end at different places
    for kind in kinds:
        for name in ("all", "one"):
            for gather in (math.inf, 0.0):
                for rank in range(2):
                    assert two[rank][kind, gather, name][0] == one[kind, math.inf, name][0], (kind, gather, name)
            assert two[0][kind, 0.0, name][1] == two[1][kind, 0.0, name][1] > 0  # a forward is an exchange
        assert two[1][kind, math.inf, "one"][1] == 0
        assert two[1][kind] is None and two[0][kind].keys() == one[kind].keys()
        for key, value in one[kind].items():
            torch.testing.assert_close(two[0][kind][key], value)


def test_noise_is_each_rows_own(monkeypatch):
    """However the rows are shared, a row's noise is that of one process: what makes ranks sample alike."""
    seen: dict[int, dict[int, torch.Tensor]] = {}

    def record(model, pad, prompts, ends, new, temperature, top_p, noise, in_step, watched, fixed):
        seen[ranks.rank()] |= {prompt[0]: row for prompt, row in zip(prompts, noise, strict=True)}
        return [([1], [0.0]) for _ in prompts]

    monkeypatch.setattr(generation, "generate_batch", record)
    prompts = [[3 + row] * (1 + row % 3) for row in range(7)]
    model, tokenizer = small_ppo.llama(), small_ppo.tokenizer()
    whole: dict[int, torch.Tensor] = {}
    for count in (1, 2, 3):
        monkeypatch.setattr(ranks, "count", lambda count=count: count)
        monkeypatch.setattr(ranks, "unshare", lambda own: [[1]] * 7)
        found = {}
        for rank in range(count):
            seen[rank] = {}
            monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
            generate(
                model, tokenizer, prompts, max_new_tokens=4, temperature=1.0, batch_size=2,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            assert not found.keys() & seen[rank].keys()
            found |= seen[rank]
        whole = whole or found
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole)

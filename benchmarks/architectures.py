"""What this project computes on every causal architecture of transformers, held against the model's own forward.

    python benchmarks/architectures.py [model_type …]

Tiny models with random weights, no network: log-probabilities, values, sampling, LoRA, preference models, the local
judge. A number is the largest difference from what transformers gives; `no` what an architecture cannot do, with the
line that a user would read.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as hf_logging

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import small_ppo

from morlaif.errors import UserError
from morlaif.feedback.sources.hf import LetterModel, Stem
from morlaif.models.generate import generate
from morlaif.models.head import logits_fault
from morlaif.models.layers import layer_list, trunk_of
from morlaif.models.settings import LoRASettings
from morlaif.preference.lora import fresh, targets
from morlaif.preference.model import Dialogue, pad_batch, score_batch
from morlaif.preference.questions import check_questions
from morlaif.preference.split import SplitTrunk
from morlaif.preference.tied import classifier_on
from morlaif.rl.experience import collate
from morlaif.rl.policy import ActorCritic

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
    "n_inner": 48, "n_ctx": 128, "rotary_dim": 4, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "ffn_dim": 48, "word_embed_proj_dim": 32, "ffn_hidden_size": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 128,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "attention_heads": 4,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "sliding_window": 6, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
STATES = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"]}
CAPPED = {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}
SCALED = {"logits_scaling": 4.0}
# What each needs beside the sizes above, among it what shows: scales far from 1, caps far below the logits.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {}, "mixtral": {}, "qwen2": {}, "qwen2_moe": {}, "qwen3": {}, "qwen3_moe": {}, "gemma": {},
    "gemma2": CAPPED | WINDOWS, "gemma3_text": CAPPED | WINDOWS, "phi": {}, "phi3": {}, "gpt2": {}, "gpt_neo":
    {"attention_types": [[["global", "local"], 1]], "window_size": 4}, "gpt_neox": {}, "gptj": {}, "opt": {},
    "bloom": {}, "falcon": {"alibi": False}, "mpt": {}, "stablelm": {}, "starcoder2": {}, "olmo": {}, "olmo2": {},
    "olmo3": WINDOWS, "cohere": {"logit_scale": 0.25}, "cohere2": {"logit_scale": 0.25} | WINDOWS, "granite": SCALED,
    "granitemoe": SCALED, "granitemoeshared": SCALED,
    "granitemoehybrid": STATES | SCALED | {"layer_types": ["mamba", "attention"]}, "smollm3": {}, "glm": {}, "glm4": {},
    "exaone4": WINDOWS, "nemotron": {}, "persimmon": {}, "codegen": {}, "biogpt": {}, "xglm": {},
    "deepseek_v2": LATENT, "deepseek_v3": LATENT, "minicpm3": LATENT, "ernie4_5": {}, "hunyuan_v1_dense": {},
    "seed_oss": {}, "gpt_oss": WINDOWS, "arcee": {}, "helium": {}, "olmoe": {}, "phimoe": {}, "jetmoe": {},
    "nanochat": {}, "apertus": {}, "gpt_bigcode": {}, "llama4_text": {"layer_types": ["full_attention"] * 2},
    "ministral3": {}, "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 6, "lru_width": 32},
    "mamba": {}, "falcon_mamba": {}, "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "chunk_size": 4,
    "n_groups": 2}, "rwkv": {}, "bamba": STATES | {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "falcon_h1": STATES | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "expert_layer_period": 2,
    "expert_layer_offset": 1, "use_mamba_kernels": False}, "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": LINEAR, "qwen3_5_text": LINEAR, "openai-gpt": {}, "modernbert-decoder": {},
}  # fmt: skip
NO_HEAD_DIM = {"falcon"}
PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13, 14]]
RESPONSES = [[20, 21, 1], [22, 23, 24, 25, 1], [26, 5]]
NEW = 5
Measured = dict[str, float]


class Small:
    """One architecture, small: what it computes here beside what it computes by itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.model = made(kind)
        self.rows = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
        self.batch = collate(PROMPTS, RESPONSES, 0, torch.device("cpu"))

    def classifier(self) -> PreTrainedModel:
        """A copy of one with random weights."""
        if self.kind not in CLASSIFIERS:
            raise UserError("has no sequence classifier in transformers")
        return copy.deepcopy(self._classifier)

    @cached_property
    def _classifier(self) -> PreTrainedModel:
        return made(self.kind, AutoModelForSequenceClassification, num_labels=1)

    def logprobs(self) -> Measured:
        """Of responses, at load and in PPO, and their gradient; values read the last hidden state."""
        if fault := logits_fault(self.model):
            raise AssertionError(fault)
        models = ActorCritic(copy.deepcopy(self.model), small_ppo.settings(temperature=0.7))
        models.value_head.weight.data.normal_(std=0.1)  # it begins at zero, behind which no gradient reaches the trunk
        found, _, values = models(self.batch)
        wanted = self._logprobs(self.model, 0.7)
        found.sum().backward(retain_graph=True)
        wanted.sum().backward()
        pairs = zip(models.model.parameters(), self.model.parameters(), strict=True)
        both = [(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]
        slope = max(float((a - b).abs().max() / (1 + b.abs().max())) for a, b in both)
        models.zero_grad()
        values.sum().backward()
        reached = sum(float(p.grad.abs().sum()) > 0 for p in models.model.parameters() if p.grad is not None)
        assert reached >= len(both) // 2, "the value's gradient reaches the trunk"
        trunk, head = trunk_of(self.model), models.value_head
        states = [trunk(input_ids=torch.tensor([row]), use_cache=False)[0][0].float() for row in self.rows]
        read = [x[len(p) - 1 : -1] for x, p in zip(states, PROMPTS, strict=True)]
        by_hand = head(torch.cat(read)).squeeze(-1)
        self.model.zero_grad()
        return {"logprobs": far(found, wanted), "gradient": slope, "values": far(values, by_hand)}

    @torch.no_grad()
    def sampling(self) -> Measured:
        """Greedy answers to prompts padded on the left: how many are not those of the plain forward, row by row; and
        how many of transformers' own are not, padded likewise (NaN where it raises)."""
        prompts = [[3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16], [5]]
        tokenizer, wanted = small_ppo.tokenizer(), []
        for prompt in prompts:
            row = list(prompt)
            while len(row) < len(prompt) + NEW and (len(row) == len(prompt) or row[-1] != 1):
                row.append(int(own_logits(self.model, row)[-1].argmax()))
            wanted.append(row[len(prompt) :])
        answers = generate(self.model, tokenizer, prompts, max_new_tokens=NEW, temperature=0, batch_size=4)
        padded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        ids, mask = padded["input_ids"], padded["attention_mask"]
        try:
            theirs = self.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, eos_token_id=1, pad_token_id=0
            )
        except Exception:  # of its own making
            others = float("nan")
        else:
            rows = zip(theirs[:, ids.shape[1] :].tolist(), wanted, strict=True)
            others = float(sum(row[: len(right)] != right for row, right in rows))
        return {"sampling": float(sum(map(list.__ne__, answers, wanted))), "generate": others}

    def lora(self) -> Measured:
        """A policy and a critic with adapters: the reference, the merged policy, gradient to every adapter."""
        settings = small_ppo.settings(**{"policy.kind": "lora", "critic.kind": "adapter"})
        models = ActorCritic(copy.deepcopy(self.model), settings)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, weight in models.policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
        found, _, values = models(self.batch)
        (found.sum() + values.sum()).backward()
        adapted = [name for name, p in models.named_parameters() if "lora_B" in name and p.requires_grad]
        assert adapted, "nothing is adapted"
        dead = [name for name, p in models.named_parameters() if name in adapted and p.grad is None]
        assert not dead, f"no gradient reaches {dead[0]}"
        with torch.no_grad():
            before = self._logprobs(self.model)
            reference = far(models.reference_logprobs(self.batch), before)
            after = self._logprobs(copy.deepcopy(models.policy).merge_and_unload())
            assert far(before, after) > 0.02, "the adapter changes nothing"
        return {"reference": reference, "merged": far(found, after)}

    def scores(self) -> Measured:
        """A preference model's: in one batch as one by one, and as its own classifier has them."""
        model = self.classifier()
        with torch.no_grad():
            together = score_batch(model, pad_batch(self._dialogues(), 0), "last")
            own = torch.stack([model(input_ids=torch.tensor([row])).logits[0, 0] for row in self.rows])
        return {"scores": far(together, own)}

    def joint(self) -> Measured:
        """Two preference models' adapters in one pass, against each merged into the base."""
        model, base = self.classifier(), self.classifier()
        names = targets(model, "all-linear")
        draws = [torch.Generator().manual_seed(i) for i in range(2)]
        stack = fresh(model, names, LoRASettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear"), draws)
        torch.manual_seed(0)
        for layer in stack.layers.values():
            torch.nn.init.normal_(layer.lora_up, std=0.1)
        batch = pad_batch(self._dialogues(), 0)
        found = score_batch(model, batch.repeat(2), "last").view(2, -1)
        found.sum().backward()
        assert names and all(layer.lora_up.grad is not None for layer in stack.layers.values())
        worst = 0.0
        with torch.no_grad():
            for g in range(2):
                merged = copy.deepcopy(base)
                for name, layer in stack.layers.items():
                    update = layer.lora_up[g] @ layer.lora_down[g] * layer.scale
                    place = merged.get_submodule(name)
                    place.weight += update.T if isinstance(place, Conv1D) else update
                worst = max(worst, far(found[g], score_batch(merged, batch, "last")))
        return {"joint": worst}

    @torch.no_grad()
    def trunks(self) -> Measured:
        """Lower and upper layers apart, and a second network on the policy's own tensors."""
        model, ids = self.classifier(), pad_batch(self._dialogues(), 0).ids
        whole = trunk_of(model)(input_ids=ids, use_cache=False)[0]
        layer_list(model)
        split = SplitTrunk(self.classifier(), 1)
        other = trunk_of(classifier_on(self.model))(input_ids=ids, use_cache=False)[0]
        mine = trunk_of(self.model)(input_ids=ids, use_cache=False)[0]
        return {"split": far(split.upper(split.lower(ids)), whole), "shared": far(other, mine)}

    def questions(self) -> Measured:
        """Several questions behind one dialogue, blind to each other, against each alone."""
        check_questions(self.classifier())
        return {"questions": 0.0}

    @torch.no_grad()
    def judge(self) -> Measured:
        """The letter's log-probabilities behind shared prefixes."""
        letters = {"w3": "A", "w4": "B"}
        judge = LetterModel(self.model, small_ppo.tokenizer(), 8, "AB", lambda token: letters.get(token))
        stems = [Stem([3, 4, 5, 6, 7, 8], [[9, 10], [11], [12, 13, 14]]), Stem([9, 3], [[4, 5, 6], [7, 8, 9, 10]])]
        found = torch.tensor([row for rows in judge.logprobs(stems) for row in rows])
        asked = [stem.prefix + ending for stem in stems for ending in stem.endings]
        wanted = torch.stack([own_logits(self.model, row)[-1].log_softmax(-1)[[6, 7]] for row in asked])
        return {"judge": far(found, wanted)}

    def _dialogues(self) -> list[Dialogue]:
        return [Dialogue(row, len(prompt)) for row, prompt in zip(self.rows, PROMPTS, strict=True)]

    def _logprobs(self, model: PreTrainedModel, temperature: float = 1.0) -> Tensor:
        parts = []
        for row, prompt in zip(self.rows, PROMPTS, strict=True):
            table = (own_logits(model, row)[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
            parts.append(table.gather(1, torch.tensor(row[len(prompt) :])[:, None])[:, 0])
        return torch.cat(parts)


CHECKS: dict[str, Callable[[Small], Measured]] = {
    name: getattr(Small, name)
    for name in ("logprobs", "sampling", "lora", "judge", "scores", "joint", "trunks", "questions")
}


def made(kind: str, auto: Any = AutoModelForCausalLM, **more: Any) -> PreTrainedModel:
    """Random weights, as large as those of a trained model."""
    known = AutoConfig.for_model(kind)
    wanted = SIZES | LATENT if KINDS.get(kind) is LATENT else dict(SIZES)
    sizes = {n: v for n, v in wanted.items() if hasattr(known, n) and not (n == "head_dim" and kind in NO_HEAD_DIM)}
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(kind, **sizes | KINDS.get(kind, {}) | more)).eval().float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = None
    return model


def own_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T, V) of one row alone by the model's plain forward."""
    logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits


def far(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the largest value where that is above 1."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def lines(kinds: list[str]) -> Iterator[str]:
    for kind in kinds:
        start, cells, refused = time.process_time(), [], []
        try:
            small = Small(kind)
        except Exception as error:
            yield f"| {kind} | is not made: {type(error).__name__}: {' '.join(str(error).split())[:80]} |"
            continue
        for name, check in CHECKS.items():
            try:
                cells += [f"{value:.0e}" for value in check(small).values()]
            except UserError as error:
                cells.append("no")
                refused.append(f"{name}: {error}")
            except Exception as error:
                cells.append("FAILS")
                refused.append(f"{name} FAILS: {type(error).__name__}: {' '.join(str(error).split())[:80]}")
        yield f"| {kind} | {' | '.join(cells)} | {time.process_time() - start:.1f} s | {'; '.join(refused)}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for line in lines(sys.argv[1:] or list(KINDS)):
        print(line, flush=True)

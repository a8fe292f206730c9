"""Critics that are more than a head on the policy: begun as the SFT model or as a preference model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from morlaif import sharded
from morlaif.errors import UserError
from morlaif.models.adapters import Adapter, read_adapter
from morlaif.models.check import adapter_problems
from morlaif.models.layers import unfit_for_lora
from morlaif.models.open import check_vocabulary, open_config, open_model
from morlaif.models.place import Source, absolute
from morlaif.rl.settings import Learns


def lora_config(model: nn.Module, settings: Learns, more: int = 0) -> LoraConfig:
    """The adapter that the settings ask for; the critic's is of the same shape as the policy's. `more`: ranks beyond
    theirs, at the same scale."""
    rank = settings.policy.r + more
    return LoraConfig(
        r=rank,
        lora_alpha=settings.policy.alpha * rank / settings.policy.r if more else settings.policy.alpha,
        lora_dropout=0.0,
        target_modules=settings.policy.target_modules,
        exclude_modules=unfit_for_lora(model) or None,
        fan_in_fan_out=_transposed(model),
        task_type="CAUSAL_LM",
    )


def adapter_critic(model: PreTrainedModel, settings: Learns, start: Adapter | None = None) -> PreTrainedModel:
    """A second body for the frozen weights of `model`, with an adapter of its own. Call it before `model` gets one.

    Both bodies hold the very same tensors, so it costs its adapter and nothing else, and neither ever has to switch
    adapters, which recomputed activations (gradient checkpointing) would not survive. `start`: begin as this
    preference model, with its head as `score`.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    body = copy.deepcopy(model, shared)
    if start is None:
        config = lora_config(model, settings)
    else:
        ranks = {name: down.shape[0] for name, (down, _) in start.layers.items()}
        most = max(ranks.values())
        config = LoraConfig(  # alpha = r, since the scale is already in `up`
            r=most, lora_alpha=most, rank_pattern=ranks, alpha_pattern=ranks, lora_dropout=0.0,
            target_modules=list(ranks), fan_in_fan_out=_transposed(model), task_type="CAUSAL_LM",
        )  # fmt: skip
    critic = inject_adapter_in_model(config, body)
    layers = {name: layer for name, layer in critic.named_modules() if isinstance(layer, LoraLayer)}
    for weight in critic.parameters():
        if weight.requires_grad:  # what learns stays in float32
            weight.data = weight.data.float()
    if start is not None:
        with torch.no_grad():
            for name, (down, up) in start.layers.items():
                layers[name].lora_A["default"].weight.copy_(down)
                layers[name].lora_B["default"].weight.copy_(up)
            critic.score = nn.Linear(start.head.shape[1], 1, bias=False)
            critic.score.weight.copy_(start.head)
    return critic.eval()


def load_adapter_critic(folder: Path, base: Source | str | Path, model: PreTrainedModel, settings: Learns) -> nn.Module:
    """`adapter_critic` that begins as the preference model in `folder` (an artifact of `pm`) on the policy's own base.

    Raises:
        UserError: it is no adapter, or its base is not `base`.
    """
    path = Path(folder) / "model"
    origin = json.loads((path.parent / "pm.json").read_text())
    name, trained_on = origin["principle"], origin["base"]
    if not (path / "adapter_config.json").is_file():
        raise UserError(
            f"ppo.critic.init: pm: the preference model '{name}' is a whole model, not an adapter on the policy's "
            "base; use critic.kind=separate, or critic.init=sft"
        )
    base = absolute(Source.of(base).path)
    if not trained_on["own"] and absolute(trained_on["path"]) != base:
        raise UserError(
            f"ppo.critic.init: pm: the preference model '{name}' sits on {trained_on['path']}, the policy on {base}; "
            "use critic.kind=separate, or preference models on the SFT model"
        )
    start = read_adapter(path, name)
    has = dict(model.named_modules())
    for layer in start.layers:
        if layer not in has:
            raise UserError(f"ppo.critic.init: pm: '{name}' adapts '{layer}', which the policy does not have")
    return adapter_critic(model, settings, start)


def load_critic(
    folder: Path,
    base: Source | str | Path,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str,
    other: Source | None = None,
) -> PreTrainedModel:
    """The preference model in `folder` (an artifact of `pm`), its adapter merged into `base`, in float32.

    The critic reads the policy's tokens, so both must share a vocabulary. `other`: the base of preference models that
    do not sit on the policy's, where the run says where that lies.

    Raises:
        UserError: the preference model reads other tokens than the policy.
    """
    path = Path(folder) / "model"
    adapter = (path / "adapter_config.json").is_file()
    base = Source.of(base, key="model.path")
    under = _base(path, base, other)
    source = under if adapter else Source(str(path), trust_remote_code=under.trust_remote_code, key="pm", own=True)
    size = open_config(source).get_text_config().vocab_size
    own = open_config(base).get_text_config().vocab_size
    if size != own:
        raise UserError(
            f"ppo.critic.init: pm: {path} has a vocabulary of {size}, the policy of {own}; a critic must read the "
            "policy's tokens: use critic.init=sft, or preference models on the SFT model"
        )
    new = ("score.",) if adapter else ()  # the adapter brings the head
    with sharded.unsharded():  # an adapter is merged into whole weights; DeepSpeed splits them afterwards
        model = open_model(AutoModelForSequenceClassification, source, "trunk", dtype=torch.float32, new=new)
    rows = model.get_input_embeddings().weight.shape[0]
    if (needed := check_vocabulary(source.where, tokenizer, rows)) > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
    if adapter:
        if wrong := list(adapter_problems("ppo.critic.init=pm", path)):
            raise UserError("\n".join(wrong))
        model = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    return model.requires_grad_(True).to(device).eval()


def _base(path: Path, base: Source, other: Source | None) -> Source:
    """What the adapter sits on: the run's SFT model wherever it lies now, else the model that the report names."""
    origin = json.loads((path.parent / "pm.json").read_text())["base"]
    return base if origin["own"] else other or Source(origin["path"], origin["revision"], key="pm.base")


def _transposed(model: nn.Module) -> bool:
    """GPT-2 keeps its matrices the other way round."""
    return any(isinstance(module, Conv1D) for module in model.modules())

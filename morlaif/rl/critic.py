"""A critic that begins as a preference model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from morlaif.errors import UserError


def load_critic(
    folder: Path, base: str | Path, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> PreTrainedModel:
    """The preference model in `folder` (an artifact of `pm`), its adapter merged into `base`, in float32.

    The critic reads the policy's tokens, so both must share a vocabulary.

    Raises:
        UserError: the preference model reads other tokens than the policy.
    """
    path = Path(folder) / "model"
    adapter = (path / "adapter_config.json").is_file()
    source = _base(path, base) if adapter else str(path)
    size = AutoConfig.from_pretrained(source).get_text_config().vocab_size
    own = AutoConfig.from_pretrained(str(base)).get_text_config().vocab_size
    if size != own:
        raise UserError(
            f"ppo.critic.init: pm: {path} has a vocabulary of {size}, the policy of {own}; a critic must read the "
            "policy's tokens: use critic.init=sft, or preference models on the SFT model"
        )
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # that the base has no score head is meant: the adapter brings it
    try:
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    finally:
        logging.set_verbosity(level)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if adapter:
        model = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    return model.requires_grad_(True).to(device).eval()


def _base(path: Path, base: str | Path) -> str:
    """What the adapter sits on: the run's SFT model wherever it lies now, else the model that the report names."""
    origin = json.loads((path.parent / "pm.json").read_text())["base"]
    return str(base) if origin["own"] else origin["path"]

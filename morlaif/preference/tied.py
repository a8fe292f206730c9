"""A second network on the tensors of one that is in memory already."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from morlaif import sharded
from morlaif.preference.model import head


def classifier_on(model: PreTrainedModel) -> PreTrainedModel:
    """A sequence classifier whose trunk holds the very tensors of `model`'s: no weight is copied.

    `model`: a causal LM or a classifier, adapters in its layers or not; the classifier has the bare layers. Its modules
    are its own, so what is put into one network's layers does not show in the other. Its head is empty: the bank
    brings the heads.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    build = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    with torch.device("meta"), torch.random.fork_rng(devices=[]), sharded.unsharded():  # the tensors come from `model`
        made = build(config)
    given = dict(_bare(model))
    for name, module in made.named_modules():
        for kind in (module._parameters, module._buffers):
            for leaf in kind:
                whole = f"{name}.{leaf}" if name else leaf
                if whole in given:
                    kind[leaf] = given[whole]
    made.score = nn.Linear(head(made).in_features, 1, bias=False, device=model.device, dtype=model.dtype)
    missing = [name for name, tensor in (*made.named_parameters(), *made.named_buffers()) if tensor.is_meta]
    if missing:
        raise ValueError(f"{type(model).__name__} has no {missing[0]}, which {type(made).__name__} needs")
    made.score.requires_grad_(False)
    return made.eval()


def _bare(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names that they have without adapters."""
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        yield name.replace(".base_layer.", "."), tensor

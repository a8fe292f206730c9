"""Where the models that a unit works with lie now, and what they may do: the run's config says so, no artifact does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from morlaif.models.place import Source
from morlaif.models.settings import ModelSettings
from morlaif.preference.settings import PMSettings, outside_base
from morlaif.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from morlaif.preference.bank import PreferenceBank
    from morlaif.units.job import Job


class Places(Settings):
    """Stands among what a unit reads, and in no digest: that covers what the models hold."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"model", "pm"})

    model: ModelSettings
    pm: PMSettings


def base_of(job: Job) -> Source:
    """The run's SFT model."""
    from morlaif.models.load import source_of

    return source_of(job.inputs["sft"], _model(job))


def pm_base_of(job: Job) -> Source | None:
    """The base of the run's preference models where it is not the SFT model."""
    return outside_base(job.config["places"].pm) if "places" in job.config else None


def policy_of(
    job: Job, folder: Path | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of an artifact of this run, its SFT model if none is given."""
    from morlaif.models.load import load_policy

    return load_policy(folder or job.inputs["sft"], dtype=dtype or job.dtype, device=job.device, base=_model(job))


def bank_of(job: Job, folders: Mapping[str, Path], shared: PreTrainedModel | None = None) -> PreferenceBank:
    """The preference models in `folders`; `shared` as in `PreferenceBank.load`."""
    from morlaif.preference.bank import PreferenceBank

    pm = job.config["places"].pm if "places" in job.config else None
    return PreferenceBank.load(folders, base_of(job), job.device, job.dtype, shared=shared, settings=pm)


def _model(job: Job) -> ModelSettings | None:
    return job.config["places"].model if "places" in job.config else None

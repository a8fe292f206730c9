"""The models that a unit works with, loaded from where they lie now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from morlaif.feedback.settings import HfSettings
from morlaif.models.place import Source
from morlaif.models.settings import ModelSettings
from morlaif.preference.kinds import kind_of

J = TypeVar("J")

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from morlaif.preference.bank import PreferenceBank
    from morlaif.preference.sets import Ask
    from morlaif.units.job import Job

    AnyJob = Job[Any, Any]  # its needs have `sft`, its reads `places`


def base_of(job: AnyJob) -> Source:
    """The run's SFT model."""
    from morlaif.models.load import source_of

    return source_of(job.needs.sft, _model(job))


def pm_base_of(job: AnyJob) -> Source | None:
    """The base of the run's preference models where it is not the SFT model."""
    return kind_of(job.reads.places.pm).base if job.reads.places is not None else None


def policy_of(
    job: AnyJob, folder: Path | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of an artifact of this run, its SFT model if none is given."""
    from morlaif.models.load import load_policy

    return load_policy(folder or job.needs.sft, dtype=dtype or job.dtype, device=job.device, base=_model(job))


def bank_of(
    job: AnyJob,
    folders: Mapping[str, Path],
    shared: PreTrainedModel | None = None,
    asked: Mapping[str, Ask] | None = None,
    columns: Sequence[str] | None = None,
) -> PreferenceBank:
    """The preference models in `folders`; the rest as in `PreferenceBank.load`."""
    from morlaif.preference.bank import PreferenceBank

    pm = job.reads.places.pm if job.reads.places is not None else None
    return PreferenceBank.load(
        folders, base_of(job), job.device, job.dtype, shared=shared, settings=pm, asked=asked, columns=columns
    )


def judge_of(job: AnyJob, settings: J) -> J:
    """The settings of a judge, with the run's SFT model where they name no other."""
    if isinstance(settings, HfSettings) and settings.path is None:
        return settings.model_copy(update={"path": str(job.needs.sft)})
    return settings


def _model(job: AnyJob) -> ModelSettings | None:
    return job.reads.places.model if job.reads.places is not None else None

"""Finished preference models of each kind, opened for scoring: rows of ids in, scores out.

`Opener` knows where models lie, and lends out each base once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.models.adapters import Adapter, adapter_hash, read_adapter
from morlaif.models.load import load_tokenizer
from morlaif.models.place import Source
from morlaif.preference.lora import forward_tokens, size
from morlaif.preference.model import Dialogue, fingerprint, head, load_classifier, pad_batch, tokenize
from morlaif.preference.pretrained import PretrainedModel, Text
from morlaif.preference.questions import question_ids
from morlaif.preference.report import MODEL, PMReport, read_report
from morlaif.preference.scorers import AdapterScorer, EnsembleScorer, FullScorer, Scorer
from morlaif.preference.scoring import length_buckets
from morlaif.preference.sets import Asked
from morlaif.preference.settings import PMSettings, PretrainedPM, outside_base
from morlaif.preference.tied import classifier_on

Prompts = Sequence[Sequence[Message]]
R = TypeVar("R", Dialogue, Text)


class Reader(ABC):
    """Finished models that are read together: some of a bank's columns."""

    names: tuple[str, ...]

    @abstractmethod
    def score(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        """(B, len(names)) float32."""

    def deviation(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        """(B, len(names)) between the members of each score; NaN where there are none."""
        return torch.full((len(responses), len(self.names)), torch.nan)

    def modules(self) -> Iterator[nn.Module]:
        """The networks behind the scores."""
        return iter(())


class BucketReader(Reader, Generic[R]):
    """A network that reads dialogues of like length at once."""

    def __init__(self, names: tuple[str, ...], device: torch.device, tokens: int) -> None:
        """tokens: of one forward, padding included."""
        self.names, self.device, self.tokens = names, device, tokens
        self.sharded = bool([hook for module in self.modules() for hook in sharded.gather_in_forward(module)])

    @abstractmethod
    def encode(self, messages: Sequence[Message], response: str) -> R: ...

    @abstractmethod
    def score_rows(self, rows: Sequence[R]) -> Tensor:
        """(B, len(names))."""

    def deviation_of_rows(self, rows: Sequence[R]) -> Tensor:
        """(B, len(names))."""
        return torch.full((len(rows), len(self.names)), torch.nan, device=self.device)

    def score(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        return self._read(prompts, responses, self.score_rows)

    def deviation(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        return self._read(prompts, responses, self.deviation_of_rows)

    def _read(self, prompts: Prompts, responses: Sequence[str], read: Callable[[Sequence[R]], Tensor]) -> Tensor:
        result = torch.zeros(len(responses), len(self.names), device=self.device)
        rows = [self.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        buckets = list(length_buckets([len(row.ids) for row in rows], self.tokens))
        most = max(ranks.gather(len(buckets))) if self.sharded else len(buckets)
        for bucket in buckets:
            result[torch.tensor(bucket, device=self.device)] = read([rows[i] for i in bucket])
        for _ in range(most - len(buckets)):  # a forward is an exchange: as many as the rank with the most makes
            read([min(rows, key=lambda row: len(row.ids)) if rows else self.nothing()])
        return result

    @abstractmethod
    def nothing(self) -> R:
        """What a rank without rows passes through a network that all ranks hold in parts."""


class OwnReader(BucketReader[Dialogue]):
    """Models that this project trained."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, report: PMReport, scorer: Scorer, device: torch.device, tokens: int
    ) -> None:
        self.tokenizer, self.scorer = tokenizer, scorer
        self.max_length, self.max_prompt = report.max_length, report.max_prompt
        super().__init__(scorer.names, device, tokens)

    def encode(self, messages: Sequence[Message], response: str) -> Dialogue:
        return tokenize(self.tokenizer, messages, response, self.max_length, self.max_prompt)

    def score_rows(self, rows: Sequence[Dialogue]) -> Tensor:
        return self.scorer.score(pad_batch(rows, self.tokenizer.pad_token_id, self.device))

    def deviation_of_rows(self, rows: Sequence[Dialogue]) -> Tensor:
        found = self.scorer.deviation(pad_batch(rows, self.tokenizer.pad_token_id, self.device))
        return super().deviation_of_rows(rows) if found is None else found

    def nothing(self) -> Dialogue:
        return Dialogue([0], 0)

    def modules(self) -> Iterator[nn.Module]:
        yield from self.scorer.modules()


class AskedReader(OwnReader):
    """A network that reads principles, asked about each dialogue what its prompt decides."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        report: PMReport,
        scorer: Scorer,
        device: torch.device,
        tokens: int,
        asked: Asked,
    ) -> None:
        self.asked = asked
        super().__init__(tokenizer, report, scorer, device, tokens)

    def encode(self, messages: Sequence[Message], response: str) -> Dialogue:
        own = super().encode(messages, response)
        return own._replace(ids=[*own.ids, *question_ids(self.tokenizer, self.asked.text(messages))])


class OtherReader(BucketReader[Text]):
    """A model that somebody else trained."""

    def __init__(self, name: str, model: PretrainedModel, tokens: int) -> None:
        self.model = model
        super().__init__((name,), model.model.device, tokens)

    def encode(self, messages: Sequence[Message], response: str) -> Text:
        return self.model.encode(messages, response)

    def score_rows(self, rows: Sequence[Text]) -> Tensor:
        return self.model.score(rows).unsqueeze(1)

    def nothing(self) -> Text:
        return Text([0], None)

    def modules(self) -> Iterator[nn.Module]:
        yield self.model.model


class Opener:
    """Where the models in `folders` lie, and the bases that they share."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        base: Source | str | Path | None,
        device: torch.device,
        dtype: torch.dtype,
        tokens: int | None,
        shared: PreTrainedModel | None,
        settings: PMSettings | None,
    ) -> None:
        """As `PreferenceBank.load` is given them."""
        self.folders, self.device, self.dtype, self.tokens = folders, device, dtype, tokens
        self.base = None if base is None else Source.of(base, key="model.path")
        self.settings = settings
        self.reports = {name: read_report(name, folder) for name, folder in folders.items()}
        self.bases: dict[str, PreTrainedModel] = {}  # by fingerprint: loaded once, then lent out
        if shared is not None:
            self.bases[fingerprint(shared)] = shared

    def base_of(self, report: PMReport) -> Source:
        """Where the base of a model lies now."""
        origin = report.base
        now = self.base if origin["own"] else self.settings and outside_base(self.settings)
        return now or Source(origin["path"], origin["revision"], key="model.path" if origin["own"] else "pm.base")

    def base_model(self, name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The base that an adapter was trained on: a network of its own, on tensors that are loaded once."""
        report = self.reports[name]
        wanted = report.base["fingerprint"]
        if wanted in self.bases:
            return classifier_on(self.bases[wanted])
        source = self.base_of(report)
        model = load_classifier(source, tokenizer, dtype=self.dtype, device=self.device)
        model.requires_grad_(False)
        if fingerprint(model) != wanted:
            raise UserError(
                f"preference model '{name}': its adapter was trained on '{report.base['path']}', and the weights of "
                f"'{source.path}' are others; give the base it was trained on"
            )
        self.bases[wanted] = model
        return model


def adapter_readers(opener: Opener, names: Sequence[str]) -> list[Reader]:
    """One for all adapters that the same network holds at once."""
    groups: dict[tuple[Hashable, ...], list[str]] = {}
    for name in names:
        report = opener.reports[name]
        members = (len(report.members), *sorted((report.aggregate or {}).items())) if report.members else None
        adapter = None if report.question is None else report.adapter  # of one network that reads questions
        alike = (
            report.base["own"], report.base["fingerprint"], report.pooling, report.max_length, report.max_prompt,
            adapter, members,
        )  # fmt: skip
        groups.setdefault(alike, []).append(name)
    return [_adapter_reader(opener, group) for group in groups.values()]


def _adapter_reader(opener: Opener, names: Sequence[str]) -> Reader:
    reports = [opener.reports[name] for name in names]
    first = reports[0]
    tokenizer = load_tokenizer(opener.base_of(first))
    model = opener.base_model(names[0], tokenizer)
    adapters = [
        partial(_read_checked, opener.folders[name] / member["folder"], name, member["adapter"], model)
        for name, report in zip(names, reports, strict=True)
        for member in report.members or [{"folder": MODEL, "adapter": report.adapter}]
    ]
    asked = [report.question for report in reports if report.question is not None]
    questions = [question_ids(tokenizer, text) for text in asked] or None
    tokens = opener.tokens or forward_tokens(model)
    adapted = AdapterScorer(names, model, adapters, first.pooling, tokens, questions)
    scorer: Scorer = adapted
    if first.aggregate is not None:
        offsets = torch.tensor([[member["offset"] for member in report.members or ()] for report in reports])
        scorer = EnsembleScorer(names, adapted, offsets, **first.aggregate)
    return OwnReader(tokenizer, first, scorer, opener.device, tokens)


def asked_reader(opener: Opener, name: str, asked: Asked) -> Reader:
    """The column `name`: what the network of a model in `opener` says where it is asked otherwise than that model."""
    report = opener.reports[asked.model]
    tokenizer = load_tokenizer(opener.base_of(report))
    model = opener.base_model(asked.model, tokenizer)
    adapter = partial(_read_checked, opener.folders[asked.model] / MODEL, asked.model, str(report.adapter), model)
    tokens = opener.tokens or forward_tokens(model)
    scorer = AdapterScorer((name,), model, [adapter], "last", tokens)
    return AskedReader(tokenizer, report, scorer, opener.device, tokens, asked)


def full_reader(opener: Opener, name: str) -> Reader:
    folder, report = opener.folders[name] / MODEL, opener.reports[name]
    if not (folder / "config.json").is_file():
        raise UserError(f"preference model '{name}': {folder / 'config.json'} is missing")
    trusted = opener.base_of(report).trust_remote_code  # what it was trained from brings its Python along
    source = Source(str(folder), trust_remote_code=trusted, key=f"pm/{name}", own=True)
    tokenizer = load_tokenizer(source)
    model = load_classifier(source, tokenizer, dtype=opener.dtype, device=opener.device).requires_grad_(False)
    scorer = FullScorer(name, model, report.pooling)
    return OwnReader(tokenizer, report, scorer, opener.device, opener.tokens or forward_tokens(model))


def pretrained_reader(opener: Opener, name: str) -> Reader:
    report, settings = opener.reports[name], opener.settings
    origin = report.base
    now = settings.source(name) if isinstance(settings, PretrainedPM) else None
    source = now or Source(origin["path"], origin["revision"], key=f"pm.paths.{name}")
    model = PretrainedModel.load(
        name, source, report.max_length, output=origin.get("output"), dtype=opener.dtype, device=opener.device
    )
    model.max_prompt = report.max_prompt
    if model.fingerprint != origin["fingerprint"]:
        raise UserError(
            f"preference model '{name}': the weights at '{source.path}' are no longer those that were measured; "
            "build its `pm` unit again"
        )
    return OtherReader(name, model, opener.tokens or forward_tokens(model.model))


def _read_checked(folder: Path, name: str, wanted: str, model: PreTrainedModel) -> Adapter:
    adapter = read_adapter(folder, name)
    _check_fits(name, adapter, model)
    if adapter_hash(adapter) != wanted:
        raise UserError(f"preference model '{name}': the adapter in {folder} is not the one that was trained for it")
    return adapter


def _check_fits(name: str, adapter: Adapter, model: PreTrainedModel) -> None:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    for layer, (down, up) in adapter.layers.items():
        if layer not in modules:
            raise UserError(f"preference model '{name}': its adapter changes '{layer}', which the base does not have")
        bare: nn.Module = getattr(modules[layer], "base_layer", modules[layer])
        inputs, outputs = size(bare)
        if (down.shape[1], up.shape[0]) != (inputs, outputs):
            raise UserError(
                f"preference model '{name}': its adapter of '{layer}' is {up.shape[0]} by {down.shape[1]}, the base's "
                f"layer {outputs} by {inputs}"
            )
    want = (1, head(model).in_features)
    if adapter.head.shape != want:
        raise UserError(f"preference model '{name}': its head is {tuple(adapter.head.shape)}, the base wants {want}")

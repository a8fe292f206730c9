"""K preference models behind one call: dialogues in, scores (batch, K) out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

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
from morlaif.preference.model import Dialogue, fingerprint, load_classifier, pad_batch, tokenize
from morlaif.preference.pretrained import PretrainedModel, Text
from morlaif.preference.questions import question_ids
from morlaif.preference.report import MODEL, PMReport, read_report
from morlaif.preference.scorers import AdapterScorer, EnsembleScorer, FullScorer, Scorer
from morlaif.preference.scoring import length_buckets
from morlaif.preference.settings import PMSettings, PretrainedPM, outside_base
from morlaif.preference.share import classifier_on

ADAPTED = ("lora", "trunk", "heads", "conditioned", "ensemble")


_NOTHING = Dialogue([0], 0)  # what a rank without rows passes through a network that all ranks hold in parts


class _Reader(Protocol):
    """Models that read the same ids."""

    names: tuple[str, ...]
    tokens: int  # of one forward, padding included

    def encode(self, messages: Sequence[Message], response: str) -> Dialogue | Text: ...

    def score(self, rows: Sequence[Dialogue | Text]) -> Tensor: ...  # (B, len(names))

    def deviation(self, rows: Sequence[Dialogue | Text]) -> Tensor: ...  # the same, NaN where there are no members

    def modules(self) -> Iterator[nn.Module]: ...


class _OwnReader:
    """Models that this project trained."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, report: PMReport, scorer: Scorer, device: torch.device, tokens: int
    ) -> None:
        self.names, self.tokens = scorer.names, tokens
        self.tokenizer, self.scorer, self.device = tokenizer, scorer, device
        self.max_length, self.max_prompt = report.max_length, report.max_prompt

    def encode(self, messages: Sequence[Message], response: str) -> Dialogue:
        return tokenize(self.tokenizer, messages, response, self.max_length, self.max_prompt)

    def score(self, rows: Sequence[Dialogue]) -> Tensor:
        return self.scorer.score(pad_batch(rows, self.tokenizer.pad_token_id, self.device))

    def deviation(self, rows: Sequence[Dialogue]) -> Tensor:
        found = self.scorer.deviation(pad_batch(rows, self.tokenizer.pad_token_id, self.device))
        return torch.full((len(rows), len(self.names)), torch.nan, device=self.device) if found is None else found

    def modules(self) -> Iterator[nn.Module]:
        yield from self.scorer.modules()


class _OtherReader:
    """A model that somebody else trained."""

    def __init__(self, name: str, model: PretrainedModel, tokens: int) -> None:
        self.names, self.model, self.tokens = (name,), model, tokens
        self.encode = model.encode

    def score(self, rows: Sequence[Text]) -> Tensor:
        return self.model.score(rows).unsqueeze(1)

    def deviation(self, rows: Sequence[Text]) -> Tensor:
        return torch.full((len(rows), 1), torch.nan, device=self.model.model.device)

    def modules(self) -> Iterator[nn.Module]:
        yield self.model.model


class PreferenceBank:
    """Scores dialogues under all its principles. Build it with `load`."""

    def __init__(self, names: Sequence[str], readers: Sequence[_Reader], device: torch.device) -> None:
        self.names = tuple(names)
        self._readers, self._device = tuple(readers), device
        hooks = [list(map(sharded.gather_in_forward, reader.modules())) for reader in self._readers]
        self._sharded = list(map(any, hooks))

    @classmethod
    def load(
        cls,
        folders: Mapping[str, Path],
        base: Source | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tokens: int | None = None,
        shared: PreTrainedModel | None = None,
        settings: PMSettings | None = None,
    ) -> PreferenceBank:
        """The models in `folders` (artifacts of `pm`, by principle), each base loaded once.

        `base`: where the run's SFT model lies now (the store may have moved since the adapters were trained); weights
        other than those an adapter was trained on are an error. `tokens` bounds the padded tokens of one forward
        (None: what suits the device and the model). `shared`: a network in memory, such as a policy's frozen base under
        its adapter; adapters that were trained on the same weights score on its tensors, and no base is loaded then.
        `settings`: the run's, which say where models lie that it did not train, and whether these may run Python of
        their own; without them they are looked for where they lay, and may not.
        """
        if not folders:
            raise UserError("no preference models were given; name at least one principle")
        device = torch.device(device)
        places = {name: Path(folder) for name, folder in folders.items()}
        loader = _Loader(places, base, device, dtype, tokens, shared, settings)
        return cls(tuple(folders), loader.readers(), device)

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Tensor:
        """(B, K) float32 on the bank's device, columns in the order of `names`."""
        scores = self._run(prompts, responses, lambda reader, rows: reader.score(rows))
        for name, column in zip(self.names, scores.T, strict=True):
            if not torch.isfinite(column).all():
                raise UserError(f"preference model '{name}': its scores are not finite; train it with a lower rate")
        return scores

    def deviation(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Tensor:
        """(B, K): how far the members of each score stand apart; NaN for models that are no ensemble."""
        return self._run(prompts, responses, lambda reader, rows: reader.deviation(rows))

    @torch.no_grad()
    def _run(
        self,
        prompts: Sequence[Sequence[Message]],
        responses: Sequence[str],
        read: Callable[[_Reader, Sequence[Dialogue | Text]], Tensor],
    ) -> Tensor:
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        result = torch.zeros(len(responses), len(self.names), device=self._device)
        for reader, split in zip(self._readers, self._sharded, strict=True):
            columns = torch.tensor([self.names.index(name) for name in reader.names], device=self._device)
            rows = [reader.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
            buckets = list(length_buckets([len(row.ids) for row in rows], reader.tokens))
            most = max(ranks.gather(len(buckets))) if split else len(buckets)
            for bucket in buckets:
                where = torch.tensor(bucket, device=self._device)
                result[where.unsqueeze(1), columns] = read(reader, [rows[i] for i in bucket])
            shortest = min(rows, key=lambda row: len(row.ids), default=_NOTHING)
            for _ in range(most - len(buckets)):  # a forward is an exchange: as many as the rank with the most makes
                read(reader, [shortest])
        return result

    def modules(self) -> Iterator[nn.Module]:
        """The networks behind the scores."""
        for reader in self._readers:
            yield from reader.modules()


class _Loader:
    """From folders to readers."""

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
        self.folders, self.device, self.dtype, self.tokens = folders, device, dtype, tokens
        self.base = None if base is None else Source.of(base, key="model.path")
        self.settings = settings
        self.reports = {name: read_report(name, folder) for name, folder in folders.items()}
        self.bases: dict[str, PreTrainedModel] = {}  # by fingerprint: loaded once, then lent out
        if shared is not None:
            self.bases[fingerprint(shared)] = shared

    def readers(self) -> list[_Reader]:
        readers: list[_Reader] = []
        for group in self._alike().values():
            kind = self.reports[group[0]].kind
            if kind in ADAPTED:
                readers.append(self._adapters(group))
            elif kind == "full":
                readers += [self._full(name) for name in group]
            elif kind == "pretrained":
                readers += [self._pretrained(name) for name in group]
            else:
                raise UserError(f"preference model '{group[0]}': its kind '{kind}' cannot be scored here")
        return readers

    def _alike(self) -> dict[tuple, list[str]]:
        """Names by what one scorer can hold."""
        groups: dict[tuple, list[str]] = {}
        for name, report in self.reports.items():
            members = (len(report.members), *sorted(report.aggregate.items())) if report.members else None
            adapter = report.adapter if report.kind == "conditioned" else None
            key = (
                report.kind, report.base["own"], report.base["fingerprint"], report.pooling, report.max_length,
                report.max_prompt, adapter, members,
            )  # fmt: skip
            groups.setdefault(key, []).append(name)
        return groups

    def _adapters(self, names: Sequence[str]) -> _Reader:
        report = self.reports[names[0]]
        tokenizer = load_tokenizer(self._base_of(report))
        model = self._base_model(names[0], report, tokenizer)
        adapters = []
        for name in names:
            for member in self.reports[name].members or [{"folder": MODEL, "adapter": self.reports[name].adapter}]:
                folder = self.folders[name] / member["folder"]
                adapters.append(partial(_read_checked, folder, name, member["adapter"], model))
        questions = None
        if report.kind == "conditioned":
            questions = [question_ids(tokenizer, self.reports[name].question) for name in names]
        tokens = self.tokens or forward_tokens(model)
        scorer: Scorer = AdapterScorer(names, model, adapters, report.pooling, tokens, questions)
        if report.members:
            offsets = torch.tensor([[m["offset"] for m in self.reports[name].members] for name in names])
            scorer = EnsembleScorer(names, scorer, offsets, **report.aggregate)
        return _OwnReader(tokenizer, report, scorer, self.device, tokens)

    def _base_of(self, report: PMReport) -> Source:
        origin = report.base
        now = self.base if origin["own"] else self.settings and outside_base(self.settings)
        return now or Source(origin["path"], origin["revision"], key="model.path" if origin["own"] else "pm.base")

    def _base_model(self, name: str, report: PMReport, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The base that these adapters were trained on: a network of its own, on tensors that are loaded once."""
        wanted = report.base["fingerprint"]
        if wanted in self.bases:
            return classifier_on(self.bases[wanted])
        source = self._base_of(report)
        model = load_classifier(source, tokenizer, dtype=self.dtype, device=self.device)
        model.requires_grad_(False)
        if fingerprint(model) != wanted:
            raise UserError(
                f"preference model '{name}': its adapter was trained on '{report.base['path']}', and the weights of "
                f"'{source.path}' are others; give the base it was trained on"
            )
        self.bases[wanted] = model
        return model

    def _full(self, name: str) -> _Reader:
        folder, report = self.folders[name] / MODEL, self.reports[name]
        if not (folder / "config.json").is_file():
            raise UserError(f"preference model '{name}': {folder / 'config.json'} is missing")
        trusted = self._base_of(report).trust_remote_code  # what it was trained from brings its Python along
        source = Source(str(folder), trust_remote_code=trusted, key=f"pm/{name}", own=True)
        tokenizer = load_tokenizer(source)
        model = load_classifier(source, tokenizer, dtype=self.dtype, device=self.device).requires_grad_(False)
        scorer = FullScorer(name, model, report.pooling)
        return _OwnReader(tokenizer, report, scorer, self.device, self.tokens or forward_tokens(model))

    def _pretrained(self, name: str) -> _Reader:
        report = self.reports[name]
        origin = report.base
        now = self.settings.source(name) if isinstance(self.settings, PretrainedPM) else None
        source = now or Source(origin["path"], origin["revision"], key=f"pm.paths.{name}")
        model = PretrainedModel.load(name, source, report.max_length, dtype=self.dtype, device=self.device)
        model.max_prompt = report.max_prompt
        if model.fingerprint != origin["fingerprint"]:
            raise UserError(
                f"preference model '{name}': the weights at '{source.path}' are no longer those that were measured; "
                "build its `pm` unit again"
            )
        return _OtherReader(name, model, self.tokens or forward_tokens(model.model))


def _read_checked(folder: Path, name: str, wanted: str, model: PreTrainedModel) -> Adapter:
    adapter = read_adapter(folder, name)
    _check_fits(name, adapter, model)
    if adapter_hash(adapter) != wanted:
        raise UserError(f"preference model '{name}': the adapter in {folder} is not the one that was trained for it")
    return adapter


def _check_fits(name: str, adapter: Adapter, model: PreTrainedModel) -> None:
    modules = dict(model.named_modules())
    for layer, (down, up) in adapter.layers.items():
        if layer not in modules:
            raise UserError(f"preference model '{name}': its adapter changes '{layer}', which the base does not have")
        inputs, outputs = size(getattr(modules[layer], "base_layer", modules[layer]))
        if (down.shape[1], up.shape[0]) != (inputs, outputs):
            raise UserError(
                f"preference model '{name}': its adapter of '{layer}' is {up.shape[0]} by {down.shape[1]}, the base's "
                f"layer {outputs} by {inputs}"
            )
    want = (1, model.score.in_features)
    if adapter.head.shape != want:
        raise UserError(f"preference model '{name}': its head is {tuple(adapter.head.shape)}, the base wants {want}")

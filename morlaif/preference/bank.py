"""K preference models behind one call: dialogues in, scores (batch, K) out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.models.load import load_tokenizer
from morlaif.preference.adapters import Adapter, read_adapter
from morlaif.preference.model import (
    Batch,
    Pooling,
    fingerprint,
    load_classifier,
    pad_batch,
    pool,
    score_batch,
    tokenize,
    trunk_states,
)
from morlaif.preference.scoring import BUCKET_TOKENS, StackedLora, length_buckets, stack_adapters
from morlaif.preference.train import MODEL, REPORT


class Scorer(Protocol):
    """Some of the bank's models that share a network."""

    names: tuple[str, ...]

    def score(self, batch: Batch) -> Tensor:
        """(B, len(names)) float32."""
        ...

    def modules(self) -> Iterable[nn.Module]:
        """The networks, for moving and for counting memory."""
        ...


class LoraScorer:
    """Adapters on one shared base: as many as fit the token budget go through it in one forward."""

    def __init__(
        self, names: Sequence[str], model: nn.Module, adapters: Sequence[Adapter], pooling: Pooling, tokens: int
    ) -> None:
        self.names = tuple(names)
        self.model, self.pooling, self.tokens = model, pooling, tokens
        self.heads = nn.Parameter(
            torch.cat([adapter.head for adapter in adapters]).float().to(next(model.parameters()).device),
            requires_grad=False,
        )  # (K, H)
        self.layers: list[StackedLora] = stack_adapters(model, [adapter.layers for adapter in adapters])

    def score(self, batch: Batch) -> Tensor:
        together = max(1, min(len(self.names), self.tokens // batch.ids.numel()))
        parts = []
        for start in range(0, len(self.names), together):
            active = slice(start, min(start + together, len(self.names)))
            for layer in self.layers:
                layer.active = active
            group = active.stop - active.start
            rows = batch.repeat(group)
            pooled = pool(trunk_states(self.model, rows.ids), rows, self.pooling).float()
            pooled = pooled.view(group, len(batch.ids), -1)
            parts.append(torch.einsum("gbh,gh->bg", pooled, self.heads[active]))
        return torch.cat(parts, dim=1)

    def modules(self) -> Iterable[nn.Module]:
        return [self.model]


class FullScorer:
    """One whole model."""

    def __init__(self, name: str, model: nn.Module, pooling: Pooling) -> None:
        self.names = (name,)
        self.model, self.pooling = model, pooling

    def score(self, batch: Batch) -> Tensor:
        return score_batch(self.model, batch, self.pooling).unsqueeze(1)

    def modules(self) -> Iterable[nn.Module]:
        return [self.model]


@dataclass(frozen=True)
class _Reader:
    """Scorers that read the same ids."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    scorers: tuple[Scorer, ...]


class PreferenceBank:
    """Scores dialogues under all its principles. Build it with `load`."""

    def __init__(self, names: Sequence[str], readers: Sequence[_Reader], device: torch.device, tokens: int) -> None:
        self.names = tuple(names)
        self._readers, self._device, self._tokens = tuple(readers), device, tokens

    @classmethod
    def load(
        cls,
        folders: Mapping[str, Path],
        base: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tokens: int | None = None,
    ) -> PreferenceBank:
        """The models in `folders` (artifacts of `pm`, by principle), each base loaded once.

        `base`: where the run's SFT model lies now (the store may have moved since the adapters were trained); weights
        other than those an adapter was trained on are an error. `tokens` bounds the padded tokens of one forward
        (None: what suits the device).
        """
        if not folders:
            raise UserError("no preference models were given; name at least one principle")
        device = torch.device(device)
        tokens = tokens or BUCKET_TOKENS.get(device.type, BUCKET_TOKENS["cuda"])
        reports = {name: _report(name, Path(folder)) for name, folder in folders.items()}
        readers: list[_Reader] = []
        for group in _shared(reports).values():
            first = reports[group[0]]
            if first["kind"] == "lora":
                origin = first["base"]
                moved = base is not None and origin["own"] and str(base) != origin["path"]
                path, revision = (str(base), None) if moved else (origin["path"], origin["revision"])
                paths = {name: Path(folders[name]) for name in group}
                readers.append(_load_adapters(group, paths, reports, path, revision, device, dtype, tokens))
            else:
                readers += [_load_full(name, Path(folders[name]), reports[name], device, dtype) for name in group]
        return cls(tuple(folders), readers, device, tokens)

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Tensor:
        """(B, K) float32 on the bank's device, columns in the order of `names`."""
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        scores = torch.zeros(len(responses), len(self.names), device=self._device)
        for reader in self._readers:
            rows = [
                tokenize(reader.tokenizer, prompt, response, reader.max_length)
                for prompt, response in zip(prompts, responses, strict=True)
            ]
            for bucket in length_buckets([len(row.ids) for row in rows], self._tokens):
                batch = pad_batch([rows[i] for i in bucket], reader.tokenizer.pad_token_id, self._device)
                where = torch.tensor(bucket, device=self._device)
                for scorer in reader.scorers:
                    columns = torch.tensor([self.names.index(name) for name in scorer.names], device=self._device)
                    scores[where.unsqueeze(1), columns] = scorer.score(batch)
        return scores

    def modules(self) -> Iterator[nn.Module]:
        """The networks behind the scores."""
        for reader in self._readers:
            for scorer in reader.scorers:
                yield from scorer.modules()


def _report(name: str, folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    if not path.is_file():
        raise UserError(f"preference model '{name}': {path} is missing; is this the folder of a finished `pm` unit?")
    report = json.loads(path.read_text())
    if report["kind"] not in ("lora", "full"):
        raise UserError(f"preference model '{name}': {path} says kind '{report['kind']}', which cannot be scored here")
    return report


def _shared(reports: Mapping[str, dict[str, Any]]) -> dict[tuple, list[str]]:
    """Names by what they can share: base, pooling and length."""
    groups: dict[tuple, list[str]] = {}
    for name, report in reports.items():
        base = report["base"]
        key = (report["kind"], base["own"], base["fingerprint"], report["pooling"], report["max_length"])
        groups.setdefault(key, []).append(name)
    return groups


def _load_adapters(
    names: Sequence[str],
    folders: Mapping[str, Path],
    reports: Mapping[str, dict[str, Any]],
    base: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
) -> _Reader:
    report = reports[names[0]]
    tokenizer = load_tokenizer(base, revision=revision)
    model = load_classifier(base, tokenizer, revision=revision, dtype=dtype, device=device)
    if fingerprint(model) != report["base"]["fingerprint"]:
        raise UserError(
            f"preference model '{names[0]}': its adapter was trained on '{report['base']['path']}', and the weights of "
            f"'{base}' are others; give the base it was trained on"
        )
    adapters = []
    for name in names:
        adapter = read_adapter(folders[name] / MODEL, name)
        _check_fits(name, adapter, model)
        adapters.append(adapter)
    return _Reader(tokenizer, report["max_length"], (LoraScorer(names, model, adapters, report["pooling"], tokens),))


def _check_fits(name: str, adapter: Adapter, model: nn.Module) -> None:
    sizes = dict(model.named_modules())
    for layer, (down, up) in adapter.layers.items():
        if layer not in sizes:
            raise UserError(f"preference model '{name}': its adapter changes '{layer}', which the base does not have")
        weight = sizes[layer].weight
        if {down.shape[1], up.shape[0]} != set(weight.shape):
            raise UserError(
                f"preference model '{name}': its adapter of '{layer}' is {up.shape[0]} by {down.shape[1]}, the base's "
                f"layer {' by '.join(map(str, weight.shape))}"
            )
    want = tuple(model.score.weight.shape)
    if adapter.head.shape != want:
        raise UserError(f"preference model '{name}': its head is {tuple(adapter.head.shape)}, the base wants {want}")


def _load_full(name: str, folder: Path, report: dict[str, Any], device: torch.device, dtype: torch.dtype) -> _Reader:
    if not (folder / MODEL / "config.json").is_file():
        raise UserError(f"preference model '{name}': {folder / MODEL / 'config.json'} is missing")
    tokenizer = load_tokenizer(folder / MODEL)
    model = load_classifier(folder / MODEL, tokenizer, dtype=dtype, device=device)
    return _Reader(tokenizer, report["max_length"], (FullScorer(name, model, report["pooling"]),))

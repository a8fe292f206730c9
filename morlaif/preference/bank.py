"""K preference models behind one call: dialogues in, scores (batch, K) out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from morlaif.errors import UserError
from morlaif.models.place import Source
from morlaif.preference.kinds import read_models
from morlaif.preference.readers import Opener, Prompts, Reader, asked_reader
from morlaif.preference.sets import Ask
from morlaif.preference.settings import PMSettings

Read = Callable[[Prompts, Sequence[str]], Tensor]


class PreferenceBank:
    """Scores dialogues under all its principles. Build it with `load`."""

    def __init__(self, names: Sequence[str], readers: Sequence[Reader], device: torch.device) -> None:
        self.names = tuple(names)
        self._readers, self._device = tuple(readers), device

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
        asked: Mapping[str, Ask] | None = None,
        columns: Sequence[str] | None = None,
    ) -> PreferenceBank:
        """The models in `folders` (artifacts of `pm`, by principle), each base loaded once.

        `base`: where the run's SFT model lies now (the store may have moved since the adapters were trained); weights
        other than those an adapter was trained on are an error. `tokens` bounds the padded tokens of one forward
        (None: what suits the device and the model). `shared`: a network in memory, such as a policy's frozen base under
        its adapter; adapters that were trained on the same weights score on its tensors, and no base is loaded then.
        `settings`: the run's, which say where models lie that it did not train, and whether these may run Python of
        their own; without them they are looked for where they lay, and may not. `asked`: further columns, by name: what
        a network in `folders` that reads principles is asked besides. `columns`: which to give, in their order; None:
        all.
        """
        if not folders:
            raise UserError("no preference models were given; name at least one principle")
        device = torch.device(device)
        places = {name: Path(folder) for name, folder in folders.items()}
        opener = Opener(places, base, device, dtype, tokens, shared, settings)
        asked = asked or {}
        by_kind: dict[str, list[str]] = {}
        wanted = (*folders, *asked) if columns is None else tuple(columns)
        for name, report in opener.reports.items():
            if name in wanted:
                by_kind.setdefault(report.kind, []).append(name)
        readers = [reader for kind, names in by_kind.items() for reader in read_models(opener, kind, names)]
        for name, ask in asked.items():
            if name in wanted:
                readers.append(asked_reader(opener, name, ask.of(opener.reports)))
        return cls(wanted, readers, device)

    def score(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        """(B, K) float32 on the bank's device, columns in the order of `names`."""
        scores = self._read(prompts, responses, [reader.score for reader in self._readers])
        for name, column in zip(self.names, scores.T, strict=True):
            if not torch.isfinite(column).all():
                raise UserError(f"preference model '{name}': its scores are not finite; train it with a lower rate")
        return scores

    def deviation(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        """(B, K): how far the members of each score are apart; NaN for models that are no ensemble."""
        return self._read(prompts, responses, [reader.deviation for reader in self._readers])

    def modules(self) -> Iterator[nn.Module]:
        """The networks behind the scores."""
        for reader in self._readers:
            yield from reader.modules()

    @torch.no_grad()
    def _read(self, prompts: Prompts, responses: Sequence[str], reads: Sequence[Read]) -> Tensor:
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        result = torch.zeros(len(responses), len(self.names), device=self._device)
        for reader, read in zip(self._readers, reads, strict=True):
            result[:, [self.names.index(name) for name in reader.names]] = read(prompts, responses).to(self._device)
        return result

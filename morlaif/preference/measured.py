"""Models of a kind from outside, trained, tested as all models are, and read by a bank."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.models.place import absolute
from morlaif.preference.card import write_short_card
from morlaif.preference.kind import OwnKind, Scorer
from morlaif.preference.model import Dialogue
from morlaif.preference.pairs import label_pairs
from morlaif.preference.readers import Opener, Prompts, Reader
from morlaif.preference.report import MODEL, PMReport, measures
from morlaif.preference.tasks import Corpus, Task


def train_and_measure(kind: str, own: OwnKind, task: Task, corpus: Corpus, seed: int) -> PMReport | UserError:
    """Train a model, load what it left, and test that on the held-out verdicts."""
    name, folder = task.principle, task.out / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    data = label_pairs(_words, corpus.pairs, {name: task.verdicts})
    held = label_pairs(_words, corpus.held_pairs, {name: task.held_verdicts})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            own.train(task, corpus, folder, seed)
        except UserError as error:
            return error
    base = None if corpus.base is None else corpus.source
    scorer = own.load(folder, base, corpus.device)
    prompts = [pair.messages for pair in corpus.held_pairs]
    sides = [[pair.first for pair in corpus.held_pairs], [pair.second for pair in corpus.held_pairs]]
    with torch.no_grad():
        scores = torch.stack([_scored(name, scorer, prompts, side) for side in sides], dim=1)  # (N, 2)
    origin = {"path": kind, "revision": None, "own": False, "fingerprint": ""}
    if base is not None:
        origin |= {"path": absolute(base.path), "revision": base.revision, "own": corpus.own_base}
    report = PMReport(
        principle=name, text=task.text, kind=kind, pooling="own", max_length=0, max_prompt=0, base=origin,
        adapter=None, train_loss=None, steps=0, together=[name],
        **measures(0, data, data.judged(0), held, scores.double().numpy()),
    )  # fmt: skip
    report.save(task.out)
    write_short_card(folder / "README.md", report, f"A model of the kind {kind}, which is not part of this project.")
    return report


class ScoreReader(Reader):
    """One model of a kind from outside."""

    def __init__(self, name: str, own: OwnKind, opener: Opener) -> None:
        self.names = (name,)
        report = opener.reports[name]
        base = opener.base_of(report) if own.on_policy else None
        self.scorer = own.load(opener.folders[name] / MODEL, base, opener.device)

    def score(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        return _scored(self.names[0], self.scorer, prompts, responses).unsqueeze(1)


def _scored(name: str, scorer: Scorer, prompts: Prompts, responses: Sequence[str]) -> Tensor:
    """(B,) float32 on the CPU."""
    scores = scorer(prompts, responses)
    if not isinstance(scores, Tensor) or scores.shape != (len(responses),):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(
            f"preference model '{name}': its scores should be a tensor of shape ({len(responses)},), one for each "
            f"response; found {found}"
        )
    return scores.detach().float().cpu()


def _words(messages: Sequence[Message], response: str) -> Dialogue:
    """A response by its words, by which two are distinguished and compared in length, whatever a model reads."""
    return Dialogue([zlib.crc32(word.encode()) for word in response.split()], 0)

"""A preference model that knows words alone: ridge regression of the verdicts on the words of the two responses."""

import json
from collections import Counter

import torch

from morlaif.preference.kind import OwnKind


class Words(OwnKind):
    on_policy = False  # it starts from nothing

    def __init__(self, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def train(self, task, corpus, folder, seed):
        counts = {pair.id: (Counter(pair.first.split()), Counter(pair.second.split())) for pair in corpus.pairs}
        verdicts = [verdict for verdict in task.verdicts if verdict.valid]
        judged = [counts[verdict.pair_id] for verdict in verdicts]
        words = sorted({word for first, second in judged for word in first | second})
        x = torch.tensor([[first[word] - second[word] for word in words] for first, second in judged]).double()
        y = torch.tensor([2 * verdict.p_first - 1 for verdict in verdicts]).double()
        weights = torch.linalg.solve(x.T @ x + self.ridge * torch.eye(len(words)), x.T @ y).tolist()
        (folder / "words.json").write_text(json.dumps(dict(zip(words, weights, strict=True))))

    def load(self, folder, base, device):
        weights = json.loads((folder / "words.json").read_text())
        return lambda prompts, responses: torch.tensor(
            [sum(weights.get(word, 0.0) for word in response.split()) for response in responses]
        )

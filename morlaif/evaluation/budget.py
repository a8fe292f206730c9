"""What each arm was given, and whether the arms were given the same: else a comparison compares budgets too.

FLOPs are by formula: two for each parameter and token in a forward, twice as many again in a backward where all weights
learn, as many where adapters alone do; embeddings and attention over the context are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from morlaif.evaluation.results import ArmBudget, Budgets

COMPARED = (
    "verdicts", "label_tokens", "ratings", "completions", "completion_tokens", "usd",
    "pm_pairs_each", "pm_settings", "rank", "adapters", "parameters",
    "pm_steps", "pm_flops", "ppo_episodes", "ppo_tokens", "scoring_flops", "ppo_settings",
)  # fmt: skip
NEAR = 0.01  # amounts that differ by a smaller share are the same
READERS = ("conditioned", "salmon")  # kinds of which one network reads the principles
READ, BACK, LEARN = 2, 2, 2  # a parameter and token: forward; gradients of states; gradients of weights


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the base of the preference models, and of the texts that they read."""

    body: int  # parameters that a token passes through
    parameters: int
    width: int
    adapted: int  # inputs and outputs of all linear layers: parameters of an adapter for each of its rank
    prompt: float  # tokens, in the mean
    response: float  # of the pairs


@dataclass(frozen=True, slots=True)
class Spent:
    """What the artifacts of an arm tell: by model `pm.json` and manifest, by labels `quality.json` and manifest; the
    manifest and the curve of its policy; the ratings that its weights took."""

    pms: Mapping[str, Mapping[str, Any]]
    pm_manifests: Mapping[str, Mapping[str, Any]]
    qualities: Mapping[str, Mapping[str, Any]]
    feedback_manifests: Mapping[str, Mapping[str, Any]]
    policy: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]] = ()
    ratings: Mapping[str, float] | None = None
    sizes: Sizes | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The budget of one arm, and the settings that it was spent with."""

    budget: ArmBudget
    pm_settings: Any  # None where its preference models do not share them
    ppo_settings: Any

    def value(self, key: str) -> Any:
        """What `key` of COMPARED is."""
        return getattr(self if key.endswith("_settings") else self.budget, key)


def arm_budget(spent: Spent) -> Given:
    """What is unknown is None."""
    pms, summary = spent.pms, spent.policy.get("summary", {})
    pairs = [report["pairs"]["train"] for report in pms.values()]
    settings = [manifest.get("reads", {}).get("pm") for manifest in spent.pm_manifests.values()]
    shared = settings[0] if settings and all(one == settings[0] for one in settings) else None
    models = _Models(shared, list(pms.values()), spent.sizes) if shared else None
    rated = _added([spent.ratings or {}, *_ratings(spent.curve)])
    costs = [
        quality[split]["cost"]
        for quality in spent.qualities.values()
        for split in ("train", "eval")
        if split in quality
    ]
    written = summary.get("completion_usd")
    usd = sum(cost.get("usd", 0.0) for cost in costs) + rated.get("usd", 0.0) + (written or 0.0)
    lengths = [row["length"] for row in spent.curve if row.get("length") is not None]
    episodes = summary.get("episodes")
    length = sum(lengths) / len(lengths) if lengths else None
    budget = ArmBudget(
        pms=len(pms),
        adapters=models.trained if models else None,
        parameters=models.parameters if models else None,
        pm_pairs=sum(pairs) if pairs else None,
        pm_pairs_each=max(pairs) if pairs else None,
        pm_steps=models.steps if models else sum(report.get("steps") or 0 for report in pms.values()) if pms else None,
        pm_flops=models.training if models else None,
        rank=((shared or {}).get("lora") or {}).get("r"),
        verdicts=_verdicts(spent.qualities, spent.feedback_manifests),
        label_tokens=_tokens(costs) if costs else None,
        ratings=rated.get("ratings"),
        usd=usd if costs or "usd" in rated or written is not None else None,
        completions=summary.get("completions"),
        completion_tokens=summary.get("completion_tokens"),
        completion_usd=written,
        ppo_steps=summary.get("steps"),
        ppo_episodes=episodes,
        ppo_tokens=episodes * length if episodes is not None and length is not None else None,
        scoring_flops=models.scoring(episodes, length) if models and episodes is not None and length else None,
    )
    return Given(budget, shared, spent.policy.get("reads", {}).get("ppo"))


def compared(arms: Mapping[str, Given]) -> Budgets:
    """The budget of each arm, what is the `same` for all, and what `differs`; settings are compared whole and left out
    of the table. What no arm knows is neither."""
    first, *others = arms.values()
    known = [key for key in COMPARED if any(given.value(key) is not None for given in arms.values())]
    differs = [key for key in known if not all(_alike(other.value(key), first.value(key)) for other in others)]
    same = [key for key in known if key not in differs]
    return Budgets({arm: given.budget for arm, given in arms.items()}, not differs, differs, same)


def _alike(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, int | float):
        return abs(first - second) <= NEAR * max(abs(first), abs(second))
    return bool(first == second)


@dataclass(frozen=True, slots=True)
class _Models:
    """Preference models of one kind, by their settings and reports."""

    settings: Mapping[str, Any]
    reports: Sequence[Mapping[str, Any]]
    sizes: Sizes | None

    @property
    def members(self) -> int:
        return int(self.settings.get("members", 1))

    @property
    def adapters(self) -> int:
        """Of each model."""
        return 1 if self.settings.get("member") == "heads" else self.members

    @property
    def one_network(self) -> bool:
        """Whether all of them are views of one."""
        return self.settings.get("kind") in ("heads", *READERS)

    @property
    def top(self) -> float:
        """The share of the layers that each has for itself."""
        kinds = (self.settings.get("kind"), self.settings.get("member"))
        return float(self.settings.get("top", 1.0)) if "trunk" in kinds else 1.0

    @property
    def known(self) -> bool:
        return self.settings.get("kind") in ("lora", "trunk", "full", "heads", "ensemble", *READERS)

    @property
    def trained(self) -> int | None:
        if not self.known:
            return None
        return 1 if self.one_network else len(self.reports) * self.adapters

    @property
    def parameters(self) -> int | None:
        sizes = self.sizes
        if sizes is None or self.trained is None:
            return None
        heads = sizes.width * (1 if self.settings["kind"] in READERS else len(self.reports) * self.members)
        if self.settings["kind"] == "full":
            return self.trained * sizes.parameters + heads
        return round(self.trained * self.top * self.settings["lora"]["r"] * sizes.adapted) + heads

    @property
    def steps(self) -> int:
        """Of optimizers: each member of an ensemble takes its own, unless they learn in one pass."""
        steps = [report.get("steps") or 0 for report in self.reports]
        one_pass = self.adapters == 1 or self.settings.get("diversity") or self.settings.get("shared_steps")
        return (max(steps, default=0) if self.one_network else sum(steps)) * (1 if one_pass else self.members)

    @property
    def training(self) -> float | None:
        """FLOPs; states below the top that are kept over epochs are counted each time."""
        if self.sizes is None or not self.known:
            return None
        tokens = self.sizes.prompt + self.sizes.response
        adapters = self.settings["kind"] != "full"
        each = READ + (BACK if adapters else BACK + LEARN) * self.top
        reports = self.reports[:1] if self.one_network else self.reports
        pairs = sum(self._pairs(report) for report in reports) * self.adapters
        return 2 * pairs * tokens * each * self.sizes.body

    def _pairs(self, report: Mapping[str, Any]) -> float:
        """That a model has learnt from, as often as it did."""
        taken = (report.get("steps") or 0) * self.settings.get("batch_size", 1)
        if self.one_network:  # from the verdicts of all of them
            return float(taken)
        return float(min(taken, report["pairs"]["train"] * self.settings.get("epochs", 1)))

    def scoring(self, responses: float, length: float) -> float | None:
        """FLOPs to score so many responses of so many tokens."""
        if self.sizes is None or not self.known:
            return None
        own = 1 if self.one_network else len(self.reports) * self.adapters
        share = (1 - self.top) + own * self.top  # what lies below the top runs once for all
        return responses * (self.sizes.prompt + length) * READ * share * self.sizes.body


def _ratings(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What a judge as the reward counted at each step."""
    return [{key.removeprefix("reward/"): row[key] for key in row if key.startswith("reward/")} for row in curve]


def _added(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for count in counts for kind in count)
    return {kind: sum(count.get(kind, 0.0) for count in counts) for kind in kinds}


def _verdicts(qualities: Mapping[str, Mapping[str, Any]], manifests: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Verdicts on the training pairs: for the constitution as many a pair as principles were drawn for it."""
    if not qualities:
        return None
    total = 0
    for name, quality in qualities.items():
        each = manifests.get(name, {}).get("reads", {}).get("verdicts_per_pair", 1)
        total += quality["train"]["n"] * each
    return total


def _tokens(costs: Sequence[Mapping[str, float]]) -> float:
    return float(sum(cost.get("input_tokens", 0.0) + cost.get("output_tokens", 0.0) for cost in costs))

"""What an evaluation leaves behind, typed: `results.json`, the headlines, and `details.json`, all that pages show.

`evaluate` builds both, `report` and `compare` read them back; what does not fit is an error with its place.
Accuracies are by standard: `human` (labels of people), `truth` (a known world's hidden utility), `label` (AI labels).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from morlaif.errors import Damaged
from morlaif.files import read_json
from morlaif.naming import labelled_by
from morlaif.statistics import Interval

T = TypeVar("T")
SFT, CEILING = "sft", "ceiling"
LAYOUT = 6  # the first version of the stage that wrote these files as they are
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its interval from `n` independent units; all three are None where nothing is known."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        return cls(*parts(interval))


def parts(interval: Interval) -> tuple[float | None, float | None, float | None, int]:
    """Fields of an `Estimate`."""
    return known(interval.value), known(interval.low), known(interval.high), interval.n


def known(value: float) -> float | None:
    return None if math.isnan(value) else value


Accuracies = dict[str, Estimate]  # by standard


@dataclass(frozen=True, slots=True)
class Rate(Estimate):
    """A win rate, ties counted half, and the shares of the prompts behind it."""

    win: float | None
    tie: float | None
    loss: float | None
    flip_rate: float | None  # of prompts on which the two orders name different winners
    invalid: int  # prompts without a usable verdict, left out


@dataclass(frozen=True, slots=True)
class ControlledRate(Estimate):
    """A win rate with the effect of length taken out; `value` is None where it is withheld."""

    coef_length: Estimate  # above zero, the judge favours the longer answer
    longer: float | None  # share of prompts on which the first is the longer
    withheld: str | None  # why


@dataclass(frozen=True, slots=True)
class CheckedRate(Estimate):
    """Share of a policy's responses of which a judge says yes to a question about the one response."""

    invalid: int = 0  # responses without an answer


@dataclass(frozen=True, slots=True)
class Gain:
    """Of the objective, from PPO's first step to its last."""

    first: float
    last: float


@dataclass(frozen=True)
class RunResults:
    """results.json. A comparison is called `<first>_vs_<second>`, by the names of two policies."""

    pm_accuracy: dict[str, Estimate]  # of the principles' models, on their own held-out labels
    single_pm_accuracy: Estimate | None  # of the constitution's
    pm_truth_accuracy: dict[str, Estimate]
    objective_accuracy: dict[str, Accuracies]  # by arm; "ceiling": the mean of the true scores of the run's principles
    win_rate: dict[str, Rate]
    yardstick: Yardstick  # of all win rates
    reward: Gain  # of the first arm, as is `kl`
    kl: float | None
    length: dict[str, float]  # mean tokens of each policy's answers
    budget: Budgets | None = None


# --- the run, its arms and its judge --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmFacts:
    labels: str  # where they come from: principles, constitution, human or none
    models: list[str]  # its preference models; none where its reward needs none
    title: str  # what pages call its policy
    method: str = "ppo"  # the stage that made it
    kl_bound: bool = False  # whether its KL is no estimate but an upper bound

    @property
    def of_principles(self) -> bool:
        """Whether its reward has a part for each principle, which an objective combines."""
        return self.labels in ("principles", "none")

    @property
    def named(self) -> str:
        """The title within a sentence: "max-min", "the single PM"."""
        return self.title if self.of_principles else f"the {self.title}"


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A policy that was kept while it learnt, against SFT on the same prompts."""

    step: int
    kl: float | None  # nats a response
    proxy: Estimate | None  # gained in what it is trained on, before shaping and KL
    gold: Estimate | None  # gained in the hidden utility, log-odds; None where the world's is unknown
    win_rate: Rate
    tokens: float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """By what policies were compared, and on what. Rows of different ones share no table."""

    id: str  # of all below but the name
    judge: str  # its name
    judge_id: str  # of its settings, its weights, the version of the hidden utility
    template: str  # of the words in which a language model is asked; empty: none is
    prompts: str  # of the prompts
    count: int  # of the prompts


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Of a judge with people on held-out pairs, and of the rule that the longer response is better."""

    judge: Estimate
    longer: Estimate
    difference: Estimate  # of the two, on the same pairs

    @property
    def tells(self) -> bool:
        """Whether the judge is clearly better than the rule, and than chance."""
        sure, apart = self.judge.low, self.difference.low
        return sure is not None and sure > 0.5 and apart is not None and apart > 0


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    source: str
    name: str
    cost: dict[str, float] = field(default_factory=dict)
    served: dict[str, Any] | None = None  # which model answered, by its server
    warnings: list[str] = field(default_factory=list)  # why its verdicts say nothing
    accuracy: Estimate | None = None  # of a preference model as the judge, on pairs that it was not trained on
    agreement: JudgeAgreement | None = None  # with people, where the data has labels of theirs

    @property
    def doubt(self) -> str:
        """Why its win rates bear no verdict in words; empty where they do."""
        if self.source == "rules":  # the hidden utility itself
            return ""
        if self.agreement is None:
            return "how far it agrees with people is not known: the data has no human labels to ask it about"
        return "" if self.agreement.tells else "it is not clearly surer of what people prefer than the longer response"


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """Means over the prompts."""

    tokens: float
    words: float
    ended: float  # share that ended by itself
    distinct: float  # share of different texts


@dataclass(frozen=True, slots=True)
class Difference(Estimate):
    """Of the win rates of `first` and `second` over `against`, on the prompts on which both have a verdict."""

    first: str
    second: str
    against: str


# --- preference models and objectives on held-out pairs -------------------------------------------------------------

Matrix = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Correlations:
    """Pearson's, over the held-out pairs."""

    names: list[str]
    labels: Matrix
    scores: Matrix  # of the models' score differences
    truth: Matrix | None


@dataclass(frozen=True, slots=True)
class CrossAccuracy:
    """Of model i (row) on the labels of principle j (column)."""

    models: list[str]
    labels: list[str]
    value: Matrix
    low: Matrix
    high: Matrix
    n: list[list[int]]


@dataclass(frozen=True, slots=True)
class TieAccuracy:
    """Without the pairs that the label leaves undecided, and with them as ½."""

    without_ties: Estimate
    with_ties: Estimate
    tied: float | None  # share of pairs that the label leaves undecided


@dataclass(frozen=True, slots=True)
class Calibration:
    brier: float
    ece: float
    bins: list[dict[str, float | int]]


@dataclass(frozen=True, slots=True)
class CutPairs:
    """What pairs that were too long have lost."""

    pairs: int
    prompt_tokens: int
    response_tokens: int
    equal: int  # left out, since their sides were equal after it


@dataclass(frozen=True, slots=True)
class Truncation:
    max_prompt: int
    train: CutPairs
    held_out: CutPairs


@dataclass(frozen=True, slots=True)
class Nested:
    """The objective of the first `count` principles."""

    count: int
    names: list[str]
    accuracy: Accuracies
    ceiling: Accuracies  # of perfect scores in place of the models'


@dataclass(frozen=True, slots=True)
class SampledSubsets:
    """The mean over random subsets of `count` principles."""

    count: int
    subsets: int
    accuracy: Accuracies
    ceiling: Accuracies


@dataclass(frozen=True, slots=True)
class LeftOut:
    without: str
    accuracy: Accuracies
    ceiling: Accuracies
    change: Accuracies  # against all principles, paired


@dataclass(frozen=True, slots=True)
class Ablation:
    names: list[str]
    ceiling_of: str  # "truth" or "labels"
    nested: list[Nested]
    random: list[SampledSubsets]
    leave_one_out: list[LeftOut]
    scalarizer: str = ""  # the run's, or linear where that needs all principles


@dataclass(frozen=True, slots=True)
class BenchAccuracy:
    all: Estimate
    subsets: dict[str, Estimate]
    mean: float  # over subsets, as RewardBench reports it


@dataclass(frozen=True, slots=True)
class Bench:
    rows: int
    models: dict[str, BenchAccuracy]
    objectives: dict[str, BenchAccuracy]


@dataclass(frozen=True, slots=True)
class RegressionRow:
    """The weight of one principle for the human label, others held equal, in deviations of its scores."""

    name: str
    standardized: float
    low: float
    high: float
    p_value: float
    sign: str  # positive, negative or unclear


@dataclass(frozen=True, slots=True)
class RegressionFound:
    source: str  # of the labels
    problem: str | None = None  # why there is none
    pairs: int = 0
    rows: list[RegressionRow] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


# --- policies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sacrificed(Estimate):
    principle: str  # that lost most
    lost: bool  # clearly: its interval, widened for having been picked, lies below zero


@dataclass(frozen=True, slots=True)
class Losses:
    """By policy: as the preference models see it, and by the known truth where there is one."""

    pm: dict[str, Sacrificed | None]
    truth: dict[str, Sacrificed | None] | None


@dataclass(frozen=True, slots=True)
class PrincipleSign:
    pm: Estimate
    truth: Estimate | None
    sign: str | None  # hacked, hollow or none; None without a truth


@dataclass(frozen=True, slots=True)
class Drift:
    sft: float
    policy: float
    change: Estimate


@dataclass(frozen=True, slots=True)
class Signs:
    """Of reward hacking, in one policy against SFT."""

    principles: dict[str, PrincipleSign]
    hacked: list[str]  # the model's score rose and the true one fell
    hollow: list[str]  # the model's score rose and the true one did not
    objective: Estimate | None
    judged: Rate | None
    judged_worse: bool
    agreement: Estimate | None  # of models and truth on what changed
    length: Drift
    kl: float | None


@dataclass(frozen=True, slots=True)
class Front:
    """Policies as points, one coordinate a principle, more is better."""

    names: list[str]
    points: dict[str, list[float]]
    front: list[str]
    fronts: dict[str, list[str]]  # of two principles "a|b"
    reference: list[float]
    hypervolume: dict[str, float]
    relative: dict[str, float]  # to that of SFT, as edges of cubes
    together: float
    added: dict[str, float]  # by each policy to all others


@dataclass(frozen=True, slots=True)
class Pareto:
    models: Front | None
    truth: Front | None

    @property
    def relative(self) -> dict[str, float]:
        """By the truth where there is one."""
        view = self.truth or self.models
        return view.relative if view else {}


@dataclass(frozen=True, slots=True)
class ArmBudget:
    """What one arm was given; None where it is not known."""

    pms: int
    adapters: int | None = None  # networks that are trained: of an ensemble its members, of models with one trunk that
    parameters: int | None = None  # of the preference models, that learn
    pm_pairs: int | None = None
    pm_pairs_each: int | None = None
    pm_steps: int | None = None
    pm_flops: float | None = None  # of their training, by formula
    rank: int | None = None
    verdicts: int | None = None
    label_tokens: float | None = None  # that the judge read and wrote for its labels
    ratings: float | None = None  # of single responses, while the policy learnt
    usd: float | None = None  # for labels, ratings and completions
    completions: int | None = None  # of a teacher, that were imitated
    completion_tokens: float | None = None  # that it read and wrote for them
    completion_usd: float | None = None
    ppo_steps: int | None = None
    ppo_episodes: int | None = None
    ppo_tokens: float | None = None  # sampled
    scoring_flops: float | None = None  # of preference models in PPO, by formula


@dataclass(frozen=True, slots=True)
class Budgets:
    arms: dict[str, ArmBudget]
    equal: bool  # in all that is counted
    differs: list[str]
    same: list[str] = field(default_factory=list)  # what "equal" may be said of


@dataclass(frozen=True, slots=True)
class ArmWeights:
    """weights.json of an arm: of each column of its reward."""

    names: list[str]
    mean: list[float]
    scale: list[float]
    direction: list[float]  # −1 where less is better
    weight: list[float]
    normalizer: str = "frozen"
    responses: float = 0
    method: str = ""
    responses_from: str = ""
    interval: dict[str, list[float]] = field(default_factory=dict)
    regression: dict[str, Any] | None = None
    ratings: dict[str, float] = field(default_factory=dict)  # what a judge as the reward counted


@dataclass(frozen=True, slots=True)
class LabelRelations:
    """How the labels of the principles relate; see `feedback.aggregate`."""

    names: list[str]
    agreement: Matrix
    correlation: Matrix
    mean_correlation: float | None
    human: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    halo: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunDetails:
    """details.json."""

    # the run
    prompts: int
    pairs: int
    confidence: float
    judge: JudgeFacts
    principles: list[str]
    names: list[str]  # of the preference models, the principles' first
    arms: dict[str, ArmFacts]  # the first is the run's policy, the others are what it is compared with
    policies: dict[str, str]  # from outside: name -> folder or hub id
    # policies
    responses: dict[str, ResponseFacts]
    length_controlled: dict[str, ControlledRate]
    paired: list[Difference]
    score_change: dict[str, dict[str, Estimate]]  # by policy and model, against SFT, in deviations of its scores
    true_change: dict[str, dict[str, Estimate]] | None
    utility_change: dict[str, Estimate] | None  # by policy, of the hidden utility, in log-odds, against SFT
    sacrificed: Losses
    hacking: dict[str, Signs]
    pareto: Pareto
    # preference models and objectives
    correlation: Correlations
    cross_accuracy: CrossAccuracy
    tie_accuracy: dict[str, TieAccuracy]
    length_baseline: Accuracies  # of preferring the longer response
    calibration: dict[str, Calibration | None]
    cut: dict[str, Truncation]
    single_principle: dict[str, Accuracies]  # of each model alone
    scalarizer_accuracy: dict[str, Accuracies]  # of the same models under other scalarizers
    scalarizer_ceiling: dict[str, Accuracies]
    ablation: Ablation | None
    rewardbench: Bench | None
    regression: RegressionFound | None
    # what it took
    budget: Budgets
    weights: dict[str, ArmWeights]
    label_quality: dict[str, dict[str, Any]]  # quality.json of `feedback`, by model
    labels: LabelRelations
    length_ratio_controlled: dict[str, ControlledRate] = field(default_factory=dict)
    rates: dict[str, dict[str, CheckedRate]] = field(default_factory=dict)  # by question and policy
    # by arm, in the order of their steps: where `eval.kept` asks for them
    kept: dict[str, list[KeptPolicy]] = field(default_factory=dict)

    @property
    def whole(self) -> list[str]:
        """Preference models of no single principle, such as the constitution's."""
        return [name for name in self.names if labelled_by(name) not in self.principles]


# --- files ----------------------------------------------------------------------------------------------------------


def save(value: Any, file: Path) -> None:
    file.write_text(json.dumps(as_json(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def as_json(value: Any) -> Any:
    """A dataclass of this module as JSON has it."""
    return asdict(value)


def load(kind: type[T], file: Path, what: str = "an evaluation's file") -> T:
    """
    Raises:
        Damaged: it is not there, or is none of this version.
    """
    return parse(kind, read_json(file, what, of=dict, failure=Damaged), file)


def load_arms(file: Path) -> dict[str, ArmFacts]:
    """Those of a details.json."""
    return parse(
        dict[str, ArmFacts], read_json(file, "an evaluation's details", of=dict, failure=Damaged).get("arms"), file
    )


def parse(kind: type[T], value: Any, where: Path) -> T:
    try:
        adapter = _ADAPTERS.get(kind) or _ADAPTERS.setdefault(kind, TypeAdapter(kind))
        found: T = adapter.validate_python(value)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Damaged(f"{where}: {place}: {first['msg'].lower()}: damaged, or written by another version") from None

"""What is judged (principles) and who judges it (feedback sources)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, field_validator, model_validator

from morlaif.data.files import find_file
from morlaif.errors import UserError, suggest
from morlaif.params import checked, wanted
from morlaif.registry import Registry
from morlaif.settings import (
    DISTINCT,
    NUMBER,
    Address,
    Batch,
    Coefficient,
    Count,
    Dollars,
    GreedyTemperature,
    Line,
    LogOdds,
    NonNegative,
    OneOf,
    Outside,
    Params,
    PathText,
    Positive,
    Probability,
    Seconds,
    Seed,
    Seeded,
    Settings,
    Share,
    Temperature,
    Text,
    Tokens,
    Whole,
)

Covers = Annotated[tuple[Line, ...], Field(min_length=1), DISTINCT]  # toy principles whose mean the rules judge takes


RESERVED = ("single", "human", "mixed", "gold")  # preference models of labels of no one principle


class Wording(Settings):
    """How a judge is asked about a principle. The question is put so that the better option is always the answer."""

    question: Text  # one line: which of the two options …?
    description: Text  # what counts for and against
    covers: Covers


class Principle(Wording):
    """A wording with its name."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]


class Criterion(Settings):
    """What a single response is rated by; a higher rating is always better."""

    name: Line
    ask: Text  # how well does this reply …?
    covers: Covers


UNRATED = "(This was written for a choice between two. Ask how well the one reply would stand.)"


class PrinciplesSettings(Settings):
    """The principles to choose from, which of them a run uses, and the constitution of the single-model baseline."""

    definitions: Annotated[dict[str, Wording], Field(min_length=1)]
    ratings: dict[Line, Text]  # how a response is rated by itself, by name; the wording for pairs serves the others
    select: list[Line] | None  # names; null: all
    count: Count | None  # the first so many, after ordering; null: all
    order: Literal["listed", "random"]
    seed: Seed  # of the random order
    constitution: Annotated[list[Principle], Field(min_length=1)]
    verdicts_per_pair: Count  # constitution principles drawn for each pair

    @field_validator("definitions", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name in RESERVED:
                raise ValueError(f"'{name}' names another preference model: call the principle something else")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> PrinciplesSettings:
        for name in self.select or ():
            if name not in self.definitions:
                raise ValueError(
                    f"select: no principle '{name}'.{suggest(name, self.definitions)} "
                    f"Known: {', '.join(self.definitions)}"
                )
        if self.select is not None and (not self.select or len(set(self.select)) < len(self.select)):
            raise ValueError(f"select: give each principle once, and at least one, not {self.select}")
        available = len(self.select or self.definitions)
        if self.count is not None and self.count > available:
            raise ValueError(
                f"count: {self.count} asked for, {available} to choose from; give at most {available}, or null for all"
            )
        if self.verdicts_per_pair > len(self.constitution):
            raise ValueError(f"verdicts_per_pair: at most {len(self.constitution)}, the length of the constitution")
        names = [principle.name for principle in self.constitution]
        if len(set(names)) < len(names):
            raise ValueError("constitution: two principles with one name")
        for name in self.definitions:
            Principle(name=name, **self.definitions[name].model_dump())  # the name's own rule
        known = [*self.definitions, *names]
        for name in self.ratings:  # one that is like no name is left of a constitution that a preset has replaced
            if name not in known and (near := suggest(name, known)):
                raise ValueError(f"ratings: no principle, here or in the constitution, '{name}'.{near}")
        return self

    @property
    def chosen(self) -> tuple[Principle, ...]:
        """The run's principles: selected by name, ordered, and of those the first `count`."""
        names = list(self.definitions) if self.select is None else list(self.select)
        if self.order == "random":
            random.Random(self.seed).shuffle(names)
        return tuple(
            Principle(name=name, **self.definitions[name].model_dump()) for name in names[: self.count or len(names)]
        )

    def criterion(self, principle: Principle, name: str | None = None) -> Criterion:
        """How a response is rated under `principle`, as the column `name` (None: the principle's own)."""
        ask = self.ratings.get(principle.name, f"{principle.question} {principle.description} {UNRATED}")
        return Criterion(name=name or principle.name, ask=ask, covers=principle.covers)


class StopSettings(Settings):
    """When labels that say too little stop a run: after the first 20 pairs under a principle, and at the end.

    Nothing stops by itself. The limit depends on what a run is for, a poor judge may be the very thing that is
    studied, and a warning on the console and on the page is there in any case; whoever leaves a large run alone sets
    a limit.
    """

    orders_disagree: Probability | None
    spread: Annotated[Probability, Field(le=0.5)] | None
    letter_mass: Probability | None


class PriceSettings(Settings):
    """US dollars for a million tokens."""

    input: Dollars
    output: Dollars

    def usd(self, read: float, written: float) -> float:
        """For so many tokens."""
        return (read * self.input + written * self.output) / 1e6


class RulesSettings(Seeded):
    """The toy world's transparent judge, made fallible: gap = (s_A − s_B + noise·ε)/temperature + position_bias."""

    outside_digest = frozenset({"stop_if"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"price": (None,)}

    source: Literal["rules"]
    temperature: Temperature  # in deviations of a principle's score; lower is surer
    noise: Coefficient  # scale of the logistic error on a score difference; 0: always right
    position_bias: LogOdds  # log-odds given away to whichever option is shown first
    price: PriceSettings | None  # its words count as tokens; null: it costs nothing, and none are counted
    stop_if: StopSettings


class WorkedExample(Settings):
    """A worked example that a judge is shown before it is asked."""

    message: Text  # of the user
    option_a: Text
    option_b: Text
    question: Text  # of the criterion, as in a principle
    description: Text
    answer: Literal["A", "B"]


class Exemplar(WorkedExample):
    """A worked example whose answer may be reasoned."""

    rationale: Text | None  # before the answer; null: none


W = TypeVar("W", bound=WorkedExample)
Thoughts = Annotated[Tokens, Field(ge=16)]


class CotSettings(Settings):
    max_tokens: Thoughts


def _balanced(value: tuple[W, ...]) -> tuple[W, ...]:
    a = sum(example.answer == "A" for example in value)
    if abs(2 * a - len(value)) > 1:
        raise ValueError(f"{a} of {len(value)} examples are answered A; give as many of each, or they teach a place")
    return value


class FewShotSettings(Settings):
    examples: Annotated[tuple[WorkedExample, ...], Field(min_length=1), AfterValidator(_balanced)]


class ScoreSettings(Settings):
    temperature: Temperature
    max_tokens: Tokens


class JointSettings(Settings):
    audit_fraction: Probability
    max_tokens: Thoughts


class BatchSettings(Settings):
    """Limits of the batch interface, and how to wait for it."""

    discount: Share  # price of a batched request, as a share of the usual one
    max_requests: Annotated[int, Field(ge=1, le=50_000), NUMBER]
    max_bytes: Annotated[Count, Field(ge=10_000)]
    max_enqueued_tokens: Count | None
    poll: Seconds
    wait: NonNegative | None
    rounds: Batch


class OpenAISettings(Seeded):
    """A server that speaks OpenAI's chat completions: OpenAI, vLLM, SGLang, llama.cpp, Ollama."""

    outside_digest = frozenset({
        "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "backoff",
        "patience", "min_validity", "price", "budget_usd", "order", "delivery", "batch", "survive_kill", "model_alias",
        "stop_if",
    })  # fmt: skip
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"served": (None, "")}

    source: Literal["openai"]
    base_url: Address
    provider: Line | None  # who answers, in the ledger's key; null: base_url
    model: Line  # auto: the one that the server lists
    model_alias: Literal["any"] | tuple[Line, ...] | None  # other names under which it may answer; null: none
    # Which model that is; "": nobody knows; null: ask.
    served: Annotated[str, Field(pattern=r"^[\w.-]*$", max_length=200)] | None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None  # null: the server wants no key
    mode: Literal["logprob", "cot", "few_shot", "score", "joint"]
    cot: CotSettings
    few_shot: FewShotSettings
    score: ScoreSettings
    joint: JointSettings
    order: Literal["principle", "pair"]
    delivery: Literal["live", "batch"]
    batch: BatchSettings
    logprobs: Literal["auto", "always", "never"]
    top_logprobs: Annotated[int, Field(ge=2, le=20), NUMBER]
    max_tokens: Tokens
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"]
    votes: Annotated[int, Field(ge=1, le=1000), NUMBER]
    vote_temperature: Annotated[Temperature, Field(le=2)]
    extra_body: Params
    concurrency: Annotated[int, Field(ge=1, le=4096), NUMBER]
    requests_per_minute: Positive | None  # null: as the server's headers say, if they do
    tokens_per_minute: Positive | None  # input and output; null: as the server's headers say
    timeout: Seconds  # seconds for one request
    retries: Annotated[Whole, Field(le=1000)]  # of one request, after 5xx, time-outs and dropped connections
    backoff: Seconds  # seconds before the first repetition; doubles up to a minute, with jitter
    patience: Seconds  # seconds that one request may spend waiting for 429s to pass
    ask_again: bool  # whether a question whose reply in the ledger is unusable is asked once more
    min_validity: Probability
    stop_if: StopSettings
    price: PriceSettings
    survive_kill: bool  # whether a process of its own asks, which takes replies in even if the run is killed
    budget_usd: Annotated[Dollars, Field(gt=0)] | None  # in all that the ledger holds, over every run; null: no cap

    @property
    def who(self) -> str:
        """Who is asked, as keys have it: the name, and which model that is."""
        return f"{self.model} = {self.served}" if self.served else self.model

    @property
    def who_at(self) -> str:
        """And where, as keys have it."""
        return self.provider or self.base_url.rstrip("/")

    @field_validator("extra_body")
    @classmethod
    def _no_override(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("model", "messages", "n", "stream", "temperature", "logprobs", "top_logprobs"):
            if key in value:
                raise ValueError(f"'{key}' is set by the judge itself and cannot be given here")
        return value


class JudgePlace(Settings):
    """Where the presets of feedback and evaluation find one judge for both; what they make of it is what counts."""

    path: PathText | None  # a folder, a hub id, or the address of a server
    model: Line  # of a server
    api_key_env: Line | None


class ThoughtSettings(Settings):
    """Reasoning, written first, before the letters are read in a second step."""

    max_tokens: Thoughts
    samples: Annotated[int, Field(ge=1, le=1000), NUMBER]  # whose probabilities are averaged
    temperature: GreedyTemperature  # 0 is greedy

    @model_validator(mode="after")
    def _drawn(self) -> ThoughtSettings:
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"temperature: {self.samples} greedy samples would be the same; set it above 0")
        return self


class Prompting(Settings):
    """How a local judge is asked for more than a letter at once (Lee et al. 2023, arXiv 2309.00267)."""

    thought: ThoughtSettings | None
    exemplars: Annotated[tuple[Exemplar, ...], AfterValidator(_balanced)]

    @model_validator(mode="after")
    def _reasoned(self) -> Prompting:
        if self.thought is not None and any(exemplar.rationale is None for exemplar in self.exemplars):
            raise ValueError("exemplars: each needs a rationale, where the judge is to reason as they do (thought)")
        return self


class HumanSettings(Seeded):
    """The label that human raters gave, where the data has one; the principle's wording plays no part."""

    source: Literal["human"]


class HfSettings(Seeded):
    """A causal language model of your own, run here."""

    outside_digest = frozenset({"device", "batch_size", "order", "stop_if", "path", "revision", "trust_remote_code"})
    reads_outside: ClassVar[Mapping[str, Outside]] = {"path": "model"}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"prompting": (None,)}

    source: Literal["hf"]
    path: PathText | None  # a folder or a hub id; null: the run's own SFT model, as far as it labels or rates
    revision: Line | None
    trust_remote_code: bool
    dtype: Literal["float32", "bfloat16", "float16"]
    # "auto": the accelerator, where there is one
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")]
    batch_size: Batch
    prompting: Prompting | None  # null: a letter at once
    stop_if: StopSettings
    order: Literal["principle", "pair"]

    @field_validator("path", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("must be given: a finished unit's folder, one in Hugging Face format, or a hub id")
        return value


class JsonlSettings(Seeded):
    """Ready verdicts from a file, whose content, not its place, counts in a digest."""

    outside_digest = frozenset({"path", "stop_if"})

    source: Literal["jsonl"]
    path: PathText | None  # must be given
    stop_if: StopSettings


class FoundJudge(NamedTuple):
    """A judge in another package, and what it is made of."""

    cls: type
    params: dict[str, Any]
    takes_seed: bool


class PluginFeedback(Seeded):
    """A judge in a package of the user's: a class that inherits `morlaif.feedback.plugin.PairJudge`."""

    outside_digest = frozenset({"stop_if"})
    reads_outside: ClassVar[Mapping[str, Outside]] = {"source": "function"}

    source: Line | None  # dotted path, or the name of an entry point; must be given
    params: Params
    stop_if: StopSettings

    def found(self, key: str = "feedback", *methods: str) -> FoundJudge:
        """Imports it.

        Args:
            key: of these settings in the config, for messages.
            methods: of which it must have one of its own.

        Raises:
            UserError: there is none, it cannot be imported, it is no judge, or it has other parameters.
        """
        where = f"{key}.source '{self.source}'"
        if self.source is None:
            raise UserError(f"{key}.source: give the dotted path of a judge, such as my_package.judges.Mine")
        cls = replace(JUDGES, key=f"{key}.source").find(self.source)
        if not isinstance(cls, type) or not hasattr(cls, "log_odds"):
            what = "another class" if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise UserError(f"{where}: expected a class that inherits morlaif.feedback.plugin.PairJudge, found {what}")
        if methods and all(getattr(getattr(cls, method), "left_out", False) for method in methods):
            raise UserError(f"{where}: it has no method '{methods[0]}', which is asked of it here")
        params = checked(self.params, wanted(cls, ["seed"]), key=f"{key}.params", path=self.source, name=self.source)
        return FoundJudge(cls, params, "seed" in wanted(cls))


JUDGES: Registry[Any] = Registry(
    kind="judge",
    key="feedback.source",
    home="morlaif.feedback.sources",
    known={
        "rules": "morlaif.feedback.sources.rules.ToyJudge",
        "openai": "morlaif.feedback.sources.openai.ChatJudge",
        "hf": "morlaif.feedback.sources.hf.LocalJudge",
        "human": "morlaif.feedback.sources.human.HumanJudge",
        "jsonl": "morlaif.feedback.sources.jsonl.FileJudge",
    },
)
FeedbackSettings = Annotated[
    RulesSettings | OpenAISettings | HfSettings | HumanSettings | JsonlSettings | PluginFeedback,
    OneOf("source", JUDGES),
]


class Company(Settings):
    """The other principles of a run, for labelling all of them pair by pair; they change no label, and no digest."""

    outside_digest = frozenset({"principles"})

    principles: tuple[Principle, ...]


def shared_reads(settings: FeedbackSettings, principles: tuple[Principle, ...]) -> dict[str, Any]:
    """What a principle's unit reads besides its own principle.

    A joint request puts all of the run's principles before the judge, so they count in the digest (`together`). Where
    they are only asked one after another for the sake of speed (`order`), they do not (`company`).
    """
    if isinstance(settings, OpenAISettings) and settings.mode == "joint" and len(principles) > 1:
        return {"together": tuple(sorted(principles, key=lambda principle: principle.name))}
    pair_by_pair = isinstance(settings, OpenAISettings | HfSettings) and settings.order == "pair"
    return {"company": Company(principles=principles)} if pair_by_pair else {}


def input_files(settings: FeedbackSettings) -> list[Path]:
    """The files that feedback reads besides the pairs; what is in them counts in a unit's digest.

    Raises:
        UserError: one is not there; or the judge of another package is not there, or has other parameters.
    """
    if isinstance(settings, PluginFeedback):
        settings.found("feedback", "log_odds", "judge")
    if not isinstance(settings, JsonlSettings):
        return []
    if settings.path is None:
        raise UserError("feedback.path: give the file of verdicts, as in feedback.path=verdicts.jsonl")
    return [find_file("feedback.path", settings.path)]

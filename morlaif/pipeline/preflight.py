"""All that would stop a run, known before anything is built: every problem at once, a line each, without torch.

Each room knows what is wrong with what it reads; here is which of it this run will read, by the stages that it is
still to build. What the store has already needs neither a server nor a model.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from morlaif.config import Config
from morlaif.data.check import data_problems, template_refuses
from morlaif.data.settings import HubData
from morlaif.devices import compiler_missing, device_problems
from morlaif.errors import MachineError, UserError
from morlaif.evaluation.outside import parts_of
from morlaif.feedback.reach import look, server_problems
from morlaif.feedback.settings import FeedbackSettings, HfSettings, JsonlSettings, OpenAISettings
from morlaif.files import read_json
from morlaif.models.check import Kind, folder_problems
from morlaif.models.fingerprint import hub_commit
from morlaif.models.place import Source, cached_commit, cached_folder, folder_of, looks_local, offline
from morlaif.models.states import state_problems
from morlaif.pipeline.fits import fit_problems
from morlaif.pipeline.served import with_served
from morlaif.planning.arms import arm_problems
from morlaif.planning.checks import WHOLE_OF
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.planning.settle import settled
from morlaif.preference.kind import Kind as PMKind
from morlaif.preference.kinds import kind_of
from morlaif.preference.outputs import output_problem
from morlaif.preference.settings import PretrainedPM, TrainedPM
from morlaif.reward.settings import JudgeReward, MixtureReward, RubricReward
from morlaif.stages.known import METHODS, STAGES
from morlaif.tracking.check import tracking_problems
from morlaif.units.folders import place_problems
from morlaif.units.store import Store
from morlaif.units.unit import Unit

LOADS_MODEL = tuple(stage.name for stage in STAGES if stage.loads_model)


@dataclass
class Preflight:
    """Looks at one config after another, and at what they share but once."""

    tell: Callable[[str], None] = lambda line: None  # is given a line before what takes long
    elsewhere: bool = False  # whether another machine is to build, by a Hydra launcher or the nodes of a cluster
    seen: dict[str, list[str]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)  # lines about servers that do not answer, which is no mistake

    def problems(self, config: Config) -> list[str]:
        """A line for each thing that would stop the run of `config`."""
        config = settled(config)
        unplanned, stages, units = _planned(config, self.tell)
        found: list[str] = []
        for part in (
            _paths(config, stages),
            _objective(config, stages),
            self._data(config, stages),
            self._models(config, stages),
            self._judges(config, stages),
            _packages(config, stages),
            self._device(config, stages),
            fit_problems(config, stages),
            _states(config, units),
        ):
            found += part
        keys = {_key(line) for line in found}
        # What keeps the plan from being made is mostly what a room reports as well, in more words.
        found += [
            line for line in unplanned if _key(line) not in keys and not any(full.endswith(line) for full in found)
        ]
        return list(dict.fromkeys(_of_one_judge(config, found)))

    def check(self, configs: Iterable[Config]) -> None:
        """
        Raises:
            UserError: all problems of all configs. MachineError: the same, where the user has made no mistake.
        """
        if lines := list(dict.fromkeys(line for config in configs for line in self.problems(config))):
            raise self.error(lines)

    def check_ready(self, config: Config) -> None:
        """Once a run has waited for its servers.

        Raises:
            MachineError: one is still loading its model, and nothing that it has answered is known.
        """
        known = Store(config.paths.store).ledger.is_file()
        for key, settings in () if known else _asked(config, _planned(config, self.tell)[1]):
            if isinstance(settings, OpenAISettings) and (found := look(settings, key)).state == "loading":
                raise MachineError(f"{found.line}, {key}.patience={settings.patience:g} s after it was asked first")

    def error(self, lines: Sequence[str]) -> UserError | MachineError:
        """`lines` of `problems` as one error."""
        return (MachineError if self.away.issuperset(lines) else UserError)("\n".join(lines))

    def _once(self, name: str, find: Callable[[], Iterable[str]]) -> list[str]:
        if name not in self.seen:
            self.seen[name] = list(_reported(find))
        return self.seen[name]

    def _data(self, config: Config, stages: set[str]) -> Iterator[str]:
        of_people = any(arm.labels == "human" for arm in config.arms.chosen.values())
        pairs = (config.respond.source == "pairs" or of_people) and "respond" in stages
        imitated = config.sft.method != "none" and "sft" in stages
        folder = Path(config.model.path or "").expanduser()
        asked = bool(stages & set(LOADS_MODEL)) and config.model.path is not None and folder.is_dir()
        name = f"data {config.data.model_dump_json()} {pairs} {imitated} {folder if asked else ''}"
        if "data" in stages:
            if isinstance(config.data, HubData) and config.data.path is None and config.data.id is not None:
                id, revision = config.data.id, config.data.revision
                if cached_commit(id, revision, "datasets") is None:
                    where = f"data.id={id!r}"
                    yield from self._once(f"hub {where} {revision}", lambda: _hub(where, id, revision, "dataset"))
            refuses = {"refuses": template_refuses(folder)} if asked else {}
            yield from self._once(
                name, lambda: data_problems(config.data, pairs=pairs, demonstrations=imitated, **refuses)
            )

    def _models(self, config: Config, stages: set[str]) -> Iterator[str]:
        model = config.model
        if model.path is not None and stages & set(LOADS_MODEL):
            yield from self._model("model.path", model.path, model.trust_remote_code, "causal", model.revision)
        if stages & {"backbone", "pm"}:
            kind = kind_of(config.pm)
            used = (*(principle.name for principle in config.principles.chosen), *WHOLE_OF)
            outside: list[tuple[Source, Kind]] = [
                (source, "classifier") for name, source in kind.existing.items() if name in used
            ]
            policy = Source(model.path or "", model.revision, model.trust_remote_code, key="model.path")
            on_policy = isinstance(config.pm, TrainedPM) and kind.on_policy and model.path is not None
            bases = [kind.base] if kind.base else [policy] if on_policy else []
            outside += [(base, "trunk") for base in bases]
            if isinstance(config.pm, PretrainedPM):
                for name, source in kind.existing.items():
                    if name in used and (wrong := output_problem(source.where, source.path, config.pm.output_of(name))):
                        yield wrong
            for source, form in outside:
                yield from self._model(source.key, source.path, source.trust_remote_code, form, source.revision)
            for base in bases:
                name = f"kind {config.pm.kind} {base}"
                yield from self._once(name, partial(_unfit, kind, str(config.pm.kind), base))
        if "evaluate" in stages:
            for name, where in config.eval.policies.items():
                path, revision = parts_of(where)
                trusted = name in config.eval.trust_remote_code
                yield from self._model(f"eval.policies.{name}", path, trusted, "policy", revision)

    def _device(self, config: Config, stages: set[str]) -> list[str]:
        if self.elsewhere or not stages & set(LOADS_MODEL):
            return []
        return self._once(f"device {config.hardware.device}", lambda: device_problems(config.hardware))

    def _server(self, config: Config, key: str, settings: OpenAISettings, known: bool) -> Iterator[str]:
        for line in server_problems(key, settings, away_is_one=not known):
            if (found := look(settings, key)).state == "away" and found.line == line:
                self.away |= {line, *_of_one_judge(config, [line])}
            yield line

    def _model(self, key: str, path: str, trusted: bool, kind: Kind, revision: str | None) -> list[str]:
        def find() -> Iterator[str]:
            yield from folder_problems(key, path, trusted, kind=kind, revision=revision)
            if not looks_local(path) and not Path(path).is_dir() and cached_folder(path, revision) is None:
                yield from _hub(f"{key}={path!r}", path, revision, "model")

        return self._once(f"model {key} {path} {trusted} {kind} {revision}", find)

    def _judges(self, config: Config, stages: set[str]) -> Iterator[str]:
        ledger = Store(config.paths.store).ledger
        for key, settings in _asked(config, stages):
            if isinstance(settings, OpenAISettings | HfSettings) and ledger.is_dir():
                yield f"{ledger}: a folder is where the ledger's file would be. Name another store (paths.store)."
            name = f"judge {key} {settings.model_dump_json()}"
            match settings:
                case OpenAISettings():
                    # With nobody there a run goes on as far as the ledger knows the answers.
                    known = ledger.is_file()
                    yield from self._once(f"{name} {known}", partial(self._server, config, key, settings, known))
                case HfSettings(path=None):
                    if _nobody(config, key):
                        yield f"{key}.path: give the judge's folder in Hugging Face format, or a hub id"
                case HfSettings(path=str(path)):
                    yield from self._model(f"{key}.path", path, settings.trust_remote_code, "policy", settings.revision)
                case JsonlSettings():
                    yield from self._once(name, partial(_labels, settings))


def _planned(config: Config, tell: Callable[[str], None]) -> tuple[list[str], set[str], list[Unit]]:
    """What keeps a plan from being made, the stages of which a unit is still to be built, and these units."""
    try:
        planned = plan(with_served(config, lambda line: None, wait=False), Contents(config.paths.store, tell))
        store = Store(config.paths.store)
        units = [unit for unit in planned.units if not store.has(unit)]
        return [], {unit.stage.name for unit in units}, units
    except UserError as error:
        return str(error).splitlines(), {*config.reached}, []


def _nobody(config: Config, key: str) -> bool:
    """Whether a judge without a path is a mistake: the run's own model labels and rates, but compares no policies, and
    where these lack a judge too, one for both was forgotten."""
    compares = getattr(config.eval.judge, "engine", None)
    return key.startswith("eval.") or (isinstance(compares, HfSettings) and compares.path is None)


def _of_one_judge(config: Config, lines: Sequence[str]) -> Iterator[str]:
    """What is wrong with the one judge of a run, once: under the key that gives it to feedback and evaluation."""
    keys = r"(feedback|eval\.judge\.engine)\.(path|base_url)"
    given = config.judge.path
    both = {line for line in lines if re.match(rf"{keys}: give the judge's folder", line)}
    for line in lines:
        if len(both) == 2 and line in both:
            yield "judge.path: give the judge: a folder in Hugging Face format, a hub id, or the URL of a server"
        else:
            named = given is not None and re.match(rf"{keys}='?{re.escape(given)}'?(?![^\s:,'])", line)
            yield re.sub(f"^{keys}", "judge.path", line) if named else line


def _key(line: str) -> str:
    """The key that a line begins with."""
    found = re.match(r"[\w.]+", line)
    return found[0] if found else line


def _reported(find: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The lines that `find` yields or raises."""
    try:
        yield from find()
    except UserError as error:
        yield from str(error).splitlines()


def _paths(config: Config, stages: set[str]) -> Iterator[str]:
    if stages:
        yield from place_problems("paths.store", config.paths.store)
    yield from place_problems("paths.runs", config.paths.runs)


def _unfit(kind: PMKind[Any], name: str, base: Source) -> Iterator[str]:
    """A base on which preference models of this kind cannot be trained."""
    folder = folder_of(base.path, base.revision)
    file = None if folder is None else folder / "config.json"
    if file is not None and file.is_file() and (why := kind.refuses(read_json(file, of=dict))) is not None:
        yield f"{base.where} {why}: pm={name} cannot be trained on it; use pm=heads or pm=lora"


def _hub(where: str, id: str, revision: str | None, kind: str) -> Iterator[str]:
    """What keeps this machine from loading what its cache does not have."""
    if offline():
        return
    commit = hub_commit(id, revision, kind)
    if commit.problem is not None:
        yield f"{where}: {commit.problem}"
    elif commit.id is None:
        yield (
            f"{where}: not in the hub's cache, and the hub does not answer; give a folder or a file, or fetch it where "
            "there is a network (hf download)"
        )


def _objective(config: Config, stages: set[str]) -> Iterator[str]:
    if stages & {"weigh", "ppo", "evaluate"}:
        yield from arm_problems(config)
    if "evaluate" in stages and config.eval.rewardbench is not None:
        from morlaif.evaluation.rewardbench import bench_problems

        yield from bench_problems(config.eval.rewardbench)


def _labels(settings: JsonlSettings) -> Iterator[str]:
    from morlaif.feedback.settings import input_files
    from morlaif.feedback.sources.jsonl import label_problems

    for path in input_files(settings):
        yield from label_problems(path)


def _asked(config: Config, stages: set[str]) -> Iterator[tuple[str, FeedbackSettings]]:
    """The judges that are still to be asked, by the keys of their settings."""
    reward = config.reward
    parts = reward.parts if isinstance(reward, MixtureReward) else {"": reward}
    raters = {name: part for name, part in parts.items() if isinstance(part, JudgeReward | RubricReward)}
    rates = bool(stages & {"weigh", "ppo"})
    if "feedback" in stages or (rates and any(rater.engine is None for rater in raters.values())):
        yield "feedback", config.feedback
    for name, rater in raters.items():
        if rates and rater.engine is not None:
            yield f"reward.parts.{name}.engine" if name else "reward.engine", rater.engine
    engine = getattr(config.teacher.teacher, "engine", None)
    if engine is not None and rates and config.arms.taught:
        yield "teacher.teacher.engine", engine
    engine = getattr(config.eval.judge, "engine", None)
    if engine is not None and "evaluate" in stages:
        yield "eval.judge.engine", engine


def _states(config: Config, units: Sequence[Unit]) -> Iterator[str]:
    store = Store(config.paths.store)
    for unit in units:
        if unit.stage.resumes:  # the others begin anew where no state of theirs is whole
            yield from state_problems(store.checkpoints(unit))


def _packages(config: Config, stages: set[str]) -> Iterator[str]:
    def missing(name: str) -> bool:
        return importlib.util.find_spec(name) is None

    if config.hardware.ranks > 1 and stages & set(LOADS_MODEL) and missing("deepspeed"):
        yield "hardware.processes: several ranks need DeepSpeed: pip install 'morlaif[deepspeed]', or processes=1"
    flash = config.model.attention == "flash_attention_2" and stages & set(LOADS_MODEL)
    if flash and missing("flash_attn") and missing("kernels"):
        yield "model.attention: flash_attention_2 needs a package: pip install flash-attn, or use model.attention=sdpa"
    if config.hardware.packing and config.model.attention != "flash_attention_2" and stages & {*METHODS.known}:
        yield (
            f"hardware.packing: {config.model.attention} attention would read the whole row for each of its dialogues; "
            "use model.attention=flash_attention_2 (on a GPU), or hardware.packing=false"
        )
    if config.hardware.compile and stages & {*METHODS.known} and (lacking := compiler_missing(config.hardware.device)):
        yield f"hardware.compile: {lacking}; use hardware.compile=false"
    if stages:
        yield from tracking_problems(config.tracking)
    here = config.ppo.vllm.mode == "colocate" or config.ppo.vllm.handover == "nccl"  # else it is the server's alone
    if config.ppo.rollout == "vllm" and here and "ppo" in stages and missing("vllm"):
        yield "ppo.rollout: vllm is not installed; pip install vllm, or use ppo.rollout=transformers"

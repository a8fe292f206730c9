"""Before a plan is made: which models answer behind the servers that its units ask, since that is part of digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from morlaif.config import Config
from morlaif.feedback.answering import settle
from morlaif.feedback.settings import HfSettings, OpenAISettings, PluginFeedback
from morlaif.planning.plan import plan
from morlaif.reward.settings import MixtureReward
from morlaif.settings import Settings
from morlaif.units.store import Store


def with_served(config: Config, say: Callable[[str], Any], wait: bool) -> Config:
    """`config` with `served` given for each server that a stage of the run would ask.

    Args:
        say: hears what is worth knowing, a line each.
        wait: whether to wait for a server that is loading its model.

    Raises:
        UserError: a server serves another model than the one asked for.
    """
    ledger = Store(config.paths.store).ledger
    for path, settings in list(asked(config)):
        patience = settings.patience if wait else 0.0
        settled = settle(settings, ledger, ".".join(path), patience=patience, say=say)
        config = _put(config, path, settled)
    return config


def asked(config: Config) -> Iterator[tuple[tuple[str, ...], OpenAISettings]]:
    """The servers that the stages of a run would ask, by the keys of their settings."""
    stages = config.reached
    if (
        isinstance(config.feedback, OpenAISettings)
        and "feedback" in stages
        and any(
            getattr(unit.reads, "feedback", None) == config.feedback for unit in plan(config).units
        )  # arms may need no labels
    ):
        yield ("feedback",), config.feedback
    if "weigh" in stages:
        reward = config.reward
        parts = reward.parts if isinstance(reward, MixtureReward) else {"": reward}
        for name, part in parts.items():
            if isinstance(engine := getattr(part, "engine", None), OpenAISettings):
                yield ("reward", *(("parts", name) if name else ()), "engine"), engine
    engine = getattr(config.teacher.teacher, "engine", None)
    if isinstance(engine, OpenAISettings) and "weigh" in stages and config.arms.taught:
        yield ("teacher", "teacher", "engine"), engine
    engine = getattr(config.eval.judge, "engine", None)
    if isinstance(engine, OpenAISettings) and "evaluate" in stages:
        yield ("eval", "judge", "engine"), engine


def judged(config: Config) -> bool:
    """Whether a judge of the run takes something that is no server: a model that runs here, or one from outside."""
    engines = [config.feedback, getattr(config.eval.judge, "engine", None)]
    return any(isinstance(engine, HfSettings | PluginFeedback) for engine in engines)


def _put(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    """`tree` with `value` at `path`; the tree itself stays as it is."""
    if not path:
        return value
    name, *rest = path
    if isinstance(tree, Settings):
        return tree.model_copy(update={name: _put(getattr(tree, name), tuple(rest), value)})
    assert isinstance(tree, Mapping)
    return {**tree, name: _put(tree[name], tuple(rest), value)}

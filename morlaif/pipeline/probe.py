"""How fast this machine is at what a plan asks of it: `dry_run=probe`.

Each forward, backward and sampling step is done once or twice on random weights of the model's own shape; of a model of
many layers, on few, and scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from morlaif.config import Config
from morlaif.devices import cores
from morlaif.errors import UserError
from morlaif.memory.dimensions import config_of
from morlaif.memory.effort import OPERATIONS, Effort
from morlaif.models.place import Source, folder_of
from morlaif.models.settings import LoRASettings, ModelSettings
from morlaif.pipeline.times import Rate
from morlaif.preference.kinds import kind_of

if TYPE_CHECKING:
    import torch

PATIENCE = 20.0  # seconds, after which the rest is scaled from what was measured
CUT = 1, 3  # layers that are timed of a model that has more than MANY: one layer is half the difference
MANY = 4
MOST = 5e10  # operations of one go, some seconds at most
NEW = 4  # tokens that are sampled
ANY = 0.01  # of each weight


def measured(efforts: Iterable[Effort], config: Config, otherwise: Rate) -> tuple[Rate, float]:
    """Seconds of one forward of each effort, and how long it took to find out.

    otherwise: the rate where nothing was measured.
    """
    import torch
    import transformers

    import morlaif.models.generate
    import morlaif.preference.lora  # noqa: F401  what takes time to import is not to be timed

    assert transformers.AutoModelForCausalLM
    began, before = time.perf_counter(), torch.get_num_threads()
    if config.hardware.device == "cpu":
        torch.set_num_threads(config.hardware.threads or cores())
    efforts = list(efforts)
    try:
        found = _measure({one.forward: one for one in efforts if one.op != "load"}, config, began)
        sources = {_source(one.model, config) for one in efforts}
        opened = {source: _opened(*source) for source in sources if source is not None}
    finally:
        torch.set_num_threads(before)

    def rate(one: Effort) -> float:
        if one.op == "load":
            source = _source(one.model, config)
            return otherwise(one) + (opened.get(source, 0.0) if source else 0.0)
        if (seconds := found.get(one.forward)) is not None:
            return seconds[0]
        like = [pair for key, pair in found.items() if key[:2] == one.forward[:2]] or list(found.values())
        if not like:
            return otherwise(one)
        return one.operations * sum(s for s, _ in like) / sum(o for _, o in like)

    return rate, time.perf_counter() - began


def _measure(
    efforts: dict[tuple[object, ...], Effort], config: Config, began: float
) -> dict[tuple[object, ...], tuple[float, float]]:
    """Seconds and operations of each, as far as the time goes; the largest share of the work first."""
    found: dict[tuple[object, ...], tuple[float, float]] = {}
    ordered = sorted(efforts.values(), key=lambda one: -one.operations * one.times)
    for description, dtype, names in _shapes(dict.fromkeys(one.model for one in ordered), config):
        layers = next(one.dims.layers for one in ordered if one.model in names)
        cuts = CUT if layers > MANY else (layers,)
        times: dict[tuple[object, ...], list[float]] = {}
        for cut in cuts:
            model = _model(description, cut, config, dtype)
            for op in ("read", "sample", "adapt", "learn"):  # what changes the model comes last
                for one in (one for one in ordered if one.model in names and one.op == op):
                    late = time.perf_counter() - began > PATIENCE
                    if not late or not times or len(times.get(one.forward, [])) == 1:
                        small, share = _small(one, cut)
                        times.setdefault(one.forward, []).append(_seconds(_work(model, small)) / share)
            del model
        for key, seen in times.items():
            if len(seen) == len(cuts):
                layer = (seen[-1] - seen[0]) / max(1, cuts[-1] - cuts[0])
                seconds = seen[0] + max(0.0, layer) * (layers - cuts[0])
                found[key] = seconds, efforts[key].operations
    return found


def _shapes(models: Iterable[str], config: Config) -> list[tuple[dict[str, Any], str, list[str]]]:
    """What is to be made, in which number format, for which of `models`: the policy and the base are often alike."""
    found: list[tuple[dict[str, Any], str, list[str]]] = []
    for name in models:
        dtype = getattr(config.feedback, "dtype", "float32") if name == "judge" else config.hardware.dtype
        if (description := _config(name, config)) is None:
            continue
        alike = next((names for *same, names in found if same == [description, dtype]), None)
        if alike is None:
            found.append((description, dtype, alike := []))
        alike.append(name)
    return found


def _small(one: Effort, layers: int) -> tuple[Effort, float]:
    """The same with as few rows as take no long time, and their share."""
    head = one.dims.vocabulary * one.dims.width * one.logits
    work = OPERATIONS[one.op] * (one.dims.block * layers * one.rows * one.length + head)
    rows = one.rows if one.op == "sample" else max(1, min(one.rows, int(one.rows * MOST / max(1, work))))
    share = rows / one.rows
    return replace(one, rows=rows, logits=round(one.logits * share)), share


def _source(name: str, config: Config) -> tuple[str, str | None] | None:
    """Path and revision of the policy, of the preference models' base or of the judge; None: made from nothing."""
    if name == "judge":
        engines = (config.feedback, getattr(config.eval.judge, "engine", None))
        paths = [(path, getattr(one, "revision", None)) for one in engines if (path := getattr(one, "path", None))]
        return paths[0] if paths else None
    other = kind_of(config.pm).base if name == "base" else None
    if other is not None:
        return other.path, other.revision
    return None if config.model.path is None else (config.model.path, config.model.revision)


def _config(name: str, config: Config) -> dict[str, Any] | None:
    source = _source(name, config)
    return config_of(*source) if source else _from_nothing(config.model) if name != "judge" else None


def _opened(path: str, revision: str | None) -> float:
    """Seconds to open a tokenizer, where its files lie here: a large vocabulary takes longer than many weights."""
    from morlaif.models.open import open_tokenizer

    if (folder := folder_of(path, revision)) is None:
        return 0.0
    with suppress(UserError, OSError, ValueError, KeyError):  # which is reported where it is wanted
        return _timed(lambda: open_tokenizer(Source.of(folder)))
    return 0.0


def _from_nothing(model: ModelSettings) -> dict[str, Any] | None:
    if (scratch := model.scratch) is None:
        return None
    return {
        "model_type": "llama", "vocab_size": scratch.vocab_size, "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size, "num_hidden_layers": scratch.layers,
        "num_attention_heads": scratch.heads, "tie_word_embeddings": scratch.tie_embeddings,
    }  # fmt: skip


def _model(description: dict[str, Any], layers: int, config: Config, dtype: str) -> Any:
    import torch
    from transformers.initialization import no_init_weights

    from morlaif.models.scratch import model_of_shape

    device = "cpu" if config.hardware.device == "cpu" or not torch.cuda.is_available() else "cuda"
    with torch.device(device), no_init_weights():  # to draw so many numbers takes longer than what is measured
        model = model_of_shape(description, getattr(torch, dtype), layers).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(ANY)
    return model


def _work(model: Any, one: Effort) -> Callable[[], float]:
    """What takes the time of one forward of `one`, and tells it in seconds."""
    import torch

    from morlaif.models.generate import sample
    from morlaif.models.layers import trunk_of
    from morlaif.rl.logprobs import token_logprobs

    device = next(model.parameters()).device
    trunk, head = trunk_of(model), model.get_output_embeddings()
    ids = torch.randint(3, min(250, one.dims.vocabulary), (one.rows, one.length), device=device)

    def forward() -> torch.Tensor:
        hidden = trunk(input_ids=ids).last_hidden_state
        total = hidden.float().mean()
        if one.logits:
            states = hidden.reshape(-1, hidden.shape[-1])[: one.logits]
            total = total + token_logprobs(states, head, ids.flatten()[: len(states)], 1.0)[0].mean()
        return total

    def read() -> None:
        with torch.no_grad():
            forward()

    def generate() -> None:
        with torch.no_grad():
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            for _ in range(NEW):
                noise = torch.rand(one.rows, device=device, dtype=torch.float64)
                picked = sample(out.logits[:, -1], 1.0, 1.0, noise)
                out = model(input_ids=picked[:, None], past_key_values=out.past_key_values, use_cache=True)

    if one.op == "read":
        return lambda: _timed(read)
    if one.op == "sample":
        return lambda: _stretched(_timed(read), _timed(generate), one.new)
    model.requires_grad_(one.op == "learn")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    if one.op == "adapt":
        learning = _adapters(model, one.dropout)
        model.train(one.dropout > 0)
    optimizer = torch.optim.AdamW(learning, lr=0.0)

    def learn() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda: _timed(learn)


def _timed(work: Callable[[], object]) -> float:
    import torch

    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _stretched(prompt: float, sampling: float, new: int) -> float:
    """Seconds of all `new` tokens, from those of the prompt alone and with NEW of them."""
    return prompt + new * max(0.0, sampling - prompt) / NEW


def _adapters(model: Any, dropout: float) -> list[Any]:
    import torch

    from morlaif.preference.lora import StackedLora, fresh, targets

    there = [m for m in model.modules() if isinstance(m, StackedLora)]
    if not there:
        lora = LoRASettings(r=8, alpha=32, dropout=0.0, target_modules="all-linear")
        there = list(fresh(model, targets(model, "all-linear"), lora, [torch.Generator()]).layers.values())
    for layer in there:
        layer.dropout = dropout
        layer.lora_down.requires_grad_(True)
        layer.lora_up.requires_grad_(True)
    return [weight for layer in there for weight in (layer.lora_down, layer.lora_up)]


def _seconds(work: Callable[[], float]) -> float:
    """Of the faster of two goes; of the first where that is long."""
    first = work()
    return first if first > 1.0 else min(first, work())

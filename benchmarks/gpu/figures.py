"""What the stages take on a GPU: tokens a second, share of the measured matrix rate, memory beside the plan's.

    python benchmarks/gpu/figures.py <out folder> --shape 0.5b --policy lora rloo full

Real stages of a run on a model with random weights (`made.py`), dialogues that fill every limit, twelve LoRA preference
models, and a judge in the process. With `--seconds` what would end too late is left out, and a row says so: comparisons
with other libraries and the whole-model policy come last. Each line of <out folder>/figures.jsonl is written when it is
known. Operations are those of the model's products and its causal attention; what is computed twice (checkpointing,
chunks) counts once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "support")]

import made  # noqa: E402
from composed import config as composed  # noqa: E402
from rich.console import Console  # noqa: E402

from morlaif.config import Config  # noqa: E402
from morlaif.memory.dimensions import Dimensions, of_path  # noqa: E402
from morlaif.models.generate import generate  # noqa: E402
from morlaif.models.load import load_policy  # noqa: E402
from morlaif.pipeline.resources import stage_memories  # noqa: E402
from morlaif.pipeline.run import run as run_pipeline  # noqa: E402
from morlaif.planning.plan import plan  # noqa: E402
from morlaif.preference.bank import PreferenceBank  # noqa: E402
from morlaif.preference.model import load_classifier, pad_batch, score_batch, tokenize  # noqa: E402
from morlaif.preference.report import MODEL  # noqa: E402
from morlaif.rl import logprobs  # noqa: E402
from morlaif.units.store import Store  # noqa: E402

POLICIES = {  # in the order of their weight
    "lora": ["ppo.policy.kind=lora"],
    "rloo": ["ppo.policy.kind=lora", "ppo.advantage=rloo", "ppo.critic.kind=none", "ppo.samples_per_prompt=4"],
    "full": ["ppo.policy.kind=full"],
}
COMPARISON = 20  # seconds that one takes at most
STAGES = ("data", "sft", "respond", "feedback", "pm", "weigh", "ppo")


@dataclass(frozen=True)
class Size:
    """How much is done: enough to fill a GPU, or so little that a CPU can."""

    length: int = 512  # tokens of prompt and response, of `sft` and `pm`
    prompt: int = 256  # of PPO and of sampling
    new: int = 128
    rollouts: int = 64
    micro: int = 16
    pairs: int = 96
    principles: int = 12
    steps: int = 2
    square: int = 8192  # of the matrix product
    rounds: int = 1


SMALL = Size(length=32, prompt=16, new=6, rollouts=8, micro=4, pairs=24, principles=2, steps=1, square=64, rounds=1)
FEW = replace(Size(), new=32, rollouts=16, steps=1, pairs=40, square=4096, rounds=1)  # on a GPU, to see that all runs


def overrides(size: Size, model: Path, data: Path, device: str) -> list[str]:
    cuda = device == "cuda"
    dtype = "bfloat16" if cuda else "float32"
    prompts = max(8, size.rollouts // 8)
    return [
        "data=jsonl", f"data.path={data}", "data.eval_fraction=null", "data.eval_size=16", "model=gpt2",
        f"model.path={model}", "model.name=made", "arms.select=[morlaif]", "respond=pairs", "stages=[ppo]",
        f"hardware={'gpu' if cuda else 'cpu'}", "hardware.workers=1", f"hardware.dtype={dtype}",
        "sft=full", f"sft.max_steps={size.steps + 1}", "sft.log_every=1", f"sft.max_length={size.length}",
        "sft.checkpoint_every=null", f"sft.batch_size={2 * size.micro}", f"sft.micro_batch_size={size.micro // 2}",
        "feedback=hf", f"feedback.path={model}", f"feedback.dtype={dtype}", f"feedback.device={device}",
        f"principles.count={size.principles}", "pm=lora", f"pm.joint={size.principles}",
        f"pm.joint_tokens={32 * size.length}", f"pm.max_length={size.length}",
        "pm.batch_size=16", "pm.micro_batch_size=4", "pm.checkpoint_every=null",
        f"weights.prompts={prompts}", f"weights.max_prompt_tokens={size.prompt}", f"weights.max_new_tokens={size.new}",
        "ppo=paper", f"ppo.steps={size.steps}", f"ppo.rollouts={size.rollouts}",
        f"ppo.generation_batch_size={size.rollouts}", f"ppo.max_prompt_length={size.prompt}",
        f"ppo.max_new_tokens={size.new}", f"ppo.micro_batch_size={size.micro}", "ppo.epochs=2", "ppo.minibatches=2",
        "ppo.eval_every=0", "ppo.eval_prompts=0", "ppo.samples=0", "ppo.keep=last", "ppo.checkpoint_every=0",
        "ppo.shaping.missing_eos=none", "ppo.shaping.constant_score=allow", "ppo.stop=[]", "tracking=local",
    ]  # fmt: skip


class Figures:
    """Rows as they come."""

    def __init__(self, file: Path, shape: str, device: str) -> None:
        self.file, self.shape, self.device = file, shape, device
        self.rate: float | None = None  # operations a second of the matrix product

    def row(self, what: str, **found: Any) -> None:
        row = {"shape": self.shape, "what": what, **found}
        print(json.dumps(row), flush=True)
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def speed(self, what: str, tokens: float, seconds: float, operations: float, **more: Any) -> None:
        rate = operations / seconds
        share = {} if self.rate is None else {"share": round(rate / self.rate, 4)}
        self.row(
            what, tokens=round(tokens), seconds=round(seconds, 4), tokens_a_second=round(tokens / seconds),
            tflops=round(rate / 1e12, 2), **share, **more,
        )  # fmt: skip

    @contextlib.contextmanager
    def part(self, what: str) -> Iterator[None]:
        """An error ends the part and not the rest."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.row(what, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        release()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path)
    asked.add_argument("--shape", choices=list(made.SHAPES), default="0.5b")
    asked.add_argument("--policy", nargs="*", choices=list(POLICIES), default=list(POLICIES))
    asked.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    asked.add_argument("--smoke", action="store_true", help="one short step of each, no comparisons")
    asked.add_argument("--steps", type=int, help="of PPO; the first is left out of the means")
    asked.add_argument("--seconds", type=float, default=math.inf, help="to be done in")
    arguments = asked.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    size = SMALL if arguments.shape == "tiny" else FEW if arguments.smoke else Size()
    size = replace(size, steps=arguments.steps or size.steps)
    figures = Figures(arguments.out / "figures.jsonl", arguments.shape, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        compare = not arguments.smoke or arguments.shape == "tiny"
        measure(Path(folder), size, arguments.policy, figures, compare, time.monotonic() + arguments.seconds)


def measure(
    folder: Path, size: Size, policies: list[str], figures: Figures, compare: bool, until: float = math.inf
) -> None:
    """`until`: of `time.monotonic()`; a part that takes as long as the one before would is not begun too late."""
    cuda = figures.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    name = torch.cuda.get_device_name() if cuda else "cpu"
    versions = {lib: importlib.import_module(lib).__version__ for lib in ("torch", "transformers", "peft", "trl")}
    figures.row("machine", device=name, **versions, python=sys.version.split()[0])
    with figures.part("matrix product"):
        figures.rate = matrix_rate(size.square, figures.device, dtype)
        figures.row("matrix product", size=size.square, tflops=round(figures.rate / 1e12, 1))
    model, data = folder / "model", folder / "pairs.jsonl"
    made.write_model(figures.shape, model, figures.device, dtype)
    made.write_dialogues(data, size.pairs + 16, size.length // 2 + 8, size.length // 2)
    shape = of_path(str(model))
    assert shape is not None
    words = overrides(size, model, data, figures.device)
    words += [f"paths.store={folder / 'store'}", f"paths.runs={folder / 'runs'}"]
    configs = {policy: composed(*words, *POLICIES[policy]) for policy in policies}
    parts: dict[str, Callable[[], None]] = {
        f"run, {policy}": functools.partial(
            run_stages, config, folder / "runs" / policy, policy, size, shape, figures
        )
        for policy, config in configs.items() if policy != "full"
    }  # fmt: skip
    if compare:
        first = configs[policies[0]]
        parts |= {
            name: functools.partial(both_sides, first, size, shape, figures, dtype)
            for name, both_sides in COMPARED.items()
        }
    if "full" in configs:
        parts["run, full"] = functools.partial(
            run_stages, configs["full"], folder / "runs" / "full", "full", size, shape, figures
        )
    last = 0.0  # seconds of the part before; the first run builds what all share
    for name, part in parts.items():
        began = time.monotonic()
        if began + (last / 2 if name.startswith("run") else min(last / 2, COMPARISON)) > until:
            figures.row(name, left_out="out of time")
            continue
        with figures.part(name):
            part()
        last = time.monotonic() - began


# --- what is measured with ---


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(function: Callable[[], object], rounds: int) -> float:
    """Median over rounds after one to warm up."""
    function()
    found = []
    for _ in range(rounds):
        synchronize()
        began = time.perf_counter()
        function()
        synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def matrix_rate(size: int, device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large product of random numbers: what shares are of."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in "ab")
    times = 10 if device == "cuda" else 1

    def products() -> None:
        for _ in range(times):
            a @ b

    return 2 * size**3 * times / seconds(products, 3)


def forward(shape: Dimensions, tokens: float, length: float, heads: float = 0.0) -> float:
    """Operations of a forward over `tokens` in sequences of `length`, `heads` of them through the output head."""
    products = 2 * shape.layers * shape.block * tokens + 2 * shape.vocabulary * shape.width * heads
    return products + 2 * shape.layers * shape.queries * length * tokens


# --- the stages of a run ---


def run_stages(config: Config, folder: Path, policy: str, size: Size, shape: Dimensions, figures: Figures) -> None:
    marks: dict[str, Any] = {}
    with timed(marks):
        run_pipeline(config, folder, command="", overrides=[], group="", console=Console(file=sys.stderr))
    planned = {memory.stage: memory.device for memory in stage_memories(config, plan(config))}
    tokens = config.sft.batch_size * size.length
    for stage, found in marks.items():
        memory = {}
        if figures.device == "cuda":
            memory = {"peak_gb": round(found["peak"] / 1e9, 2), "before_gb": round(found["before"] / 1e9, 2)}
            if stage in planned:
                memory |= {
                    "plan_gb": round(planned[stage] / 1e9, 2), "plan / peak": round(planned[stage] / found["peak"], 2),
                }  # fmt: skip
        figures.row(f"{stage}, {policy}" if stage == "ppo" else stage, wall=round(found["wall"], 1), **memory)
        step = found["step"]
        if step and stage == "sft":
            figures.speed("sft, a step", tokens, step, 3 * forward(shape, tokens, size.length, tokens))
        if step and stage == "pm":
            read = 2 * config.pm.batch_size * size.length * found["together"]
            figures.speed(f"pm, a step of {found['together']}", read, step, 2 * forward(shape, read, size.length))
    if "ppo" in marks:
        ppo_figures(config, policy, size, shape, figures)


@contextlib.contextmanager
def timed(marks: dict[str, Any]) -> Iterator[None]:
    """Inside, each stage leaves in `marks`: seconds, those of a step (its first one left out), and peak memory."""
    modules = {name: importlib.import_module(f"morlaif.stages.work.{name}") for name in STAGES}
    found = [(m, name) for m in modules.values() for name in ("build", "build_together") if hasattr(m, name)]
    originals = [getattr(module, name) for module, name in found]

    def wrap(original: Callable, stage: str) -> Callable:
        @functools.wraps(original)
        def build(given: Any) -> Any:
            ticks: list[tuple[int, float]] = []

            def hooked(job: Any) -> Any:
                def on_progress(step: int, *rest: Any) -> None:
                    ticks.append((step, time.perf_counter()))
                    job.on_progress(step, *rest)

                return replace(job, on_progress=on_progress)

            release()
            before = 0
            if torch.cuda.is_available():
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            ends = original(list(map(hooked, given)) if isinstance(given, list | tuple) else hooked(given))
            synchronize()
            wall = time.perf_counter() - began
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            gaps = [b - a for (first, a), (second, b) in itertools.pairwise(ticks) if second == first + 1]
            together = len(list(next(itertools.groupby(ticks, key=lambda tick: tick[0]), (0, []))[1]))
            row = {"wall": wall, "before": before, "peak": peak, "step": statistics.median(gaps) if gaps else None}
            row["together"] = together  # units that reported the same step: principles in one pass
            if stage not in marks or marks[stage]["wall"] < wall:  # units one after another: the one that took most
                marks[stage] = row
            return ends

        return build

    for (module, name), original in zip(found, originals, strict=True):
        setattr(module, name, wrap(original, module.__name__.rpartition(".")[2]))
    try:
        yield
    finally:
        for (module, name), original in zip(found, originals, strict=True):
            setattr(module, name, original)


def ppo_figures(config: Config, policy: str, size: Size, shape: Dimensions, figures: Figures) -> None:
    """From the run's own curve: means of the steps after the first."""
    (unit,) = (unit for unit in plan(config).units if unit.stage.name == "ppo")
    lines = (Store(config.paths.store).folder(unit) / "curve.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines]
    rows = curve[1:] or curve
    means = [key for key in rows[0] if key.startswith("seconds") or key == "length"]
    mean = {key: statistics.mean(row[key] for row in rows) for key in means}
    new, rollouts = mean["length"], size.rollouts
    length, sampled = size.prompt + new, rollouts * new
    read = rollouts * length
    once = forward(shape, read, length, sampled)
    epochs = config.ppo.epochs
    factor = 3 if policy == "full" else 2
    figures.row(
        f"ppo step, {policy}", rollouts=rollouts, new_tokens=round(new, 1),
        first_ratio_error=rows[-1]["first_ratio_error"], kl_at_start=curve[0]["kl"],
        **{key: round(value, 3) for key, value in mean.items() if key != "length"},
    )  # fmt: skip
    work = forward(shape, read, length, sampled)
    figures.speed(f"ppo sampling, {policy}", sampled, mean["seconds/sample"], work)
    figures.speed(f"ppo log-probabilities, {policy}", 2 * read, mean["seconds/evaluate"], 2 * once)
    figures.speed(f"ppo updates, {policy}", epochs * read, mean["seconds/optimise"], epochs * factor * once)


# --- both sides of a comparison ---


def _folder(config: Config, stage: str) -> dict[str, Path]:
    store = Store(config.paths.store)
    return {unit.name: store.folder(unit) for unit in plan(config).units if unit.stage.name == stage}


def compare_sampling(config: Config, size: Size, shape: Dimensions, figures: Figures, dtype: torch.dtype) -> None:
    (sft,) = _folder(config, "sft").values()
    model, tokenizer = load_policy(sft, dtype=dtype, device=figures.device)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(100, shape.vocabulary - 100, (size.rollouts, size.prompt), generator=chance)
    rows, given = ids.tolist(), ids.to(figures.device)

    def ours() -> None:
        generate(
            model, tokenizer, rows, max_new_tokens=size.new, temperature=1.0, batch_size=size.rollouts,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    def theirs() -> None:
        model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=size.new, min_new_tokens=size.new, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip

    tokens = size.rollouts * size.new
    work = forward(shape, size.rollouts * (size.prompt + size.new), size.prompt + size.new, tokens)
    mine, other = seconds(ours, size.rounds), seconds(theirs, size.rounds)
    figures.speed("sampling, morlaif", tokens, mine, work, times=round(other / mine, 2))
    figures.speed("sampling, transformers' generate", tokens, other, work)
    with torch.no_grad():
        one = given[:1, :8]
        step = seconds(lambda: model(one, use_cache=False), 5)
    figures.row("one forward of eight tokens", seconds=round(step, 4))


def compare_scoring(config: Config, size: Size, shape: Dimensions, figures: Figures, dtype: torch.dtype) -> None:
    from peft import PeftModel

    folders = {name.removeprefix("pm/"): folder for name, folder in _folder(config, "pm").items()}
    texts = [json.loads(line) for line in Path(config.data.path).read_text().splitlines()][: size.rollouts]
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in texts]
    answers = [row["chosen"] for row in texts]
    mine, found = _bank(folders, prompts, answers, size, figures, dtype)
    release()

    (sft,) = _folder(config, "sft").values()
    _, tokenizer = load_policy(sft, dtype=dtype, device="cpu")
    base = load_classifier(sft / "model", tokenizer, dtype=dtype, device=figures.device)
    names = list(folders)
    model = PeftModel.from_pretrained(base, str(folders[names[0]] / MODEL), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(folders[name] / MODEL), adapter_name=name)
    model.eval()
    rows = [tokenize(tokenizer, *pair, size.length) for pair in zip(prompts, answers, strict=True)]
    batch = pad_batch(rows, tokenizer.pad_token_id, figures.device)

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        columns = []
        for name in names:
            model.set_adapter(name)
            columns.append(score_batch(model.base_model.model, batch, config.pm.pooling))
        return torch.stack(columns, 1)

    other = seconds(theirs, size.rounds)
    difference = float((theirs().float().cpu() - found).abs().max())
    tokens = len(names) * batch.ids.numel()
    work = forward(shape, tokens, size.length)
    figures.speed("scoring, morlaif", tokens, mine, work, times=round(other / mine, 2), difference=round(difference, 4))
    figures.speed("scoring, peft one by one", tokens, other, work)


def _bank(
    folders: dict[str, Path], prompts: list, answers: list[str], size: Size, figures: Figures, dtype: torch.dtype
) -> tuple[float, torch.Tensor]:
    """Seconds and scores; the models are let go of on return."""
    bank = PreferenceBank.load(folders, device=figures.device, dtype=dtype)
    spent = seconds(lambda: bank.score(prompts, answers), size.rounds)
    return spent, bank.score(prompts, answers).float().cpu()


def compare_chunks(config: Config, size: Size, shape: Dimensions, figures: Figures, dtype: torch.dtype) -> None:
    """The log-probabilities of one micro-batch from its hidden states, forward and backward, in chunks of two sizes."""
    count = size.micro * size.new
    head = torch.nn.Linear(shape.width, shape.vocabulary, bias=False, device=figures.device)
    hidden = torch.randn(count, shape.width, device=figures.device, requires_grad=True)
    targets = torch.randint(0, shape.vocabulary, (count,), device=figures.device)
    usual = dict(logprobs.CHUNK)
    for learns in (True, False):
        head.to(torch.float32 if learns else dtype).requires_grad_(learns)
        for power in (24, 27, 29):
            logprobs.CHUNK = dict.fromkeys(usual, 2**power)

            def both() -> None:
                with torch.autocast(figures.device, dtype, enabled=dtype != torch.float32):
                    logprobs.token_logprobs(hidden, head, targets, 1.0)[0].sum().backward()

            spent = seconds(both, size.rounds)
            work = (3 if learns else 2) * 2 * count * shape.width * shape.vocabulary
            figures.speed(f"head, {'learnt' if learns else 'frozen'}, 2^{power} logits", count, spent, work)
    logprobs.CHUNK = usual


COMPARED = {"sampling": compare_sampling, "scoring": compare_scoring, "head": compare_chunks}


if __name__ == "__main__":
    main()

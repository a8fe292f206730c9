"""Models whose weights lie in parts on several ranks (ZeRO-3), seen whole: to count, to change, to save, to resume.

Everything here also takes a model that lies whole in one process, and then does the plain thing, so that a stage has
one path. On several ranks each function must be called by every rank. Nothing imports DeepSpeed unless it is in use.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from morlaif import ranks
from morlaif.ranks import is_first, rank

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam and its kin


def shape(parameter: Tensor) -> torch.Size:
    """Its whole shape, which a part does not show."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(shape(parameter).numel() for parameter in model.parameters())


def is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_id")


def assert_sharded(model: nn.Module) -> None:
    """Every parameter is a part of ZeRO-3's. Otherwise this would quietly be data parallelism with whole copies."""
    whole = [name for name, parameter in model.named_parameters() if not is_sharded(parameter)]
    if whole:
        raise RuntimeError(
            f"{len(whole)} parameters were to be split by ZeRO-3 but lie whole on each rank: {whole[:3]}"
        )


def split(model: nn.Module) -> None:
    """Where models are loaded in parts, split what of this one lies whole: grown embeddings, adapters put in later."""
    if ranks.count() == 1:
        return
    from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        import deepspeed

        deepspeed.zero.Init(module=model, config_dict_or_path=deepspeed_config())
        assert_sharded(model)


def accelerator() -> Any | None:
    """On several ranks, accelerate's, with the DeepSpeed settings that the ranks were started with; else None."""
    if ranks.count() == 1:
        return None
    from accelerate import Accelerator

    made = Accelerator()
    if made.distributed_type.value != "DEEPSPEED":
        raise RuntimeError(f"ranks train under DEEPSPEED, not {made.distributed_type.value}")
    return made


@contextmanager
def gathered(parameters: Iterable[Tensor], change: bool = False) -> Iterator[None]:
    """The parameters whole inside, on each rank. With `change`, what the first rank writes into them counts for all."""
    parts = [parameter for parameter in parameters if is_sharded(parameter)]
    if not parts:
        with nullcontext():
            yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts, modifier_rank=0 if change else None):
        yield


def state_dict(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """The whole model's weights on the host in `dtype`, LoRA updates merged into their layers; None but on rank 0.

    Gathers one module after another: no device ever holds more than the largest. Tied weights appear under each name,
    as one tensor.
    """
    state: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, parameter, value in merged(model):
        if is_first():
            if id(parameter) not in seen:
                seen[id(parameter)] = _kept(value, dtype, copy=is_sharded(parameter))
            state[name] = seen[id(parameter)]
    for name, buffer in _kept_buffers(model):
        state[_plain(name)] = _kept(buffer, dtype)
    return state if is_first() else None


def merged(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Each weight of `model` as transformers would name it, with its whole value, the active LoRA updates added in.

    A module's values are good until those of the next one are asked for. The model stays as it is: merging in place and
    taking out again would leave a frozen base, which may be a reference too, a rounding away. Tied weights come under
    each name. All ranks must go through to the end.
    """
    for name, module in model.named_modules():
        if ".lora_" in f".{name}" or ".base_layer" in f".{name}":
            continue
        adapted = hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
        # A layer with its adapters, or what is directly a module's own.
        with gathered(list(module.parameters()) if adapted else list(module.parameters(recurse=False))):
            layer = module.base_layer if adapted else module
            for own, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
                value = parameter.detach()
                if adapted and own == "weight":
                    with torch.no_grad():
                        value = sum((module.get_delta_weight(a).float() for a in module.active_adapters), value.float())
                yield _plain(f"{name}.{own}" if name else own), parameter, value


def merge(adapted: PeftModel) -> PreTrainedModel:
    """The base with its adapter merged in for good; weights that lie in parts stay so, one layer is whole at a time."""
    if not any(map(is_sharded, adapted.parameters())):
        return adapted.merge_and_unload()
    for module in adapted.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            weight = module.base_layer.weight
            with gathered(list(module.parameters()), change=True), torch.no_grad():
                for adapter in module.active_adapters:
                    weight += module.get_delta_weight(adapter).to(weight.device, weight.dtype)
    return adapted.unload()


def _kept(value: Tensor, dtype: torch.dtype, copy: bool = False) -> Tensor:
    return value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype, copy=copy)


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that a state dict holds."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _plain(name: str) -> str:
    """The name that a weight has without peft around its model."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def training_state(model: nn.Module, optimizer: Any) -> dict[str, Any] | None:
    """Whole values and Adam moments of what learns, on the host, by name; None but on rank 0.

    `optimizer` is a torch one, or what `deepspeed.initialize` made of it. The state does not depend on how
    many ranks there are, one included.
    """
    read = _state_of(optimizer)
    step = read.step()
    values: dict[str, dict[str, Tensor]] = {}
    for name, parameter in _learning(model):
        own = {"value": read.value(parameter)}
        own |= {moment: read.moment(parameter, moment) for moment in (MOMENTS if step else ())}
        if is_first():
            values[name] = {key: value.detach().cpu().clone() for key, value in own.items()}
    return {"step": step, "parameters": values} if is_first() else None


@torch.no_grad()
def load_training_state(model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Put back what `training_state` gave, on however many ranks there are now; every rank has read `state`.

    Raises:
        ValueError: other weights learn than those that the state holds.
    """
    names = {name for name, _ in _learning(model)}
    if names != state["parameters"].keys():
        odd = sorted(names ^ state["parameters"].keys())[:3]
        raise ValueError(f"the checkpoint holds other weights than those that learn: {odd} …")
    write = _state_of(optimizer)
    if state["step"]:
        write.begin(state["step"])
    for name, parameter in _learning(model):
        own = state["parameters"][name]
        write.set_value(parameter, own["value"])
        for moment in MOMENTS if state["step"] else ():
            write.set_moment(parameter, moment, own[moment])


def values(model: nn.Module, optimizer: Any, everywhere: bool = True) -> dict[str, Tensor]:
    """Whole copies, on the host, of what learns, by name, as exact as the optimizer has them; on the first rank alone
    (others get nothing) or on each."""
    read, kept = _state_of(optimizer), {}
    for name, weight in _learning(model):
        value = read.value(weight)
        if everywhere or is_first():
            kept[name] = value.detach().to("cpu", copy=True).view(shape(weight))
    return kept


@torch.no_grad()
def set_values(model: nn.Module, optimizer: Any, kept: Mapping[str, Tensor]) -> None:
    """Put back what `values` gave."""
    write = _state_of(optimizer)
    for name, weight in _learning(model):
        write.set_value(weight, kept[name])


def _learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _state_of(optimizer: Any) -> _WholeState | _ZeroState:
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _Stage3State(optimizer)
    return _Stage2State(optimizer) if hasattr(optimizer, "single_partition_of_fp32_groups") else _WholeState(optimizer)


class _WholeState:
    """Values and moments under a torch optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def step(self) -> float:
        return next((float(own["step"]) for own in self.optimizer.state.values()), 0.0)

    def value(self, parameter: Tensor) -> Tensor:
        return parameter

    def moment(self, parameter: Tensor, moment: str) -> Tensor:
        return self.optimizer.state[parameter][moment]

    def begin(self, step: float) -> None:
        """Adam makes its state at its first step; the kind that is fused wants the count where the weight is."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(step, dtype=torch.float32, device=device),
                    **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
                }

    def set_value(self, parameter: Tensor, value: Tensor) -> None:
        parameter.copy_(value)

    def set_moment(self, parameter: Tensor, moment: str, value: Tensor) -> None:
        self.optimizer.state[parameter][moment].copy_(value)


class _ZeroState:
    """The same under DeepSpeed, where the inner optimizer sees flat float32 parts of many weights."""

    def __init__(self, optimizer: Any):
        self.optimizer, self.inner = optimizer, optimizer.optimizer

    @property
    def flat(self) -> Sequence[Tensor]:
        """This rank's float32 parts, one for each group of weights."""
        raise NotImplementedError

    def step(self) -> float:
        return next((float(self.inner.state[part]["step"]) for part in self.flat if part in self.inner.state), 0.0)

    def value(self, parameter: Tensor) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)

    def moment(self, parameter: Tensor, moment: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, moment)

    def begin(self, step: float) -> None:
        for part in self.flat:
            self.inner.state[part] = {
                "step": torch.tensor(step, dtype=torch.float32),
                **{moment: torch.zeros_like(part) for moment in MOMENTS},
            }

    def set_value(self, parameter: Tensor, value: Tensor) -> None:
        raise NotImplementedError

    def set_moment(self, parameter: Tensor, moment: str, value: Tensor) -> None:
        raise NotImplementedError


class _Stage2State(_ZeroState):
    """Whole weights on each rank, their float32 originals in parts."""

    @property
    def flat(self) -> Sequence[Tensor]:
        return self.optimizer.single_partition_of_fp32_groups

    def step(self) -> float:
        step = super().step()
        if step:
            self._link()
        return step

    def begin(self, step: float) -> None:
        super().begin(step)
        self._link()

    def _link(self) -> None:
        """Let each weight find its moments. DeepSpeed does so once the first group has stepped, too early."""
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def set_value(self, parameter: Tensor, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        parameter.copy_(value)
        safe_set_full_fp32_param(parameter, value)

    def set_moment(self, parameter: Tensor, moment: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value, moment)


class _Stage3State(_ZeroState):
    """Everything in parts."""

    @property
    def flat(self) -> Sequence[Tensor]:
        return self.optimizer.fp32_partitioned_groups_flat

    def set_value(self, parameter: Tensor, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        with gathered([parameter], change=True):  # the weight that computes, beside its float32 original
            if is_first():
                parameter.copy_(value)
        safe_set_local_fp32_param(parameter, part(value, parameter))

    def set_moment(self, parameter: Tensor, moment: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, part(value, parameter), moment)


@contextmanager
def unsharded() -> Iterator[None]:
    """transformers loads models whole inside, on each rank: those that each rank uses by itself."""
    if ranks.count() == 1:
        yield
        return
    from transformers.integrations import deepspeed as within

    kept = within._hf_deepspeed_config_weak_ref
    within.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        within._hf_deepspeed_config_weak_ref = kept


def run_frozen(trunk: nn.Module) -> Any | None:
    """Let DeepSpeed gather a frozen network's weights for forward and backward; what it returns must be kept.

    What is put into the network afterwards (adapters) stays whole on each rank, and its gradients are the caller's to
    sum. None, and nothing done, where the weights lie whole.
    """
    if not any(map(is_sharded, trunk.parameters())):
        return None
    assert_sharded(trunk)
    import deepspeed
    from transformers.integrations.deepspeed import deepspeed_config

    config = copy.deepcopy(deepspeed_config())
    config["zero_optimization"].pop("offload_optimizer", None)  # there is none
    return deepspeed.initialize(model=trunk, config=config)[0]


def gather_in_forward(model: nn.Module) -> list[RemovableHandle]:
    """Let each module of a frozen model gather its own weights for its forward; hooks, none where all lies whole.

    For networks that are not DeepSpeed's to run, such as one that scores on the tensors of a policy. A forward is then
    an exchange: every rank must make as many. No gradients go through.
    """
    handles: list[RemovableHandle] = []
    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if is_sharded(parameter)]
        if own:
            handles += _gather_around(module, own)
    return handles


def _gather_around(module: nn.Module, own: Sequence[Tensor]) -> list[RemovableHandle]:
    inside: list[Any] = []

    def enter(module: nn.Module, args: Any) -> None:
        inside.append(gathered(own))
        inside[-1].__enter__()

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        inside.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]


@contextmanager
def ready_to_sample(model: nn.Module, most: float) -> Iterator[bool]:
    """`model` for many forwards without gradient. Gives whether every rank must make as many of them.

    Weights in parts are gathered once and lie whole on each rank inside, if they take at most `most` bytes; else each
    module gathers its own at each forward, which is slow and takes little memory.
    """
    split = [parameter for parameter in model.parameters() if is_sharded(parameter)]
    if sum(shape(parameter).numel() * parameter.element_size() for parameter in split) <= most:
        with gathered(split):
            yield False
        return
    hooks = gather_in_forward(model)
    try:
        yield True
    finally:
        for hook in hooks:
            hook.remove()


def part(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a whole value; the last one is filled up with zeros."""
    own: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]  # DeepSpeed's
    size = own.numel()
    flat = torch.zeros(size * ranks.count(), dtype=value.dtype)
    flat[: value.numel()] = value.flatten()
    return flat[rank() * size : (rank() + 1) * size].to(own.device)

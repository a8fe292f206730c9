"""The models of a PPO run: a policy that learns, its reference, and a critic."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.models import compiled, packing
from morlaif.models.head import Head, head_of, last_states
from morlaif.models.layers import disable_dropout, trunk_of
from morlaif.rl.critic import adapter_critic, lora_config
from morlaif.rl.experience import Batch
from morlaif.rl.logprobs import Entropy, logprobs_of
from morlaif.rl.settings import Learns
from morlaif.steer.parts import Parts


class ActorCritic(nn.Module):
    """Policy and critic under one roof; the reference is the same trunk without its adapter, or a frozen copy.

    `policy` is what to generate from. Dropout is off for good: with it, the ratio of a token to itself would not be 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: Learns,
        critic: PreTrainedModel | None = None,
        reference: PreTrainedModel | None = None,
        computed: torch.dtype | None = None,
        steered: int = 0,
    ) -> None:
        """`model` is trained in place. `critic`: any model whose trunk gives hidden states, what may learn marked so.

        For the kind `adapter` that is what `adapter_critic` made of `model` (None: it is made here). `reference`: a
        twin of a full policy, where `model` cannot be copied because its weights lie in parts on several ranks.
        `computed`: what autocast computes in, under which all forwards will run; None: in the weights' own type.
        `steered`: how many rank-one parts the policy's adapter has for weights, see `morlaif.steer.parts`.

        Raises:
            UserError: LoRA finds none of its target modules.
        """
        super().__init__()
        disable_dropout(model)
        model.config.use_cache = True
        if settings.critic.kind == "adapter" and critic is None:
            critic = adapter_critic(model, settings)
        self.reference: PreTrainedModel | None = None
        self.parts: Parts | None = None
        if settings.policy.kind == "lora":
            adapted = _with_lora(model, settings, steered)
            self.policy: PreTrainedModel | PeftModel = adapted
            self.parts = Parts(adapted, steered) if steered else None
        else:
            self.policy = model.requires_grad_(True)
            twin = _twin(model, computed) if reference is None else reference
            disable_dropout(twin)
            self.reference = twin.requires_grad_(False).eval()
        if settings.policy.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.checkpointing = settings.policy.gradient_checkpointing
        self.temperature = settings.temperature
        self.heads: dict[bool, Head] = {False: head_of(model)}  # True: the reference's
        self.heads[True] = self.heads[False] if self.reference is None else head_of(self.reference)
        self.entropy_grad = settings.entropy_coef > 0

        self.critic = None
        if settings.critic.kind in ("separate", "adapter"):
            if critic is None:
                raise ValueError("critic.kind is separate, but no critic was given")
            disable_dropout(critic)
            if self.checkpointing:
                critic.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.critic = trunk_of(critic)  # without the head that it was trained under
        self.value_head = None
        if settings.critic.kind != "none":
            size = (model if self.critic is None or critic is None else critic).config.get_text_config().hidden_size
            # At zero, as OpenAI's lm-human-preferences and Huang 2024 (2403.17031): states of pretrained models are of
            # size 4 to 6, and noise in them outweighs returns.
            self.value_head = nn.Linear(size, 1)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(model.device)
            score = getattr(critic, "score", None)
            if settings.critic.init == "pm" and isinstance(score, nn.Linear):  # go on from its own head
                self.value_head.weight.data.copy_(score.weight.data)
        self.runs: dict[nn.Module, nn.Module] = {}  # trunks that learn or are read, and how they run where compiled
        self.packed = packing.enabled
        if self.packed:
            for own in filter(None, (model, critic)):
                packing.check(own)
        if computed is not None and ranks.count() == 1:  # DeepSpeed's forward is under no autocast
            # peft gives an adapter's float32 weights an input in float32, which autocast rounds back: two more copies
            for layer in self.modules():
                if isinstance(layer, LoraLayer):
                    layer.cast_input_dtype_enabled = False
        self.eval()

    @property
    def model(self) -> PreTrainedModel:
        """The policy as transformers knows it; an adapter, if any, sits inside its layers."""
        return self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy

    def forward(
        self, batch: Batch, freeze_trunk: bool = False, reference: bool = False, entropies: bool = False
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Log-probabilities, entropies and values of the batch's response tokens, each (N,).

        Entropies are left out (None) where gradients are on, unless the loss has them or `entropies` asks for them,
        since they are for the log. With `freeze_trunk` only the critic gets gradients, and only values are returned.
        With `reference` the log-probabilities are the reference's, without gradient, and alone.
        """
        if reference:
            return self.reference_logprobs(batch), None, None
        logprobs = entropy = states = None
        if not freeze_trunk or (self.value_head is not None and self.critic is None):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_trunk):
                states = self._states(trunk_of(self.model), batch)
        if states is not None and not freeze_trunk:
            learns = torch.is_grad_enabled()
            want: Entropy = (
                "gradient" if learns and self.entropy_grad else "value" if entropies or not learns else "none"
            )
            logprobs, entropy = logprobs_of(self.heads[False], states, batch.targets, self.temperature, want)
        if self.value_head is None:
            return logprobs, entropy, None
        states = states if self.critic is None else self._states(self.critic, batch)
        assert states is not None  # a shared trunk has run
        return logprobs, entropy, self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1).float()

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch) -> Tensor:
        """(N,) under the model that the run began with, at the same temperature."""
        with self.as_reference() as model:
            states = self._states(trunk_of(model), batch)
            return logprobs_of(self.heads[True], states, batch.targets, self.temperature)[0]

    def _states(self, trunk: nn.Module, batch: Batch) -> Tensor:
        """Last hidden states before each response token: (N, H)."""
        if compiled.enabled and trunk not in self.runs:
            self.runs[trunk] = compiled.compiled(trunk)
        ids, positions, read = batch.packed if self.packed else (batch.ids, batch.positions, batch.read)
        return last_states(self.runs.get(trunk, trunk), ids, positions).flatten(0, 1).index_select(0, read)

    def plain(self) -> AbstractContextManager[None]:
        """For whoever reads the adapter's tensors: a LoRA adapter like any other, parts counted by their weights."""
        return nullcontext() if self.parts is None else self.parts.folded()

    @contextmanager
    def as_reference(self) -> Iterator[PreTrainedModel]:
        """The reference, to generate from or to score with."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.policy.disable_adapter():
                yield self.model

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Gradient checkpointing works in training mode alone; nothing else differs, since dropout is zero."""
        trunks = [self.model] if self.critic is None else [self.model, self.critic]
        for trunk in trunks:
            trunk.train(self.checkpointing)
        try:
            yield
        finally:
            for trunk in trunks:
                trunk.eval()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """What learns: `policy` and `critic`."""
        critic = [] if self.value_head is None else list(self.value_head.parameters())
        critic += [] if self.critic is None else [p for p in self.critic.parameters() if p.requires_grad]
        return {"policy": [p for p in self.policy.parameters() if p.requires_grad], "critic": critic}

    def trained_state(self) -> dict[str, Tensor]:
        """Name and value of each weight that learns; tied weights once."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        own = self.trained_state()
        if own.keys() != state.keys():
            raise ValueError(f"the checkpoint holds other weights: {sorted(own.keys() ^ state.keys())[:3]} …")
        for name, value in state.items():
            own[name].copy_(value)


def _with_lora(model: PreTrainedModel, settings: Learns, more: int) -> PeftModel:
    try:
        return get_peft_model(model, lora_config(model, settings, more))
    except ValueError as error:
        modules = settings.policy.target_modules
        raise UserError(f"{settings.group}.policy.target_modules: {modules!r}: {str(error).splitlines()[0]}") from None


def _twin(model: PreTrainedModel, computed: torch.dtype | None) -> PreTrainedModel:
    """A copy of `model`, its matrices in `computed`. Autocast rounds them to that in each forward, so the copy computes
    the very numbers of `model`; norms and embeddings, and a head that is tied to these, enter in their own type."""
    narrowed: dict[int, object] = {}
    if computed is not None:
        modules = list(model.modules())
        others = {id(p) for m in modules if type(m) not in (nn.Linear, Conv1D) for p in m.parameters(recurse=False)}
        for module in modules:
            if type(module) in (nn.Linear, Conv1D):
                for p in module.parameters(recurse=False):
                    if id(p) not in others:
                        narrowed[id(p)] = nn.Parameter(p.detach().to(computed), requires_grad=False)
    return copy.deepcopy(model, narrowed)

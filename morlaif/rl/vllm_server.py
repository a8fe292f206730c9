"""A `vllm serve` that samples, and how it gets the policy's weights: as a LoRA adapter, as files, or by NCCL.

    adapter  a LoRA policy's own files, by /v1/load_lora_adapter   VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 … --enable-lora
    folder   the whole policy's files, by reload_weights           VLLM_SERVER_DEV_MODE=1 …
    nccl     from GPU to GPU, by TRL's client                      VLLM_SERVER_DEV_MODE=1 … --weight-transfer-config …

The first two need no vLLM in the training process, and no GPU: tried with vLLM 0.32 on a CPU. nccl needs two GPUs.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.errors import MachineError, UserError
from morlaif.models.open import open_config
from morlaif.models.place import Source
from morlaif.rl.engine import Engine
from morlaif.rl.settings import PPOSettings
from morlaif.rl.vllm_colocated import Sampled
from morlaif.texts import redact

AT_ONCE = 64  # requests; the server batches what is there
WAIT = 1.0  # seconds between two looks at a server that is not up yet


class Server:
    """One rank talks; all get what it got."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        settings: PPOSettings,
        ends: Sequence[int],
        folder: Path,
    ) -> None:
        """Wait for the server and look at how it was started. `folder`: for files, where the settings name none.

        Raises:
            UserError: it was started without something that is needed, or the hand-over does not suit the policy.
            MachineError: nothing answers.
        """
        v = settings.vllm
        assert v.server_url is not None  # the settings want it
        self.engine, self.tokenizer, self.settings, self.ends = engine, tokenizer, settings, list(ends)
        self.folder = Path(v.folder).expanduser().resolve() if v.folder else folder.resolve()
        self.url = v.server_url.rstrip("/").removesuffix("/v1")
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=v.server_timeout, max_retries=2)
        self.handed = 0
        if v.handover == "adapter" and not isinstance(engine.models.policy, PeftModel):
            raise UserError("ppo.vllm.handover: adapter needs ppo.policy.kind=lora; use folder for a whole policy")
        self.model = self.base = ranks.on_first(self._meet)
        self.nccl = self._nccl() if v.handover == "nccl" else None

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights."""
        how = self.settings.vllm.handover
        if self.nccl is not None:
            self.nccl.send(weights)
        elif how == "adapter":
            self._load_adapter()
        else:
            self._load_folder()

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> Callable[[], list[Sampled]]:
        """One answer to each prompt; the server is at work until the answers are asked for."""
        pool = ThreadPoolExecutor(min(AT_ONCE, len(prompts))) if ranks.is_first() else None
        asked = [pool.submit(self._answer, *one) for one in zip(prompts, seeds, strict=True)] if pool else []

        def all_rows() -> list[Sampled]:
            try:
                return [answer.result() for answer in asked]
            finally:
                assert pool is not None  # of the first rank, which alone is here
                pool.shutdown(cancel_futures=True)

        return lambda: ranks.on_first(all_rows, patiently=True)

    def _answer(self, prompt: list[int], seed: int) -> Sampled:
        s = self.settings
        with self._asking():
            reply = self.client.completions.create(
                model=self.model, prompt=prompt, max_tokens=s.max_new_tokens, temperature=s.temperature, top_p=1.0,
                seed=seed, stop=s.stop or None, logprobs=0,
                extra_body={
                    "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": self.ends,
                    "skip_special_tokens": False, "return_token_ids": True,
                },
            )  # fmt: skip
        choice = reply.choices[0]
        ids, logprobs = getattr(choice, "token_ids", None), choice.logprobs and choice.logprobs.token_logprobs
        if not ids or not logprobs or len(ids) != len(logprobs):
            raise UserError(f"{self.where}: it gives no ids with their log-probabilities; expected vllm")
        return Sampled(list(ids), [float(value) for value in logprobs])

    # --- handing the weights over ---

    def _load_adapter(self) -> None:
        """A name of its own for each, so that no keys and values of the one before are used; that one then goes."""
        models, old = self.engine.models, self.model
        self.handed += 1
        name, folder = f"morlaif-{self.handed}", self.folder / f"adapter-{self.handed}"
        with sharded.gathered(models.groups()["policy"]):
            ranks.on_first(lambda: models.policy.save_pretrained(folder, save_embedding_layers=False))

        def swap() -> None:
            known = {entry["id"] for entry in self._get("/v1/models")["data"]}
            for left in known & {name, old} - {self.base}:  # of this run, or of a run before
                self._post("/v1/unload_lora_adapter", {"lora_name": left})
            self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
            shutil.rmtree(self.folder / f"adapter-{self.handed - 1}", ignore_errors=True)

        ranks.on_first(swap)
        self.model = name

    def _load_folder(self) -> None:
        models, whole = self.engine.models, self.folder / "whole"
        state = sharded.state_dict(models.model, models.model.dtype)

        def swap() -> None:
            assert state is not None  # of the first rank
            models.model.save_pretrained(whole, state_dict=_as_stored(models.model, state))
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(whole)}})
            self._post("/reset_prefix_cache", {})

        ranks.on_first(swap, patiently=True)

    def _nccl(self) -> Nccl:
        device = self.engine.models.model.device
        if device.type == "cpu":
            raise UserError(
                "ppo.vllm.handover: nccl moves weights between GPUs, and the policy is on a CPU; use folder, or "
                "adapter with ppo.policy.kind=lora"
            )
        if importlib.util.find_spec("vllm") is None:
            raise UserError("ppo.vllm.handover: nccl needs vllm here too: pip install vllm; or use folder")
        return Nccl(self.url, self.settings, device)

    # --- talking to it ---

    @property
    def where(self) -> str:
        return f"ppo.vllm.server_url={self.url}"

    def _meet(self) -> str:
        """The name of the model that it serves, once it is up and has been found fit."""
        s, deadline = self.settings, time.monotonic() + self.settings.vllm.server_timeout
        while True:
            try:
                (entry, *_) = self._get("/v1/models")["data"]
                break
            except MachineError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(WAIT)
        need, room = s.max_prompt_length + s.max_new_tokens, entry.get("max_model_len")
        if room is not None and room < need:
            raise UserError(
                f"{self.where}: it takes {room} tokens, and ppo.max_prompt_length + ppo.max_new_tokens are {need}; "
                f"start it with --max-model-len {need}"
            )
        self._check_flags()
        return str(entry["id"])

    def _check_flags(self) -> None:
        s = self.settings
        if s.vllm.handover == "adapter":
            offered = self._get("/openapi.json").get("paths", {})
            if "/v1/load_lora_adapter" not in offered:
                raise UserError(
                    f"{self.where}: it takes no adapters; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its "
                    f"environment and --enable-lora --max-lora-rank {s.policy.r}"
                )
        elif "/collective_rpc" not in self._get("/openapi.json").get("paths", {}):
            raise UserError(
                f"{self.where}: it takes no weights; start it with VLLM_SERVER_DEV_MODE=1 in its environment"
            )
        if s.temperature not in (0.0, 1.0):
            modes = self._model_config()
            if modes is not None and not modes.startswith("processed"):
                raise UserError(
                    f"{self.where}: its log-probabilities are those at temperature 1, and ppo.temperature is "
                    f"{s.temperature:g}; start it with --logprobs-mode processed_logprobs"
                )

    def _model_config(self) -> str | None:
        """How it counts log-probabilities, where it says so (VLLM_SERVER_DEV_MODE=1)."""
        try:
            found: Any = self._get("/server_info?config_format=json")["vllm_config"]["model_config"]["logprobs_mode"]
        except (UserError, KeyError, TypeError):
            return None
        return str(found)

    def _get(self, path: str) -> Any:
        with self._asking():
            return self.client.get(self.url + path, cast_to=httpx2.Response).json()

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        with self._asking():
            self.client.post(self.url + path, body=dict(body), cast_to=httpx2.Response)

    def _asking(self) -> _Asking:
        return _Asking(self.where)


def _as_stored(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a server of the model on disk, whose vocabulary lacks the pad token that the policy may have got."""
    rows = open_config(Source(model.name_or_path)).get_text_config().vocab_size
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(parameter) for layer in layers if layer is not None for parameter in layer.parameters(recurse=False)}
    grown = {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own}
    return {name: value[:rows].contiguous() if name in grown else value for name, value in state.items()}


class _Asking:
    """Errors of a request as lines of ours."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, openai.APIConnectionError):
            raise MachineError(
                f"{self.where}: no answer ({_cause(error)}); start the server again: the same command goes on from the "
                "last checkpoint"
            ) from error
        if isinstance(error, openai.APIStatusError):
            words = redact(" ".join(str(error.message).split())[:300])
            if error.status_code >= 500:
                raise MachineError(
                    f"{self.where}: it failed ({error.status_code} {words}); see its log and start it again: the same "
                    "command goes on from the last checkpoint"
                ) from error
            raise UserError(f"{self.where}: it refused a request ({error.status_code} {words})") from error


def _cause(error: BaseException) -> str:
    return redact(" ".join(str(error.__cause__ or error).split())[:200])


class Nccl:
    """TRL's client, for the weights alone."""

    def __init__(self, url: str, settings: PPOSettings, device: Any) -> None:
        from trl.generation.vllm_client import VLLMClient

        self.client = None
        if ranks.is_first():
            self.client = VLLMClient(url, group_port=settings.vllm.group_port)
            self.client.init_communicator(device=device)
        self.facts: list[tuple[str, str, list[int]]] | None = None

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """The server must know all names and shapes before the first tensor, so the whole is held for a moment."""
        held = list(weights)
        if self.client is not None:
            facts = [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in held]
            self.client.update_named_params(facts, iter(held))
            self.client.reset_prefix_cache()

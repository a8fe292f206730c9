"""TRL 1.12's PPOTrainer as it is installed, one step each time the driver says so. Runs in TRL's environment.

    TRL_PYTHON side_trl.py FOLDER [DUMP]

Between its steps a callback waits for the driver. With DUMP, the first step's tensors are written there: they are read
from the local variables of `PPOTrainer.train`, which is not changed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from case import LORA, Case, Wire, resident

wire = Wire()
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402

KEPT = (
    "queries", "responses", "postprocessed_responses", "logprobs", "ref_logprobs", "values", "scores", "kl", "rewards",
    "advantages", "returns", "padding_mask", "padding_mask_p1", "pg_loss_stats", "vf_loss_stats",
)  # fmt: skip


class Stepper(TrainerCallback):
    """Runs inside `train()`, between its steps."""

    def __init__(self, dump: Path | None) -> None:
        self.dump, self.permutations = dump, []
        permute = np.random.permutation

        def recorded(size: int) -> np.ndarray:
            self.permutations.append(permute(size))
            return self.permutations[-1]

        np.random.permutation = recorded

    def on_train_begin(self, args, state, control, **_):
        self._await()

    def on_step_end(self, args, state, control, **_):
        frame = sys._getframe()
        while frame.f_code.co_name != "train":
            frame = frame.f_back
        local = frame.f_locals
        if self.dump is not None and state.global_step == 1:
            tensors = {name: local[name].detach().clone() for name in KEPT}
            torch.save(tensors | {"permutations": [p.tolist() for p in self.permutations]}, self.dump)
        wire.end(tokens=int((~local["padding_mask"]).sum()))
        self._await()

    def _await(self) -> None:
        if not wire.begin():
            os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1])
    case = Case.load(folder)
    imported = resident()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    prompts = [row["ids"] for row in json.loads((folder / "prompts.json").read_text())]
    config = PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=case.rollouts,  # with num_mini_batches, the only way to several updates an epoch
        gradient_accumulation_steps=1,
        num_mini_batches=case.minibatches,
        num_ppo_epochs=case.epochs,
        local_rollout_forward_batch_size=case.rollouts,
        total_episodes=case.steps * case.rollouts,
        response_length=case.new_tokens,
        stop_token="eos",
        missing_eos_penalty=case.missing_eos,
        temperature=1.0,
        kl_coef=case.kl_coef,
        kl_estimator="k1",
        cliprange=case.clip,
        cliprange_value=case.clip,
        vf_coef=case.value_coef,
        gamma=1.0,
        lam=case.lam,
        whiten_rewards=False,
        learning_rate=case.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
    scorer = AutoModelForSequenceClassification.from_pretrained(folder / "scorer", num_labels=1)
    critic = AutoModelForSequenceClassification.from_pretrained(folder / "scorer", num_labels=1)
    dump = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    # None: its own copy, or the base without the adapter
    reference = AutoModelForCausalLM.from_pretrained(folder / "reference") if dump else None
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=scorer,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if case.lora else None,
        callbacks=[Stepper(dump)],
    )
    wire.tell(imported=imported, loaded=resident())
    trainer.train()


main()

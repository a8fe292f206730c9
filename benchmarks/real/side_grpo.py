"""TRL 1.16's GRPOTrainer as it is installed, one batch of rollouts with its updates each time the driver says so.

TRL_PYTHON side_grpo.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))

from case import LORA, Case, Wire, resident

wire = Wire()
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.simplefilter("ignore")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

GROUP = 4


class Stepper(TrainerCallback):
    """Waits for the driver before each batch of rollouts; `minibatches` updates later it is done."""

    def __init__(self, minibatches: int) -> None:
        self.minibatches, self.tokens = minibatches, 0

    def on_train_begin(self, args, state, control, **_):
        self._await()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.minibatches:
            return
        wire.end(tokens=self.tokens)
        self.tokens = 0
        self._await()

    def _await(self) -> None:
        if not wire.begin():
            os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1])
    case = Case.load(folder)
    imported = resident()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    tokenizer.add_bos_token = False  # the ids that are decoded here begin with it
    prompts = [
        tokenizer.decode(row["ids"], skip_special_tokens=False)
        for row in json.loads((folder / "prompts.json").read_text())
    ]
    stepper = Stepper(case.minibatches)

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        stepper.tokens += sum(map(len, completion_ids))
        return [float(sum(ids) % 97) for ids in completion_ids]

    config = GRPOConfig(
        output_dir=str(folder / "grpo"),
        per_device_train_batch_size=case.rollouts // case.minibatches,
        gradient_accumulation_steps=1,
        steps_per_generation=case.minibatches,
        num_generations=GROUP,
        num_iterations=case.epochs,
        max_completion_length=case.new_tokens,
        max_steps=case.steps,
        temperature=1.0,
        beta=case.kl_coef,
        epsilon=case.clip,
        learning_rate=case.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        args=config,
        processing_class=tokenizer,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        callbacks=[stepper],
    )
    wire.tell(imported=imported, loaded=resident())
    trainer.train()


main()

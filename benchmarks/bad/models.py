"""Model folders, each broken in one way; the sound one is a tiny random model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad.case import FOLDER, Case, Content, Kit, case

MODEL = (
    "model=gpt2 model.path=m sft=lora pm=lora ppo=paper respond=pairs data=jsonl data.path=d.jsonl feedback=human "
    "principles=human eval=gold dry_run=true"
)
FILES = {"d.jsonl": "".join(f'{{"prompt": "p{k}", "chosen": "yes", "rejected": "no"}}\n' for k in range(9))}


def broken(change: Callable[[Path], Any]) -> Callable[[Path, Kit], None]:
    def prepare(folder: Path, kit: Kit) -> None:
        shutil.copytree(kit.model, folder / "m")
        change(folder / "m")

    return prepare


def model(name: str, change: Callable[[Path], Any], *wants: str, command: str = MODEL, **more: Any) -> Case:
    return case(name, command, *wants, files=FILES, prepare=broken(change), **more)


def write(name: str, content: Content) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if content is FOLDER:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        value |= fields
        (folder / name).write_text(json.dumps(value))

    return change


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def pickled(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def words(folder: Path) -> None:
    value = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    vocabulary |= {f"word{k}": len(vocabulary) + k for k in range(40)}
    (folder / "tokenizer.json").write_text(json.dumps(value))


def integers(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def remote(folder: Path) -> None:
    edit("config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")(folder)
    (folder / "evil.py").write_text("open('../ran', 'w').write('ran')\n")


def parted(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}')(folder)


def elsewhere(key: str) -> str:
    return f"experiment=smoke {key}=m dry_run=true"


CASES = {
    "model folders": [
        case("no such folder", MODEL, r"model\.path", "'?m'?", files=FILES),
        case("a file", MODEL, r"model\.path", files=FILES | {"m": "x"}),
        case("an empty folder", MODEL, r"model\.path", "config.json", files=FILES | {"m": FOLDER}),
        model("no config", lambda m: (m / "config.json").unlink(), "m", "config.json"),
        model("a config that is a list", write("config.json", "[]"), "config.json", "list|object"),
        model("a config that breaks off", cut("config.json", 0.5), "config.json", "breaks off|JSON"),
        model("a config that is a folder", write("config.json", FOLDER), "config.json", "folder"),
        model("a config of UTF-16", write("config.json", "{}".encode("utf-16")), "config.json", "UTF"),
        model("an architecture that is none", edit("config.json", model_type="nosuch"), "nosuch|model_type"),
        model("sizes below zero", edit("config.json", hidden_size=-4), "config.json|hidden_size|shape"),
        model("a size that is a text", edit("config.json", hidden_size="big"), "config.json|hidden_size"),
        model("no weights", lambda m: (m / "model.safetensors").unlink(), "m", "weights|safetensors"),
        model("weights that break off", cut("model.safetensors", 0.6), "model.safetensors"),
        model("weights that are empty", write("model.safetensors", b""), "model.safetensors"),
        model("weights that are noise", write("model.safetensors", bytes(range(256)) * 20), "model.safetensors"),
        model("weights that point to Git LFS", write("model.safetensors",
              "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"), "model.safetensors", "lfs|LFS"),
        model("weights of another shape", edit("config.json", intermediate_size=48), "shape|size|intermediate"),
        model("another kind than its sizes", edit("config.json", model_type="gpt2", architectures=["GPT2LMHeadModel"]),
              "config.json", "n_embd"),
        model("no heads", edit("config.json", num_attention_heads=0), "config.json", "num_attention_heads"),
        model("heads that do not part the width", edit("config.json", num_attention_heads=5), "config.json", "5"),
        model("an unknown quantization", edit("config.json", quantization_config={"quant_method": "x"}), "quant_meth"),
        model("an end that is no token", edit("tokenizer_config.json", eos_token="<|nowhere|>"), "nowhere"),
        model("an unknown tokenizer", edit("tokenizer_config.json", tokenizer_class="NoTokenizer"), "tokenizer_class"),
        model("words without embeddings", words, "embeddings"),
        model("integers as weights", integers, "I8", "quantization"),
        model("a temperature that is a text", write("generation_config.json", '{"temperature": "hot"}'),
              "generation_config.json", "temperature"),
        model("weights pickled alone", pickled, "safetensors", "pytorch_model.bin"),
        model("an index of a part that is missing", parted, r"model-1\.safetensors"),
        model("no tokenizer", lambda m: [(m / name).unlink(missing_ok=True) for name in (
              "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")], "tokenizer"),
        model("a tokenizer that breaks off", cut("tokenizer.json", 0.5), "tokenizer.json"),
        model("a template that does not parse", edit("tokenizer_config.json", chat_template="{% for %}"), "template"),
        *(
            model(f"a template that {what}", edit("tokenizer_config.json", chat_template=template), "chat_template",
                  "m/tokenizer_config.json")
            for what, template in {
                "writes without end": "{{ 'x' * 9999999999 }}",
                "counts too far": "{% for i in range(10 ** 9) %}{% endfor %}",
                "has no end": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                "says one thing": "hello", "is empty": "", "shows the last turn": "{{ messages[-1].content }}",
                "knows no dialogue": "{{ nosuch(messages) }}",
            }.items()
        ),
        model("code of its own", remote, "trust_remote_code|remote code|nosuch|evil"),
        model("a classifier as a language model", edit("config.json", architectures=["BertForMaskedLM"],
              model_type="bert"), "bert|causal|language model"),
        model("a policy from outside without weights", lambda m: (m / "model.safetensors").unlink(), r"eval\.policies",
              command=elsewhere("+eval.policies.other")),
        model("a policy from outside that runs code", remote, "eval.policies|trust_remote_code|evil",
              command=elsewhere("+eval.policies.other")),
        model("a judge without weights", lambda m: (m / "model.safetensors").unlink(), "feedback.*m|m.*weights",
              command=elsewhere("feedback=hf feedback.path")),
        model("a base of preference models without config", lambda m: (m / "config.json").unlink(), r"pm\.base",
              command="experiment=smoke pm=lora pm.base=m dry_run=true"),
        model("a reward model without weights", lambda m: (m / "model.safetensors").unlink(), r"pm\.paths", lines=2,
              command="experiment=smoke pm=pretrained pm.paths={helpfulness:m} principles.select=[helpfulness] "
                      "principles.count=1 arms.select=[morlaif] dry_run=true"),
        case("a folder for a toy preset", "model.path=m dry_run=true", "model|sft|toy|preset", files=FILES,
             prepare=broken(lambda m: None)),
    ],
}  # fmt: skip

"""Shipped recipes at toy size: small random checkpoints in the official formats, and the overrides that make a run short."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

import unmask
from rl.progress import Reporter
from rl.recipes import recipe_folder
from rl.run import Run
from rollouts.checkpoints import save_policy
from rollouts.policy import Policy
from rollouts.tiny import build_tiny
from tests.rollouts.small_models import small_policy

SHARED = Path(__file__).parents[3] / "shared" / "data"
MAX_LENGTH = 1500  # one token a character: the longest prompt used here has about 1,100


def lean_to(policy: Policy, characters: str, by: float = 0.15) -> None:
    """Make a random policy inclined to write some characters, so that some texts are right."""
    with torch.no_grad():
        policy.causal_lm.model.embed_tokens.weight += 0.5  # a direction that every state shares
        policy.causal_lm.lm_head.weight[policy.tokenizer.convert_tokens_to_ids(list(characters))] += by


def llada_checkpoint(folder: Path, characters: str, by: float = 0.15, max_length: int = MAX_LENGTH) -> Path:
    """Two random layers in LLaDA's official config.json and tensor names, with its chat markup."""
    policy = build_tiny(3, d_model=32, layers=2, heads=2, max_length=max_length, chat=True)
    lean_to(policy, characters, by)
    save_policy(policy, folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["n_layers"]) == ("llada", 2)
    return folder


def dream_checkpoint(folder: Path, characters: str, by: float = 0.15, max_length: int = MAX_LENGTH) -> Path:
    """Two random layers in Dream's official config.json and tensor names, with ChatML markup."""
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "max_position_embeddings": max_length}
    policy = small_policy("dream", seed=3, std=0.05, **sizes)
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    lean_to(policy, characters, by)
    save_policy(policy, folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("Dream", 2)
    return folder


def local(key: str, path: str | os.PathLike[str], split: str = "train") -> dict[str, Any]:
    """Overrides that make a split of the recipe a local file. A file has one split, which is called train."""
    return {f"{key}.path": path, f"{key}.name": "null", f"{key}.split": split}


def counted(recipe: str) -> dict[str, str]:
    """Overrides under which the recipe may train on the rows that it is evaluated on: what it holds out is counted."""
    rules = yaml.safe_load((recipe_folder() / f"{recipe}.yaml").read_text(encoding="utf-8"))["data"].get("hold_out", [])
    return {f"data.hold_out.{number}.on_overlap": "count" for number in range(len(rules))}


def train_small(recipe: str, checkpoint: Path, out: Path, overrides: Mapping[str, Any]) -> Run:
    """The recipe by its name for two updates, with overrides of size, place and precision; the method as published."""
    sizes = {
        "model.path": checkpoint,
        "model.quantization": "none",  # bitsandbytes wants a GPU
        "eval.limit": 2,
        "rollout.canvas": 16,
        "rollout.block": 8,
        "rollout.steps": 4,
        "rollout.group_size": 3,
        "train.updates": 2,
        "train.prompts_per_update": 2,
        "train.out": out,
        **overrides,
    }
    settings = [f"{key}={value}" for key, value in sizes.items()]
    return unmask.train(recipe, overrides=settings, reporter=Reporter(quiet=True))

"""Run folders made up from smooth curves and noise, in the form that a run leaves: what tests of the report start from.

``write_run`` writes one. The numbers mean nothing; their shapes, ranges, gaps and file names are those of a real run.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.config_yaml import to_yaml
from rl.run import plain
from rl.samples import write_samples

EOS = "<|endoftext|>"
MASK = "<|mdm_mask|>"
PROBLEMS = (
    (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did Natalia "
        "sell altogether in April and May?",
        "In April Natalia sold 48 clips.\nIn May she sold 48 / 2 = <<48/2=24>>24 clips.\nAltogether she sold 48 + 24 = <<48+24=72>>72 "
        "clips in April and May.\n#### 72",
    ),
    (
        "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
        "It takes 2 / 2 = 1 bolt of white fiber.\nSo the total amount of fabric is 2 + 1 = 3 bolts of fiber.\n#### 3",
    ),
    (
        "James decides to run 3 sprints 3 times a week. He runs 60 meters each sprint. How many total meters does he run a week?",
        "He sprints 3 * 3 = 9 times a week.\nSo he runs 9 * 60 = 540 meters each week.\nThe answer is that he runs a total of 540 "
        "meters.\n#### 540",
    ),
    (
        "Wendi feeds each of her chickens three cups of feed a day, in three meals. Her flock has 20 chickens. How many cups does "
        "she need for the last meal, if the first took 15 and the second 25?",
        "If each chicken eats 3 cups a day, then for 20 chickens she needs 3 * 20 = 60 cups.\nIf she feeds 15 cups in the morning and "
        "25 in the afternoon, the last meal takes 60 - 15 - 25 = 20 cups.\n#### 20",
    ),
)


def write_run(
    folder: Path,
    *,
    name: str | None = None,
    updates: int = 500,
    planned: int | None = None,
    rollouts: int = 4,
    canvas: int = 128,
    steps: int = 64,
    every: int = 50,
    seed: int = 0,
    lift: float = 0.3,
    lr: float = 1e-5,
    finished: bool = True,
    texts: Sequence[str] = (),
) -> Path:
    """Write a run folder and return it.

    updates: rows of metrics.jsonl; planned: updates of the recipe, if the run is still going. every: updates between evaluations.
    lift: how much the outcome rises. texts: completions to use in place of the made-up ones. finished: whether there is a summary.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_data(name or folder.name, planned or updates, canvas, steps, every, rollouts, lr, seed)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    write_lines(folder / "warm_start.jsonl", [_warm_row(step, rng) for step in range(200)])
    write_lines(folder / "metrics.jsonl", [_metrics_row(u, updates, lift, lr, canvas, rng) for u in range(updates)])
    write_lines(folder / "timing.jsonl", [_timing_row(u, every, rng) for u in range(updates)])
    whens = [("start", 0), *((f"update {u}", u) for u in range(every, updates, every))]
    whens += [("end", updates)] if finished else []
    evaluations = [
        _evaluation(when, update, split, updates, lift, steps, rng)
        for when, update in whens
        for split in ("eval", "validation")
    ]
    write_lines(folder / "evaluations.jsonl", evaluations)
    write_lines(folder / "health.jsonl", _alarms(updates))
    for update in range(updates):
        rows = [
            rollout_row(update, i, canvas, steps, min(1.0, 0.3 + update / updates), rng, texts) for i in range(rollouts)
        ]
        write_samples(folder / "rollouts" / f"{update:06d}.parquet", rows)
    for when, skill in (("start", 0.3), ("end", 1.0))[: 2 if finished else 1]:
        rows = [
            {**rollout_row(0, i, canvas, steps, skill, rng, texts), "prompt_id": i, "group_id": i, "advantage": None}
            for i in range(rollouts)
        ]
        write_samples(folder / "rollouts" / f"eval-{when}.parquet", rows)
    if finished:
        summary = _summary(evaluations, updates, steps, recipe["name"])
        (folder / "summary.json").write_text(json.dumps(plain(summary), indent=2), encoding="utf-8")
    return folder


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(plain(row)) + "\n" for row in rows), encoding="utf-8")


def recipe_data(
    name: str, updates: int, canvas: int, steps: int, every: int, rollouts: int, lr: float, seed: int
) -> dict[str, Any]:
    """A resolved recipe as plain data."""
    sampler = {
        "canvas": canvas,
        "block": 32,
        "steps": steps,
        "selection": "confidence",
        "temperature": 0.9,
        "top_p": 1.0,
        "eos": "first",
        "early_stop": True,
        "forbid": [],
    }
    return {
        "name": name,
        "model": {
            "path": "GSAI-ML/LLaDA-8B-Instruct",
            "family": "llada",
            "dtype": "bfloat16",
            "lora": {"r": 128, "alpha": 64.0, "targets": "auto", "dropout": 0.0},
        },
        "data": {
            "train": {"path": "openai/gsm8k", "split": "train", "name": "main"},
            "eval": {"path": "openai/gsm8k", "split": "test", "name": "main"},
            "validation": {"path": "openai/gsm8k", "split": "train[-500:]", "name": "main"},
        },
        "rollout": {**sampler, "group_size": 8, "max_rows": 64},
        "rewards": [
            {"fn": "gsm8k.correct", "weight": 1.0, "kwargs": {}, "name": "correct"},
            {"fn": "gsm8k.format", "weight": 0.2, "kwargs": {}, "name": "format"},
        ],
        "outcome": "correct",
        "method": {
            "preset": "diffu_grpo",
            "estimator": {"kind": "mean_field", "unit": "token", "prompt_mask": 0.15, "law": "raw"},
            "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.28},
            "advantage": "group_normalized",
            "reduction": "token_mean",
            "kl": {"beta": 0.04, "estimator": "k3", "reference": "start", "mix": 0.1, "every": 64},
            "inner_passes": 4,
            "mask_truncated": False,
        },
        "optim": {"lr": lr, "schedule": "cosine", "warmup_steps": 10, "max_grad_norm": 0.2, "betas": [0.9, 0.99]},
        "train": {
            "updates": updates,
            "prompts_per_update": 16,
            "micro_batch": 8,
            "seed": seed,
            "log_rollouts": rollouts,
            "out": f"runs/{name}",
        },
        "warm_start": {"data": {"path": "sft.jsonl", "split": "train"}, "steps": 200, "batch": 32, "lr": 1e-4},
        "eval": {
            "every": every,
            "sampler": {**sampler, "temperature": 0.0, "steps": steps, "early_stop": False},
            "steps": [steps // 8, steps // 4, steps // 2, steps],
            "n": 4,
        },
    }


def rollout_row(
    update: int, index: int, canvas: int, steps: int, skill: float, rng: np.random.Generator, texts: Sequence[str] = ()
) -> dict[str, Any]:
    """One rollout: blocks of 32 from left to right, the most certain positions first; the first two positions are a hint."""
    prompt, answer = PROMPTS_AND_ANSWERS[index % len(PROMPTS_AND_ANSWERS)]
    if texts:
        answer = texts[index % len(texts)]
    words = re.findall(r" ?[A-Za-z]+| ?\d|\n|[^A-Za-z\d\n]", answer)[: canvas - 1]
    right = bool(rng.random() < skill)
    if not right and not texts:
        words = [str(rng.integers(10)) if word.strip().isdigit() and rng.random() < 0.5 else word for word in words]
    tokens_text = words + [EOS] * (canvas - len(words))
    sure = np.where(np.arange(canvas) < len(words), rng.beta(1.2 + 3 * skill, 1.0, canvas), 0.999)
    reveal = _order(sure, canvas, steps)
    hint = np.zeros(canvas, dtype=bool)
    if index == 1:
        hint[:2] = True
        reveal[:2] = -1
    stopped = len(words) + 1 < canvas - 32 and index % 2 == 0
    last = math.ceil((len(words) + 1) / 32) * 32 if stopped else canvas
    reveal[last:] = steps  # early stop: the blocks after the one that holds EOS are never reached
    tokens_text[last:] = [MASK] * (canvas - last)
    drawn = (reveal >= 0) & (reveal < steps)
    counted = drawn & (np.arange(canvas) <= len(words))
    logprob = np.where(drawn, np.log(np.clip(sure, 1e-6, 1)), 0.0)
    advantage = float(rng.normal()) if index % 4 else 0.0
    ratio = np.exp(rng.normal(0, 0.08, canvas))
    return {
        "update": update,
        "prompt_id": index % len(PROMPTS_AND_ANSWERS),
        "rollout_id": index,
        "group_id": index // 2,
        "prompt": prompt,
        "text": "".join(words),
        "reward": 1.2 * right,
        "outcome": float(right),
        "components": json.dumps({"correct": float(right), "format": 1.0}),
        "advantage": advantage,
        "finish_reason": "eos" if len(words) < canvas else "length",
        "forwards": int(reveal[drawn].max()) + 1 if drawn.any() else 0,
        "extras": json.dumps({"extracted": answer.rpartition(" ")[2]}),
        "tokens": [abs(hash_of(text)) for text in tokens_text],
        "token_texts": tokens_text,
        "reveal_step": reveal.tolist(),
        "hint": hint.tolist(),
        "counted": counted.tolist(),
        "raw_logprob": logprob.tolist(),
        "sampler_logprob": (logprob * 0.9).tolist(),
        "entropy": (-np.log(np.clip(sure, 1e-6, 1)) * 1.3 * drawn).tolist(),
        "token_advantage": [advantage if one else None for one in drawn.tolist()],
        "ratio": [float(r) if one and index != 3 else None for r, one in zip(ratio, drawn.tolist())],
    }


def hash_of(text: str) -> int:
    """A token id for a text: the same in every process, below LLaDA's vocabulary size."""
    return int.from_bytes(text.encode()[:8].rjust(8, b"\0"), "big") % 126_464


PROMPTS_AND_ANSWERS = tuple((f"user: {question}\nassistant: ", answer) for question, answer in PROBLEMS)


def _order(sure: np.ndarray, canvas: int, steps: int) -> np.ndarray:
    block = min(32, canvas)
    per_block = max(1, steps * block // canvas)
    reveal = np.zeros(canvas, dtype=int)
    for number, start in enumerate(range(0, canvas, block)):
        ranks = np.argsort(np.argsort(-sure[start : start + block]))
        reveal[start : start + block] = number * per_block + ranks * per_block // block
    return reveal


def _rise(update: float, updates: int) -> float:
    return 1 / (1 + math.exp(-8 * (update / max(updates, 1) - 0.35)))


def _interval(value: float, n: int) -> dict[str, float]:
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-6) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def _metrics_row(u: int, updates: int, lift: float, lr: float, canvas: int, rng: np.random.Generator) -> dict[str, Any]:
    rise, noise = _rise(u, updates), rng.normal(0, 1, 24)
    outcome = min(1.0, max(0.0, 0.38 + lift * rise + 0.06 * noise[0]))
    kind = min(1.0, 0.55 + 0.42 * _rise(u * 2.4, updates) + 0.02 * noise[1])
    decay = min(1.0, (u + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * u / updates))
    row: dict[str, Any] = {
        "outcome": outcome,
        "reward": outcome + 0.2 * kind,
        "reward/correct": outcome,
        "reward/correct/std": math.sqrt(outcome * (1 - outcome)),
        "reward/format": kind,
        "reward/format/std": math.sqrt(max(0, kind * (1 - kind))),
        "advantage_std": 0.82 - 0.2 * rise + 0.03 * noise[2],
        "zero_signal_groups": min(1.0, max(0.0, 0.18 + 0.25 * rise + 0.06 * noise[3])),
        "group_diversity": min(1.0, max(0.0, 0.98 - 0.3 * rise + 0.02 * noise[4])),
        "length": 0.72 * canvas - 0.2 * canvas * rise + 0.02 * canvas * noise[5],
        "eos": min(1.0, 0.8 + 0.18 * rise + 0.02 * abs(noise[6])),
        "truncated": max(0.0, 0.2 - 0.18 * rise - 0.02 * abs(noise[6])),
        "entropy": 1.1 - 0.75 * rise + 0.03 * noise[7],
        "loss": -0.01 + 0.02 * noise[8],
        "clip_share": abs(0.01 + 0.02 * rise + 0.004 * noise[9]),
        "ratio": 1 + 0.01 * noise[10],
        "ratio_min": math.exp(-0.4 - 0.6 * rise - 0.1 * abs(noise[11])),
        "ratio_max": math.exp(0.4 + 0.9 * rise + 0.15 * abs(noise[12])),
        "ess": max(0.2, 0.97 - 0.15 * rise - 0.02 * abs(noise[13])),
        "approx_kl_old": abs(0.002 + 0.004 * rise + 0.001 * noise[14]),
        "penalty": abs(0.09 * rise + 0.006 * noise[15]),
        "logprob": -0.9 + 0.5 * rise + 0.02 * noise[16],
        "signal_share": 0.8 - 0.2 * rise,
        "first_pass_gap": abs(0.002 * noise[17]),
        "optim/grad_norm": math.exp(0.3 * noise[18] - 1) * (9 if u % 97 == 60 else 1),
        "optim/lr": lr * decay,
        "optim/changed_bf16": 1.0,
        "user/steps_in_answer": 3.1 + 0.4 * rise + 0.2 * noise[19],
    }
    if u % 61 == 40:
        row["dropped/reward_error"] = 2.0
    if u == updates // 3:
        row["loss"] = None  # as a NaN is written
    return {"update": u, **row}


def _timing_row(u: int, every: int, rng: np.random.Generator) -> dict[str, Any]:
    rollout, train = 21 + rng.normal(0, 1.5), 14 + rng.normal(0, 0.8)
    return {
        "update": u,
        "seconds/rollout": rollout,
        "seconds/reward": 1.4 + abs(rng.normal(0, 0.5)),
        "seconds/train": train,
        "seconds/eval": 95.0 if (u + 1) % every == 0 else 0.0,
        "seconds/save": 6.0 if (u + 1) % every == 0 else 0.0,
        "seconds/reward/correct": 1.2,
        "seconds/reward/format": 0.1,
        "tokens_per_second": 16 * 8 * 110 / rollout,
    }


def _warm_row(step: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.6 + 2.2 * math.exp(-step / 30) + 0.05 * rng.normal(),
        "grad_norm": 0.5 + math.exp(-step / 40) + 0.05 * abs(rng.normal()),
        "lr": 1e-4 * min(1.0, (step + 1) / 20),
        "changed_bf16": 1.0,
    }


def _evaluation(
    when: str, update: int, split: str, updates: int, lift: float, steps: int, rng: np.random.Generator
) -> dict[str, Any]:
    base = 0.36 + lift * _rise(update, updates) + 0.01 * rng.normal() + (0.02 if split == "validation" else 0)
    n = 512 if split == "eval" else 256
    full = when in ("start", "end") and split == "eval"
    counts = [steps // 8, steps // 4, steps // 2, steps] if full else [steps]
    share = {count: base * (1 - 0.5 * (1 - math.log2(8 * count / steps) / 3)) for count in counts}
    row: dict[str, Any] = {
        "when": when,
        "update": update,
        "split": split,
        "accuracy": {str(count): _interval(value, n) for count, value in share.items()},
        "outcomes": {str(count): (rng.random(n) < value).astype(float).tolist() for count, value in share.items()},
    }
    if full:
        row["pass_at_k"] = {str(k): _interval(1 - (1 - base) ** (0.6 * math.log2(k) + 1), n) for k in (1, 2, 4)}
    return row


def _alarms(updates: int) -> list[dict[str, Any]]:
    rows = [
        (0.52, "reward_all_format", "warn", "the format reward rose for 20 updates while the outcome did not"),
        (0.53, "reward_all_format", "warn", "the format reward rose for 20 updates while the outcome did not"),
        (0.78, "entropy_collapse", "warn", "the entropy fell to 0.31 nats, a third of what it was at the start"),
    ]
    remedy = {
        "reward_all_format": "lower the weight of the format reward, or give it only to right answers",
        "entropy_collapse": "raise rollout.temperature, lower optim.lr, or add a KL term",
    }
    return [
        {"update": int(at * updates), "monitor": name, "level": level, "message": text, "remedy": remedy[name]}
        for at, name, level, text in rows
    ]


def _summary(evaluations: list[dict[str, Any]], updates: int, steps: int, name: str) -> dict[str, Any]:
    before, after = (
        next(row for row in evaluations if row["when"] == when and row["split"] == "eval") for when in ("start", "end")
    )
    main = str(steps)
    gain = after["accuracy"][main]["value"] - before["accuracy"][main]["value"]
    return {
        "name": name,
        "outcome": "correct",
        "seed": 0,
        "accuracy_before": before["accuracy"][main],
        "accuracy_after": after["accuracy"][main],
        "gain": {"value": gain, "low": gain - 0.04, "high": gain + 0.04, "n": 512},
        "accuracy_by_steps_before": before["accuracy"],
        "accuracy_by_steps_after": after["accuracy"],
        "wall_seconds": {"rollout": 21.0 * updates, "train": 14.0 * updates, "eval": 1000.0, "warm_start": 300.0},
        "forwards": {"rollout": 128 * 64 * updates},
        "versions": {"python": "3.11.7", "unmask": "0.1.0", "torch": "2.13.0"},
        "commit": "dfc0174",
        "machine": {"system": "Linux", "cpus": 2},
    }

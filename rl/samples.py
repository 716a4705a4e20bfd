"""Rollouts kept for people to look at: one parquet file per update, one row per rollout, one list entry per canvas position."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.likelihood import Estimate
from rl.run import plain
from rl.scored import ScoredBatch

FOLDER = "rollouts"


def file_of(folder: Path, update: int) -> Path:
    """Where the rollouts of an update lie."""
    return folder / FOLDER / f"{update:06d}.parquet"


class TokenRatios:
    """Ratio new / old of the unit each token belongs to, in the last inner pass. Given to ``train_step`` as ``watch``."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._seen: dict[int, Tensor] = {}  # row of the batch -> ratio per unit, NaN where there is none

    def __call__(self, picked: Tensor, new: Estimate, old: Estimate) -> None:
        ratio = torch.where(new.mask, (new.value - old.value).exp(), float("nan")).cpu()
        self._seen = dict(zip(picked.tolist(), ratio, strict=True))

    def of(self, row: int, reveal_step: Tensor) -> Tensor | None:
        """Per position ``[S]`` of a row with these reveal steps; None where the row was not trained on."""
        ratio = self._seen.get(row)
        if ratio is None or self.unit == "token":
            return ratio
        if self.unit in ("draw", "action"):  # a token is in many draws, or answers
            return None
        if self.unit == "sequence":
            return ratio.expand(len(reveal_step))
        inside = (reveal_step >= 0) & (reveal_step < len(ratio))
        return torch.where(inside, ratio[reveal_step.clamp(0, len(ratio) - 1)], float("nan"))


def sample_rows(
    batch: ScoredBatch,
    count: int,
    *,
    update: int,
    prompts: Mapping[int, str],
    tokenizer: Any,
    extras: Mapping[str, Sequence[Any]] | None = None,
    ratios: TokenRatios | None = None,
) -> list[dict[str, Any]]:
    """The first ``count`` rows of a batch as the file holds them. prompts: prompt id -> the text that the model read."""
    rollouts, rows = batch.rollouts, []
    for i in range(min(count, len(batch))):
        on = rollouts.canvas_mask[i]
        tokens, steps = rollouts.tokens[i][on], rollouts.reveal_step[i][on]
        drawn = rollouts.drawn_mask[i][on].tolist()
        advantage, per_step = _advantages(batch, i, steps)
        ratio = None if ratios is None else ratios.of(i, rollouts.reveal_step[i])
        per_token = [None] * len(drawn) if ratio is None else ratio[on].tolist()
        graded = int(
            rollouts.rollout_id[i]
        )  # what rewards logged has a value per graded row; rows may have been dropped since
        rows.append(
            {
                "update": update,
                "prompt_id": int(rollouts.prompt_id[i]),
                "rollout_id": graded,
                "group_id": int(rollouts.group_id[i]),
                "prompt": prompts[int(rollouts.prompt_id[i])],
                "text": rollouts.texts[i],
                "reward": float(batch.reward[i]),
                "outcome": float(batch.outcome[i]),
                "components": json.dumps(plain({name: float(value[i]) for name, value in batch.components.items()})),
                "advantage": advantage,
                "finish_reason": rollouts.finish_reason[i],
                "forwards": int(rollouts.forwards[i]),
                "extras": json.dumps(
                    plain({name: values[graded] for name, values in (extras or {}).items()}),
                    ensure_ascii=False,
                    default=str,
                ),
                "tokens": tokens.tolist(),
                "token_texts": [tokenizer.decode([token]) for token in tokens.tolist()],
                "reveal_step": steps.tolist(),
                "hint": rollouts.hint_mask[i][on].tolist(),
                "counted": rollouts.loss_mask[i][on].tolist(),
                "raw_logprob": rollouts.raw_logprob[i][on].tolist(),
                "sampler_logprob": rollouts.sampler_logprob[i][on].tolist(),
                "entropy": rollouts.entropy[i][on].tolist(),
                "token_advantage": [value if one else None for value, one in zip(per_step, drawn, strict=True)],
                "ratio": [None if value is None or value != value else value for value in per_token],
            }
        )
    return rows


def _advantages(batch: ScoredBatch, row: int, reveal_step: Tensor) -> tuple[float | None, list[float | None]]:
    """A row's advantage (the mean over its steps, where they have their own), and that of each position."""
    if batch.advantage is None or batch.advantage.dim() == 1:
        whole = None if batch.advantage is None else float(batch.advantage[row])
        return whole, [whole] * len(reveal_step)
    own = batch.advantage[row]
    at = own[reveal_step.clamp(0, len(own) - 1)]
    return float(own[batch.rollouts.step_mask[row]].mean()), at.tolist()


def write_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a file whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    floats, ints, flags = pa.list_(pa.float32()), pa.list_(pa.int32()), pa.list_(pa.bool_())
    kinds = {
        **dict.fromkeys(("update", "forwards"), pa.int32()),
        **dict.fromkeys(("prompt_id", "rollout_id", "group_id"), pa.int64()),
        **dict.fromkeys(("prompt", "text", "components", "finish_reason", "extras"), pa.string()),
        **dict.fromkeys(("reward", "outcome", "advantage"), pa.float32()),
        **dict.fromkeys(("tokens", "reveal_step"), ints),
        **dict.fromkeys(("hint", "counted"), flags),
        **dict.fromkeys(("raw_logprob", "sampler_logprob", "entropy", "token_advantage", "ratio"), floats),
        "token_texts": pa.list_(pa.string()),
    }
    if not rows:
        return
    schema = pa.schema([(name, kinds[name]) for name in rows[0]])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".writing-{path.name}")
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), part)
    os.replace(part, path)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of one file, ``components`` and ``extras`` parsed."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    return [{**row, "components": json.loads(row["components"]), "extras": json.loads(row["extras"])} for row in rows]

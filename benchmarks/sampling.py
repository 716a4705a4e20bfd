"""Sampling, ours against LLaDA's published procedure, in one run and in turns.

    .venv/bin/python benchmarks/sampling.py --layers 0                         # LLaDA's head alone: 2 CPU cores, ten minutes
    .venv/bin/python benchmarks/sampling.py --layers 1                         # and one of its 32 layers
    .venv/bin/python benchmarks/sampling.py --device cuda --shape 8b           # one GPU, bfloat16

Ours: ``rollouts.engine.generate`` with selection by confidence, with everything it records (log-probabilities, entropies, the law of
the order). Theirs: ``benchmarks/published.py``. At temperature 0 the same text is asserted in float32; at temperature 1 the two draw
from the same law with streams of their own. Cells with an end hold the end of the text at that share of the canvas, given to both sides:
random weights never write one, trained ones do. Ours stops after the block that holds it, and the text up to there is compared.

On the CPU the network has LLaDA-8B's width and head, and with ``--layers 1`` one of its layers; "at full depth" in the table is computed
from the measured time of that layer. Resumable: a cell that stands in the output file is not run again.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import _common as common
from benchmarks import published
from rollouts.engine import generate
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from rollouts.trajectory import RolloutBatch


@dataclass(frozen=True)
class Cell:
    """prompts x group rows (a group shares its prompt). end: where the text ends, as a share of the canvas; None: nowhere."""

    prompts: int
    group: int
    prompt: int
    canvas: int
    block: int
    steps: int
    temperature: float
    end: float | None = None

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in vars(self).items())

    @property
    def rows(self) -> int:
        return self.prompts * self.group


CPU_GRID = [
    Cell(2, 1, 64, 64, 32, 4, 0.0),
    Cell(4, 1, 64, 64, 32, 4, 0.0),
    Cell(1, 1, 200, 256, 32, 16, 0.0),
    Cell(2, 1, 64, 64, 16, 8, 0.0, 0.5),
    Cell(1, 2, 64, 64, 32, 4, 1.0),
    Cell(1, 4, 64, 64, 32, 4, 1.0),
    Cell(1, 1, 200, 256, 32, 16, 1.0),
    Cell(1, 2, 64, 64, 16, 8, 1.0, 0.5),
]
GPU_GRID = [
    Cell(6, 1, 200, 256, 32, 128, 0.0),
    Cell(6, 1, 200, 256, 32, 128, 0.0, 0.5),
    Cell(1, 6, 200, 256, 32, 64, 1.0),
    Cell(1, 6, 200, 256, 32, 128, 1.0),
    Cell(4, 6, 200, 256, 32, 128, 1.0),
    Cell(1, 6, 200, 256, 32, 128, 1.0, 0.5),
]
TINY_GRID = [Cell(2, 1, 5, 8, 4, 4, 0.0), Cell(2, 1, 5, 8, 4, 4, 0.0, 0.4), Cell(1, 3, 5, 8, 4, 8, 1.0)]


def our_run(policy: Policy, cell: Cell, prompts: list[list[int]], hint: dict[int, int]) -> Callable[[], RolloutBatch]:
    spec = SamplerSpec(
        canvas=cell.canvas, block=cell.block, steps=cell.steps, selection="confidence", temperature=cell.temperature
    )
    rows = list(range(cell.rows))

    def run() -> RolloutBatch:
        return generate(
            policy, prompts, spec, seed=0, step=0, group_ids=rows, prompt_ids=rows, hints=[hint] * len(rows)
        )

    return run


def their_run(policy: Policy, cell: Cell, prompts: list[list[int]], hint: dict[int, int]) -> Callable[[], Tensor]:
    canvas = torch.full((cell.rows, cell.prompt + cell.canvas), policy.mask_id)
    canvas[:, : cell.prompt] = torch.tensor(prompts)
    for offset, token in hint.items():
        canvas[:, cell.prompt + offset] = token
    canvas, model = canvas.to(policy.device), common.whole_logits(policy)

    def run() -> Tensor:
        return published.generate(
            model,
            canvas,
            start=cell.prompt,
            block=cell.block,
            steps=cell.steps,
            temperature=cell.temperature,
            mask_id=policy.mask_id,
        )

    return run


def measure(setting: common.Setting, policy: Policy, cell: Cell) -> dict[str, Any]:
    """Both sides in turns, for their output, peak memory and time."""
    texts = common.random_tokens(setting.shape, cell.prompts, cell.prompt, seed=1)
    prompts = texts.repeat_interleave(cell.group, 0).tolist()
    length = cell.canvas if cell.end is None else int(cell.end * cell.canvas)
    hint = {} if cell.end is None else {length: policy.eos_ids[0]}
    ours, theirs = our_run(policy, cell, prompts, hint), their_run(policy, cell, prompts, hint)
    sides = common.in_turns({"published": theirs, "ours": ours}, setting.repeats, setting.device)
    batch, canvas = sides["ours"].result, sides["published"].result
    text = slice(cell.prompt, cell.prompt + length)
    same = float((batch.tokens[:, text] == canvas[:, text].cpu()).float().mean())
    if cell.temperature == 0 and policy.dtype == torch.float32:
        assert same == 1.0, f"{cell.name}: {1 - same:.1%} of the text differs"
    found = {
        name: {"seconds": side.seconds, "cpu_seconds": side.cpu_seconds, "peak_bytes": side.peak}
        for name, side in sides.items()
    }
    width = cell.prompt + cell.canvas
    forwards = {"published": cell.rows * cell.steps, "ours": int(batch.forwards.sum())}
    layers = setting.shape.layers
    forward = trunk_seconds(policy, cell, width)
    for name, side in found.items():
        # What the output takes at least: whole rows through the trunk, the head where a token may still be written.
        flops = setting.shape.flops(forwards[name], width, forwards[name] * cell.block // 2)
        side |= {
            "forwards": forwards[name],
            "tokens_per_second": cell.rows * length / side["seconds"],
            "mfu": setting.utilisation(flops, side["seconds"]),
        }
        if layers:
            deeper = common.SHAPES[setting.shape_name].layers / layers - 1
            side["seconds_all_layers"] = sides[name].own_seconds(setting.device) + forward * forwards[name] * deeper
    ratio = {
        "speedup": found["published"]["seconds"] / found["ours"]["seconds"],
        "cpu_speedup": found["published"]["cpu_seconds"] / found["ours"]["cpu_seconds"],
        "memory": found["ours"]["peak_bytes"] / found["published"]["peak_bytes"],
        "same_text": same,
    }
    if layers:
        ratio["speedup_all_layers"] = found["published"]["seconds_all_layers"] / found["ours"]["seconds_all_layers"]
    return {**found, "ratio": ratio, "trunk": forward}


@torch.no_grad()
def trunk_seconds(policy: Policy, cell: Cell, width: int) -> float:
    """Time of everything below the head for one row, in a forward of all rows."""
    tokens = torch.zeros(cell.rows, width, dtype=torch.int64, device=policy.device)
    last = torch.zeros_like(tokens, dtype=torch.bool)
    last[:, -1] = True
    policy(tokens, None, last)
    return min(common.own_seconds(lambda: policy(tokens, None, last), policy.device.type) for _ in range(3)) / cell.rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as README shows them."""
    head = ["temperature", "prompts x group", "prompt + canvas", "block", "steps", "text ends at"]
    head += [
        "seconds, published",
        "ours",
        "speedup",
        "of CPU seconds",
        "at full depth",
        "peak MB, published",
        "ours",
        "tokens/s, ours",
    ]
    head += ["same text", "MFU, published", "ours"]
    lines = []
    for row in rows:
        cell, ours, theirs, ratio = row["cell"], row["ours"], row["published"], row["ratio"]
        line = [f"{cell['temperature']:g}", f"{cell['prompts']} x {cell['group']}"]
        line += [f"{cell['prompt']} + {cell['canvas']}", str(cell["block"]), str(cell["steps"])]
        line += ["" if cell["end"] is None else f"{cell['end']:.0%}"]
        line += [f"{side['seconds']:.2f}" for side in (theirs, ours)]
        line += [
            f"{ratio['speedup']:.1f}",
            f"{ratio['cpu_speedup']:.1f}",
            common.two_places(ratio.get("speedup_all_layers")),
        ]
        line += [common.megabytes(side["peak_bytes"]) for side in (theirs, ours)]
        line += [f"{ours['tokens_per_second']:,.1f}", f"{ratio['same_text']:.0%}" if cell["temperature"] == 0 else ""]
        line += ["" if side["mfu"] is None else f"{side['mfu']:.3f}" for side in (theirs, ours)]
        lines.append(line)
    if all(row["ours"]["mfu"] is None for row in rows):
        head, lines = head[:-2], [line[:-2] for line in lines]
    return common.table(head, lines)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    setting = common.Setting.of(arguments)
    grid = TINY_GRID if setting.shape_name == "tiny" else GPU_GRID if setting.device == "cuda" else CPU_GRID
    cells = [cell for cell in grid if arguments.only in cell.name]
    policy = common.build(setting.shape, dtype=setting.dtype, device=setting.device, rank=None)
    return common.run_grid(setting, cells, lambda cell: measure(setting, policy, cell), arguments.out)


if __name__ == "__main__":
    print(table(run(common.parser(__doc__, "sampling").parse_args())))

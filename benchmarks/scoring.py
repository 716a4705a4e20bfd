"""Scoring and its gradient, ours against the straightforward published procedure, in one run and in turns.

    .venv/bin/python benchmarks/scoring.py --layers 0                          # LLaDA's head alone: 2 CPU cores, a quarter of an hour
    .venv/bin/python benchmarks/scoring.py --layers 1                          # and one of its 32 layers: half an hour
    .venv/bin/python benchmarks/scoring.py --device cuda --shape 8b            # one GPU, bfloat16

One update on invented rollouts, without the optimizer: old log-probabilities, the clipped loss, and its gradient in a LoRA adapter (the
head is frozen, as in d1; without layers the norm before the head is trained). Ours: ``rl.step.train_step``. Theirs:
``benchmarks/published.py``. Ours scores nothing beforehand on the first pass, which is its own old policy; theirs nothing where there is
one pass only, as TRL does. The same loss and gradient are asserted in every cell.

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
from rl.config import OptimConfig
from rl.estimators import Estimator
from rl.learner import Learner, Work
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.masks import MaskPlan, PlanKey
from rl.method import Clipped, Method
from rl.scored import ScoredBatch
from rl.step import train_step
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from rollouts.trajectory import FINISH_LENGTH, RolloutBatch

EPSILON = 0.2
# Loss and gradient of the two sides, as a relative distance.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Cell:
    """estimator: mean_field (one view per rollout), elbo (``views`` draws), trajectory (``views`` steps). micro_batch: of our
    views. passes: inner passes on one batch, each with masks of its own."""

    estimator: str
    batch: int
    prompt: int
    canvas: int
    views: int
    micro_batch: int
    passes: int = 1

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in vars(self).items())


CPU_GRID = [
    Cell("mean_field", 2, 200, 256, 1, 1),
    Cell("mean_field", 2, 200, 256, 1, 1, passes=2),
    Cell("mean_field", 4, 200, 256, 1, 2, passes=2),
    Cell("mean_field", 4, 64, 64, 1, 2, passes=4),
    Cell("elbo", 2, 200, 256, 2, 2, passes=2),
    Cell("elbo", 1, 200, 256, 4, 4, passes=2),
    Cell("trajectory", 1, 200, 256, 4, 2, passes=2),
    Cell("trajectory", 1, 200, 256, 8, 2),
]
GPU_GRID = [
    Cell("mean_field", 6, 200, 256, 1, 6),
    Cell("mean_field", 24, 200, 256, 1, 6),
    Cell("mean_field", 6, 200, 256, 1, 6, passes=4),
    Cell("elbo", 6, 200, 256, 2, 6),
    Cell("elbo", 6, 200, 256, 4, 6),
    Cell("trajectory", 6, 200, 256, 8, 6),
    Cell("trajectory", 6, 200, 256, 16, 6),
]
TINY_GRID = [
    Cell("mean_field", 2, 5, 8, 1, 1, passes=2),
    Cell("elbo", 2, 5, 8, 3, 2),
    Cell("trajectory", 2, 5, 8, 4, 3),
]


def method_of(cell: Cell) -> Method:
    """d1's token clip on mean-field scores, ESPO's sequence ratio on ELBO draws, CJ-GRPO's token clip on every step; no KL term."""
    estimator: Estimator
    if cell.estimator == "mean_field":
        estimator = MeanField(prompt_mask_prob=0.15)
    elif cell.estimator == "elbo":
        estimator = Elbo(draws=cell.views)
    else:
        estimator = Trajectory(law="raw")
    reduction = "sequence_mean" if cell.estimator == "elbo" else "token_mean"
    clip = Clipped(epsilon_low=EPSILON, epsilon_high=EPSILON)
    return Method(
        estimator=estimator,
        objective=clip,
        advantage="group_centered",
        reduction=reduction,
        inner_passes=cell.passes,
    )


def invented_rollouts(shape: common.Shape, cell: Cell) -> ScoredBatch:
    """Random tokens revealed in a random order over ``views`` steps, with random advantages."""
    batch, length = cell.batch, cell.prompt + cell.canvas
    steps = cell.views if cell.estimator == "trajectory" else 1
    generator = torch.Generator().manual_seed(1)
    canvas = (torch.arange(length) >= cell.prompt).expand(batch, -1).clone()
    order = torch.rand(batch, cell.canvas, generator=generator).argsort(1).argsort(1)
    reveal = torch.full((batch, length), -1)
    reveal[:, cell.prompt :] = order * steps // cell.canvas
    nothing, rows = torch.zeros(batch, length), torch.arange(batch)
    rollouts = RolloutBatch(
        tokens=common.random_tokens(shape, batch, length),
        prompt_mask=~canvas,
        canvas_mask=canvas,
        hint_mask=torch.zeros_like(canvas),
        loss_mask=canvas,
        reveal_step=reveal,
        raw_logprob=nothing,
        sampler_logprob=nothing,
        entropy=nothing,
        select_logprob=torch.zeros(batch, steps),
        policy_version=torch.zeros_like(rows),
        group_id=torch.zeros_like(rows),
        prompt_id=torch.zeros_like(rows),
        rollout_id=rows,
        forwards=torch.full_like(rows, steps),
        texts=("",) * batch,
        finish_reason=(FINISH_LENGTH,) * batch,
        sampler_spec=SamplerSpec(canvas=cell.canvas, block=cell.canvas, steps=steps, early_stop=False),
        mask_id=shape.mask_id,
    )
    rollouts.validate()
    reward = torch.randn(batch, generator=generator)
    return ScoredBatch(rollouts, reward, reward).with_advantage(reward)


class WithoutOptimizer(Learner):
    """A learner whose steps leave the gradients where they are and the weights as they were."""

    def step(self) -> dict[str, float]:
        return {}


STEP = 1  # of the run: only the first asserts by a pass of its own that old equals new


def plans_of(cell: Cell, batch: ScoredBatch) -> list[MaskPlan]:
    """Those of ``train_step``: one per inner pass, each with masks of its own."""
    estimator = method_of(cell).estimator
    return [estimator.plan(batch.rollouts, PlanKey(0, STEP, number, cell.passes)) for number in range(cell.passes)]


def our_update(learner: Learner, cell: Cell, batch: ScoredBatch) -> Callable[[], Tensor]:
    method = method_of(cell)

    def run() -> Tensor:
        mean = train_step(learner, batch, method, seed=0, step=STEP).result()["loss"]
        return torch.tensor(mean * cell.passes, device=learner.policy.device)

    return run


def their_update(policy: Policy, cell: Cell, batch: ScoredBatch, plans: list[MaskPlan]) -> Callable[[], Tensor]:
    """The same masks, in the published order: draw by draw (or step by step), all rows together."""
    device = policy.device

    def views_of(plan: MaskPlan) -> list[published.View]:
        number = torch.maximum(plan.step, plan.draw)
        parts = [plan.views((number == n).nonzero().squeeze(1)) for n in number.unique()]
        weights = [part.weight[:, cell.prompt :] for part in parts]
        return [
            published.View(part.row.to(device), part.masked.to(device), weight.to(device))
            for part, weight in zip(parts, weights, strict=True)
        ]

    passes = [views_of(plan) for plan in plans]
    tokens, model = batch.rollouts.tokens.to(device), common.whole_logits(policy)
    assert batch.advantage is not None
    advantage = batch.advantage.to(device)
    unit = "sequence" if cell.estimator == "elbo" else "token"

    def run() -> Tensor:
        return published.scoring_update(
            model, tokens, passes, advantage, mask_id=policy.mask_id, unit=unit, epsilon=EPSILON
        )

    return run


def measure(setting: common.Setting, learner: Learner, cell: Cell) -> dict[str, Any]:
    """Both sides in turns, for their gradient, peak memory and time."""
    batch, policy = invented_rollouts(setting.shape, cell), learner.policy
    plans = plans_of(cell, batch)
    policy.train()
    theirs, ours = their_update(policy, cell, batch, plans), our_update(learner, cell, batch)
    learner.work = Work()
    sides = common.in_turns(
        {"published": with_gradient(learner, theirs), "ours": with_gradient(learner, ours)},
        setting.repeats,
        setting.device,
    )
    distance = difference(sides["ours"].result, sides["published"].result)
    assert distance < TOLERANCE[policy.dtype], f"{cell.name}: loss or gradient differ by {distance:.2e}"
    length, views = cell.prompt + cell.canvas, sum(len(plan) for plan in plans)
    scored = sum(int(plan.rows_scored.sum()) for plan in plans)
    forward, backward = trunk_seconds(policy, cell.micro_batch, length)
    # How often each view goes through the trunk: old and new; ours has no old on the first pass.
    rounds = setting.repeats + (setting.device == "cuda")
    our_trunk = (learner.work.forward * forward + learner.work.backward * backward) / rounds
    their_trunk = views * ((1 if cell.passes == 1 else 2) * forward + backward)
    flops = 3 * setting.shape.flops(views, length, scored)  # two forwards, and the states' gradient
    found = {
        name: {
            "seconds": side.seconds,
            "cpu_seconds": side.cpu_seconds,
            "peak_bytes": side.peak,
            "tokens_per_second": views * length / side.seconds,
            "mfu": setting.utilisation(flops, side.seconds),
        }
        for name, side in sides.items()
    }
    ours, theirs = found["ours"], found["published"]
    ratio = {
        "memory": ours["peak_bytes"] / theirs["peak_bytes"],
        "time": ours["seconds"] / theirs["seconds"],
        "cpu_time": ours["cpu_seconds"] / theirs["cpu_seconds"],
        "distance": distance,
    }
    if setting.shape.layers:
        deeper = common.SHAPES[setting.shape_name].layers / setting.shape.layers - 1
        ratio["time_all_layers"] = (sides["ours"].own_seconds(setting.device) + deeper * our_trunk) / (
            sides["published"].own_seconds(setting.device) + deeper * their_trunk
        )
    return {"ours": ours, "published": theirs, "ratio": ratio, "views": views, "scored": scored, "trunk": their_trunk}


Outcome = tuple[Tensor, list[Tensor]]


def with_gradient(learner: Learner, step: Callable[[], Tensor]) -> Callable[[], Outcome]:
    """The step from zero gradients, which are there before the clock starts; its loss and a copy of its gradient."""

    def run() -> Outcome:
        for parameter in learner.parameters:
            assert parameter.grad is not None
            parameter.grad.zero_()
        loss = step()
        return loss, [p.grad.clone() for p in learner.parameters if p.grad is not None]

    for parameter in learner.parameters:
        parameter.grad = torch.zeros_like(parameter)
    return run


def difference(ours: Outcome, theirs: Outcome) -> float:
    """The larger relative distance, of the two losses or of the two gradients."""
    (loss, gradients), (other_loss, other) = ours, theirs
    whole = torch.stack([g.norm() for g in other]).norm()
    apart = torch.stack([(a - b).norm() for a, b in zip(gradients, other, strict=True)]).norm()
    scale = max(abs(float(other_loss)), 1e-2)  # at new = old the loss is a mean advantage, which may be near zero
    return max(abs(float(loss - other_loss)) / scale, float(apart / whole))


def trunk_seconds(policy: Policy, micro_batch: int, length: int) -> tuple[float, float]:
    """Time of everything below the head for one view: a forward without gradient, and the backward of one with."""
    tokens = torch.zeros(micro_batch, length, dtype=torch.int64, device=policy.device)
    nowhere = torch.zeros_like(tokens, dtype=torch.bool)
    nowhere[:, -1] = True

    def forward() -> None:
        with torch.no_grad():
            policy(tokens, None, nowhere)

    def both() -> None:
        policy(tokens, None, nowhere).float().sum().backward()

    forward()
    both()
    alone = min(common.own_seconds(forward, policy.device.type) for _ in range(2))
    together = min(common.own_seconds(both, policy.device.type) for _ in range(2))
    policy.zero_grad(set_to_none=True)
    return alone / micro_batch, (together - alone) / micro_batch


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as README shows them."""
    head = ["scores", "batch", "prompt + canvas", "views", "passes", "peak MB, published", "ours", "ratio"]
    head += [
        "seconds, published",
        "ours",
        "ratio",
        "of CPU seconds",
        "at full depth",
        "tokens/s, ours",
        "MFU, published",
        "ours",
    ]
    lines = []
    for row in rows:
        cell, ours, theirs, ratio = row["cell"], row["ours"], row["published"], row["ratio"]
        line = [cell["estimator"], str(cell["batch"]), f"{cell['prompt']} + {cell['canvas']}", str(cell["views"])]
        line += [str(cell["passes"])]
        line += [common.megabytes(side["peak_bytes"]) for side in (theirs, ours)] + [f"{ratio['memory']:.2f}"]
        line += [f"{side['seconds']:.2f}" for side in (theirs, ours)]
        line += [
            f"{ratio['time']:.2f}",
            f"{ratio['cpu_time']:.2f}",
            common.two_places(ratio.get("time_all_layers")),
        ]
        line += [f"{ours['tokens_per_second']:,.0f}"]
        line += ["" if side["mfu"] is None else f"{side['mfu']:.3f}" for side in (theirs, ours)]
        lines.append(line)
    if all(row["ours"]["mfu"] is None for row in rows):
        head, lines = head[:-2], [line[:-2] for line in lines]
    return common.table(head, lines)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    setting = common.Setting.of(arguments)
    grid = TINY_GRID if setting.shape_name == "tiny" else GPU_GRID if setting.device == "cuda" else CPU_GRID
    cells = [cell for cell in grid if arguments.only in cell.name]
    rank, deep = (4 if setting.shape_name == "tiny" else 128), setting.shape.layers > 8
    policy = common.build(
        setting.shape, dtype=setting.dtype, device=setting.device, rank=rank, gradient_checkpointing=deep
    )
    learners = {
        size: WithoutOptimizer(policy, OptimConfig(), total_steps=1, micro_batch=size)
        for size in {cell.micro_batch for cell in cells}
    }
    return common.run_grid(
        setting, cells, lambda cell: measure(setting, learners[cell.micro_batch], cell), arguments.out
    )


if __name__ == "__main__":
    print(table(run(common.parser(__doc__, "scoring").parse_args())))

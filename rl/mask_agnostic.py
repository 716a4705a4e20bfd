"""The mask-agnostic SFT loss (arXiv 2511.21338), the one loss that is no sum over scored log-probabilities: a total variation needs both
views' whole distributions. So it has a score function of its own, and goes backward by itself, a micro-batch at a time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rl.backends import TrainingError
from rl.learner import Learner
from rl.likelihood import SLICE_ROWS
from rl.masks import MaskPlan
from rl.sft_losses import MaskAgnostic
from rollouts import law as laws
from rollouts.streams import Purpose, stream
from rollouts.trajectory import RolloutBatch


def tails(batch: RolloutBatch, extra: int, *, seed: int, step: int) -> Tensor:
    """How many masks follow each row in its two views, int64 ``[B, 2]``."""
    streams = [stream(seed, Purpose.SFT, step, index + 1, 1) for index in batch.rollout_id.tolist()]
    drawn = [generator.integers(0, extra + 1, 2).tolist() for generator in streams]
    return torch.tensor(drawn, dtype=torch.int64).reshape(-1, 2)


def two_views(batch: RolloutBatch, masked: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, attention) ``[2, B, S + most masks]`` of both views. masked bool ``[B, S]``; tail int ``[B, 2]``."""
    wide = batch.padded(batch.length + int(tail.max()))
    real, place = wide.attention_mask, torch.arange(wide.length)
    end = real.sum(1, keepdim=True)
    follows = [(place >= end) & (place < end + count.unsqueeze(1)) for count in tail.T]
    hidden = torch.nn.functional.pad(masked, (0, wide.length - batch.length))
    tokens = [torch.where(hidden | tail, batch.mask_id, wide.tokens) for tail in follows]
    return torch.stack(tokens), torch.stack([real | tail for tail in follows])


def score_pair(policy: Any, tokens: Tensor, attention: Tensor, scored: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(log p of the target in view 1 plus that in view 2, total variation) of each scored position, float32 ``[R]``; differentiable.

    tokens, attention, scored ``[2, b, S]``; target int ``[R]``, the ids of the positions that ``scored[0]`` (and ``scored[1]``) names.
    """
    states = policy(tokens.flatten(0, 1), attention.flatten(0, 1), scored.flatten(0, 1)).view(2, len(target), -1)

    def run(one: Tensor, two: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (laws.log_p(policy.logits(rows)) for rows in (one, two))
        both = (first + second).gather(1, ids[:, None]).squeeze(1)
        return both, 0.5 * (first.exp() - second.exp()).abs().sum(1)

    parts = zip(states[0].split(SLICE_ROWS), states[1].split(SLICE_ROWS), target.split(SLICE_ROWS), strict=True)
    found = [checkpoint(run, *part, use_reentrant=False) for part in parts]
    return torch.cat([logp for logp, _ in found]), torch.cat([variation for _, variation in found])


def mask_agnostic_step(
    learner: Learner, batch: RolloutBatch, plan: MaskPlan, loss: MaskAgnostic, *, seed: int, step: int
) -> dict[str, float]:
    """One optimizer step; plan: one view of each row. Two forwards of a row with gradient."""
    policy = learner.policy
    tokens, attention = two_views(batch, plan.masked, tails(batch, loss.extra, seed=seed, step=step))
    total = float(batch.loss_mask.sum())
    wide = tokens.shape[2] - batch.length
    scored = torch.nn.functional.pad(plan.scored, (0, wide))
    weight = torch.nn.functional.pad(plan.weight, (0, wide))
    sums = {"ce": 0.0, "tv": 0.0}
    policy.train()
    for low in range(0, len(batch), learner.micro_batch):
        part = slice(low, low + learner.micro_batch)
        need = scored[part].to(policy.device)
        if not need.any():
            continue
        shown, real = tokens[:, part].to(policy.device), attention[:, part].to(policy.device)
        ids = torch.nn.functional.pad(batch.tokens[part], (0, wide)).to(policy.device)[need]
        both, variation = score_pair(policy, shown, real, need.expand(2, -1, -1), ids)
        ce = -(both * weight[part].to(policy.device)[need]).sum() / 2 / total
        tv = variation.sum() / total
        learner.backend.backward(loss.ce * ce + loss.tv * tv)
        sums = {"ce": sums["ce"] + float(ce.detach()), "tv": sums["tv"] + float(tv.detach())}
        learner.work.forward += shown.shape[0] * shown.shape[1]
        learner.work.backward += shown.shape[0] * shown.shape[1]
    value = loss.ce * sums["ce"] + loss.tv * sums["tv"]
    if not torch.isfinite(torch.tensor(value)):
        raise TrainingError(f"the SFT loss is {value} at step {step}")
    return {"loss": value, **sums, **learner.step()}

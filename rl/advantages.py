"""Reward to advantage. Pure functions: reward f32 ``[B]``, group int ``[B]`` -> advantage f32 ``[B]``.

Groups are the rollouts of one prompt that survived grading; a group of one has no baseline and gets 0. Nothing here depends
on the order of the rows, but for ties in ``best_worst``.
"""

from typing import Literal

import torch
from torch import Tensor

# Added to the standard deviation of a group, as TRL does (trl.GRPOConfig, scale_rewards="group").
STD_EPSILON = 1e-4

AdvantageName = Literal[
    "best_worst", "group_centered", "group_normalized", "leave_one_out", "softmax_difference", "stepwise", "verified"
]
GROUP_ADVANTAGES = (
    "best_worst",
    "group_centered",
    "group_normalized",
    "leave_one_out",
    "softmax_difference",
    "stepwise",
)


def _group_mean(value: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Per row: the mean of its group, and the size of its group."""
    _, index = group.unique(return_inverse=True)
    count = torch.zeros(int(index.max()) + 1, dtype=value.dtype).index_add_(0, index, torch.ones_like(value))
    total = torch.zeros_like(count).index_add_(0, index, value)
    return (total / count)[index], count[index]


def group_size(group: Tensor) -> Tensor:
    """Rows in each row's group, int ``[B]``."""
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    return count[index]


def group_softmax(score: Tensor, group: Tensor) -> Tensor:
    """Softmax over the rows of each group, float64 ``[B]``. A shift of a whole group changes nothing."""
    _, index = group.unique(return_inverse=True)
    score = score.double()
    most = score.new_full((int(index.max()) + 1,), float("-inf")).scatter_reduce(0, index, score, "amax")
    weight = (score - most[index]).exp()
    return weight / torch.zeros_like(most).index_add_(0, index, weight)[index]


def group_centered(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = r_i - mean_g(r). (d1, arXiv 2504.12216; Dr. GRPO, arXiv 2503.20783.)"""
    mean, _ = _group_mean(reward.double(), group)
    return (reward.double() - mean).float()


def group_normalized(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = (r_i - mean_g(r)) / (std_g(r) + 1e-4), std with n - 1. (GRPO, arXiv 2402.03300.) Groups without spread get 0."""
    centered = group_centered(reward, group).double()
    mean_square, count = _group_mean(centered**2, group)
    std = (mean_square * count / (count - 1).clamp(min=1)).sqrt()
    return (centered / (std + STD_EPSILON)).float()


def leave_one_out(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = r_i - mean of the others = n / (n - 1) * (r_i - mean_g(r)). (RLOO, arXiv 2402.14740.) Unbiased baseline."""
    mean, count = _group_mean(reward.double(), group)
    return (count / (count - 1).clamp(min=1) * (reward.double() - mean)).float()


def softmax_difference(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = n (softmax_g(r)_i - softmax_g(-r)_i). (wd1, arXiv 2507.08838: w+ and w-.) Groups without spread get 0.

    Not invariant to the scale of the reward, as published. The factor n, the group's size, makes a mean over rows the mean over prompts of
    the paper's sums.
    """
    return (group_size(group) * (group_softmax(reward, group) - group_softmax(-reward, group))).float()


def best_worst(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = n/2 for the best rollout of a group of n, -n/2 for the worst, 0 for the others: a preference pair. No spread, no pair.

    Of equals the first row is taken; rollouts of a group are drawn alike, so that is as good as any. The factor n makes a mean over rows
    the mean over groups.
    """
    found = torch.zeros(len(reward))
    for one in group.unique():
        rows = (group == one).nonzero().squeeze(1)
        best, worst = rows[reward[rows].argmax()], rows[reward[rows].argmin()]
        if reward[best] > reward[worst]:
            found[best], found[worst] = len(rows) / 2, -len(rows) / 2
    return found


def step_scores(step_reward: Tensor) -> Tensor:
    """MDPO's score of each recorded answer (arXiv 2508.13148; the form of its code), f32 ``[B, T]``, NaN where step_reward is.

        a_s = (r_s - r_{s-1}) + 1 + mean_{k > s} r_k

    over the row's own S steps; r_{-1} = 0, and at the last step its own reward stands for the mean of nothing. What a step gains over the
    one before, and how good the answers after it are. step_reward f32 ``[B, T]``.
    """
    seen = ~step_reward.isnan()
    reward = torch.where(seen, step_reward.double(), 0.0)
    # The reward at the last step before each one: rows may have steps without an answer.
    place = torch.arange(reward.shape[1]).expand_as(reward)
    last = torch.where(seen, place, -1).cummax(1).values
    previous = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=1)
    before = torch.where(previous >= 0, reward.gather(1, previous.clamp(min=0)), 0.0)
    count = seen.long().flip(1).cumsum(1).flip(1) - seen.long()
    after = (reward.flip(1).cumsum(1).flip(1) - reward) / count.clamp(min=1)
    score = (reward - before) + 1.0 + torch.where(count > 0, after, reward)
    return torch.where(seen, score, float("nan")).float()


def stepwise(step_reward: Tensor, group: Tensor) -> Tensor:
    """A_s = (a_s - mean_g(a_s)) / (std_g(a_s) + 1e-4) at each step by itself, a = ``step_scores``; f32 ``[B, T]``, 0 where a row has no
    answer, and where no other of its group has one. (MDPO, arXiv 2508.13148.)"""
    score, found = step_scores(step_reward), torch.zeros_like(step_reward)
    for step in range(step_reward.shape[1]):
        seen = ~score[:, step].isnan()
        if seen.any():
            found[seen, step] = group_normalized(score[seen, step], group[seen])
    return found


def verified(outcome: Tensor, threshold: float = 1.0) -> Tensor:
    """A_i = 1 where the outcome is verified (>= threshold), else 0: rejection sampling (RAFT, arXiv 2304.06767)."""
    return (outcome >= threshold).float()


def advantages(
    name: AdvantageName, reward: Tensor, outcome: Tensor, group: Tensor, step_reward: Tensor | None = None
) -> Tensor:
    """Dispatch by the name a recipe uses; ``[B]``, or ``[B, T]`` where it is stepwise."""
    if name == "stepwise":
        if step_reward is None:
            raise ValueError("stepwise advantages need the rewards of recorded answers: rollout.strategy recorded")
        return stepwise(step_reward, group)
    if name == "verified":
        return verified(outcome)
    return {
        "best_worst": best_worst,
        "group_centered": group_centered,
        "group_normalized": group_normalized,
        "leave_one_out": leave_one_out,
        "softmax_difference": softmax_difference,
    }[name](reward, group)

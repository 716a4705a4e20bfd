"""Variance of VRPO's preference score and bias of its loss, exactly: every mask plan of a tiny policy trained away from its reference.

    .venv/bin/python -m benchmarks.vrpo_variance

The score is s = beta [(B_new - B_ref)(chosen) - (B_new - B_ref)(rejected)], each B a mean over n_t levels x n_y masks at a level. Shared:
policy and reference see the same masks. The policy and the enumeration are the tests' (`tests/oracles`): three tokens, four ids, so a
draw has 18 outcomes. Published: VRPO (arXiv 2505.19223), the variance of the score of LLaDA 8B.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from rl.advantages import best_worst
from rl.config import OptimConfig
from rl.learner import Learner
from rl.method import Method
from rl.noise import Noise
from rl.presets import PRESETS
from rl.scored import ScoredBatch
from rl.step import train_step
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from tests.oracles.tables import Law, Table, exact_bound, law_of, mean_and_variance, mean_of, table_of
from tests.oracles.tabular import TabularPolicy

PROMPT, UPDATES, BETA = (0, 1), 6, 0.2
# (n_t, n_y, shared): the published variance of the score.
PUBLISHED = {
    (8, 1, True): 1.0,
    (4, 1, True): 2.2,
    (2, 2, True): 4.7,
    (1, 4, True): 7.3,
    (1, 1, True): 44.0,
    (4, 1, False): 2183.7,
}


@dataclass(frozen=True)
class Pair:
    """Tables of the chosen and the rejected answer, under the policy and under its reference."""

    chosen: tuple[Table, Table]
    rejected: tuple[Table, Table]

    @property
    def score(self) -> float:
        """s with exact bounds."""
        (cn, cr), (rn, rr) = self.chosen, self.rejected
        return BETA * (exact_bound(cn) - exact_bound(cr) - exact_bound(rn) + exact_bound(rr))


def trained_pair(updates: int = UPDATES) -> Pair:
    """The best and the worst of a group of rollouts, and a policy that ``updates`` steps of VRPO have trained on them."""
    policy = TabularPolicy(5, seed=4, scale=1.2, dtype=torch.float32)
    spec = SamplerSpec(canvas=3, block=3, steps=3, eos="all", early_stop=False)
    rollouts = sample_groups(policy, [PROMPT], spec, group_size=4, prompt_ids=[0], seed=1, step=0)
    reward = rollouts.tokens[:, len(PROMPT) :].double().mean(1)
    batch = ScoredBatch(rollouts, reward, reward).with_advantage(best_worst(reward, rollouts.group_id))
    method = Method.model_validate(PRESETS["vrpo"])
    learner = Learner(policy, OptimConfig(lr=0.01), total_steps=max(1, updates), micro_batch=64)
    learner.freeze_reference("start")
    for step in range(updates):
        train_step(learner, batch, method, seed=0, step=step)
    answers = [rollouts.tokens[row, len(PROMPT) :].tolist() for row in (int(reward.argmax()), int(reward.argmin()))]
    new = [table_of(policy, PROMPT, answer) for answer in answers]
    with learner.reference():
        reference = [table_of(policy, PROMPT, answer) for answer in answers]
    return Pair((new[0], reference[0]), (new[1], reference[1]))


def estimate_law(table: Table, levels: int, masks: int) -> Law:
    """Of the estimate from ``levels`` independent levels with ``masks`` masks each."""
    return mean_of(law_of(Noise(draws=1, masks_per_level=masks), table), levels)


def difference(tables: tuple[Table, Table]) -> Table:
    """An estimate is linear in its scores: with shared masks the difference of two is the estimate of the difference."""
    return {mask: tables[0][mask] - tables[1][mask] for mask in tables[0]}


def score_variance(pair: Pair, levels: int, masks: int, shared: bool) -> float:
    """Var(s) over every plan. The two answers have draws of their own, and unshared the two models too."""
    parts = [difference(one) for one in (pair.chosen, pair.rejected)] if shared else [*pair.chosen, *pair.rejected]
    return BETA**2 * sum(mean_and_variance(estimate_law(part, levels, masks))[1] for part in parts)


def loss_bias(pair: Pair, levels: int, masks: int) -> float:
    """E[-log sigmoid(s)] - (-log sigmoid(E s)) with shared masks: what the nonlinearity makes of the variance."""
    laws = [estimate_law(difference(one), levels, masks) for one in (pair.chosen, pair.rejected)]
    values, chances = zip(*((np.array(list(law)), np.array(list(law.values()))) for law in laws), strict=True)
    losses = np.log1p(np.exp(-BETA * np.subtract.outer(*values)))
    return float(chances[0] @ losses @ chances[1]) - math.log1p(math.exp(-pair.score))


def table(pair: Pair) -> str:
    """The rows that docs/methods.md shows."""
    unit = score_variance(pair, 8, 1, True)
    lines = [
        "| n_t | n_y | masks | published Var(s) | ours | ours, in units of (8, 1) | ours, bias of the loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for (levels, masks, shared), published in PUBLISHED.items():
        variance = score_variance(pair, levels, masks, shared)
        bias = f"{loss_bias(pair, levels, masks):.1e}" if shared else ""
        kind = "shared" if shared else "not shared"
        lines.append(
            f"| {levels} | {masks} | {kind} | {published:g} | {variance:.2e} | {variance / unit:.1f} | {bias} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    one = trained_pair()
    print(f"exact score {one.score:.3f} after {UPDATES} updates\n\n{table(one)}")

"""Preferences: DPO on ELBO differences (VRPO, LLaDA 1.5, arXiv 2505.19223).

A pair is two rows of one group whose advantages have opposite signs: a stored pair, or the best and the worst rollout of a sampled group
(``rl.advantages.best_worst``). Policy and reference score the same masked views of a row, which is what VRPO calls antithetic sampling;
the two rows of a pair have draws of their own.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rl.objectives import Metrics, Units, _Component


def dpo_loss(score: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(s) (DPO, arXiv 2305.18290, eq. 7), of scores of any shape.

    label_smoothing e > 0: [(1 - e) (-log sigmoid(s)) - e (-log sigmoid(-s))] / (1 - 2 e), whose mean over labels flipped with probability
    e is the loss of the right ones (robust DPO, arXiv 2403.00409; TRL's ``robust``).
    """
    if label_smoothing == 0.0:
        return -logsigmoid(score)
    kept, flipped = (1.0 - label_smoothing) * logsigmoid(score), label_smoothing * logsigmoid(-score)
    return (flipped - kept) / (1.0 - 2.0 * label_smoothing)


def pairs_of(advantage: Tensor, mask: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (chosen, rejected) of every pair, int64 ``[K]`` each. advantage, mask, group ``[R]``; a row without a partner is in no pair.

    Raises ``ValueError`` where a group has two rows of one sign: which of them belongs to which is not known.
    """

    def side(rows: Tensor) -> Tensor:
        rows = rows[group[rows].argsort()]
        if len(group[rows].unique()) < len(rows):
            raise ValueError("a group holds more than one row of one sign; dpo wants one chosen and one rejected row")
        return rows

    chosen = side((mask & (advantage > 0)).nonzero().squeeze(1))
    rejected = side((mask & (advantage < 0)).nonzero().squeeze(1))
    return chosen[torch.isin(group[chosen], group[rejected])], rejected[torch.isin(group[rejected], group[chosen])]


class Dpo(_Component):
    """DPO on ELBO differences, and VRPO's small supervised term on the chosen row:

        s = beta [(new - ref)(chosen) - (new - ref)(rejected)],   loss = -log sigmoid(s) + sft_weight * (-new(chosen) / tokens)

    new, ref: estimates of the whole sequence, not divided by its length. Each row of a pair carries |A| times the pair's loss, with
    A = +-n/2 (n: the group's size), so that a mean over rows is the mean over groups.
    """

    kind: Literal["dpo"] = "dpo"
    known_on_policy: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    couples_rows: ClassVar[bool] = True

    beta: float = Field(default=0.2, gt=0.0, description="weight of the reference, of un-normalised log-likelihoods")
    sft_weight: float = Field(
        default=0.05, ge=0.0, description="weight of the chosen row's denoising loss per token (VRPO: 0.05)"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=0.5, description="share of pairs taken to be mislabelled (TRL: loss_type robust)"
    )

    def scores(self, units: Units) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(chosen rows, rejected rows, beta (new - ref) of the chosen, the same of the rejected), ``[K]`` each."""
        if units.reference is None or units.group is None or units.tokens is None or units.new.shape[1] != 1:
            raise ValueError("dpo needs a reference, groups, token counts, and one unit per row")
        chosen, rejected = pairs_of(units.advantage[:, 0], units.mask[:, 0], units.group)
        margin = self.beta * (units.new - units.reference)[:, 0]
        return chosen, rejected, margin[chosen], margin[rejected]

    def sft(self, units: Units, chosen: Tensor) -> Tensor:
        """-new / tokens of the chosen rows, ``[K]``: the estimate's own draws serve as the denoising loss."""
        return -units.new[chosen, 0] / units.tokens[chosen].to(units.new)  # type: ignore[index]

    def per_unit(self, units: Units) -> Tensor:
        chosen, rejected, up, down = self.scores(units)
        loss = dpo_loss(up - down, self.label_smoothing) + self.sft_weight * self.sft(units, chosen)
        rows = torch.cat([chosen, rejected])
        value = torch.zeros_like(units.new[:, 0]).index_add(0, rows, units.advantage[rows, 0].abs() * loss.repeat(2))
        return value.unsqueeze(1)

    def metrics(self, units: Units) -> Metrics:
        """Means over pairs. score: s; chosen, rejected: its two parts; accuracy: share of pairs with s > 0; loss, sft: the two terms."""
        chosen, _, up, down = self.scores(units)
        found = {
            "loss": dpo_loss(up - down, self.label_smoothing),
            "sft": self.sft(units, chosen),
            "score": up - down,
            "chosen": up,
            "rejected": down,
            "accuracy": up > down,
        }
        return {f"preference/{name}": (value.sum(), torch.tensor(len(value))) for name, value in found.items()}

    def tails(self, units: Units) -> dict[str, tuple[float, float]]:
        _, _, up, down = self.scores(units)
        return {"score": (float((up - down).min()), float((up - down).max()))} if len(up) else {}

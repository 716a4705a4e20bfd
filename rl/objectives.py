"""Objectives: (new, old, reference, advantage) -> loss per unit. Pure functions, no models, no devices, no ray.

A *unit* is what one likelihood ratio belongs to: a token, a denoising step, one draw of an ELBO, or a sequence. Shapes: ``R`` rows x
``U`` units. ``new`` carries the gradient; everything else is data.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rl.advantages import group_size, group_softmax

Metrics = dict[str, tuple[Tensor, Tensor]]  # name -> (sum, count); divided once, after the reduction over ranks


@dataclass(frozen=True, eq=False)
class Units:
    """All that an objective sees of a pass. Entries outside ``mask`` hold no unit and may hold anything finite.

    new, old, advantage f32 ``[R, U]``; mask bool ``[R, U]``; reference f32 ``[R, U]`` where the method has one; group int ``[R]``: rows
    of one prompt share a number; tokens int ``[R]``: what a length-normalised estimate is divided by. Rows arrive in any order, and a
    group may have lost some to a failed grading. factor f32 ``[R, U]``: what the estimator lays on the surrogate, where it does.
    """

    new: Tensor
    old: Tensor
    advantage: Tensor
    mask: Tensor
    reference: Tensor | None = None
    group: Tensor | None = None
    tokens: Tensor | None = None
    factor: Tensor | None = None


def clipped_surrogate(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's clipped surrogate as a loss, per unit (arXiv 1707.06347, eq. 7; asymmetric bounds: DAPO, arXiv 2503.14476, eq. 8).

        r = exp(new - old),   loss = -min(r A, clip(r, 1 - low, 1 + high) A)

    new, old ``[R, U]``; advantage broadcastable to them. With sequence units this is GSPO's objective (arXiv 2507.18071, eq. 5) if
    the estimates are length-normalised.
    """
    return clip_ratio((new - old).exp(), advantage, low, high)


def clip_ratio(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) of a given ratio, or of what stands in for one. ``[R, U]``."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - low, 1.0 + high) * advantage)


def clip_mask(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Units whose gradient the clip removes: r > 1 + high with A > 0, or r < 1 - low with A < 0. bool ``[R, U]``."""
    return ((ratio > 1.0 + high) & (advantage > 0)) | ((ratio < 1.0 - low) & (advantage < 0))


def dual_clip(loss: Tensor, advantage: Tensor, bound: float) -> Tensor:
    """Dual clip (arXiv 1912.09729, eq. 5; TRL's ``delta``): where A < 0 a surrogate's loss stops at what it is at r = c.

        loss = min(loss, -c A)   where A < 0, c > 1

    Without it a sample with A < 0 whose ratio has grown large weighs as much as that ratio. loss, advantage ``[R, U]``.
    """
    most = -bound * advantage
    return torch.where((advantage < 0) & (loss > most), most, loss)


def linear_bound(new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """BGPO's stand-in for the ratio of one draw (arXiv 2510.11683): linear in the draws, and never better than the ratio of their mean.

        d = new - old,   g = 1 + d   where A > 0  (exp(mean d) >= mean(1 + d))
                         g = exp(d)  else         (exp(mean d) <= mean(exp(d)))

    so mean(g) A <= exp(mean d) A for either sign: the loss is an upper bound of the ratio's. At d = 0 value and slope are those of
    exp(d). new, old, advantage ``[R, U]``.
    """
    difference = new - old
    return torch.where(advantage > 0, 1.0 + difference, difference.exp())


def k2(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k2, (new - ref)^2 / 2: as a loss on samples of the new policy its gradient is that of KL(new || ref)."""
    return 0.5 * (new - reference).square()


def k3(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3, exp(d) - d - 1 with d = ref - new: unbiased and non-negative as a value (joschu.net/blog/kl-approx.html)."""
    d = reference - new
    return d.exp() - d - 1.0


def k2_sum(new: Tensor, reference: Tensor, length: Tensor) -> Tensor:
    """ESPO's penalty (arXiv 2512.03759): k2 of the sequence's sum, per token. new, reference: sums divided by ``length``.

    (L new - L ref)^2 / (2 L) = L * k2(new, ref): the square is of the sum and is divided by L once, not twice.
    """
    return length * k2(new, reference)


def target_weights(
    score: Tensor, reference_gap: Tensor, group: Tensor, baseline: Literal["none", "mean", "negative"]
) -> Tensor:
    """What each rollout of a group weighs in DMPO's weighted denoising cross-entropy (arXiv 2510.08233), float32 ``[R]``.

        p* ~ p_ref exp(r / alpha),   w_i = softmax over the group of (log p_ref(i) - log p_old(i) + r_i / alpha)
        weight_i = n (w_i - b_i),    b = 0 (none), 1 / n (mean), or the same softmax with -r / alpha (negative)

    score: r / alpha; reference_gap: log p_ref - log p_old of the whole sequence; group int; all ``[R]``. The factor n, the group's size,
    makes a mean over rows the mean over prompts of the paper's sums. ``negative`` leaves a group without spread in r exactly nothing.
    """
    up, size = group_softmax(reference_gap + score, group), group_size(group)
    if baseline == "negative":
        up = up - group_softmax(reference_gap - score, group)
    elif baseline == "mean":
        up = up - 1.0 / size
    return (size * up).float()


def effective_share(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Effective sample size of the ratios as a share of the units: (sum r)^2 / (n sum r^2), in (0, 1] (Kong 1992). Scalar; 0 of none."""
    if not mask.any():
        return new.new_zeros(())
    difference = (new - old)[mask].double()
    ratio = (difference - difference.max()).exp()  # the share does not depend on the scale, and so nothing overflows
    return (ratio.sum().square() / (len(ratio) * ratio.square().sum())).to(new.dtype)


class BaseObjective(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str

    # At new = old the derivative depends on the advantage alone, so an on-policy pass needs no scores beforehand. Said by those of which it
    # is known: where it is not so, the derivative would be taken at scores that are no one's.
    known_on_policy: ClassVar[bool] = False
    # It compares the policy with the reference, whatever the KL term does.
    needs_reference: ClassVar[bool] = False
    # The loss of a row hangs on other rows of its group, so that a pass of several forwards cannot be taken apart.
    couples_rows: ClassVar[bool] = False
    # What a row weighs hangs on the other rows of its group: all are scored, also those without advantage.
    couples_groups: ClassVar[bool] = False

    # What a class of the user's own has to bring.
    written: ClassVar[tuple[str, ...]] = ("per_unit",)

    def metrics(self, units: Units) -> Metrics:
        """What the log gets beside the loss: name -> (sum, count)."""
        return {}

    def tails(self, units: Units) -> dict[str, tuple[float, float]]:
        """Smallest and largest of what this objective weighs samples by."""
        return {}


BaseObjective = BaseObjective  # what an objective of the user's own derives from


class _Ratio(BaseObjective):
    """An objective on the likelihood ratio r = exp(new - old), clipped where the step has gone far enough."""

    known_on_policy: ClassVar[bool] = True
    epsilon_low: float = Field(default=0.2, gt=0.0, le=1.0)
    epsilon_high: float = Field(default=0.2, gt=0.0)
    dual: float | None = Field(
        default=None, gt=1.0, description="dual clip: the ratio counts up to this where the advantage is negative"
    )

    def ratio(self, units: Units) -> Tensor:
        """The ratio, or what stands in for it, ``[R, U]``."""
        return (units.new - units.old).exp()

    def per_unit(self, units: Units) -> Tensor:
        loss = clip_ratio(self.ratio(units), units.advantage, self.epsilon_low, self.epsilon_high)
        return loss if self.dual is None else dual_clip(loss, units.advantage, self.dual)

    def metrics(self, units: Units) -> Metrics:
        new, old, mask, count = units.new, units.old, units.mask, units.mask.sum()
        ratio = self.ratio(units)
        clipped = clip_mask(ratio, units.advantage, self.epsilon_low, self.epsilon_high)
        if self.dual is not None:
            clipped = clipped | ((units.advantage < 0) & (ratio > self.dual))
        return {
            "clip_share": ((clipped & mask).sum(), count),
            "ratio": (((new - old).exp() * mask).sum(), count),
            "ess": (effective_share(new, old, mask) * count, count),
            "approx_kl_old": ((k3(old, new) * mask).sum(), count),
        }

    def tails(self, units: Units) -> dict[str, tuple[float, float]]:
        ratio = (units.new - units.old)[units.mask].exp()
        return {"ratio": (float(ratio.min()), float(ratio.max()))} if len(ratio) else {}


class Clipped(_Ratio):
    """Clipped surrogate at the level of the estimator's unit."""

    kind: Literal["clipped"] = "clipped"


class Stepwise(_Ratio):
    """MDPO's objective (arXiv 2508.13148): the clipped surrogate of each token of a recorded answer, times the estimator's factor, which is
    L / m at a step whose state shows m of the canvas's L positions as MASK. The KL term goes without that factor."""

    kind: Literal["stepwise"] = "stepwise"

    def per_unit(self, units: Units) -> Tensor:
        if units.factor is None:
            raise ValueError("the stepwise objective needs the answers of steps; use estimator x0_action")
        return units.factor * super().per_unit(units)


class LinearBound(_Ratio):
    """BGPO's bound of the clipped surrogate, a sum over the draws of an ELBO: each draw is clipped by itself."""

    kind: Literal["linear_bound"] = "linear_bound"

    def ratio(self, units: Units) -> Tensor:
        return linear_bound(units.new, units.old, units.advantage)


class Raft(BaseObjective):
    """Maximum likelihood of verified samples: loss = -A * new with A in {0, 1} (RAFT, arXiv 2304.06767)."""

    kind: Literal["raft"] = "raft"
    known_on_policy: ClassVar[bool] = True

    def per_unit(self, units: Units) -> Tensor:
        return -units.advantage * units.new

    def metrics(self, units: Units) -> Metrics:
        return {"verified_share": ((units.advantage * units.mask).sum(), units.mask.sum())}


class PolicyGradient(BaseObjective):
    """Weighted likelihood without ratio or clip: loss = -A * new (REINFORCE; wd1, arXiv 2507.08838, with its own advantage).

    Further passes over the same rollouts are not corrected for the policy having moved.
    """

    kind: Literal["policy_gradient"] = "policy_gradient"
    known_on_policy: ClassVar[bool] = True

    def per_unit(self, units: Units) -> Tensor:
        return -units.advantage * units.new

    def metrics(self, units: Units) -> Metrics:
        """log_ratio: how far the policy has moved from the one that drew the samples, which nothing corrects."""
        return {"log_ratio": (((units.new - units.old) * units.mask).sum(), units.mask.sum())}


class WeightedCrossEntropy(BaseObjective):
    """DMPO's weighted denoising cross-entropy: -weight * new, the weights from old and reference estimates of the same draws."""

    kind: Literal["weighted_ce"] = "weighted_ce"
    known_on_policy = False
    needs_reference = True
    couples_groups = True
    couples_rows = True
    alpha: float = Field(default=0.04, gt=0.0, description="reward's temperature in the target p_ref exp(r / alpha)")
    baseline: Literal["none", "mean", "negative"] = Field(
        default="negative", description="taken from the weights: nothing, 1/n, or the weights of the negated reward"
    )

    def weights(self, units: Units) -> Tensor:
        """``[R, 1]``; 0 for rows without tokens, which are in no group."""
        if units.reference is None or units.group is None or units.new.shape[1] != 1:
            raise ValueError("weighted_ce needs a reference, groups, and one unit per row")
        kept = units.mask.squeeze(1)
        if not kept.any():
            return torch.zeros_like(units.old)
        gap, score = (units.reference - units.old)[kept, 0], units.advantage[kept, 0] / self.alpha
        found = target_weights(score, gap, units.group[kept], self.baseline)
        return torch.zeros_like(units.old).index_put((kept.nonzero().squeeze(1),), found.unsqueeze(1).to(units.old))

    def per_unit(self, units: Units) -> Tensor:
        return -self.weights(units) * units.new

    def metrics(self, units: Units) -> Metrics:
        """weight_ess: 1 / (n sum w^2) of a group's weights before the baseline, mean over groups; 1 / n: one rollout has it all."""
        weight = self.model_copy(update={"baseline": "none"}).weights(units)[units.mask]
        group, index = units.group[units.mask.squeeze(1)].unique(return_inverse=True)  # type: ignore[index]
        squares = weight.new_zeros(len(group)).index_add_(0, index, weight.square())
        share = index.bincount(minlength=len(group)) / squares  # weights carry the factor n: n / sum (n w)^2
        return {"weight_ess": (share.sum(), torch.tensor(len(group)))}

    def tails(self, units: Units) -> dict[str, tuple[float, float]]:
        weight = self.weights(units)[units.mask]
        return {"weight": (float(weight.min()), float(weight.max()))} if len(weight) else {}


KL_ESTIMATORS = {"k2": k2, "k3": k3}

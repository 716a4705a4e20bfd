"""Objectives: (new, old, reference, advantage) -> loss per unit. Pure functions, no models, no devices, no ray.

A *unit* is what one likelihood ratio belongs to: a token, a denoising step, or a sequence. Shapes: ``R`` rows x ``U`` units.
``new`` carries the gradient; everything else is data.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Metrics = dict[str, tuple[Tensor, Tensor]]  # name -> (sum, count); divided once, after the reduction over ranks


def clipped_surrogate(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's clipped surrogate as a loss, per unit (arXiv 1707.06347, eq. 7; asymmetric bounds: DAPO, arXiv 2503.14476, eq. 8).

        r = exp(new - old),   loss = -min(r A, clip(r, 1 - low, 1 + high) A)

    new, old ``[R, U]``; advantage broadcastable to them. With sequence units this is GSPO's objective (arXiv 2507.18071, eq. 5) if
    the estimates are length-normalised.
    """
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - low, 1.0 + high) * advantage)


def clip_mask(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Units whose gradient the clip removes: r > 1 + high with A > 0, or r < 1 - low with A < 0. bool ``[R, U]``."""
    ratio = (new - old).exp()
    return ((ratio > 1.0 + high) & (advantage > 0)) | ((ratio < 1.0 - low) & (advantage < 0))


def k2(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k2, (new - ref)^2 / 2: as a loss on samples of the new policy its gradient is that of KL(new || ref)."""
    return 0.5 * (new - reference).square()


def k3(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3, exp(d) - d - 1 with d = ref - new: unbiased and non-negative as a value (joschu.net/blog/kl-approx.html)."""
    d = reference - new
    return d.exp() - d - 1.0


def effective_share(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Effective sample size of the ratios as a share of the units: (sum r)^2 / (n sum r^2), in (0, 1] (Kong 1992). Scalar; 0 of none."""
    if not mask.any():
        return new.new_zeros(())
    difference = (new - old)[mask].double()
    ratio = (difference - difference.max()).exp()  # the share does not depend on the scale, and so nothing overflows
    return (ratio.sum().square() / (len(ratio) * ratio.square().sum())).to(new.dtype)


class _Component(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Clipped(_Component):
    """Clipped surrogate at the level of the estimator's unit."""

    kind: Literal["clipped"] = "clipped"
    epsilon_low: float = Field(default=0.2, gt=0.0, le=1.0)
    epsilon_high: float = Field(default=0.2, gt=0.0)

    def per_unit(self, new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        return clipped_surrogate(new, old, advantage, self.epsilon_low, self.epsilon_high)

    def metrics(self, new: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Metrics:
        count = mask.sum()
        clipped = clip_mask(new, old, advantage, self.epsilon_low, self.epsilon_high)
        return {
            "clip_share": ((clipped & mask).sum(), count),
            "ratio": (((new - old).exp() * mask).sum(), count),
            "ess": (effective_share(new, old, mask) * count, count),
            "approx_kl_old": ((k3(old, new) * mask).sum(), count),
        }

    def tails(self, new: Tensor, old: Tensor, mask: Tensor) -> dict[str, tuple[float, float]]:
        """Smallest and largest of what this objective weighs samples by."""
        ratio = (new - old)[mask].exp()
        return {"ratio": (float(ratio.min()), float(ratio.max()))} if len(ratio) else {}


class Raft(_Component):
    """Maximum likelihood of verified samples: loss = -A * new with A in {0, 1} (RAFT, arXiv 2304.06767)."""

    kind: Literal["raft"] = "raft"

    def per_unit(self, new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        return -advantage * new

    def metrics(self, new: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Metrics:
        return {"verified_share": ((advantage * mask).sum(), mask.sum())}

    def tails(self, new: Tensor, old: Tensor, mask: Tensor) -> dict[str, tuple[float, float]]:
        return {}


KL_ESTIMATORS = {"k2": k2, "k3": k3}

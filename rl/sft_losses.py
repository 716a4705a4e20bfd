"""Losses of masked supervised fine-tuning: which of a row's tokens a step hides, and what each of them weighs.

All but the mask-agnostic one are weighted sums of log-probabilities over views, as estimators are: a plan is all there is to them.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rl.noise import Noise, Subset, subsets


class _Loss(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Denoising(_Loss):
    """LLaDA's loss, -1/L of an estimate of the bound of ``rl.noise`` (arXiv 2502.09992): one level per row, one view or a pair."""

    kind: Literal["elbo"] = "elbo"
    noise: Literal["iid", "fixed_count"] = Field(
        default="iid", description="iid: a coin of probability t per token, weight 1/t; fixed_count: l of L tokens, L/l"
    )
    pair: Literal["none", "complement", "mirror"] = Field(
        default="none", description="a second view of each row, at twice the cost: complement hides the other tokens"
    )

    def views(self, generator: np.random.Generator, length: int, point: float) -> list[Subset]:
        """point: the level, as a number in [0, 1)."""
        return subsets(Noise(draws=1, noise=self.noise, pair=self.pair), [generator], length, [point])


class Uniform(_Loss):
    """All hidden tokens weigh the same, t ~ U(low, high) (LLaDA2, code inclusionAI/dFactory): no bound of the likelihood.

    Theirs is the mean over the tokens hidden; here the weight is 1 / E[t], which has the same expectation of each row's sum but for that
    mean's own noise.
    """

    kind: Literal["uniform"] = "uniform"
    low: float = Field(default=0.3, gt=0.0, lt=1.0, description="lowest probability that a token is hidden")
    high: float = Field(default=0.8, gt=0.0, le=1.0, description="highest probability that a token is hidden")

    @model_validator(mode="after")
    def _ordered(self) -> "Uniform":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        return self

    def views(self, generator: np.random.Generator, length: int, point: float) -> list[Subset]:
        hidden = np.asarray(generator.random(length) < self.low + (self.high - self.low) * point)
        return [Subset(0, hidden, 2.0 / (self.low + self.high))] if hidden.any() else []


class MaskAgnostic(Denoising):
    """Predictions that do not hang on how many masks follow the answer (arXiv 2511.21338): ``rl.mask_agnostic`` scores it.

        ce (-1/2L) sum_{i=1,2} sum_{j hidden} 1/t log p(x_j | view i) + tv (1/L) sum_{j hidden} TV(p(. | view 1), p(. | view 2))

    The two views share one mask of the answer and are followed by l_1, l_2 ~ U{0..extra} masks.
    """

    kind: Literal["mask_agnostic"] = "mask_agnostic"  # pyright: ignore[reportIncompatibleVariableOverride]
    pair: Literal["none"] = Field(default="none", description="its two views share one mask")
    ce: float = Field(default=1.0, gt=0.0, description="weight of the cross-entropy")
    tv: float = Field(default=1.0, gt=0.0, description="weight of the total variation between the two views")
    extra: int = Field(default=64, ge=1, description="most masks that follow the answer")


SftLoss = Annotated[Denoising | Uniform | MaskAgnostic, Field(discriminator="kind")]

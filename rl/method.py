"""A method is a composition: estimator, objective, advantage, reduction, KL. There is no trainer class per method.

`rl.presets` names published compositions; a recipe starts from one and overrides any choice.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rl.advantages import AdvantageName
from rl.correction import Correction
from rl.estimators import ArOrder, Estimator
from rl.likelihood import Elbo, MeanField, Trajectory
from rl.objectives import BaseObjective, Clipped, LinearBound, PolicyGradient, Raft, Stepwise, WeightedCrossEntropy
from rl.own import or_own
from rl.preference import Dpo
from rl.reduce import Constant, Reduction
from rollouts.spec import SamplerSpec

# What a method may take for something else if it says so; rl.compatibility asks for the name where it is needed.
Approximation = Literal["order_conditional", "biased_ratio", "stale_rollouts", "truncated_correction"]

_accepts, _dumps = or_own(BaseObjective)
Objective = Annotated[
    Annotated[
        Clipped | Dpo | LinearBound | PolicyGradient | Raft | Stepwise | WeightedCrossEntropy,
        Field(discriminator="kind"),
    ],
    _accepts,
    _dumps,
]


class Kl(BaseModel):
    """Distance to the reference, per unit of the estimator; a penalty (not a KL) where the estimate is a surrogate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    beta: float = Field(default=0.0, ge=0.0, description="weight; 0 builds no reference")
    estimator: Literal["k2", "k3", "k2_sum", "exact"] = Field(
        default="k3",
        description="k2, k3 per unit; k2_sum: k2 of a sequence's sum, per token (ESPO); exact: over the vocabulary, per position",
    )
    reference: Literal["base", "start", "moving"] = Field(
        default="start",
        description="base: the loaded model without adapter; start: the policy when RL starts; moving: mixed in",
    )
    mix: float = Field(
        default=0.1, gt=0.0, le=1.0, description="moving: reference += mix * (policy - reference), in float32"
    )
    every: int = Field(default=64, ge=1, description="moving: updates between two mixings")


class Method(BaseModel):
    """What one update does with scored rollouts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str | None = Field(default=None, description="the composition this one started from")
    estimator: Estimator = Trajectory()
    objective: Objective = Clipped()
    advantage: AdvantageName = "group_normalized"
    reduction: Reduction = "token_mean"
    kl: Kl = Kl()
    inner_passes: int = Field(
        default=1, ge=1, description="optimizer steps on one batch of rollouts, each with its own mask plan"
    )
    mask_truncated: bool = Field(
        default=False, description="leave rollouts without EOS out of the loss (TRL: mask_truncated_completions)"
    )

    correction: Correction | None = Field(
        default=None,
        description="weigh rollouts by how much likelier the policy makes them than the one that drew them; with keys per, most",
    )
    approximations: tuple[Approximation, ...] = Field(
        default=(),
        description="named where they act. order_conditional: token probabilities given an order that the policy chose; "
        "biased_ratio: a ratio, or another function, of a sum that was only sampled; stale_rollouts: rollouts of older weights "
        "taken for the policy's own (rollout.async_depth); truncated_correction: weights that are cut",
    )

    def one_forward(self, views: int, micro_batch: int) -> bool:
        """The derivative of a unit depends on the scores of one micro-batch alone, so that the forward with gradient is the only one a
        pass needs. views: of a row, at most."""
        return not self.objective.couples_rows and (self.estimator.scored_once or views <= micro_batch)

    def scoring_law(self, sampler: SamplerSpec) -> str:
        """What the estimate is the log-probability of, in words."""
        estimator, law = self.estimator, self.estimator.law
        if isinstance(estimator, ArOrder):
            return f"{law}, left to right"
        if not isinstance(estimator, Trajectory):
            return f"{law}, surrogate"
        if estimator.order:
            return f"{law}, joint with the order"
        if estimator.views_per_rollout(sampler) < sampler.steps and estimator.sample_steps is None:
            return f"{law}, merged steps"
        if sampler.policy_orders:
            return f"{law}, given the order"
        return "sampler, exact" if law == "sampler" else "raw, on the sampler's states"

    @property
    def on_policy(self) -> bool:
        """One pass and no reference, under an objective and an estimator whose derivative at new = old does not depend on the scores: the
        scoring pass without gradient can be left out."""
        return (
            self.inner_passes == 1
            and not self.needs_reference
            and self.objective.known_on_policy
            and self.estimator.linear
            and (self.correction is None or self.correction.per == "trajectory")
        )

    @property
    def exact_kl(self) -> bool:
        """The KL term is summed over the vocabulary, not estimated from the drawn token."""
        return self.kl.beta > 0.0 and self.kl.estimator == "exact"

    @property
    def needs_reference(self) -> bool:
        """A KL term acts, or the objective itself compares with the reference."""
        return self.kl.beta > 0.0 or self.objective.needs_reference

    @property
    def scores_every_row(self) -> bool:
        """A row without advantage still has a gradient, or decides what others weigh."""
        return self.kl.beta > 0.0 or self.objective.couples_groups


def forwards(method: Method, sampler: SamplerSpec, group_size: int, prompts: int, micro_batch: int) -> dict[str, int]:
    """Forwards of one row each for one update, at most (early stops and groups without signal save some).

    rollout: denoising; old, reference, correction: scoring without gradient; train: scoring with gradient (count a backward as two
    more). micro_batch: views that the learner scores together.
    """
    rows, passes, each = prompts * group_size, method.inner_passes, method.estimator.views_per_rollout(sampler)
    pair_alone = method.advantage == "best_worst" and not method.scores_every_row
    views = each * (prompts * 2 if pair_alone and group_size > 2 else rows)
    distinct = passes if method.estimator.redraws else 1
    if method.one_forward(each, micro_batch):
        old = (distinct - 1) * views  # the first pass is its own
    else:  # and once more in later passes, for the coupling
        old = 0 if method.on_policy else (distinct + passes - 1) * views
    return {
        "rollout": rows * sampler.steps,
        "old": old,
        "reference": distinct * views if method.needs_reference else 0,
        "correction": rows * sampler.steps if method.correction and method.correction.per == "trajectory" else 0,
        "train": passes * views,
        "views_per_pass": views,
    }


__all__ = [
    "Clipped",
    "Constant",
    "Dpo",
    "Elbo",
    "Kl",
    "LinearBound",
    "MeanField",
    "Method",
    "PolicyGradient",
    "Raft",
    "Trajectory",
    "WeightedCrossEntropy",
    "forwards",
]

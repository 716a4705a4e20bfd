"""The recipe's section ``health``: which monitors watch a run, and from where on they speak. `rl.health` holds them."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# A mapping written in Python, or by a YAML 1.1 reader, has false where a recipe says off.
Level = Annotated[Literal["off", "warn", "stop"], BeforeValidator(lambda value: "off" if value is False else value)]
"""off: do not look; warn: say so and go on; stop: save a checkpoint and end the run."""

Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HealthLimits(_Section):
    """From where on a monitor speaks. Every number is compared with a value over `health.window` updates, never with one update."""

    variety: Share = Field(
        default=0.05,
        description="group_collapse: at most this variety in a group; 0: all completions the same, 1: all different",
    )
    outcome: float = Field(
        default=0.02, ge=0, description="reward_all_format: an outcome this close to 0 counts as nothing solved"
    )
    other_rewards: Share = Field(
        default=0.95, description="reward_all_format: share of the reward's variance that is not the outcome's"
    )
    zero_signal: Share = Field(default=0.9, description="zero_signal: share of groups that teach nothing")
    empty_updates: int = Field(default=1, ge=1, description="empty_batch: updates in a row that lost every rollout")
    length_factor: float = Field(
        default=2.0, gt=1, description="length_drift: mean length this many times longer or shorter than at first"
    )
    eos_change: Share = Field(
        default=0.3, description="length_drift: change of the share of completions that end with EOS"
    )
    ess: Share = Field(
        default=0.5, description="ratio_tails: effective sample size of the ratios, as a share of their number"
    )
    ratio: float = Field(
        default=100.0, gt=1, description="ratio_tails: largest ratio of a typical update (the median of the window)"
    )
    kl: float = Field(
        default=1.0,
        gt=0,
        description="reference_drift: mean KL or penalty per unit of the estimator, nats; larger units need a larger limit",
    )
    entropy: Share = Field(default=0.1, description="entropy_collapse: share of the entropy at first that is left")


class HealthConfig(_Section):
    """What watches over a run. Each monitor is off, warn or stop; docs/health.md says what each one sees and what to do."""

    window: int = Field(default=10, ge=1, description="updates that a monitor looks back on")
    baseline: int = Field(default=10, ge=1, description="first updates, which drift is measured against")
    repeat: int = Field(default=50, ge=1, description="updates before a warning that still holds is given again")
    group_collapse: Level = Field(default="warn", description="the completions of a group are all the same")
    reward_all_format: Level = Field(default="warn", description="the reward moves, what it stands for does not")
    zero_signal: Level = Field(default="warn", description="hardly a group has completions of different reward")
    empty_batch: Level = Field(default="warn", description="no rollout of an update could be used")
    length_drift: Level = Field(default="warn", description="length, or the share with EOS, left where it began")
    ratio_tails: Level = Field(default="warn", description="a few units carry the whole update")
    reference_drift: Level = Field(default="warn", description="the policy is far from its reference")
    entropy_collapse: Level = Field(default="warn", description="the policy is certain of nearly every token")
    no_change: Level = Field(default="warn", description="the optimizer steps, and bfloat16 weights stay as they are")
    eval_falls: Level = Field(
        default="warn",
        description="held-out accuracy falls while the training reward rises; stop acts on data.validation alone",
    )
    limits: HealthLimits = HealthLimits()

"""The rollout strategies that a recipe can name. Each is a frozen value with one verb: ``draw`` a group of rollouts per prompt."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollouts.hints import failed_groups, group_hints, mended
from rollouts.strategy import Request, Score
from rollouts.trajectory import RolloutBatch


class _Strategy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    draws_per_rollout: ClassVar[int] = 1  # rollouts drawn for each that is returned, at most


class Groups(_Strategy):
    """Independent rollouts of each prompt."""

    kind: Literal["groups"] = "groups"

    def draw(self, request: Request, score: Score) -> RolloutBatch:
        return request.sample()


class Inpaint(_Strategy):
    """IGPO's elastic inpainting (arXiv 2509.10396): where a whole group fails, as many rollouts are drawn again with parts of a reference
    trace given on the canvas; those verified take the places of failed ones, at most ``replace`` of the group."""

    draws_per_rollout: ClassVar[int] = 2

    kind: Literal["inpaint"] = "inpaint"
    trace: str = Field(default="trace", description="column with the reference trace, as the completion should read")
    answer_after: str | None = Field(
        default=None,
        min_length=1,
        description="text after which the trace gives its answer, as '####'; the last one and what follows are never a hint",
    )
    reveal_answer: bool = Field(default=False, description="the answer may be a hint, too")
    before: str = Field(default="", description="text that stands on the canvas before the trace, as '<reasoning>\\n'")
    chunk: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(5, 10), description="smallest and largest chunk of the trace, in tokens"
    )
    ratio: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = Field(
        default=(0.2, 0.6), description="smallest and largest share of the chunks that a rollout is given"
    )
    replace: float = Field(default=0.5, gt=0, le=1, description="largest share of a group that hinted rollouts replace")
    tail: int = Field(default=0, ge=0, description="last canvas positions that are never given")

    @model_validator(mode="after")
    def _ordered(self) -> "Inpaint":
        for name in ("chunk", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low:g} is above {high:g}; swap them")
        return self

    def most(self, group_size: int) -> int:
        """Rollouts of a group that may be replaced."""
        return int(self.replace * group_size + 1e-9)

    def given(self, trace: str) -> str | None:
        """The part of a trace that hints are taken from; None where nothing says where its answer begins."""
        if self.answer_after is not None:
            trace, mark, _ = trace.rpartition(self.answer_after)
            if not mark:
                return None
        return self.before + trace

    def draw(self, request: Request, score: Score) -> RolloutBatch:
        own = request.sample()
        outcome = score(own)
        policy, size, place = request.policy, request.group_size, list(request.group_ids)
        failed = [place.index(group) for group in failed_groups(own.group_id, outcome)]
        hints = {
            p: group_hints(
                request.traces[p],
                size,
                room=request.spec.canvas - self.tail,
                sizes=self.chunk,
                share=self.ratio,
                special={policy.mask_id, *policy.eos_ids, *policy.forbidden_ids, *request.spec.forbid},
                address=(request.seed, request.step, request.group_ids[p]),
            )
            for p in failed
        }
        able = [p for p in failed if any(hints[p])]  # a trace may be too short for a single chunk
        if not able:
            return own
        again = request.again(able).sample(hints=[row for p in able for row in hints[p]])
        again = request.drawn_by.hint_entropy(again, size)
        rows = mended(own.group_id, outcome, again.group_id, score(again), self.most(size))
        return RolloutBatch.concat([own, again]).rows(torch.tensor(rows))


class Recorded(_Strategy):
    """Independent rollouts, with the whole answer predicted at each denoising step (MDPO, arXiv 2508.13148); all of them are graded."""

    kind: Literal["recorded"] = "recorded"

    def draw(self, request: Request, score: Score) -> RolloutBatch:
        return request.sample(recorded=True)


Strategy = Annotated[Groups | Inpaint | Recorded, Field(discriminator="kind")]


class Dynamic(BaseModel):
    """Dynamic sampling (DAPO, arXiv 2503.14476, sec. 3.2): groups without advantage are left out, and others drawn in their place."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rounds: int = Field(
        default=1,
        ge=0,
        description="further rounds of rollouts that fill the places with other prompts; 0 only leaves out",
    )

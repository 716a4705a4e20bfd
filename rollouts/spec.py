"""What a sampler does, as one frozen, hashed value that travels with every rollout it made."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Selection = Literal["confidence", "max_prob", "margin", "entropy", "random"]
EosPolicy = Literal["first", "all"]


class SamplerSpec(BaseModel):
    """Semi-autoregressive blocked denoising of a canvas of masks.

    The canvas is cut into ``canvas / block`` blocks, denoised from left to right in ``steps * block / canvas`` steps each; fewer where a
    threshold reveals more at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    canvas: int = Field(default=256, ge=1, description="number of positions that are generated")
    block: int = Field(default=32, ge=1, description="positions denoised together; must divide canvas")
    steps: int = Field(default=128, ge=1, description="denoising steps over the whole canvas")
    selection: Selection = Field(
        default="confidence",
        description="which positions a step keeps. confidence: LLaDA's published rule (draw everywhere, keep the most confident); "
        "max_prob, margin, entropy, random: choose positions first, then draw there",
    )
    threshold: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="selection max_prob: a step also keeps every position whose best token has at least this probability (Fast-dLLM)",
    )
    temperature: float = Field(default=1.0, ge=0.0, description="of the token draw; 0 takes the most probable token")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, description="nucleus of the token draw; 1 keeps everything")
    eos: EosPolicy = Field(
        default="first", description="where text ends and units count: up to the first EOS, or everywhere"
    )
    early_stop: bool = Field(default=True, description="a row leaves the batch when a finished block holds EOS")
    forbid: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="token ids never sampled, besides the family's own"
    )

    @property
    def blocks(self) -> int:
        return self.canvas // self.block

    @property
    def steps_per_block(self) -> int:
        return self.steps // self.blocks

    @property
    def policy_orders(self) -> bool:
        """Whether the policy has a say in the order of revelation: a step keeps some of the masked positions, by what it makes of them."""
        return self.selection != "random" and self.steps >= 2 * self.blocks

    def digest(self) -> str:
        """Twelve hexadecimal digits that name this law in logs and files."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def problems(self) -> list[tuple[str, str]]:
        """``(key, message)`` for every combination that cannot run; empty if the spec is sound."""
        found = []
        if self.canvas % self.block:
            below, above = self.canvas // self.block * self.block, (self.canvas // self.block + 1) * self.block
            near = f"{below} or {above}" if below else f"{above}"
            found.append(
                ("block", f"canvas {self.canvas} is not divisible by block {self.block}; use a canvas of {near}")
            )
        elif self.steps % self.blocks:
            found.append(
                (
                    "steps",
                    f"{self.steps} steps cannot be shared evenly by {self.blocks} blocks; use a multiple of {self.blocks}",
                )
            )
        elif self.steps_per_block > self.block:
            found.append(
                (
                    "steps",
                    f"{self.steps_per_block} steps for a block of {self.block} positions; use at most steps: {self.canvas}",
                )
            )
        if self.threshold is not None and self.selection != "max_prob":
            found.append(
                (
                    "threshold",
                    f"a threshold chooses positions before anything is drawn there, and selection {self.selection} does not "
                    "look at the best token first; set selection: max_prob",
                )
            )
        if self.eos == "all" and self.early_stop:
            found.append(
                (
                    "eos",
                    "eos: all counts every position, but early_stop leaves positions unrevealed; set early_stop: false",
                )
            )
        return found

"""The recipe's section ``track``: where the numbers of a run go besides its folder. `rl.track` opens the sinks."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Sink = Literal["tensorboard", "wandb", "trackio"]


class TrackConfig(BaseModel):
    """Sinks besides the run folder, which always holds everything. They need: pip install 'unmask[track]'."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sinks: tuple[Sink, ...] = Field(default=(), description="tensorboard, wandb, trackio; none by default")
    project: str = Field(
        default="unmask", min_length=1, description="project that wandb and trackio file the run under"
    )

    @field_validator("sinks")
    @classmethod
    def _each_once(cls, sinks: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in sinks if sinks.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; keep one")
        return sinks

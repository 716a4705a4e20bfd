"""Random streams addressed by what they are for, never by when they are used.

Every draw of the project comes from ``stream(seed, purpose, *keys)``: a Philox generator (counter-based; Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) whose key is a hash of the address. Two addresses give independent
streams; one address gives the same numbers whatever the batch shape, the order of the calls, or the number of processes.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The first key of every stream, so that two rooms never share one. Values are part of the record: append only."""

    ROLLOUT = 0  # (step, rollout): token draws and random positions of one rollout
    MASKS = 1  # (step, rollout, inner pass, draw): one noised view
    DATA = 2  # (epoch,): order of the prompts
    SFT = 3  # (step, index in the global batch): noise level and mask of one row
    EVAL = 4  # (step, rollout): rollouts made for evaluation
    BOOTSTRAP = 5  # resampling for intervals
    SFT_DATA = 6  # (epoch,): order of the SFT rows
    SKETCH = 7  # (parameter,): signs and shifts of a gradient's random projection
    HINTS = (
        16  # (step, group, 0): chunks of a reference trace; (step, group, 1 + i): what the i-th hinted rollout is given
    )
    RECORD = 17  # (step, rollout): draws of recorded answers where the sampler itself draws nothing
    OTHERS = 18  # (epoch,): order of the prompts drawn in place of groups without signal
    PAIRS = 24  # (batch, rollout): rollouts made for a preference data set
    BOUND = 32  # (document, draw): masks of a lower bound that stands for a log-likelihood


def stream(seed: int, *keys: int) -> np.random.Generator:
    """An independent generator for the address ``(seed, *keys)``; all parts are non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=keys)))

"""What a reward function is, how it is found, and how it is called.

For authors: raise or return `InfrastructureError` where grading itself failed. Who calls rewards from Python needs
`load_rewards` and `grade`; the modules of this room say what each part does (`batch` is the whole call).
"""

from rewards.contract.answers import InfrastructureError
from rewards.contract.batch import Grades, TrainerState, grade
from rewards.contract.load import available, load_rewards
from rewards.contract.reward import Reward, RewardError, missing_columns

__all__ = [
    "Grades",
    "InfrastructureError",
    "Reward",
    "RewardError",
    "TrainerState",
    "available",
    "grade",
    "load_rewards",
    "missing_columns",
]

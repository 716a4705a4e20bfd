"""One update's batch: rollouts of its prompts, graded, with advantages."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rewards.contract import TrainerState
from rl.advantages import advantages
from rl.data import batches
from rl.grading import grade_rollouts, reward_metrics
from rl.metrics import Metrics
from rl.scored import ScoredBatch
from rollouts.strategy import sample_groups

if TYPE_CHECKING:
    from rl.session import Session


def collect(session: "Session", update: int, metrics: Metrics) -> tuple[ScoredBatch, Mapping[str, list[Any]]]:
    """Rollouts of this update's prompts, graded, with advantages; and what rewards logged."""
    recipe, setup = session.setup.recipe, session.setup
    assert setup.train is not None
    prompts = batches(setup.train.prompts, recipe.train.prompts_per_update, recipe.train.seed, update)
    longest = max(len(prompt.token_ids) for prompt in setup.train.prompts)
    session.live.phase("rollouts", len(prompts) * recipe.rollout.group_size, transient=True)
    with session.timed("rollout"):
        rollouts = sample_groups(
            setup.policy,
            [prompt.token_ids for prompt in prompts],
            recipe.rollout.sampler,
            group_size=recipe.rollout.group_size,
            prompt_ids=[prompt.prompt_id for prompt in prompts],
            seed=recipe.train.seed,
            step=update,
            policy_version=session.progress.version,
            max_rows=recipe.rollout.max_rows,
            deterministic=recipe.train.deterministic,
            pad_to=longest if recipe.train.deterministic else None,
            on_rows=lambda rows: session.live.advance("rollouts", rows),
        )
    session.clock["tokens_per_second"] = int(rollouts.drawn_mask.sum()) / session.clock["seconds/rollout"]
    session.progress.rollout_forwards += int(rollouts.forwards.sum())
    with session.timed("reward"):
        batch, grades = grade_rollouts(
            rollouts,
            {prompt.prompt_id: prompt for prompt in prompts},
            setup.rewards,
            setup.outcome,
            eos_ids=setup.policy.eos_ids,
            prefill=setup.prefill,
            state=TrainerState(global_step=update, max_steps=recipe.train.updates),
        )
    session.clock |= {f"seconds/reward/{name}": seconds for name, seconds in grades.seconds.items()}
    reward_metrics(metrics, batch, grades, setup.policy.eos_ids)
    if not len(batch):
        return batch, grades.extras
    batch = batch.with_advantage(
        advantages(recipe.method.advantage, batch.reward, batch.outcome, batch.rollouts.group_id)
    )
    metrics.set("advantage_std", float(batch.advantage.std(correction=0)))  # type: ignore[union-attr]
    return batch, grades.extras

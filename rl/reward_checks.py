"""What a recipe's rewards ask of its data and of its rollouts, before anything starts."""

from collections.abc import Iterator, Sequence

from rewards.contract import Reward, missing_columns
from rewards.contract.batch import WITHHELD, routed
from rewards.contract.reward import FIXED_ARGUMENTS, ROLLOUT_ARGUMENTS, asked_for
from rl.config_errors import listing, nearest
from rl.config_schema import Recipe
from rl.data import PromptSet
from rollouts.strategies import Recorded

OF_ANSWERS = ("truncated", "finish_reason")  # what a recorded answer has, besides whole rollouts


def column_problems(recipe: Recipe, rewards: Sequence[Reward], key: str, columns: Sequence[str]) -> list[str]:
    """Columns that a reward or `eval.cluster` needs and the rows of the split `key` do not have."""
    problems = []
    for name in sorted(set(columns) & (set(FIXED_ARGUMENTS) - WITHHELD)):
        problems.append(
            f"{key}: the column {name!r} has the name of an argument that rewards receive; rename it in the data"
        )
    for reward in rewards:
        for name in sorted(set(reward.kwargs) & set(columns)):
            problems.append(
                f"{key}: reward {reward.name} has a kwarg {name!r}, which is also a column; rename one of them"
            )
        for name in sorted(set(asked_for(reward.fn)) & set(columns)):
            problems.append(
                f"{key}: reward {reward.name} asks for {name!r}, which it is given of the rollout, and there is a column of that "
                "name; rename it in the data"
            )
        for name in missing_columns(reward, columns):
            near = nearest(name, columns)
            hint = f"did you mean {near!r}? " if near else ""
            remedy = (
                f"map it: {key}.columns: {{{name}: ...}}; columns: {', '.join(columns) or 'none'}; or, if it is one value for all "
                f"rows, give it to the reward: kwargs: {{{name}: ...}}"
            )
            problems.append(f"{key}: reward {reward.name} needs a column {name!r}\n    {hint}{remedy}")
        for name in sorted(set(reward.where) - set(columns)):
            near = nearest(name, columns)
            hint = f"did you mean {near!r}? " if near else ""
            problems.append(
                f"{key}: reward {reward.name} is for rows by their column {name!r} (where), and there is none\n    "
                f"{hint}columns: {', '.join(columns) or 'none'}"
            )
    cluster = recipe.eval.cluster if recipe.eval and key == "data.eval" else None
    if cluster is not None and cluster not in columns:
        near = nearest(cluster, columns)
        hint = f"; did you mean {near!r}?" if near else ""
        problems.append(f"eval.cluster: data.eval has no column {cluster!r}{hint}")
    return problems


def routing_problems(recipe: Recipe, rewards: Sequence[Reward], key: str, prompts: PromptSet) -> list[str]:
    """Rewards whose `where` leaves them no row of a split: in training any, elsewhere the one that is measured there."""
    measured = (recipe.save.best_by if key == "data.validation" else None) or recipe.outcome
    measured = measured or (rewards[0].name if rewards else None)
    problems = []
    for reward in rewards:
        if not reward.where or (key != "data.train" and reward.name != measured):
            continue
        columns = {
            name: [prompt.columns.get(name) for prompt in prompts.prompts] for name in prompts.prompts[0].columns
        }
        if not set(reward.where) <= set(columns):
            continue  # said elsewhere
        if not routed(reward, columns, len(prompts)):
            there = "; ".join(f"{name} is {_some(columns[name])}" for name in reward.where)
            problems.append(f"{key}: reward {reward.name} is for no row of it (where: {reward.where}): {there}")
    return problems


def _some(values: Sequence[object]) -> str:
    return listing(list(dict.fromkeys(map(repr, values))), 8)


def answer_problems(recipe: Recipe, rewards: Sequence[Reward]) -> Iterator[str]:
    """Rewards of recorded answers that ask for what only a whole rollout has."""
    if not isinstance(recipe.rollout.strategy, Recorded):
        return
    for reward in rewards:
        asked = [name for name in asked_for(reward.fn, ROLLOUT_ARGUMENTS) if name not in OF_ANSWERS]
        if reward.weight and asked:
            yield (
                f"rollout.strategy: recorded has the answer of every step graded, and reward {reward.name} asks for "
                f"{listing(asked)}, which a whole rollout has and one of its answers has not; give the reward weight 0 (then it is "
                "logged, of whole rollouts), or take another strategy"
            )

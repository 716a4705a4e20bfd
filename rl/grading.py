"""From finished rollouts to a ``ScoredBatch``: texts to the reward functions, their scores back as tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewards.contract import Grades, Reward, TrainerState, grade
from rewards.contract.graders import Graders, Processes, needs_process
from rl.metrics import Metrics, nan_mean
from rl.rollout_arguments import answer_arguments, rollout_arguments, wanted
from rl.scored import ScoredBatch
from rollouts.hints import failed_groups
from rollouts.trajectory import RolloutBatch

if TYPE_CHECKING:
    from rl.config import Recipe
    from rl.data import Prompt

# As `rewards.contract.grade`.
Mark = Callable[..., Grades]


def graders_of(recipe: "Recipe", rewards: Sequence[Reward]) -> Graders:
    """Who grades on this machine: processes of their own for rewards that the recipe names, this process for the rest.

    rewards: as loaded from the recipe, those passed from Python after them.
    """
    named = [(entry.model_dump(), reward.name) for entry, reward in zip(recipe.rewards, rewards, strict=False)]
    entries = [{**entry, "name": name} for entry, name in named if needs_process(entry)]
    outside = {entry["name"] for entry in entries}
    cluster, base = recipe.cluster, str(Path.cwd())
    return Graders(
        lambda: Processes(entries, base, max(1, cluster.reward_workers), cluster.start_timeout),
        inside=[reward.name for reward in rewards if reward.name not in outside],
        timeout=cluster.reward_timeout,
    )


def completion_of(prompt: "Prompt", text: str, prefill: str = "") -> Any:
    """What a reward sees as the completion: a string, or an assistant message where the prompt was conversational."""
    content = prefill + text
    return content if isinstance(prompt.raw, str) else [{"role": "assistant", "content": content}]


def columns_of(prompts: Sequence["Prompt"]) -> dict[str, list[Any]]:
    """All columns of the rows, as reward functions receive them."""
    names = sorted({name for prompt in prompts for name in prompt.columns})
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in names}


def _tensor(scores: Sequence[float | None]) -> Tensor:
    return torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float32)


def grade_rollouts(
    rollouts: RolloutBatch,
    prompts: Mapping[int, "Prompt"],
    rewards: Sequence[Reward],
    outcome: str,
    *,
    eos_ids: Sequence[int],
    prefill: str,
    state: TrainerState,
    mark: Mark = grade,
    tokenizer: Any = None,
) -> tuple[ScoredBatch, Grades]:
    """Grade every rollout. Rows whose grading failed, and rows that no reward applies to, are dropped and counted.

    mark: who calls the reward functions, in this process or in others. tokenizer: of the policy, for rewards of intermediate texts.
    prompts: prompt id -> prompt. outcome: the component reported as accuracy; it never contains other rewards.
    """
    rows = [prompts[i] for i in rollouts.prompt_id.tolist()]
    grades = mark(
        rewards,
        prompts=[prompt.raw for prompt in rows],
        completions=[completion_of(prompt, text, prefill) for prompt, text in zip(rows, rollouts.texts, strict=True)],
        completion_ids=rollouts.completion_ids(eos_ids),
        columns=columns_of(rows),
        trainer_state=state,
        rollout=rollout_arguments(wanted(rewards), rollouts, eos_ids=eos_ids, tokenizer=tokenizer, prefill=prefill),
    )
    components = {name: _tensor(scores) for name, scores in grades.components.items()}
    batch = ScoredBatch(rollouts, _tensor(grades.total), components[outcome], components)
    # Counted before anything is taken out, so that reasons refer to the same rows as `grades`.
    reasons = [
        reason or ("no reward applies" if total is None else None)
        for reason, total in zip(grades.dropped, grades.total, strict=True)
    ]
    for reason in sorted({reason for reason in reasons if reason}):
        drop = torch.tensor([now == reason for now in reasons])
        batch = batch.without(drop, reason)
        reasons = [now for now in reasons if now != reason]
    return batch, grades


def grade_answers(
    batch: ScoredBatch,
    answers: Sequence[tuple[int, int, str, list[int]]],
    prompts: Mapping[int, "Prompt"],
    rewards: Sequence[Reward],
    *,
    eos_ids: Sequence[int],
    prefill: str,
    state: TrainerState,
    mark: Mark = grade,
) -> tuple[ScoredBatch, Grades]:
    """The batch with ``step_reward``: the weighted sum of rewards of each recorded answer (row, step, text, ids); and the grades of the
    answers. Equal answers to one prompt are graded once. Rows with an answer that could not be graded are dropped and counted."""
    ids = batch.rollouts.prompt_id.tolist()
    keys = [(ids[row], tuple(tokens)) for row, _, _, tokens in answers]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    first = dict(zip(reversed(keys), reversed(answers), strict=True))
    rows = [prompts[key[0]] for key in place]
    weighted = [reward for reward in rewards if reward.weight]
    tokens = [first[key][3] for key in place]
    grades = mark(
        weighted,
        prompts=[prompt.raw for prompt in rows],
        completions=[completion_of(prompt, first[key][2], prefill) for prompt, key in zip(rows, place, strict=True)],
        completion_ids=tokens,
        columns=columns_of(rows),
        trainer_state=state,
        rollout=answer_arguments(wanted(weighted), tokens, eos_ids),
    )
    totals = _tensor(grades.total)
    reward = torch.full(batch.rollouts.select_logprob.shape, float("nan"))
    failed = torch.zeros(len(batch), dtype=torch.bool)
    for (row, step, *_), key in zip(answers, keys, strict=True):
        reward[row, step] = totals[place[key]]
        failed[row] |= bool(totals[place[key]].isnan())
    return replace(batch, step_reward=reward).without(failed, "a recorded answer could not be graded"), grades


def answer_metrics(metrics: Metrics, batch: ScoredBatch) -> None:
    """Of recorded answers. backslide: rollouts of which some answer on the way earned more than the last one (MDPO)."""
    if batch.step_reward is None or not len(batch):
        return
    seen = ~batch.step_reward.isnan()
    best = torch.where(seen, batch.step_reward, float("-inf")).amax(1)
    metrics.mean("backslide", best > batch.reward)
    metrics.mean("step_reward", batch.step_reward, seen)


def sample_metrics(metrics: Metrics, own: ScoredBatch) -> None:
    """Outcome and rewards of what the policy drew by itself: hints, replaced and left-out rollouts do not change them."""
    metrics.add({"outcome": nan_mean(own.outcome), "reward": nan_mean(own.reward)})
    for name, values in own.components.items():
        metrics.add({f"reward/{name}": nan_mean(values)})
        seen = values[~torch.isnan(values)]
        if len(seen):
            metrics.set(f"reward/{name}/std", float(seen.std(correction=0)))
            metrics.mean(f"reward/{name}/hits", seen > 0)
    group = own.rollouts.group_id
    metrics.add({"failed_groups": (len(failed_groups(group, own.outcome)), len(group.unique()))})


def batch_metrics(metrics: Metrics, batch: ScoredBatch, eos_ids: Sequence[int]) -> None:
    """What tells a healthy batch from a dead one."""
    group = batch.rollouts.group_id
    flat = [bool((batch.reward[group == g] == batch.reward[group == g][0]).all()) for g in group.unique()]
    metrics.add({"zero_signal_groups": (sum(flat), len(flat))})
    completions = [tuple(ids) for ids in batch.rollouts.completion_ids(eos_ids)]
    by_group: dict[int, list[tuple[int, ...]]] = {}
    for one, ids in zip(group.tolist(), completions, strict=True):
        by_group.setdefault(one, []).append(ids)
    distinct = [len(set(members)) / len(members) for members in by_group.values()]
    metrics.add({"group_diversity": (sum(distinct), len(distinct))})
    metrics.add({"length": (sum(map(len, completions)), len(completions))})
    ended = [bool(ids) and ids[-1] in eos_ids for ids in completions]
    metrics.add({"eos": (sum(ended), len(ended))})
    metrics.mean("truncated", batch.rollouts.truncated)
    metrics.mean("entropy", batch.rollouts.entropy, batch.rollouts.drawn_mask)
    for reason, count in batch.dropped.items():
        metrics.set(f"dropped/{reason}", count)
    if batch.rollouts.hint_mask.any():
        metrics.mean("hinted", batch.rollouts.hint_mask.any(1))

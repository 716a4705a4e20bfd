"""Accuracy on held-out prompts, with intervals. Evaluation has its own random streams and never touches those of training."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewards.contract import Reward, TrainerState, grade
from rl.grading import Mark, grade_rollouts
from rl.scored import ScoredBatch
from rl.setup import Setup
from rollouts.spec import SamplerSpec
from rollouts.strategy import Here, Sampler
from rollouts.streams import Purpose, stream

RESAMPLES = 10_000
ALPHA = 0.05
BLOCK = 1_000_000  # picks of the bootstrap held at a time


@dataclass(frozen=True, eq=False)
class Answers:
    """Graded completions of held-out prompts. outcome f64 ``[n, samples]``, NaN where not applicable or not gradable; forwards: rows."""

    outcome: np.ndarray
    forwards: int
    batch: ScoredBatch


def answer_prompts(
    policy: Any,
    prompts: Sequence[Any],
    rewards: Sequence[Reward],
    outcome: str,
    spec: SamplerSpec,
    *,
    seed: int,
    batch: int,
    prefill: str = "",
    samples: int = 1,
    on_rows: Callable[[int], None] | None = None,
    sampler: Sampler | None = None,
    mark: Mark = grade,
) -> Answers:
    """``samples`` completions of each prompt, graded by the reward named ``outcome`` alone. sampler, mark: who draws and grades; default:
    the policy, and this process."""
    rollouts = (sampler or Here(policy)).sample(
        [prompt.token_ids for prompt in prompts],
        spec,
        group_size=samples,
        prompt_ids=range(len(prompts)),
        seed=seed,
        step=samples - 1,  # streams of their own for every number of samples
        purpose=Purpose.EVAL,
        max_rows=batch,
        on_rows=on_rows,
    )
    # Alone and at weight 1: what training makes of it (weight 0 is "log only") does not matter here.
    measured = [replace(reward, weight=1.0) for reward in rewards if reward.name == outcome]
    scored, _ = grade_rollouts(
        rollouts,
        dict(enumerate(prompts)),
        measured,
        outcome,
        eos_ids=policy.eos_ids,
        prefill=prefill,
        state=TrainerState(),
        mark=mark,
        tokenizer=policy.tokenizer,
    )
    values = np.full(len(prompts) * samples, np.nan)
    values[scored.rollouts.rollout_id.numpy()] = scored.outcome.numpy()
    return Answers(values.reshape(len(prompts), samples), int(rollouts.forwards.sum()), scored)


def evaluate_prompts(policy: Any, prompts: Sequence[Any], *args: Any, **options: Any) -> tuple[np.ndarray, int]:
    """One completion per prompt: the outcome of each, float64 ``[n]``, and the forwards used. Arguments of `answer_prompts`."""
    answers = answer_prompts(policy, prompts, *args, **options)
    return answers.outcome[:, 0], answers.forwards


def outcomes_by_steps(
    setup: Setup, counts: Collection[int], on_rows: Callable[[int], None] | None = None
) -> tuple[dict[str, np.ndarray], int, ScoredBatch]:
    """Outcome per held-out prompt ``[n]`` at each number of denoising steps, the forwards used, and the answers at the main count."""
    evaluation = setup.recipe.eval
    assert evaluation is not None
    assert setup.eval is not None
    found = {
        str(steps): answer_prompts(
            setup.policy,
            setup.eval.prompts[: evaluation.limit],
            setup.rewards,
            setup.outcome,
            evaluation.sampler.model_copy(update={"steps": steps}),
            seed=setup.recipe.train.seed,
            batch=evaluation.batch,
            prefill=setup.prefill,
            on_rows=on_rows,
            sampler=setup.sampler,
            mark=setup.mark,
        )
        for steps in sorted({*counts, evaluation.sampler.steps})
    }
    values = {name: answers.outcome[:, 0] for name, answers in found.items()}
    main = found[str(evaluation.sampler.steps)].batch
    return values, sum(answers.forwards for answers in found.values()), main


def sampled_outcomes(setup: Setup, on_rows: Callable[[int], None] | None = None) -> tuple[np.ndarray, int]:
    """Outcomes ``[prompts, eval.n]`` of completions drawn with the training temperature, and the forwards used."""
    recipe = setup.recipe
    assert recipe.eval is not None
    assert setup.eval is not None
    answers = answer_prompts(
        setup.policy,
        setup.eval.prompts[: recipe.eval.limit],
        setup.rewards,
        setup.outcome,
        recipe.eval.sampler.model_copy(update={"temperature": recipe.rollout.temperature}),
        seed=recipe.train.seed,
        batch=recipe.eval.batch,
        prefill=setup.prefill,
        samples=recipe.eval.n,
        on_rows=on_rows,
        sampler=setup.sampler,
        mark=setup.mark,
    )
    return answers.outcome, answers.forwards


def pass_at_k(correct: np.ndarray) -> dict[str, np.ndarray]:
    """Per prompt, the unbiased estimate of the chance that one of k samples is right: k -> ``[prompts]``, k = 1, 2, 4, .. and n.

    1 - C(n - c, k) / C(n, k) for c right among n (Codex, arXiv 2107.03374, eq. 1), of samples that could be graded. correct
    ``[prompts, n]``: 1 right, less not; NaN not graded. NaN where fewer than k samples were graded.
    """
    n = correct.shape[1]
    graded = (~np.isnan(correct)).sum(1)
    right = (correct >= 1.0).sum(1)
    sizes = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})

    def one(total: int, good: int, k: int) -> float:
        return float("nan") if total < k else 1.0 - math.comb(total - good, k) / math.comb(total, k)

    return {
        str(k): np.array([one(int(t), int(c), k) for t, c in zip(graded, right, strict=True)], dtype=float)
        for k in sizes
    }


def clusters(setup: Setup) -> list[Any] | None:
    """The label of each held-out prompt by which intervals resample, if the recipe names a column for it."""
    evaluation = setup.recipe.eval
    if evaluation is None or evaluation.cluster is None or setup.eval is None:
        return None
    return [prompt.columns[evaluation.cluster] for prompt in setup.eval.prompts[: evaluation.limit]]


def _labels(count: int, clusters: Sequence[Any] | None) -> np.ndarray:
    """Clusters numbered from 0 in the order in which they appear, int ``[count]``; each entry its own where there are none."""
    seen: dict[str, int] = {}
    names = range(count) if clusters is None else clusters
    return np.array([seen.setdefault(repr(name), len(seen)) for name in names])


def _resampled_means(values: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Means of ``RESAMPLES`` bootstrap samples of whole clusters; drawn a block at a time, so that memory stays small."""
    sums = np.bincount(labels, weights=values)
    counts = np.bincount(labels).astype(float)
    generator = stream(seed, Purpose.BOOTSTRAP)
    means, rows = np.empty(RESAMPLES), max(1, BLOCK // len(sums))
    for start in range(0, RESAMPLES, rows):
        part = means[start : start + rows]
        picks = generator.integers(len(sums), size=(len(part), len(sums)))
        part[:] = sums[picks].sum(1) / counts[picks].sum(1)
    return means


def never_seen(n: int) -> float:
    """The largest chance of an event that did not happen in n independent trials, at 97.5 % confidence.

        (1 - p)^n = alpha / 2,   p = 1 - (alpha / 2)^(1/n),   alpha = 0.05

    Clopper and Pearson's limit (Biometrika 26, 1934) at 0 of n, where it has a closed form.
    """
    return 1.0 - (ALPHA / 2) ** (1.0 / n)


def interval(
    values: np.ndarray,
    clusters: Sequence[Any] | None = None,
    *,
    seed: int = 0,
    span: tuple[float, float] = (0.0, 1.0),
) -> dict[str, float]:
    """Mean with its 95 % interval: ``{value, low, high, n}``. NaN entries are left out.

    clusters: a label per entry; entries of one label are resampled together. span: what an entry can be.

    Percentile bootstrap. Where all entries are one value v in the span, resampling them says nothing, and the interval is that of what
    was never seen: an entry differs from v with chance at most p = ``never_seen``(number of clusters), and then by no more than the
    span allows, so the mean is in [v - p (v - lowest), v + p (highest - v)]: Clopper and Pearson's interval at 0 of n and n of n.
    """
    seen = ~np.isnan(values)
    kept = values[seen]
    if not len(kept):
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    named = None if clusters is None else [label for label, keep in zip(clusters, seen, strict=True) if keep]
    labels, first = _labels(len(kept), named), float(kept[0])
    if span[0] <= first <= span[1] and bool((kept == first).all()):
        chance = never_seen(int(labels.max()) + 1)
        low, high = first - chance * (first - span[0]), first + chance * (span[1] - first)
    else:
        low, high = np.percentile(_resampled_means(kept, labels, seed), [2.5, 97.5])
    return {"value": float(kept.mean()), "low": float(low), "high": float(high), "n": int(seen.sum())}


def outcome_interval(setup: Setup, values: np.ndarray) -> dict[str, float]:
    """`interval` of the outcomes of a recipe's held-out prompts ``[n]``: by its clusters, from its seed."""
    return interval(values, clusters(setup), seed=setup.recipe.train.seed)


def paired_gain(
    before: np.ndarray, after: np.ndarray, clusters: Sequence[Any] | None = None, *, seed: int = 0
) -> dict[str, float]:
    """Mean of after - before over the same prompts, with its 95 % paired interval."""
    return interval(after - before, clusters, seed=seed, span=(-1.0, 1.0))

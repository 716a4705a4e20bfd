"""From rollouts to a scored batch: what reward functions receive, what is dropped and counted, and what is logged."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rewards.contract import Grades, InfrastructureError, Reward, TrainerState
from rl.data import Prompt
from rl.grading import batch_metrics, columns_of, completion_of, grade_rollouts, sample_metrics
from rl.metrics import Metrics, nan_mean
from rl.scored import ScoredBatch
from rollouts.trajectory import RolloutBatch
from tests.oracles.training import make_batch, tiny_policy

STATE = TrainerState(global_step=3, max_steps=9)
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "1 2"}]


@pytest.fixture(scope="module")
def rollouts() -> RolloutBatch:
    """Nine rollouts: three each of the prompts 0, 1, 2."""
    return make_batch(tiny_policy()).rollouts


def prompts(raw: Any = "text") -> dict[int, Prompt]:
    return {i: Prompt(i, raw, "text", (1,), {"answer": f"a{i}", **({"extra": i} if i else {})}) for i in range(3)}


def grade(
    rollouts: RolloutBatch, *rewards: Reward, outcome: str | None = None, **options: Any
) -> tuple[ScoredBatch, Grades]:
    arguments: dict[str, Any] = {"prefill": "", "prompts": prompts()} | options
    return grade_rollouts(
        rollouts,
        arguments["prompts"],
        rewards,
        outcome or rewards[0].name,
        eos_ids=tiny_policy().eos_ids,
        prefill=arguments["prefill"],
        state=STATE,
    )


def of(values: list[Any], name: str = "given", weight: float = 1.0) -> Reward:
    """A reward that answers from a list."""
    return Reward(name, lambda completions, **_: values, weight)


# ---- what functions receive


@pytest.mark.parametrize("raw", ["text", MESSAGES])
@pytest.mark.parametrize("prefill", ["", "<r>"])
def test_functions_see_what_trl_shows_them(rollouts: RolloutBatch, raw: Any, prefill: str) -> None:
    seen: dict[str, Any] = {}

    def spy(**arguments: Any) -> list[float]:
        seen.update(arguments)
        return [0.0] * 9

    grade(rollouts, Reward("spy", spy, 1.0, {"knob": 7}), prompts=prompts(raw), prefill=prefill)
    assert seen["prompts"] == [raw] * 9
    texts = [prefill + text for text in rollouts.texts]
    conversation = [[{"role": "assistant", "content": text}] for text in texts]
    assert seen["completions"] == (texts if isinstance(raw, str) else conversation)
    assert seen["answer"] == ["a0"] * 3 + ["a1"] * 3 + ["a2"] * 3
    assert seen["extra"] == [None] * 3 + [1] * 3 + [2] * 3
    assert seen["knob"] == 7
    assert seen["trainer_state"] == STATE
    eos = tiny_policy().eos_ids
    for row, ids in enumerate(seen["completion_ids"]):
        assert not set(ids[:-1]) & set(eos)
        assert (ids[-1] in eos) == (rollouts.finish_reason[row] == "eos")
        words = [i for i in ids if i not in eos]
        assert "".join(map(str, words)) == rollouts.texts[row]


def test_completions_and_columns_by_themselves() -> None:
    rows = list(prompts().values())
    assert completion_of(rows[0], "x", "p") == "px"
    assert completion_of(replace(rows[0], raw=MESSAGES), "x", "p") == [{"role": "assistant", "content": "px"}]
    assert columns_of(rows) == {"answer": ["a0", "a1", "a2"], "extra": [None, 1, 2]}
    assert columns_of([]) == {}


# ---- rewards, outcome, components


def test_the_total_is_weighted_and_the_outcome_stands_apart(rollouts: RolloutBatch) -> None:
    right = [1.0, 0.0, 0.0] * 3
    shape = [0.5] * 9
    batch, _ = grade(rollouts, of(shape, "format", 0.2), of(right, "correct", 2.0), outcome="correct")
    assert batch.reward.tolist() == pytest.approx([2.1, 0.1, 0.1] * 3)
    assert batch.outcome.tolist() == right
    assert {name: value.tolist() for name, value in batch.components.items()} == {"format": shape, "correct": right}
    assert batch.dropped == {}
    assert batch.advantage is None


def test_weight_zero_is_logged_and_not_part_of_the_reward(rollouts: RolloutBatch) -> None:
    batch, _ = grade(rollouts, of([1.0] * 9, "log only", 0.0), of([2.0] * 9, "real"), outcome="log only")
    assert batch.reward.tolist() == [2.0] * 9
    assert batch.outcome.tolist() == [1.0] * 9


def test_rows_that_no_reward_applies_to_are_dropped_and_counted(rollouts: RolloutBatch) -> None:
    batch, _ = grade(rollouts, of([None, 1.0, 2.0, None, 4.0, 5.0, 6.0, 7.0, 8.0]))
    assert batch.dropped == {"no reward applies": 2}
    assert batch.reward.tolist() == [1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert batch.rollouts.rollout_id.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert batch.rollouts.texts == tuple(rollouts.texts[i] for i in (1, 2, 4, 5, 6, 7, 8))


def test_a_row_that_one_of_two_rewards_applies_to_stays(rollouts: RolloutBatch) -> None:
    some: list[float | None] = [None, 1.0, None] * 3
    batch, _ = grade(rollouts, of(some, "sometimes"), of([0.5] * 9, "always", 2.0))
    assert batch.reward.tolist() == [1.0, 2.0, 1.0] * 3
    assert batch.dropped == {}
    assert torch.equal(batch.outcome.isnan(), torch.tensor([True, False, True] * 3))


def test_infrastructure_failures_are_dropped_by_their_reasons(rollouts: RolloutBatch) -> None:
    broken, slow = InfrastructureError("sandbox died"), InfrastructureError("judge timed out")
    values = [1.0, broken, 0.0, slow, 1.0, broken, None, 0.0, 1.0]
    batch, _ = grade(rollouts, of(values))
    assert batch.dropped == {
        "reward given: sandbox died": 2,
        "reward given: judge timed out": 1,
        "no reward applies": 1,
    }
    assert batch.reward.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]  # a wrong answer stays, at zero
    assert batch.rollouts.rollout_id.tolist() == [0, 2, 4, 7, 8]


def test_a_failed_call_drops_its_rows_and_keeps_nothing(rollouts: RolloutBatch) -> None:
    def down(**_: Any) -> list[float]:
        raise InfrastructureError("no answer")

    batch, grades = grade(rollouts, Reward("judge", down), of([1.0] * 9))
    assert len(batch) == 0
    assert batch.dropped == {"reward judge: no answer": 9}
    assert grades.counts["judge/infrastructure_failures"] == 9


# ---- metrics


def logged(batch: ScoredBatch) -> dict[str, Any]:
    metrics = Metrics()
    sample_metrics(metrics, batch)
    batch_metrics(metrics, batch, tiny_policy().eos_ids)
    return metrics.result()


def test_metrics_of_a_batch(rollouts: RolloutBatch) -> None:
    def talkative(completions: list[str], log_metric: Any, **_: Any) -> list[float | None]:
        log_metric("brevity", 4.0)
        return [1.0, 1.0, 1.0, 0.0, 1.0, 0.5, None, 1.0, 1.0]

    batch, grades = grade(rollouts, Reward("talk", talkative), of([1.0] * 9, "flat", 0.5))
    metrics = logged(batch)
    assert metrics["outcome"] == metrics["reward/talk"] == pytest.approx(6.5 / 8)
    assert metrics["reward"] == pytest.approx((6.5 + 4.5) / 9)
    assert metrics["reward/flat/std"] == 0.0
    values = torch.tensor([1.0, 1, 1, 0, 1, 0.5, 1, 1])
    assert metrics["reward/talk/std"] == pytest.approx(float(values.std(correction=0)))
    assert grades.metrics["brevity"] == 4.0
    assert metrics["failed_groups"] == 0.0
    assert metrics["zero_signal_groups"] == pytest.approx(1 / 3)  # the first prompt's
    ids = [tuple(row) for row in rollouts.completion_ids(tiny_policy().eos_ids)]
    assert metrics["length"] == pytest.approx(sum(map(len, ids)) / 9)
    groups = [ids[0:3], ids[3:6], ids[6:9]]
    assert metrics["group_diversity"] == pytest.approx(sum(len(set(one)) for one in groups) / 9)
    assert metrics["eos"] == pytest.approx(1 - metrics["truncated"])
    assert metrics["truncated"] == pytest.approx(3 / 9)
    drawn = rollouts.drawn_mask
    assert metrics["entropy"] == pytest.approx(float(rollouts.entropy[drawn].mean()), rel=1e-5)
    assert not any(name.startswith("dropped/") for name in metrics)


def test_metrics_of_an_empty_batch_are_only_its_drops(rollouts: RolloutBatch) -> None:
    batch, _ = grade(rollouts, of([None] * 9))
    metrics = logged(batch)
    assert metrics == {"dropped/no reward applies": 9}


def test_metrics_travel_as_sums_and_counts() -> None:
    metrics = Metrics()
    metrics.add({"a": (3.0, 2)})
    metrics.add({"a": (torch.tensor(1.0), torch.tensor(6))})
    metrics.add({"empty": (0.0, 0)}, prefix="x/")
    metrics.mean("b", torch.tensor([1.0, 5.0, 9.0]), torch.tensor([True, False, True]))
    metrics.largest("c", 2.0)
    metrics.largest("c", 1.0)
    metrics.set("d", "word")
    assert metrics.result() == {"a": 0.5, "b": 5.0, "c": 2.0, "d": "word"}
    total, count = nan_mean(torch.tensor([1.0, float("nan"), 4.0]))
    assert (float(total), int(count)) == (5.0, 2)

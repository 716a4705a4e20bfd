"""MDPO: rewards and advantages of recorded answers, their estimator and objective, and whole runs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from rewards.contract import InfrastructureError, Reward, TrainerState
from rl.advantages import advantages, step_scores, stepwise
from rl.compatibility import problems
from rl.config import RecipeErrors, load_recipe
from rl.data import Prompt
from rl.grading import grade_answers
from rl.masks import PlanKey
from rl.method import Method
from rl.presets import resolve
from rl.progress import Reporter
from rl.step import train_step
from rl.x0_action import X0Action, largest_steps
from rollouts.engine import step_answers
from tests.oracles.runs import ROWS, digits, recipe, samples
from tests.oracles.training import (
    SPEC,
    STEPWISE,
    copies,
    distance,
    make_batch,
    naive_gradient,
    prepared,
    stepwise_of,
    tiny_policy,
    trained,
)

NAN = float("nan")


# ---- advantages


def scores_by_hand(rewards: list[float]) -> list[float]:
    """a_s = (r_s - r_{s-1}) + 1 + mean of what follows, over the steps that have a reward."""
    own = [i for i, r in enumerate(rewards) if not math.isnan(r)]
    found = [NAN] * len(rewards)
    for n, i in enumerate(own):
        rest = [rewards[j] for j in own[n + 1 :]]
        gain = rewards[i] - (rewards[own[n - 1]] if n else 0.0)
        found[i] = gain + 1 + (sum(rest) / len(rest) if rest else rewards[i])
    return found


def test_step_scores_against_a_slow_count() -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.rand(40, 6, generator=generator)
    reward[torch.rand(40, 6, generator=generator) < 0.3] = NAN
    found = step_scores(reward)
    for row, wanted in zip(found.tolist(), map(scores_by_hand, reward.tolist()), strict=True):
        assert row == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert step_scores(torch.tensor([[0.0, 1.0, 0.0, 1.0]]))[0].tolist() == pytest.approx([1 + 2 / 3, 2.5, 1.0, 3.0])


def test_stepwise_advantages_are_normalised_over_the_group_at_each_step() -> None:
    generator = torch.Generator().manual_seed(1)
    reward = torch.rand(9, 4, generator=generator)
    reward[[1, 2, 5], 3] = NAN
    group = torch.tensor([7, 7, 7, 2, 2, 2, 5, 5, 5])
    score, found = step_scores(reward), stepwise(reward, group)
    for row in range(9):
        for step in range(4):
            peers = [float(score[p, step]) for p in range(9) if group[p] == group[row] and not score[p, step].isnan()]
            mean = sum(peers) / max(1, len(peers))
            spread = math.sqrt(sum((x - mean) ** 2 for x in peers) / max(1, len(peers) - 1))
            alone = score[row, step].isnan() or len(peers) < 2
            wanted = 0.0 if alone else (float(score[row, step]) - mean) / (spread + 1e-4)
            assert float(found[row, step]) == pytest.approx(wanted, abs=1e-4)
    order = torch.randperm(9, generator=generator)
    assert torch.allclose(stepwise(reward[order], group[order]), found[order], atol=1e-6)
    outcome = torch.zeros(9)
    assert torch.equal(advantages("stepwise", outcome, outcome, group, reward), found)
    with pytest.raises(ValueError, match="recorded"):
        advantages("stepwise", outcome, outcome, group)


# ---- the plan


def test_the_steps_of_a_group_with_the_largest_advantages_are_trained_on() -> None:
    advantage = torch.tensor([[1.0, -3, 0, 2], [1, 1, 0, -2], [0, 0, 5, 0], [0, 0, -1, 1]])
    picked = largest_steps(advantage, torch.tensor([4, 4, 9, 9]), 2)
    assert picked.int().tolist() == [[0, 1, 0, 1]] * 2 + [[0, 0, 1, 1]] * 2
    assert largest_steps(torch.zeros(1, 3), torch.tensor([0]), 2).tolist() == [[True, True, False]]


@pytest.mark.parametrize("confidence", [True, False])
def test_every_masked_token_of_a_picked_answer_is_scored(confidence: bool) -> None:
    batch = make_batch(tiny_policy(), recorded=True)
    rollouts = batch.rollouts
    assert batch.advantage is not None
    assert rollouts.x0_pred is not None
    assert rollouts.confidence is not None
    estimator = X0Action(sample_steps=2, confidence=confidence)
    plan = estimator.plan_of(rollouts, batch.advantage, PlanKey(0, 0))
    assert plan.target is not None
    wanted = largest_steps(batch.advantage, rollouts.group_id, 2) & rollouts.step_mask
    assert [[r, s] for r, s in zip(plan.row.tolist(), plan.step.tolist(), strict=True)] == wanted.nonzero().tolist()
    for view, (row, step) in enumerate(zip(plan.row.tolist(), plan.step.tolist(), strict=True)):
        hidden = rollouts.state(step)[row] == rollouts.mask_id
        assert torch.equal(plan.masked[view], hidden)
        assert torch.equal(plan.scored[view], hidden)
        assert torch.equal(plan.target[view][hidden], rollouts.x0_pred[row, step][hidden].long())
        sure = rollouts.confidence[row, step][hidden] if confidence else torch.ones(int(hidden.sum()))
        torch.testing.assert_close(plan.weight[view][hidden], sure / int(hidden.sum()))
        assert not plan.weight[view][~hidden].any()
    with pytest.raises(ValueError, match="no recorded answers"):
        estimator.plan(make_batch(tiny_policy()).rollouts, PlanKey(0, 0))


def test_a_recorded_token_that_was_kept_has_the_sampler_s_log_probability() -> None:
    """Scored under the sampler's law in the state of its step, it is what the sampler logged."""
    policy = tiny_policy()
    batch = make_batch(policy, recorded=True).rollouts
    estimator = X0Action(sample_steps=9)
    plan = estimator.plan(batch, PlanKey(0, 0))
    learner, *_ = prepared(policy, Method())
    values = learner.score(batch, plan, estimator.scoring_law(batch.sampler_spec, tuple(policy.forbidden_ids)))
    kept = plan.scored & (batch.reveal_step[plan.row] == plan.step.unsqueeze(1))
    assert int(kept.sum()) == int(batch.drawn_mask.sum())
    torch.testing.assert_close(values[kept], batch.sampler_logprob[plan.row][kept], atol=2e-5, rtol=1e-4)


# ---- equal to the naive computation


def check(method: Method) -> None:
    policy = tiny_policy()
    batch = make_batch(policy, recorded=True)
    learner, recorder, anchor = prepared(policy, method)
    metrics = train_step(learner, batch, method, seed=3, step=0).result()
    losses = []
    for number, gradient in enumerate(recorder.gradients):
        key = PlanKey(3, 0, number, method.inner_passes)
        now, old = recorder.weights[number], recorder.weights[0]
        loss, wanted = naive_gradient(policy, batch, method, key, now=now, old=old, reference=anchor)
        assert distance(gradient, wanted) < 1e-5
        losses.append(loss)
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5, abs=1e-6)
    assert metrics["first_pass_gap"] == 0.0
    assert 0 < metrics["clip_share"] < 0.5


@pytest.mark.parametrize("reduction", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("name", STEPWISE)
def test_loss_and_gradient_equal_the_naive_computation(name: str, reduction: str) -> None:
    check(stepwise_of(name, reduction, inner_passes=2))


@pytest.mark.parametrize("name", ["answers, k2", "token of a step"])
def test_micro_batches_padding_and_order_change_nothing(name: str) -> None:
    policy, method = tiny_policy(), stepwise_of(name, inner_passes=2)
    batch = make_batch(policy, recorded=True)
    start, order = copies(trained(policy)), torch.randperm(len(batch), generator=torch.Generator().manual_seed(5))
    padded = replace(batch, rollouts=batch.rollouts.padded(batch.rollouts.length + 6))
    results = []
    for variant, micro_batch in ((batch, 4), (batch, 1), (padded, 3), (padded.rows(order), 5)):
        for parameter, value in zip(trained(policy), start, strict=True):
            parameter.data.copy_(value)
        learner, recorder, _ = prepared(policy, method, micro_batch=micro_batch)
        loss = train_step(learner, variant, method, seed=3, step=0).result()["loss"]
        results.append((recorder.gradients, loss))
    for gradients, loss in results[1:]:
        assert loss == pytest.approx(results[0][1], rel=1e-5, abs=1e-6)
        assert all(distance(a, b) < 1e-5 for a, b in zip(gradients, results[0][0], strict=True))


def test_the_shortcut_on_policy_has_the_gradient_of_the_full_path() -> None:
    gradients = []
    for step in (0, 4):
        policy, method = tiny_policy(), stepwise_of("answers")
        assert method.on_policy
        learner, recorder, _ = prepared(policy, method)
        train_step(learner, make_batch(policy, recorded=True), method, seed=3, step=step)
        gradients.append(recorder.gradients[0])
    assert distance(*gradients) < 1e-5


# ---- grading


def test_equal_answers_to_a_prompt_are_graded_once_and_failures_drop_the_row() -> None:
    policy = tiny_policy()
    batch = make_batch(policy, recorded=True)
    answers, seen = step_answers(policy, batch.rollouts), []
    assert len(answers) == int(batch.rollouts.step_mask.sum())
    for row, step, text, ids in answers:
        on = batch.rollouts.x0_pred[row, step][batch.rollouts.canvas_mask[row]].tolist()  # type: ignore[index]
        end = next((i for i, token in enumerate(on) if token in policy.eos_ids), None)
        assert ids == on[: len(on) if end is None else end + 1]
        assert text == policy.tokenizer.decode(on[:end], skip_special_tokens=True)
    bad = answers[0][3]

    def rate(completion_ids: list[list[int]], **_: Any) -> list[Any]:
        seen.extend(map(tuple, completion_ids))
        return [InfrastructureError("down") if ids == bad else len(ids) / 8 for ids in completion_ids]

    prompts = {i: Prompt(i, "p", "p", (1,)) for i in range(3)}
    options: dict[str, Any] = {"prefill": "", "state": TrainerState(), "eos_ids": policy.eos_ids}
    rewards = (Reward("rate", rate, 2.0), Reward("log", rate, 0.0))
    graded, grades = grade_answers(batch, answers, prompts, rewards, **options)
    ids = batch.rollouts.prompt_id.tolist()
    assert len(seen) == len({(ids[row], tuple(tokens)) for row, _, _, tokens in answers})
    gone = {row for row, _, _, tokens in answers if tokens == bad}
    failed = {ids[row] for row, _, _, tokens in answers if tokens == bad}
    assert grades.counts == {"rate/infrastructure_failures": len(failed)}
    assert graded.dropped == {"a recorded answer could not be graded": len(gone)}
    left = [row for row in range(len(batch)) if row not in gone]
    assert graded.step_reward is not None
    assert torch.equal(graded.step_reward.isnan(), ~graded.rollouts.step_mask)
    for row, step, _, tokens in answers:
        if row in left:
            assert float(graded.step_reward[left.index(row), step]) == pytest.approx(2 * len(tokens) / 8)


# ---- what a recipe cannot mean


@pytest.mark.parametrize(
    ("raw", "key", "remedy"),
    [
        ({"preset": "mdpo", "objective": {"kind": "clipped"}}, "objective", "estimator x0_action"),
        ({"preset": "mdpo", "estimator": {"kind": "trajectory"}}, "objective", "or neither"),
        ({"preset": "mdpo", "advantage": "group_centered"}, "advantage", "advantage: stepwise"),
        ({"preset": "gspo", "advantage": "stepwise"}, "estimator.unit", "unit: step"),
        ({"preset": "diffu_grpo", "advantage": "stepwise"}, "estimator.kind", "x0_action or trajectory"),
    ],
)
def test_impossible_combinations(raw: dict[str, Any], key: str, remedy: str) -> None:
    found = problems(Method(**resolve(raw)), SPEC, 8)
    assert key in [one for one, _ in found]
    assert any(remedy in message for _, message in found)


def test_stepwise_needs_recorded_answers(checkpoint: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"records none\s+set rollout.strategy: \{kind: recorded\}"):
        load_recipe(recipe(checkpoint, method={"preset": "mdpo"}), provided=["data.train", "rewards"])


# ---- a whole run


@pytest.mark.usefixtures("own_folder")
def test_a_run_with_recorded_answers_goes_on_bit_for_bit(checkpoint: Path) -> None:
    made = recipe(
        checkpoint,
        rollout={"group_size": 3, "strategy": {"kind": "recorded"}},
        method={"preset": "mdpo", "estimator": {"sample_steps": 2}},
        train={"updates": 3, "deterministic": True, "log_rollouts": 9, "out": "whole"},
    )

    def go(**options: Any) -> Any:
        return unmask.train(made | options.pop("also", {}), digits, ROWS, reporter=Reporter(quiet=True), **options)

    whole = go()
    for row in whole.metrics:
        assert all(value is None or math.isfinite(value) for value in row.values())
        assert row["optim/grad_norm"] > 0
        assert 0 <= row["backslide"] <= 1
    kept = samples(whole)
    assert any(len(set(row["token_advantage"]) - {None}) > 1 for row in kept)
    assert all(value is None for row in kept for value in row["ratio"])
    made["train"]["out"] = "parts"
    go(also={"stop": {"updates": 1}})
    parts = go(resume="auto")
    assert (whole.folder / "metrics.jsonl").read_bytes() == (parts.folder / "metrics.jsonl").read_bytes()
    assert samples(parts) == kept

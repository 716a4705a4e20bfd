"""What rewards are given of a rollout besides its text: against slow readings of the trajectory, and through a whole run."""

from pathlib import Path
from typing import Any

import pytest

import unmask
from rewards.contract import Reward, RewardError, TrainerState
from rewards.contract.text import HIDDEN
from rl.data import Prompt
from rl.errors import DataError
from rl.grading import grade_answers, grade_rollouts
from rl.progress import Reporter
from rl.rollout_arguments import (
    answer_arguments,
    intermediate_texts,
    invented_arguments,
    reveal_steps,
    rollout_arguments,
)
from rl.run import read_jsonl
from rollouts.engine import step_answers
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.trajectory import RolloutBatch
from tests.oracles.runs import ROWS, recipe, train, written
from tests.oracles.training import make_batch, tiny_policy

NAMES = ("reveal_steps", "intermediate_texts", "forwards", "truncated", "finish_reason")


@pytest.fixture(scope="module")
def policy() -> Any:
    return tiny_policy()


def drawn(policy: Any, **spec: Any) -> RolloutBatch:
    sampler = SamplerSpec(**{"canvas": 8, "block": 4, "steps": 8, "temperature": 1.0, **spec})
    return sample_groups(policy, [[5, 6], [7]], sampler, group_size=8, prompt_ids=[0, 1], seed=3, step=0, max_rows=4)


@pytest.mark.parametrize("spec", [{}, {"steps": 2}, {"steps": 4, "block": 8}])
def test_reveal_steps_stand_beside_the_completions_ids(policy: Any, spec: dict[str, Any]) -> None:
    batch = drawn(policy, **spec)
    found, ids = reveal_steps(batch, policy.eos_ids), batch.completion_ids(policy.eos_ids)
    assert [len(one) for one in found] == [len(one) for one in ids]
    for row in range(len(batch)):
        at = 0
        for position in range(batch.length):  # the canvas from left to right
            if (
                batch.canvas_mask[row, position]
                and at < len(ids[row])
                and batch.reveal_step[row, position] < batch.steps
            ):
                assert ids[row][at] == batch.tokens[row, position]
                assert found[row][at] == batch.reveal_step[row, position]
                at += 1
        assert at == len(ids[row])


def test_hints_are_not_revealed_by_a_step(policy: Any) -> None:
    batch = make_batch(policy, hinted=True).rollouts
    hinted = batch.hint_mask.any(1)
    assert hinted.any()
    for row, steps in enumerate(reveal_steps(batch, policy.eos_ids)):
        if hinted[row] and batch.finish_reason[row] != "eos":
            assert steps.count(-1) == int(batch.hint_mask[row].sum())


@pytest.mark.parametrize("spec", [{}, {"steps": 2}, {"steps": 4, "block": 8}])
def test_intermediate_texts_are_the_states_after_each_step(policy: Any, spec: dict[str, Any]) -> None:
    batch = drawn(policy, **spec)
    texts = intermediate_texts(batch, policy.eos_ids, policy.tokenizer)
    assert any(reason == "eos" for reason in batch.finish_reason)
    for row in range(len(batch)):
        assert len(texts[row]) == batch.steps
        assert texts[row][-1] == batch.texts[row]
        for step in range(1, batch.steps):
            state, expected = batch.state(step)[row][batch.canvas_mask[row]].tolist(), ""
            for token in state:  # the tiny tokenizer has a character per token
                if token in policy.eos_ids:
                    break
                hidden = token == policy.mask_id
                expected += HIDDEN if hidden else policy.tokenizer.decode([token], skip_special_tokens=True)
            assert texts[row][step - 1] == expected


def test_recorded_answers_are_read_in_their_place(policy: Any) -> None:
    batch = make_batch(policy, recorded=True).rollouts
    texts = intermediate_texts(batch, policy.eos_ids, policy.tokenizer)
    for row, step, text, _ in step_answers(policy, batch):
        assert texts[row][step] == (text if step < batch.steps - 1 else batch.texts[row])
    assert not any(HIDDEN in text for row in texts for text in row)


def test_only_what_is_named_is_computed(policy: Any) -> None:
    batch = drawn(policy)
    options: dict[str, Any] = {"eos_ids": policy.eos_ids, "prefill": "<r>"}
    assert rollout_arguments((), batch, tokenizer=None, **options) == {}
    found = rollout_arguments(NAMES, batch, tokenizer=policy.tokenizer, **options)
    assert set(found) == set(NAMES)
    assert [texts[-1] for texts in found["intermediate_texts"]] == ["<r>" + text for text in batch.texts]
    assert found["truncated"] == [reason == "length" for reason in found["finish_reason"]]
    assert found["forwards"] == batch.forwards.tolist()


def test_arguments_of_one_text(policy: Any) -> None:
    ids = policy.tokenizer("123", add_special_tokens=False)["input_ids"]
    found = invented_arguments("123", ids, policy.tokenizer, "<r>")
    assert set(found) == set(NAMES)
    assert found["intermediate_texts"] == [[f"<r>1{HIDDEN}{HIDDEN}", f"<r>12{HIDDEN}", "<r>123"]]
    assert found["reveal_steps"] == [[0, 1, 2]]


def test_recorded_answers_have_what_can_be_told_of_them(policy: Any) -> None:
    eos = policy.eos_ids[0]
    found = answer_arguments({"truncated", "finish_reason", "forwards"}, [[4, eos], [4, 5]], policy.eos_ids)
    assert found == {"truncated": [False, True], "finish_reason": ["eos", "length"]}
    batch = make_batch(policy, recorded=True)
    prompts = {i: Prompt(i, "p", "p", (1,)) for i in range(3)}
    options: dict[str, Any] = {"prefill": "", "state": TrainerState(), "eos_ids": policy.eos_ids}

    def whole(truncated: list[bool], finish_reason: list[str], **_: Any) -> list[float]:
        assert truncated == [reason == "length" for reason in finish_reason]
        return [float(one) for one in truncated]

    def early(forwards: list[int], **_: Any) -> list[float]:
        return [float(one) for one in forwards]

    answers = step_answers(policy, batch.rollouts)
    graded, _ = grade_answers(batch, answers, prompts, (Reward("whole", whole), Reward("early", early, 0.0)), **options)
    assert graded.step_reward is not None
    with pytest.raises(RewardError, match=r"asks for forwards.* recorded answers here"):
        grade_answers(batch, answers, prompts, (Reward("early", early),), **options)


def test_what_is_asked_for_reaches_the_function_with_its_rows(policy: Any) -> None:
    batch, seen = make_batch(policy).rollouts, {}

    def asks(completions: Any, completion_ids: Any, **given: Any) -> list[float]:
        seen.update(given, completions=completions, completion_ids=completion_ids)
        return [0.0] * len(completions)

    def names(
        completions: Any,
        reveal_steps: Any,
        intermediate_texts: Any,
        forwards: Any,
        truncated: Any,
        finish_reason: Any,
        **_: Any,
    ) -> list[float]:
        seen["asked"] = [reveal_steps, intermediate_texts, forwards, truncated, finish_reason]
        return [0.0] * len(completions)

    prompts = {i: Prompt(i, "p", "p", (1,)) for i in range(3)}
    grade_rollouts(
        batch,
        prompts,
        (Reward("asks", asks), Reward("names", names)),
        "asks",
        eos_ids=policy.eos_ids,
        prefill="x",
        state=TrainerState(),
        tokenizer=policy.tokenizer,
    )
    assert not set(NAMES) & set(seen)
    assert [len(one) for one in seen["asked"]] == [len(batch)] * 5
    assert [texts[-1] for texts in seen["asked"][1]] == seen["completions"]
    assert [len(one) for one in seen["asked"][0]] == [len(ids) for ids in seen["completion_ids"]]


# ---- whole runs

EARLY = """
def early(completions, intermediate_texts, reveal_steps, forwards, truncated, finish_reason, log_extra, **kwargs):
    log_extra("states", intermediate_texts)
    assert all(type(one) is int for one in forwards) and all(type(one) is bool for one in truncated)
    assert all(texts[-1] == text for texts, text in zip(intermediate_texts, completions))
    return [sum(steps) / (1 + len(steps)) for steps in reveal_steps]

def early_answer(completions, forwards, **kwargs):
    return [float(one) for one in forwards]
"""


@pytest.mark.usefixtures("own_folder")
def test_a_run_an_evaluation_and_a_dry_run_give_them(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(EARLY)
    written(ROWS, Path("rows.jsonl"))
    data = {"train": {"path": "rows.jsonl"}, "eval": {"path": "rows.jsonl"}}
    source = recipe(checkpoint, data=data, eval={}) | {"rewards": [{"fn": "mine.py:early"}]}
    run = unmask.train(source, reporter=Reporter(quiet=True))
    assert run.metrics[0]["reward/early"] > 0
    evaluations = read_jsonl(run.folder / "evaluations.jsonl")
    assert evaluations[0]["accuracy"]["4"]["n"] == len(ROWS)
    assert unmask.evaluate(source)[4]["n"] == len(ROWS)

    from rl.config import load_recipe
    from rl.plan import dry_run

    dry_run(load_recipe(source))
    assert "early" in capsys.readouterr().out


@pytest.mark.usefixtures("own_folder")
def test_recorded_answers_and_what_only_whole_rollouts_have(checkpoint: Path) -> None:
    Path("mine.py").write_text(EARLY)
    source: dict[str, Any] = recipe(checkpoint, rollout={"strategy": {"kind": "recorded"}}) | {"method": "mdpo"}
    source |= {"rewards": [{"fn": "mine.py:early_answer"}], "outcome": "digits"}
    with pytest.raises(
        DataError, match=r"recorded has the answer of every step graded, and reward early_answer asks for forwards"
    ):
        train(source)
    source["rewards"][0]["weight"] = 0
    assert train(source).metrics[0]["reward/early_answer"] > 0

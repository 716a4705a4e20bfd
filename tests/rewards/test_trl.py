"""TRL's own rewards run unchanged, and `grade` passes exactly what TRL's trainer passes."""

import asyncio
import functools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rewards.contract import Reward, TrainerState, grade, load_rewards

torch = pytest.importorskip("torch")
trl_rewards = pytest.importorskip("trl.rewards")


def chat(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


PROMPTS = [[{"role": "user", "content": question}] for question in ("a?", "b?", "c?")]
COMPLETIONS = chat(
    r"<think>half of one</think> \boxed{\frac{1}{2}}", r"<think>a third</think> \boxed{\frac{1}{3}}", "I do not know"
)
SOLUTIONS = [r"$\frac{1}{2}$", r"$\frac{1}{2}$", r"$\frac{1}{2}$"]
IDS = [[5] * 90, [1, 2, 3, 4], [5, 5, 5, 5, 5]]


async def judge(prompts: list[Any], completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float | None]:
    """A conversational function as a TRL user would write it."""
    await asyncio.sleep(0)
    first = [completion[0] for completion in completions]
    assert all(message["role"] == "assistant" for message in first)
    assert all(prompt[-1]["role"] == "user" for prompt in prompts)
    return [None if "think" not in message["content"] else float(trainer_state.global_step) for message in first]


def test_trl_rewards_and_a_conversational_function_run_unchanged() -> None:
    functions = [
        trl_rewards.accuracy_reward,
        trl_rewards.think_format_reward,
        trl_rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20),
        trl_rewards.get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0),
        judge,
    ]
    grades = grade(
        load_rewards(functions, base=Path(".")),
        prompts=PROMPTS,
        completions=COMPLETIONS,
        completion_ids=IDS,
        columns={"solution": SOLUTIONS, "level": [1, 2, 3]},
        trainer_state=TrainerState(global_step=4),
    )
    assert grades.components == {
        "accuracy_reward": [1.0, 0.0, 0.0],
        "think_format_reward": [1.0, 1.0, 0.0],
        "soft_overlong_punishment_reward": [-0.5, 0.0, 0.0],
        "repetition_penalty_reward": [pytest.approx(-88 / 89), 0.0, -0.75],
        "judge": [4.0, 4.0, None],
    }
    assert grades.extras["solution"] == SOLUTIONS
    assert grades.total == [pytest.approx(1 + 1 - 0.5 - 88 / 89 + 4), 5.0, -0.75]


def test_by_dotted_path() -> None:
    (reward,) = load_rewards(["trl.rewards:think_format_reward"], base=Path("."))
    assert reward.name == "think_format_reward"


class StandIn:
    """As much of a GRPOTrainer as its `_calculate_rewards` touches."""

    def __init__(self, functions: list[Any], state: Any) -> None:
        from trl.trainer.utils import get_callable_name

        self.accelerator = SimpleNamespace(device=torch.device("cpu"), is_main_process=True)
        self.args = SimpleNamespace(report_to=[])
        self.reward_funcs = functions
        self.reward_func_names = [get_callable_name(fn) for fn in functions]
        self.reward_processing_classes = [None] * len(functions)
        self.state = state
        self.environments = None
        self.extra: dict[str, list[Any]] = {}
        self.metrics: dict[str, list[float]] = {}
        self.async_loop = asyncio.new_event_loop()
        threading.Thread(target=self.async_loop.run_forever, daemon=True).start()

    def _log_completion_extra(self, column: str, values: list[Any]) -> None:
        self.extra.setdefault(column, []).extend(values)

    def _log_metric(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(value)


def test_our_call_equals_trls_own() -> None:
    grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    calls: dict[str, list[dict[str, Any]]] = {"plain": [], "async": [], "partial": []}

    def plain(**kwargs: Any) -> list[float | None]:
        calls["plain"].append(kwargs)
        kwargs["log_extra"]("seen", kwargs["level"])
        kwargs["log_metric"]("three", 3.0)
        return [1.0, None, 0.25]

    async def later(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        calls["async"].append({"prompts": prompts, "completions": completions, **kwargs})
        return [0.5, 0.5, 0.5]

    def tuned(alpha: float, **kwargs: Any) -> list[float]:
        calls["partial"].append({"alpha": alpha, **kwargs})
        return [alpha] * 3

    state = TrainerState(global_step=3)
    columns = {"solution": SOLUTIONS, "level": [1, 2, 3]}
    rows = [
        {
            "prompt": PROMPTS[i],
            "completion": "reference",
            "completion_ids": [0],
            "solution": SOLUTIONS[i],
            "level": i + 1,
        }
        for i in range(3)
    ]
    stand_in = StandIn(
        [plain, later, functools.partial(tuned, alpha=2.0), judge, trl_rewards.think_format_reward], state
    )
    theirs = grpo.GRPOTrainer._calculate_rewards(stand_in, rows, PROMPTS, COMPLETIONS, IDS)

    ours = grade(
        (
            Reward("plain", plain),
            Reward("later", later),
            Reward("tuned", tuned, kwargs={"alpha": 2.0}),
            Reward("judge", judge),
            Reward("format", trl_rewards.think_format_reward),
        ),
        prompts=PROMPTS,
        completions=COMPLETIONS,
        completion_ids=IDS,
        columns=columns | {"prompt": PROMPTS, "completion": ["reference"] * 3, "completion_ids": [[0]] * 3},
        trainer_state=state,
    )
    for name, (trl_call, our_call) in calls.items():
        assert set(trl_call) == set(our_call), name
        for key in set(trl_call) - {"log_extra", "log_metric"}:
            assert trl_call[key] == our_call[key], (name, key)
            assert type(trl_call[key]) is type(our_call[key]), (name, key)
    for column, scores in enumerate(ours.components.values()):
        expected = [None if torch.isnan(value) else value.item() for value in theirs[:, column]]
        assert scores == expected
    assert ours.extras == stand_in.extra == {"seen": [1, 2, 3]}
    assert ours.metrics == {"three": 3.0}
    # The weighted sum of TRL (weights 1) over the rewards that apply.
    assert ours.total == pytest.approx(theirs.nansum(dim=1).tolist())
    stand_in.async_loop.call_soon_threadsafe(stand_in.async_loop.stop)


@pytest.mark.parametrize("fn", [judge, functools.partial(judge), trl_rewards.think_format_reward, lambda **kwargs: []])
def test_async_and_names_as_trl_sees_them(fn: Any) -> None:
    from trl.trainer.utils import get_callable_name, is_async_callable

    from rewards.contract.reward import is_async

    assert is_async(fn) == is_async_callable(fn)
    assert load_rewards([fn], base=Path("."))[0].name == get_callable_name(fn)

"""Every monitor is provoked by a real run of the tiny model, and all are quiet on the quickstart."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rewards.contract import InfrastructureError
from rl.health import Alarm, Health
from rl.health_config import HealthConfig, HealthLimits
from rl.monitors import MONITORS, Facts
from rl.run import read_jsonl
from tests.oracles.runs import digits, recipe, train
from tests.oracles.training import tiny_folder

DATA = Path(__file__).parent / "data"
DOCS = Path(__file__).parents[2] / "docs" / "health.md"
LEVELS = [name for name, field in HealthConfig.model_fields.items() if field.default == "warn"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def only(monitor: str, level: str = "warn", span: int = 3, **limits: float) -> HealthConfig:
    """A config with one monitor and a window that fits a short run."""
    quiet = {name: "off" for name in LEVELS if name != monitor}
    return HealthConfig.model_validate({**quiet, monitor: level, "window": span, "baseline": span, "limits": limits})


def watch(config: HealthConfig, rows: list[dict[str, Any]], **facts: Any) -> list[Alarm]:
    known = {"group_size": 4, "outcome": "digits", "weights": {"digits": 1.0}, "dtype": "float32", **facts}
    health = Health(config, Facts(**known))
    return [alarm for row in rows for alarm in health.observe(row)]


def rows_of(checkpoint: Path, reward: Any = digits, *, updates: int = 4, **sections: Any) -> list[dict[str, Any]]:
    """The metrics of a short run: 6 prompts of 4 completions an update."""
    source = recipe(
        checkpoint,
        **{
            **sections,
            "rollout": {"group_size": 4, "max_rows": 48, **sections.get("rollout", {})},
            "train": {"updates": updates, "prompts_per_update": 6, "micro_batch": 64},
        },
    )
    return train(source, reward).metrics


# ---- each provoked on the tiny model


def test_identical_completions(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, rollout={"temperature": 1e-3})
    (alarm,) = watch(only("group_collapse"), rows)
    assert (alarm.update, alarm.monitor, alarm.level) == (2, "group_collapse", "warn")
    assert alarm.message == (
        "in the last 3 updates the 4 completions of a prompt were copies of each other: 1.0 different ones on average"
    )
    assert "rollout.temperature" in alarm.remedy
    assert not watch(only("group_collapse"), rows_of(checkpoint))


def nothing_right(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def test_a_reward_that_is_all_format(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, [nothing_right, digits])
    weights = {"nothing_right": 1.0, "digits": 0.2}
    (alarm,) = watch(only("reward_all_format"), rows, outcome="nothing_right", weights=weights)
    assert alarm.message == (
        "in the last 3 updates the outcome nothing_right was 0, and 100% of the reward's variance was that of other rewards, "
        "most of it digits"
    )
    assert "weight of digits" in alarm.remedy
    # An outcome that is reached now and then, or is all there is, is what training is for.
    solved = [{**row, "outcome": 0.1} for row in rows]
    assert not watch(only("reward_all_format"), solved, outcome="nothing_right", weights=weights)
    alone = rows_of(checkpoint, nothing_right)
    assert not watch(only("reward_all_format"), alone, outcome="nothing_right", weights={"nothing_right": 1.0})


def test_a_reward_that_rises_without_the_outcome(checkpoint: Path) -> None:
    Path("mine.py").write_text("def right(completions, **_):\n    return [0.0] * len(completions)\n")
    source = recipe(
        checkpoint, optim={"lr": 0.01}, rollout={"group_size": 8, "max_rows": 48}, train={"prompts_per_update": 6}
    )
    source |= {"rewards": [{"fn": "mine.py:right", "weight": 0.0}], "outcome": "right"}
    source["train"] |= {"updates": 14, "micro_batch": 64}
    rows = train(source).metrics
    (alarm,) = watch(only("reward_all_format"), rows, outcome="right", weights={"right": 0.0, "digits": 1.0})
    assert re.fullmatch(
        r"in the last 3 updates the outcome right was 0, while the reward rose from \S+ at first to \S+, most of it digits",
        alarm.message,
    )
    quiet = watch(only("reward_all_format"), rows[:3], outcome="right", weights={"right": 0.0, "digits": 1.0})
    assert not quiet


@pytest.mark.parametrize(("constant", "remedy"), [(1.0, "solved"), (0.0, "easier rows"), (0.5, "group_size")])
def test_a_reward_without_signal(checkpoint: Path, constant: float, remedy: str) -> None:
    rows = rows_of(checkpoint, lambda completions, **_: [constant] * len(completions))
    (alarm,) = watch(only("zero_signal"), rows)
    assert alarm.message == (
        f"in the last 3 updates 100% of the groups taught nothing: one reward for all (mean outcome {constant:.2g})"
    )
    assert remedy in alarm.remedy
    assert not watch(only("zero_signal"), rows_of(checkpoint))


def test_rollouts_that_are_all_left_out(checkpoint: Path) -> None:
    """Rewards differ, but nothing ends and mask_truncated takes all of it out; and RAFT without a right completion."""
    ends = [10, 11]
    rows = rows_of(checkpoint, method={"mask_truncated": True}, rollout={"forbid": ends})
    assert all(row["skipped"] == 1 and row["zero_signal_groups"] < 0.5 for row in rows)
    (alarm,) = watch(only("zero_signal"), rows)
    assert alarm.message == (
        "in the last 3 updates there was next to nothing to train on although rewards differed: 100% of the completions were cut off "
        "before EOS"
    )
    assert "method.mask_truncated" in alarm.remedy
    (alarm,) = watch(only("zero_signal"), rows_of(checkpoint, method={"preset": "raft"}))
    assert re.search(r"although rewards differed: no outcome was 1 \(mean \S+\)$", alarm.message)


def test_verified_rollouts_teach_in_groups_of_one_reward(checkpoint: Path) -> None:
    """RAFT trains on every right rollout; only where nothing is right has it nothing to learn."""
    for constant, alarms in ((1.0, 0), (0.0, 1)):

        def reward(completions: list[str], value: float = constant, **_: Any) -> list[float]:
            return [value] * len(completions)

        rows = rows_of(checkpoint, reward, method={"preset": "raft"})
        assert all(row["zero_signal_groups"] == 1.0 for row in rows)
        assert len(watch(only("zero_signal"), rows)) == alarms


def judge_down(completions: list[str], **_: Any) -> list[float]:
    raise InfrastructureError("judge unreachable")


def test_an_empty_batch_with_its_reasons(checkpoint: Path) -> None:
    (alarm,) = watch(only("empty_batch"), rows_of(checkpoint, judge_down, updates=3))
    assert alarm.update == 0
    assert alarm.message == (
        "no rollout of this update could be used, so nothing was trained: 24 x 'reward judge_down: judge unreachable'"
    )
    assert "a judge" in alarm.remedy

    rows = rows_of(checkpoint, lambda completions, **_: [None] * len(completions))
    (alarm,) = watch(only("empty_batch", empty_updates=2), rows)
    assert alarm.update == 1
    assert alarm.message.startswith("no rollout of the last 2 updates could be used")
    assert "24 x 'no reward applies'" in alarm.message
    assert "return 0.0 for a wrong answer" in alarm.remedy
    # With every monitor on, rows that hold hardly a metric raise nothing else.
    assert {alarm.monitor for alarm in watch(HealthConfig(window=1, baseline=1), rows)} == {"empty_batch"}


def brevity(completions: list[str], **_: Any) -> list[float]:
    return [1 - len(text) / 8 for text in completions]


def test_length_and_eos_that_drift(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, brevity, updates=20, optim={"lr": 0.01}, rollout={"group_size": 8})
    (alarm,) = watch(only("length_drift"), rows)
    assert re.search(r"completions had \S+ tokens, \S+ times fewer than at first \(\S+\)", alarm.message) or re.search(
        r"\d+% of the completions ended with EOS, at first \d+%", alarm.message
    )
    assert "rewards" in alarm.remedy
    alone = watch(only("length_drift", eos_change=1.0), rows)
    assert [re.search("times fewer", one.message) is not None for one in alone] == [True]
    # Backwards, the same rows are a run that begins to ramble.
    (alarm,) = watch(only("length_drift"), [{**row, "update": i} for i, row in enumerate(reversed(rows))])
    assert "times more" in alarm.message or "EOS" in alarm.message
    assert not watch(only("length_drift"), rows_of(checkpoint))


def test_ratio_tails(checkpoint: Path) -> None:
    wild = rows_of(checkpoint, optim={"lr": 0.3}, method={"inner_passes": 4})
    (alarm,) = watch(only("ratio_tails", span=1), wild)
    assert re.fullmatch(
        r"in the last update the ratios new/old counted for \d+% of their number \(effective sample size\) and the smallest "
        r"was \S+",
        alarm.message,
    )
    (alarm,) = watch(only("ratio_tails", span=1, ess=0.0, ratio=20), wild)
    assert alarm.message.startswith("in the last update the largest ratio of a typical update was ")
    assert "optim.lr" in alarm.remedy
    assert "method.inner_passes" in alarm.remedy
    calm = rows_of(checkpoint, optim={"lr": 1e-4}, method={"inner_passes": 4})
    assert calm[-1]["ratio_max"] > 1.0
    assert not watch(only("ratio_tails", span=1), calm)


def test_a_policy_that_leaves_its_reference(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, optim={"lr": 0.05}, method={"kl": {"beta": 1e-4}})
    (alarm,) = watch(only("reference_drift"), rows)
    assert re.fullmatch(
        r"in the last 3 updates the KL to the reference was \S+ nats per unit of the estimator", alarm.message
    )
    assert "method.kl.beta" in alarm.remedy
    assert not watch(only("reference_drift"), rows_of(checkpoint, method={"kl": {"beta": 0.04}}))


def test_entropy_that_collapses(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, optim={"lr": 0.3})
    (alarm,) = watch(only("entropy_collapse", span=2), rows)
    assert re.search(
        r"the entropy of a drawn token was \S+ nats, \S+% of the \S+ at first; the mean outcome is", alarm.message
    )
    assert not watch(only("entropy_collapse"), rows_of(checkpoint))


def test_updates_too_small_for_bfloat16(checkpoint: Path) -> None:
    rows = rows_of(checkpoint, optim={"lr": 1e-7}, model={"dtype": "bfloat16"})
    (alarm,) = watch(only("no_change"), rows, dtype="bfloat16")
    assert "no weight that was looked at changed in bfloat16 (learning rate 1e-07)" in alarm.message
    assert "optim.lr" in alarm.remedy
    assert not watch(only("no_change"), rows, dtype="float32")  # float32 weights do change
    assert not watch(
        only("no_change"), rows_of(checkpoint, optim={"lr": 1e-3}, model={"dtype": "bfloat16"}), dtype="bfloat16"
    )


def test_evaluation_that_falls_while_the_reward_rises(checkpoint: Path) -> None:
    """Even digits are paid for, odd ones are what is measured."""
    Path("mine.py").write_text(
        "def odd(completions, **_):\n    return [sum(char in '13579' for char in text) / 8 for text in completions]\n"
    )
    source = recipe(checkpoint, eval={"every": 2}, optim={"lr": 0.02}, rollout={"group_size": 8, "max_rows": 48})
    source |= {"rewards": [{"fn": "mine.py:odd", "weight": 0.0}], "outcome": "odd"}
    source["train"] |= {"updates": 12, "prompts_per_update": 6, "micro_batch": 64}
    held_out = [{"prompt": str(number), "answer": 0} for number in range(100, 148)]
    run = train(source, eval_dataset=held_out)
    evaluations = read_jsonl(run.folder / "evaluations.jsonl")

    def told(split: str, level: str) -> list[Alarm]:
        health = Health(only("eval_falls", level), Facts(8, "odd", {"odd": 0.0, "digits": 1.0}, "float32"))
        alarms = health.observe_evaluation(0, evaluations[0]["accuracy"]["4"], split=split)
        for row in run.metrics:
            assert not health.observe(row)
            for found in evaluations[1:]:
                if found["update"] == row["update"] + 1 and found["when"] != "end":
                    alarms += health.observe_evaluation(found["update"], found["accuracy"]["4"], split=split)
        return alarms

    (alarm,) = told("eval", "warn")
    assert re.match(
        r"the result on data\.eval is \S+; after 0 updates it was \S+ \[\S+, \S+\]; meanwhile the training reward rose from \S+ to "
        r"\S+$",
        alarm.message,
    )
    assert "save.best_by" in alarm.remedy
    # The reported split may warn, and never ends a run; the validation split may.
    assert {one.level for one in told("eval", "stop")} == {"warn"}
    stops = told("validation", "stop")
    assert len(stops) > 1
    assert {one.level for one in stops} == {"stop"}
    assert not told("eval", "off")


def test_a_recipe_that_says_stop_ends_the_run_and_resumes_with_a_warning(checkpoint: Path) -> None:
    source = recipe(
        checkpoint, train={"updates": 6}, health={"zero_signal": "stop", "window": 2, "limits": {"kl": 3.0}}
    )
    run = train(source, lambda completions, **_: [1.0] * len(completions))
    assert len(run.metrics) == 2
    (alarm,) = read_jsonl(run.folder / "health.jsonl")
    assert (alarm["update"], alarm["monitor"], alarm["level"]) == (1, "zero_signal", "stop")
    assert "health.zero_signal=warn" in alarm["remedy"]


# ---- quiet where all is well


@pytest.mark.parametrize("settings", [{}, {"window": 5, "baseline": 5}])
def test_the_quickstart_is_healthy(settings: dict[str, int]) -> None:
    facts = Facts(8, "sudoku.solved", {"sudoku.solved": 1.0, "sudoku.cells": 0.0}, "float32")
    health = Health(HealthConfig.model_validate(settings), facts)
    evaluations = {row["update"]: row["accuracy"]["4"] for row in read_jsonl(DATA / "quickstart_evaluations.jsonl")}
    rows = read_jsonl(DATA / "quickstart_metrics.jsonl")
    assert len(rows) == 80
    assert len(evaluations) > 5
    alarms = health.observe_evaluation(0, evaluations[0])
    for row in rows:
        alarms += health.observe(row)
        done = row["update"] + 1
        alarms += health.observe_evaluation(done, evaluations[done]) if done in evaluations else []
    assert not alarms


# ---- when something is told


def dead(update: int, share: float = 1.0) -> dict[str, Any]:
    return {"update": update, "reward": 0.0, "outcome": 0.0, "zero_signal_groups": share, "signal_share": 1 - share}


def test_a_warning_is_given_at_once_and_then_now_and_then() -> None:
    config = only("zero_signal").model_copy(update={"window": 2, "repeat": 10})
    assert [alarm.update for alarm in watch(config, [dead(u) for u in range(35)])] == [1, 11, 21, 31]
    # Coming and going does not make it speak more often, and after a long quiet it speaks at once.
    flicker = [dead(u, share=float(u % 4 < 2)) for u in range(30)]
    assert [alarm.update for alarm in watch(config, flicker)] == [1, 13, 25]
    gone = [dead(u, share=0.0 if 5 <= u < 25 else 1.0) for u in range(30)]
    assert [alarm.update for alarm in watch(config, gone)] == [1, 26]


def test_off_says_nothing_and_stop_says_it_every_time() -> None:
    rows = [dead(u) for u in range(5)]
    assert not watch(only("zero_signal", "off"), rows)
    alarms = watch(only("zero_signal", "stop"), rows)
    assert [(alarm.update, alarm.level) for alarm in alarms] == [(2, "stop"), (3, "stop"), (4, "stop")]
    assert alarms[0].remedy.endswith("To go on all the same: --resume auto health.zero_signal=warn")


def test_a_window_that_is_not_full_says_nothing() -> None:
    assert not watch(HealthConfig(), [dead(u) for u in range(9)])
    assert len(watch(HealthConfig(), [dead(u) for u in range(10)])) == 1


def test_updates_without_a_metric_are_not_judged_by_it() -> None:
    """Skipped and empty updates neither count nor repeat an old verdict."""
    rows: list[dict[str, Any]] = [{"update": u, "reward": 0.0, "ess": 0.1} for u in range(3)]
    bare = [{"update": u, "reward": 0.0} for u in range(3, 9)]
    config = only("ratio_tails").model_copy(update={"repeat": 1})
    assert [alarm.update for alarm in watch(config, rows + bare)] == [2]
    assert not watch(config, [*rows[:2], *bare])
    assert [alarm.update for alarm in watch(config, [*rows[:2], *bare, {**rows[2], "update": 9}])] == [9]


def test_numbers_that_are_missing_or_infinite_are_no_numbers() -> None:
    rows = [{"update": u, "reward": None, "kl": None, "length": float("nan"), "entropy": "x"} for u in range(20)]
    assert not watch(HealthConfig(window=2, baseline=2), rows)


def test_a_gradient_of_zero() -> None:
    rows = [{"update": u, "reward": 0.5, "optim/grad_norm": 0.0, "optim/lr": 1e-3} for u in range(3)]
    (alarm,) = watch(only("no_change"), rows)
    assert "the gradient was exactly 0" in alarm.message


def test_the_end_of_a_schedule_may_change_little() -> None:
    rows = [
        {"update": u, "reward": 0.5, "optim/grad_norm": 1.0, "optim/lr": lr, "optim/changed_bf16": float(lr > 1e-6)}
        for u, lr in enumerate([1e-4] * 5 + [1e-7] * 10)
    ]
    assert not watch(only("no_change"), rows, dtype="bfloat16")


def test_an_evaluation_without_a_result_is_left_out() -> None:
    health = Health(HealthConfig(window=1, baseline=1), Facts(4, "x", {"x": 1.0}, "float32"))
    assert not health.observe_evaluation(0, {"value": None, "low": None, "high": None, "n": 0})
    assert not health.observe_evaluation(0, {"value": 0.9, "low": 0.8, "high": 1.0, "n": 10})
    health.observe({"update": 0, "reward": 0.5})
    # Lower, with a reward that did not rise, is not this monitor's business.
    assert not health.observe_evaluation(1, {"value": 0.1, "low": 0.0, "high": 0.2, "n": 10})
    health.observe({"update": 1, "reward": 0.7})
    assert len(health.observe_evaluation(2, {"value": 0.1, "low": 0.0, "high": 0.2, "n": 10})) == 1
    # A split is compared with itself.
    assert not health.observe_evaluation(2, {"value": 0.1, "low": 0.0, "high": 0.2, "n": 10}, split="validation")


# ---- exact resume


def test_a_state_goes_on_as_if_nothing_had_happened() -> None:
    """Interrupted anywhere, through JSON, the alarms are those of the undisturbed run."""
    draw = random.Random(0)
    rows = [
        {
            "update": u,
            "reward": draw.random() + u / 40,
            "outcome": draw.random() * 0.03,
            "reward/digits/std": draw.random(),
            "zero_signal_groups": draw.choice([0.8, 1.0]),
            "group_diversity": draw.choice([0.25, 0.5]),
            "entropy": draw.random() * (0.05 if u > 20 else 1.0),
            "length": 10.0 + 40 * draw.random() * (u > 30),
            "eos": draw.random(),
            "kl": draw.random() * 3,
            "ess": draw.random(),
            "optim/lr": 1e-3,
            "optim/grad_norm": 1.0,
            "optim/changed_bf16": 0.0,
        }
        for u in range(40)
    ]
    config = HealthConfig(window=2, baseline=5, repeat=7)
    facts = Facts(4, "x", {"x": 1.0, "digits": 1.0}, "bfloat16")

    def go(health: Health, part: list[dict[str, Any]]) -> list[Alarm]:
        alarms = []
        for row in part:
            alarms += health.observe(row)
            accuracy = {"value": row["outcome"], "low": row["outcome"] - 0.001, "high": 1.0, "n": 9}
            alarms += health.observe_evaluation(row["update"] + 1, accuracy)
        return alarms

    whole = go(Health(config, facts), rows)
    assert {alarm.monitor for alarm in whole} >= {"zero_signal", "entropy_collapse", "no_change", "eval_falls"}
    for cut in range(0, 40, 3):
        first = Health(config, facts)
        told = go(first, rows[:cut])
        state = json.loads(json.dumps(first.state(), allow_nan=False))
        go(first, rows[cut:])  # a state is a copy: what comes later does not change it
        second = Health(config, facts)
        second.load(state)
        assert told + go(second, rows[cut:]) == whole


def test_a_state_meets_another_window() -> None:
    facts = Facts(4, "x", {"x": 1.0}, "float32")
    old = Health(HealthConfig(window=8, baseline=8), facts)
    for update in range(8):
        old.observe(dead(update, share=0.0))
    new = Health(only("zero_signal"), facts)
    new.load(old.state())
    assert [len(new.observe(dead(update))) for update in range(8, 11)] == [0, 0, 1]


# ---- the recipe's section and the page


def test_levels_are_words_and_false_is_off() -> None:
    assert HealthConfig.model_validate({"zero_signal": False}).zero_signal == "off"
    assert set(LEVELS) == {*MONITORS, "eval_falls"}
    for wrong in ({"zero_signal": "loud"}, {"zero_signals": "off"}, {"limits": {"kl": -1}}, {"window": 0}):
        with pytest.raises(ValidationError):
            HealthConfig.model_validate(wrong)


def test_the_page_has_every_monitor_and_every_limit_with_its_default() -> None:
    page = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", page, flags=re.MULTILINE))
    assert set(rows) == set(LEVELS)
    for name, field in HealthLimits.model_fields.items():
        assert f"`{name}: {field.default:g}`" in page, name
        owner = (field.description or "").partition(":")[0]
        assert f"`{name}: {field.default:g}`" in rows[owner], name
    for name in ("window", "baseline", "repeat"):
        assert f"`{name}: {HealthConfig.model_fields[name].default}`" in page


@pytest.mark.parametrize("check", MONITORS.values(), ids=MONITORS)
def test_every_monitor_says_what_it_looks_at(check: Callable[..., Any]) -> None:
    assert check.__doc__

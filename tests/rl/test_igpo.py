"""IGPO: hints that are trained on, the mended group's advantages, and whole runs with hints and dynamic sampling."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from rl.advantages import group_centered
from rl.collect import SILENT
from rl.config import RecipeErrors, load_recipe
from rl.errors import DataError
from rl.likelihood import MeanField
from rl.masks import PlanKey, mean_field, trained_hints
from rl.progress import Reporter
from rl.run import Run, read_jsonl
from rl.setup import set_up
from rollouts.hints import with_hint_entropy
from rollouts.trajectory import RolloutBatch
from tests.oracles.batches import sample
from tests.oracles.runs import recipe, samples
from tests.oracles.training import HINTS, PROMPTS, SPEC, tiny_policy

ROWS: list[dict[str, Any]] = [
    {"prompt": text, "trace": f"{text[::-1]}{text}#{text[0]}"} for text in ("12", "345", "6789", "01", "7", "5522")
]


def starts(completions: list[str], trace: list[str], **_: Any) -> list[float]:
    """Right if the completion begins as the trace does: hopeless for a random policy, easy with hints."""
    return [float(text[:2] == one[:2]) for text, one in zip(completions, trace, strict=True)]


def hinted(eos: Any = "first") -> RolloutBatch:
    spec = SPEC.model_copy(update={"eos": eos, "early_stop": eos == "first"})
    policy = tiny_policy()
    batch = sample(policy, [*PROMPTS] * 4, spec, hints=[HINTS[i % 3] for i in range(12)], seed=8)
    return with_hint_entropy(policy, batch)


# ---- which hints are trained on


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("eos", ["first", "all"])
def test_the_most_uncertain_hints_of_the_text_are_trained_on(share: float, eos: str) -> None:
    batch, ended = hinted(eos), 0
    found = trained_hints(batch, share)
    for row in range(len(batch)):
        own = batch.loss_mask[row].nonzero().flatten().tolist()
        cut = eos == "first" and batch.finish_reason[row] == "eos"
        hints = [p for p in batch.hint_mask[row].nonzero().flatten().tolist() if not cut or p < own[-1]]
        ended += len(hints) < int(batch.hint_mask[row].sum())
        count = max(1 if share else 0, int(share * len(hints) + 1e-9))
        wanted = sorted(hints, key=lambda p: -float(batch.entropy[row, p]))[:count]
        assert found[row].nonzero().flatten().tolist() == sorted(wanted)
    assert (ended > 0) == (eos == "first")  # some hints lie behind an EOS


def test_a_trained_hint_is_masked_and_scored_and_the_others_are_masked_only() -> None:
    batch = hinted()
    plan = mean_field(batch, PlanKey(0, 0), hints=0.5)
    kept = trained_hints(batch, 0.5)
    assert torch.equal(plan.masked, batch.canvas_mask[plan.row])
    assert torch.equal(plan.scored, (batch.loss_mask | kept)[plan.row])
    shown = mean_field(batch, PlanKey(0, 0))
    assert not (shown.masked & batch.hint_mask[shown.row]).any()
    assert not (shown.scored & batch.hint_mask[shown.row]).any()


def test_hints_left_out_by_the_filter_have_no_part_in_the_estimate() -> None:
    """The length that a sequence is divided by counts them neither."""
    batch = hinted()
    estimator = MeanField(unit="sequence", prompt_mask_prob=0.0, hints=0.5)
    plan = estimator.plan(batch, PlanKey(0, 0))
    values = torch.randn(len(plan), batch.length) * plan.scored
    estimate = estimator.reduce(values, plan, batch)
    tokens = batch.loss_mask | trained_hints(batch, 0.5)
    for view, row in enumerate(plan.row.tolist()):
        assert float(estimate.value[row, 0]) == pytest.approx(
            float(values[view].sum()) / int(tokens[row].sum()), rel=1e-5
        )
    without = MeanField(unit="sequence", prompt_mask_prob=0.0, hints=0.0)
    assert torch.equal(without.tokens(batch), batch.loss_mask)


@pytest.mark.parametrize(("size", "right"), [(8, 4), (8, 1), (5, 2)])
def test_advantages_of_a_mended_group(size: int, right: int) -> None:
    """(1 - K/G, -K/G) for outcomes of 0 and 1."""
    outcome = torch.tensor([1.0] * right + [0.0] * (size - right))
    found = group_centered(outcome, torch.zeros(size, dtype=torch.int64))
    wanted = [1 - right / size] * right + [-right / size] * (size - right)
    assert found.tolist() == pytest.approx(wanted)


# ---- what a recipe cannot mean

STRATEGY = {"kind": "inpaint", "answer_after": "#", "chunk": [1, 2]}


def source(folder: Path, **sections: Any) -> dict[str, Any]:
    return recipe(
        folder,
        rollout={"group_size": 4, "strategy": STRATEGY},
        method={"preset": "igpo", "kl": {"reference": "start"}, "inner_passes": 2},
        **sections,
    )


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["rollout.strategy.answer_after=null"], "rollout.strategy.answer_after", "reveal_answer: true"),
        (["rollout.strategy.reveal_answer=true"], "rollout.strategy.reveal_answer", "keep one of them"),
        (["rollout.strategy.replace=0.2"], "rollout.strategy.replace", "use 0.25 or more"),
        (["rollout.strategy.tail=8"], "rollout.strategy.tail", "smaller tail"),
        (["rollout.strategy.chunk=[5, 2]"], "rollout.strategy", "swap them"),
        (["rollout.strategy={kind: groups}"], "method.estimator.hints", "kind: inpaint"),
        (["rollout.strategy={kind: recorded}", "rollout.selection=margin", "method=order_grpo", "method.estimator.order=false"],
         "rollout.selection", "selection: confidence"),
        (["rollout.strategy.kind=inpant"], "rollout.strategy", "inpaint"),
        (["rollout.dynamic.round=2"], "rollout.dynamic.round", "rounds"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_mean(checkpoint: Path, overrides: list[str], key: str, remedy: str) -> None:
    with pytest.raises(RecipeErrors) as error:
        load_recipe(source(checkpoint), overrides, provided=["data.train", "rewards"])
    assert key in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "1", "traces": "12#3"}], "there are no traces\n    did you mean 'traces'?"),
        ([{"prompt": "1", "trace": "12#3"}, {"prompt": "2", "trace": " "}], "1 of 2 rows have no text .* row 1"),
        ([{"prompt": "1", "trace": "12#3"}, {"prompt": "2", "trace": "45"}], "1 of 2 traces do not hold '#'.* row 1"),
    ],
)
def test_hints_without_traces_are_refused(checkpoint: Path, rows: list[dict[str, Any]], said: str) -> None:
    loaded = load_recipe(source(checkpoint), provided=["data.train", "rewards"])
    with pytest.raises(DataError, match=said):
        set_up(loaded, reward_funcs=lambda completions, **_: [0.0] * len(completions), train_dataset=rows)


def test_a_recipe_with_a_strategy_reads_back_equal(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_recipe(source(checkpoint), ["rollout.dynamic.rounds=2"], provided=["data.train", "rewards"])
    file = tmp_path / "again.yaml"
    file.write_text(loaded.to_yaml())
    again = load_recipe(file, provided=["data.train", "rewards"])
    assert again.rollout == loaded.rollout
    assert again.rollout.draws_per_rollout == 6


# ---- whole runs


def run(source: dict[str, Any], reward: Any = starts, **options: Any) -> Run:
    return unmask.train(source, reward, ROWS, reporter=Reporter(quiet=True), **options)


@pytest.mark.usefixtures("own_folder")
def test_a_run_mends_failed_groups_and_reports_the_policy_s_own_outcome(checkpoint: Path) -> None:
    plain = run({**source(checkpoint), "rollout": {**source(checkpoint)["rollout"], "strategy": {"kind": "groups"}},
                 "method": {"preset": "gspo"}, "train": {**source(checkpoint)["train"], "out": "plain"}})  # fmt: skip
    done = run(source(checkpoint, train={"log_rollouts": 12}))
    first, other = done.metrics[0], plain.metrics[0]
    assert first["outcome"] == other["outcome"]  # the hinted rollouts do not count
    assert first["failed_groups"] == other["failed_groups"] > 0.5
    assert first["zero_signal_groups"] < other["zero_signal_groups"]
    assert 0 < first["hinted"] <= 0.5
    assert done.summary["forwards"]["rollout"] > plain.summary["forwards"]["rollout"]
    kept = [row for row in samples(done) if row["update"] == 0]
    given = [row for row in kept if any(row["hint"])]
    assert len(given) == round(first["hinted"] * 12)
    for row in given:
        trace = next(one["trace"] for one in ROWS if one["prompt"] == row["prompt"])
        assert row["outcome"] == 1.0
        assert row["advantage"] > 0
        places = [i for i, one in enumerate(row["hint"]) if one]
        assert [row["token_texts"][i] for i in places] == [trace[i] for i in places]
        assert max(places) < trace.rindex("#")  # the answer is not given


def sometimes(completions: list[str], log_extra: Any, **_: Any) -> list[float]:
    log_extra("seen", [text[:1] for text in completions])
    return [float(text[:1] in "02468") for text in completions]


@pytest.mark.usefixtures("own_folder")
def test_dynamic_sampling_leaves_out_groups_without_signal_and_draws_others(checkpoint: Path) -> None:
    sections: dict[str, Any] = {"rollout": {"group_size": 2}, "train": {"updates": 3, "log_rollouts": 12}}
    by_rounds = {}
    for rounds in (None, 0, 3):
        made = recipe(checkpoint, **sections)
        made["rollout"]["dynamic"] = None if rounds is None else {"rounds": rounds}
        made["train"]["out"] = f"rounds-{rounds}"
        by_rounds[rounds] = run(made, sometimes)
    for rounds, done in by_rounds.items():
        for update, row in enumerate(done.metrics):
            kept = [one for one in samples(done) if one["update"] == update]
            groups = {one["group_id"]: [o["reward"] for o in kept if o["group_id"] == one["group_id"]] for one in kept}
            if rounds is None:
                assert f"dropped/{SILENT}" not in row
                continue
            assert all(len(set(rewards)) == 2 for rewards in groups.values())
            assert len(kept) == 2 * len(groups) <= 6
            assert len({one["prompt_id"] for one in kept}) == len(groups)
            assert all(one["extras"]["seen"] == one["text"][:1] for one in kept)  # by rollout id, over all rounds
            if kept:
                assert row["signal_share"] == 1.0
    plain, none, three = (by_rounds[rounds].metrics for rounds in (None, 0, 3))
    assert none[0]["outcome"] == plain[0]["outcome"]  # of all that was drawn
    assert none[0][f"dropped/{SILENT}"] == round(6 * plain[0]["zero_signal_groups"])
    assert sum(row[f"dropped/{SILENT}"] for row in three) > sum(row[f"dropped/{SILENT}"] for row in none)
    assert by_rounds[3].summary["forwards"]["rollout"] > by_rounds[0].summary["forwards"]["rollout"]
    assert by_rounds[None].summary["forwards"]["rollout"] == by_rounds[0].summary["forwards"]["rollout"]


@pytest.mark.usefixtures("own_folder")
def test_a_run_with_strategies_goes_on_bit_for_bit(checkpoint: Path) -> None:
    made = source(checkpoint, train={"updates": 4, "deterministic": True, "out": "whole"})
    made["rollout"]["dynamic"] = {"rounds": 2}
    whole = run(made)
    made["train"]["out"] = "parts"
    run({**made, "stop": {"updates": 2}})
    parts = run(made, resume="auto")
    assert (whole.folder / "metrics.jsonl").read_bytes() == (parts.folder / "metrics.jsonl").read_bytes()
    assert samples(whole) == samples(parts)
    summaries = [json.loads((one.folder / "summary.json").read_text()) for one in (whole, parts)]
    assert summaries[0]["forwards"] == summaries[1]["forwards"]
    rows = read_jsonl(whole.folder / "metrics.jsonl")
    assert any(row.get("hinted") for row in rows)
    assert any(row[f"dropped/{SILENT}"] for row in rows)

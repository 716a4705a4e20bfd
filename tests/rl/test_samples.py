"""What is kept of rollouts, for people to look at: against the batch it was taken from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rl.likelihood import Estimate
from rl.samples import TokenRatios, read_samples
from rollouts.models import load_policy
from tests.oracles.runs import recipe, samples, train
from tests.oracles.training import tiny_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_position_is_told(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    source = recipe(folder, train={"log_rollouts": 5}, eval={}, rollout={"early_stop": True})
    run = train(source, eval_dataset=[{"prompt": "12", "answer": 1}, {"prompt": "3", "answer": 2}])
    tokenizer = load_policy(folder).tokenizer
    rows = samples(run)
    assert len(rows) == 2 * 5
    for row in rows:
        assert {len(value) for value in row.values() if isinstance(value, list)} == {8}
        assert row["token_texts"] == [tokenizer.decode([token]) for token in row["tokens"]]
        assert row["components"] == {"digits": pytest.approx(row["outcome"])}
        for step, counted, raw, advantage, ratio in zip(
            *(row[key] for key in ("reveal_step", "counted", "raw_logprob", "token_advantage", "ratio")), strict=True
        ):
            assert 0 <= step <= 4
            assert not (counted and step == 4)
            assert (advantage is None) == (step == 4)
            assert raw <= 0
            assert advantage is None or advantage == row["advantage"]
            assert ratio in (None, 1.0)  # one pass: nothing has moved yet
            assert (ratio is None) == (step == 4 or row["advantage"] == 0)  # without advantage nothing is scored
    before, after = (read_samples(run.folder / "rollouts" / f"eval-{when}.parquet") for when in ("start", "end"))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after] == ["12", "3"]
    assert (before[0]["update"], after[0]["update"]) == (0, 2)
    assert before[0]["advantage"] is None
    assert not list(Path("run/rollouts").glob(".*"))


@pytest.mark.parametrize(
    ("method", "moved"),
    [({"preset": "diffu_grpo", "kl": {"beta": 0.0}, "inner_passes": 3}, True), ({"preset": "raft"}, False)],
)
def test_the_ratio_is_that_of_the_last_pass(tmp_path: Path, method: dict[str, Any], moved: bool) -> None:
    run = train(recipe(tiny_folder(tmp_path / "tiny"), method=method, train={"log_rollouts": 6}, optim={"lr": 1e-2}))
    ratios = [value for row in samples(run) for value in row["ratio"] if value is not None]
    assert any(value != 1.0 for value in ratios) == moved


def test_a_ratio_belongs_to_the_unit_of_its_token() -> None:
    steps = torch.tensor([-1, 0, 2, 1, 3])  # given, three drawn, one never revealed
    new, old = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    by_step = TokenRatios("step")
    by_step(torch.tensor([4]), Estimate(new, torch.tensor([[1.0, 0.0, 1.0]])), Estimate(old, torch.ones(1, 3)))
    found = by_step.of(4, steps)
    assert found is not None
    torch.testing.assert_close(
        found, torch.tensor([float("nan"), 1.0, torch.e**2, float("nan"), float("nan")]), equal_nan=True
    )
    assert by_step.of(3, steps) is None
    whole = TokenRatios("sequence")
    whole(torch.tensor([0]), Estimate(new[:, 1:2], torch.ones(1, 1)), Estimate(old[:, 1:2], torch.ones(1, 1)))
    found = whole.of(0, steps)
    assert found is not None
    torch.testing.assert_close(found, torch.full((5,), torch.e))

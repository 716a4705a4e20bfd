"""Grading in workers: what one process gives, whatever the number of workers; a row that kills or hangs its worker is dropped alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards.contract import Grades, RewardError, TrainerState, grade, load_rewards

ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")
from rl.cluster import Cluster  # noqa: E402
from rl.graders import DIED, HUNG, RayGraders, join  # noqa: E402

pytestmark = pytest.mark.timeout(180)

REWARDS = """
import os, time

def length(completions, log_extra, log_metric, **kwargs):
    log_extra("shouted", [text.upper() for text in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    return [float(len(text)) for text in completions]

def risky(completions, answer, **kwargs):
    for text in completions:
        if text == "die":
            os._exit(3)
        if text == "hang":
            time.sleep(600)
        if text == "raise":
            raise ValueError("no")
    return [float(text == right) for text, right in zip(completions, answer)]
"""


class Alone:
    """What the graders need of a cluster."""

    free_actor = Cluster.free_actor
    _log = Cluster._log
    started, tail = Cluster.started, Cluster.tail

    def __init__(self, folder: Path, workers: int, seconds: float) -> None:
        from types import SimpleNamespace

        section = SimpleNamespace(reward_workers=workers, reward_timeout=seconds, cpus_per_worker=1, start_timeout=150)
        self.recipe, self.logs, self.said = SimpleNamespace(cluster=section), folder / "logs", []
        self.say = self.said.append


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(REWARDS)
    return [{"fn": "own.py:length", "weight": 0.5}, {"fn": "own.py:risky", "weight": 1.0}]


def rows(completions: list[str]) -> dict[str, Any]:
    return {
        "prompts": ["p"] * len(completions),
        "completions": completions,
        "completion_ids": [[1]] * len(completions),
        "columns": {"answer": ["a"] * len(completions)},
        "trainer_state": TrainerState(3, 9),
    }


def plain(found: Grades) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "seconds"}


def test_workers_give_what_one_process_gives(entries: list[Any], tmp_path: Path) -> None:
    rewards = load_rewards(entries, base=tmp_path)
    batch = rows(["a", "bb", "a", "dddd", "a", "ffffff", "g"])
    wanted = grade(rewards, **batch)
    for count in (1, 2):
        graders = RayGraders(Alone(tmp_path, count, 60), entries)
        found = graders(rewards, **batch)
        assert found.metrics == pytest.approx(wanted.metrics)
        assert {**plain(found), "metrics": 0} == {**plain(wanted), "metrics": 0}
        with pytest.raises(RewardError, match="reward risky"):
            graders(rewards, **rows(["a", "raise"]))


def test_only_the_row_that_does_it_is_dropped(entries: list[Any], tmp_path: Path) -> None:
    rewards = load_rewards(entries, base=tmp_path)
    cluster = Alone(tmp_path, 2, 2.0)
    graders = RayGraders(cluster, entries)
    found = graders(rewards, **rows(["a", "die", "b", "hang"]))
    assert found.dropped == [None, DIED, None, HUNG]
    assert found.components["risky"] == [1.0, None, 0.0, None]
    assert found.total == [1.5, None, 0.5, None]
    assert found.extras["shouted"] == ["A", None, "B", None]
    assert sorted(cluster.said) == [f"one completion is dropped: {DIED}", f"one completion is dropped: {HUNG}"]
    assert graders.replaced >= 4  # once for each half they were in
    assert graders(rewards, **rows(["a"])).total == [1.5]  # and the workers are well again


def test_what_is_joined() -> None:
    one = Grades(
        {"r": [1.0, 0.0]},
        [1.0, 0.0],
        {"r": 2.0},
        {"m": 1.0, "r/infrastructure_failures": 1.0},
        {"e": [1, 2]},
        [None, None],
    )
    other = Grades({"r": [0.5]}, [0.5], {"r": 3.0}, {"m": 4.0, "r/infrastructure_failures": 2.0}, {}, ["x"])
    found = join([one, other], [2, 1])
    assert found.components == {"r": [1.0, 0.0, 0.5]}
    assert found.metrics == {"m": 2.0, "r/infrastructure_failures": 3.0}
    assert found.seconds == {"r": 3.0}
    assert found.extras == {"e": [1, 2, None]}
    assert found.dropped == [None, None, "x"]

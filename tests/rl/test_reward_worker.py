"""Grading in Ray's workers: what one process gives, whatever their number; a row that kills or hangs its worker is dropped alone."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rewards.contract import Grades, RewardError, TrainerState, grade, load_rewards
from rewards.contract.graders import Graders
from tests.oracles.rewards import FILE, GROUPS

ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")
from rl.graders import DIED, RayWorkers  # noqa: E402
from rl.site import Site  # noqa: E402

pytestmark = pytest.mark.timeout(180)

HUNG = "did not answer in 6 s"


def alone(folder: Path, workers: int) -> Site:
    """A site for graders and nobody else; they stand wherever there is room."""
    section = SimpleNamespace(reward_workers=workers, cpus_per_worker=1, start_timeout=150)
    recipe: Any = SimpleNamespace(cluster=section)
    nowhere: Any = None
    return Site(recipe, folder / "logs", print, nowhere)


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FILE)
    return [{"fn": "own.py:length", "weight": 0.5}, {"fn": "own.py:risky", "weight": 1.0}, {"fn": "own.py:judge"}]


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
        workers = RayWorkers(alone(tmp_path, count), entries)
        graders = Graders(lambda made=workers: made, timeout=60)
        found = graders(rewards, **batch)
        assert found.metrics == pytest.approx(wanted.metrics)
        assert {**plain(found), "metrics": 0} == {**plain(wanted), "metrics": 0}
        with pytest.raises(RewardError, match=r"(?s)reward risky raised ValueError on row 1: no.*completion: 'raise'"):
            graders(rewards, **rows(["a", "raise"]))
        assert workers.replaced == 0


def test_a_group_is_not_cut_between_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(GROUPS)
    batch = {**rows(["a", "bb", "ccc", "dddd", "e", "ff", "ggg"]), "prompts": list("pqpqpqq")}
    entries = [{"fn": "own.py:rank"}]
    rewards = load_rewards(entries, base=tmp_path)
    wanted = grade(rewards, **batch)
    assert wanted.components["rank"] == [0, 0.0, 1, 1, 0, 0.0, pytest.approx(2 / 3)]
    for count in (1, 2):
        workers = RayWorkers(Alone(tmp_path, count), entries)
        assert plain(Graders(lambda made=workers: made, timeout=60)(rewards, **batch)) == plain(wanted)


def test_only_the_row_that_does_it_is_dropped(entries: list[Any], tmp_path: Path) -> None:
    rewards, said = load_rewards(entries, base=tmp_path), []
    workers = RayWorkers(alone(tmp_path, 2), entries)
    graders = Graders(lambda: workers, timeout=6.0, say=said.append)
    found = graders(rewards, **rows(["a", "die", "b", "hang"]))
    assert found.dropped == [None, f"reward risky: {DIED}", None, f"reward risky: {HUNG}"]
    assert found.components["risky"] == [1.0, None, 0.0, None]
    assert found.total == [2.5, None, 1.5, None]
    assert found.extras["shouted"] == ["A", "DIE", "B", "HANG"]
    assert [line.partition("\n")[0] for line in said] == [
        f"reward risky: {DIED}: row 1 of 4 dropped",
        f"reward risky: {HUNG}: row 3 of 4 dropped; where it is only slow, raise its timeout in rewards",
    ]
    assert workers.replaced >= 4  # with the piece, and alone
    assert graders(rewards, **rows(["a"])).total == [2.5]  # and the workers are well again


def test_workers_are_free_again_when_grading_is_interrupted(
    entries: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = load_rewards(entries, base=tmp_path)
    workers = RayWorkers(alone(tmp_path, 1), entries)
    graders = Graders(lambda: workers, timeout=60.0)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rl.graders.ray.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            graders(rewards[1:2], **rows(["hang"]))
    assert graders(rewards[1:2], **rows(["a"])).total == [1.0]

"""Workers and driver are killed while a run is on: it ends with the weights of the run that nobody disturbed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rl.run import read_jsonl
from tests.rl.test_cluster_run import RAY, children, command, folder, gone, rows, run, same, wait_for

__all__ = ["folder"]  # a fixture
pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")

SAMPLER, LEARNER, GRADER, DRIVER = "ray::SamplerWorker", "ray::Rank", "ray::RewardWorker", "driver"


def disturbed(folder: Path, settings: list[str], kills: list[tuple[int, str]]) -> str:
    """A run in ``hurt`` in which this or that is killed once so many updates are done; what it said. A killed driver is resumed."""
    said, again = "", []
    while True:
        with subprocess.Popen(
            command(*settings, "--out", "hurt", *again), cwd=folder, stdout=subprocess.PIPE, text=True
        ) as driver:
            while kills:
                after, what = kills.pop(0)
                wait_for(folder / "hurt", after, 300)
                if what == DRIVER:
                    below = children(driver.pid)
                    driver.kill()
                    break
                victim = worker(driver.pid, what)
                os.kill(victim, signal.SIGKILL)
            else:
                said += driver.communicate(timeout=500)[0]
                assert driver.returncode == 0, said
                return said
            said += driver.communicate()[0]
        # Ray's own agents look for their parent now and then, and take a minute or two to end; they hold neither model nor port.
        gone(pid for pid, title in below if "Agent" not in title)
        again = ["--resume", "auto"]


def worker(driver: int, title: str) -> int:
    """One of these; a killed one's replacement takes its time to come."""
    until = time.monotonic() + 60
    while True:
        found = [pid for pid, name in children(driver) if name.startswith(title)]
        if found:
            return found[0]
        assert time.monotonic() < until, f"no {title}"
        time.sleep(0.05)


@pytest.mark.timeout(240)  # half a minute where nothing else runs
def test_a_sampler_and_the_learner_are_killed_and_the_run_is_that_of_one_process(folder: Path) -> None:
    updates = ["train.updates=6", "eval=null", "data.eval=null"]
    alone = run(folder, "alone", *updates)
    said = disturbed(folder, [*RAY, "cluster.samplers=2", *updates], [(1, SAMPLER), (3, LEARNER)])
    assert "died and is replaced" in said
    assert "The learners were started anew" in said
    same(folder / "hurt", alone)


@pytest.mark.timeout(240)
def test_the_learner_is_killed_and_killed_again_while_it_loads(folder: Path) -> None:
    settings = ["train.updates=6", "eval=null", "data.eval=null"]
    with subprocess.Popen(
        command(*RAY, *settings, "--out", "hurt"), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as driver:
        wait_for(folder / "hurt", 2, 120)
        first = worker(driver.pid, LEARNER)
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + 60
        while (second := worker(driver.pid, LEARNER)) == first:
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(second, signal.SIGKILL)
        said = driver.communicate(timeout=150)[0]
    assert driver.returncode == 0, said
    assert said.count("The learners were started anew") == 1
    same(folder / "hurt", run(folder, "alone", *settings))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("depth", [0, 1])
def test_twenty_updates_of_chaos(folder: Path, depth: int) -> None:
    """Samplers are killed three times, a grader once, a rank of the learners once, and the driver once."""
    ahead = ["rollout.async_depth=1", "cluster.placement=separate", "method.approximations=[stale_rollouts]"]
    settings = [*RAY, "cluster.samplers=2", "cluster.learners=2", "cluster.reward_workers=1", "train.updates=20"]
    settings += ["save.every=3", "eval=null", "data.eval=null", *(ahead if depth else [])]
    whole = run(folder, "whole", *settings)
    kills = [(2, SAMPLER), (4, GRADER), (7, LEARNER), (9, SAMPLER), (13, DRIVER), (16, SAMPLER)]
    said = disturbed(folder, settings, kills)
    assert said.count("died and is replaced") == 3
    assert "The learners were started anew" in said
    assert len(rows(folder / "hurt")) == 20
    same(folder / "hurt", whole)
    timing = read_jsonl(folder / "hurt" / "timing.jsonl")
    assert timing[-1]["workers/replaced"] >= 1

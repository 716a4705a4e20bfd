"""Several ranks act as one learner: for every preset, loss and gradient are those of one rank, whatever falls to whom.

Here the ranks are objects of this process, and a sum over them stands for the all-reduce; `test_cluster.py` has real ones.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.backends import TrainingError
from rl.config import OptimConfig
from rl.learner import micro_batches
from rl.learners import LearnerGroup, in_pieces, shares
from rl.masks import MaskPlan, PlanKey
from rl.presets import PRESETS
from rl.rank import Rank
from rl.sft import sft_step
from rl.sft_losses import Denoising
from rl.step import train_step
from rollouts.law import Law
from rollouts.worker import fingerprint
from tests.oracles.training import batch_for, distance, make_batch, make_learner, preset_of, pull, tiny_policy, trained

TOLERANCE = 1e-6
OPTIM = OptimConfig(lr=1e-3, max_grad_norm=1e9)


class Together:
    """A crew in one process."""

    def __init__(self, count: int) -> None:
        self.owner: Any = None
        self.ranks = [self._rank(number) for number in range(count)]
        self.gradients: list[list[torch.Tensor]] = []  # summed, of each optimizer step
        self.calls: list[str] = []

    def _rank(self, number: int) -> Rank:
        rank = Rank.__new__(Rank)
        cluster = SimpleNamespace(zero_stage=0, offload="none")
        rank.recipe = SimpleNamespace(cluster=cluster, optim=OPTIM, warm_start=OPTIM, model=SimpleNamespace())  # type: ignore[assignment]
        rank.number, rank.learner, rank.anchors_kept, rank.policy = number, None, None, tiny_policy()
        return rank

    def __len__(self) -> int:
        return len(self.ranks)

    def share(self, value: Any) -> Any:
        return value

    def call(self, verb: str, arguments: Any) -> list[Any]:
        self.calls.append(verb)
        if verb == "step":
            grads = [
                [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._of(rank)] for rank in self.ranks
            ]
            total = [torch.stack(parts).sum(0) for parts in zip(*grads, strict=True)]
            self.gradients.append(total)
            for rank in self.ranks:
                for parameter, grad in zip(self._of(rank), total, strict=True):
                    parameter.grad = grad.clone()
        return [getattr(rank, verb)(*own) for rank, own in zip(self.ranks, arguments, strict=True)]

    def keep(self, verb: str, *arguments: Any) -> tuple[Any, Any]:
        return self.call(verb, [arguments] * len(self))[0]

    def _of(self, rank: Rank) -> list[torch.Tensor]:
        assert rank.learner is not None
        return rank.learner.parameters


def group_of(count: int, micro_batch: int = 4) -> tuple[LearnerGroup, Together]:
    crew = Together(count)
    return LearnerGroup(tiny_policy(), crew, section="optim", total_steps=10, micro_batch=micro_batch), crew


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("count", [2, 5])
def test_every_preset_has_the_loss_and_gradient_of_one_rank(preset: str, count: int) -> None:
    method, policy = preset_of(preset), tiny_policy()
    batch = batch_for(policy, method)
    group, crew = group_of(count)
    alone, one = group_of(1)
    single = make_learner(policy, micro_batch=4, lr=1e-3, max_grad_norm=1e9)
    if method.needs_reference:
        for learner in (group, alone, single):
            learner.freeze_reference("start")
    mine = train_step(group, batch, method, seed=3, step=0).result()
    same = train_step(alone, batch, method, seed=3, step=0).result()
    theirs = train_step(single, batch, method, seed=3, step=0).result()
    assert same == theirs  # one rank is the learner itself, bit for bit
    for name in ("loss", "logprob", "signal_share", "optim/grad_norm", "kl", "penalty"):
        if name in theirs and method.inner_passes == 1:
            assert mine[name] == pytest.approx(theirs[name], rel=TOLERANCE, abs=1e-7)
    assert distance(crew.gradients[0], one.gradients[0]) < TOLERANCE
    assert alone.work == single.work


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_sft(count: int) -> None:
    policy = tiny_policy()
    batch = make_batch(policy).rollouts
    group, crew = group_of(count)
    single = make_learner(policy, micro_batch=4, lr=1e-3, max_grad_norm=1e9)
    mine = sft_step(group, batch, seed=1, step=0, stratified=True, loss=Denoising())
    theirs = sft_step(single, batch, seed=1, step=0, stratified=True, loss=Denoising())
    assert mine["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE)
    assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=TOLERANCE)
    assert crew.calls == ["open", "backward", "step"]


def test_the_reference_is_frozen_mixed_and_scored_on_every_rank() -> None:
    policy = tiny_policy()
    method = preset_of("diffu_grpo")
    batch = batch_for(policy, method)
    group, _ = group_of(3)
    single = make_learner(policy, micro_batch=4, lr=1e-3, max_grad_norm=1e9)
    plan = method.estimator.plan_of(batch.rollouts, batch.advantage, PlanKey(3, 0))  # type: ignore[arg-type]
    law = method.estimator.scoring_law(batch.rollouts.sampler_spec, ())
    for learner in (group, single):
        learner.freeze_reference("start")
        train_step(learner, batch, method, seed=3, step=0)
    values = {}
    for name, learner in (("group", group), ("single", single)):
        with learner.reference():
            before = learner.score(batch.rollouts, plan, law)
        learner.mix_reference(0.5)
        with learner.reference():
            values[name] = torch.stack([before, learner.score(batch.rollouts, plan, law)])
        assert not torch.equal(values[name][0], values[name][1])
    assert torch.allclose(values["group"], values["single"], atol=1e-5)


def test_state_and_weights_come_back() -> None:
    method = preset_of("order_grpo")
    batch = batch_for(tiny_policy(), method)
    group, crew = group_of(2)
    train_step(group, batch, method, seed=3, step=0)
    tensors, rest = group.state()
    pull(group)
    assert all(torch.equal(a, b) for a, b in zip(trained(group.policy), crew.ranks[1].learner.parameters, strict=True))  # type: ignore[union-attr]
    other, far = group_of(3)
    other.load_state(tensors, rest)
    assert other.work == group.work
    on = [train_step(one, batch, method, seed=3, step=1).result() for one in (group, other)]
    assert on[0]["loss"] == pytest.approx(on[1]["loss"], rel=1e-5, abs=1e-7)
    assert far.owner is other


def test_weights_are_handed_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    group, crew = group_of(2)
    batch = make_batch(tiny_policy())
    train_step(group, batch, preset_of("order_grpo"), seed=3, step=0)
    monkeypatch.setattr("rl.learners.PIECE", 8000)
    for rank in crew.ranks:
        rank.recipe.model = SimpleNamespace(lora=None, adapter=None, dtype="float32")  # type: ignore[misc]
    taken: dict[str, torch.Tensor] = {}
    pieces = group.publish()
    assert len(pieces) > 2
    for named, expected in pieces:
        assert fingerprint(named) == expected
        assert not taken.keys() & named.keys()
        taken |= named
    learner = crew.ranks[0].learner
    assert learner is not None
    assert taken.keys() == set(learner.names)
    assert all(torch.equal(taken[name], p) for name, p in zip(learner.names, learner.parameters, strict=True))


def test_a_learner_that_was_replaced_says_so() -> None:
    group, crew = group_of(2)
    group.freeze_reference("start")
    LearnerGroup(group.policy, crew, section="warm_start", total_steps=3, micro_batch=4).freeze_reference("start")
    with pytest.raises(TrainingError, match="given to another learner"):
        group.step()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 5), max_size=9),
    count=st.integers(1, 6),
    micro_batch=st.integers(1, 7),
)
def test_a_plan_is_dealt_out_whole(sizes: list[int], count: int, micro_batch: int) -> None:
    row = torch.tensor([i for i, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)
    mask = torch.zeros(len(row), 3, dtype=torch.bool)
    plan = MaskPlan(row, row, torch.arange(len(row)), mask, mask, mask.float())
    dealt = shares(plan, count, micro_batch)
    assert len(dealt) == count
    assert [i for one in dealt for i in range(one.views.start, one.views.stop)] == list(range(len(row)))
    owners: dict[int, int] = {}
    for number, one in enumerate(dealt):
        assert torch.equal(one.rows[one.plan.row] if len(one.plan) else one.plan.row, row[one.views])
        for index in row[one.views].unique().tolist():
            assert owners.setdefault(index, number) == number  # a row is never torn
    calls = {len(micro_batches(one.plan.row, micro_batch)) + one.idle for one in dealt}
    assert len(calls) == 1  # all ranks make as many forwards
    if len(row):
        largest = max(sizes)
        assert max(len(one.plan) for one in dealt) <= len(row) / count + largest


def test_pieces_hold_every_name_once_and_little() -> None:
    sizes = {"a": 3, "b": 9, "c": 1, "d": 1, "e": 20}
    assert in_pieces(sizes, 10) == [["a"], ["b", "c"], ["d"], ["e"]]
    assert in_pieces({}, 10) == []


def test_an_idle_forward_adds_exactly_nothing() -> None:
    batch = make_batch(tiny_policy()).rollouts
    learner = make_learner(tiny_policy())
    learner.backend.lockstep = True
    plan = preset_of("trajectory_grpo").estimator.plan_of(batch, torch.zeros(len(batch)), PlanKey(3, 0))
    none = plan.views(slice(0, 0))
    learner.backward(batch, none, torch.zeros(0, batch.length), Law(temperature=1.0, top_p=1e-6), idle=2)
    reached = [p.grad for p in learner.parameters if p.grad is not None]
    assert len(reached) == len(learner.parameters)
    assert all(bool((grad == 0).all()) for grad in reached)
    assert learner.work.forward == learner.work.backward == 0

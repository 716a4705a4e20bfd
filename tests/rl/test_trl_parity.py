"""Losses and gradients against TRL's own loss code (1.16), which is called on log-probabilities by a stand-in for its trainer.

``bnpo`` is a mean over the micro-batch it happens to see: the counterpart holds where that is the whole batch. No counterpart: ``cispo``,
``sapo``, ``vespo`` (other objectives) and ``luspo`` (weighs a sequence by its length).
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from rl.objectives import Clipped, Units, k3
from rl.reduce import Constant, Reduction, reduce_loss, row_scale

ROWS, LENGTH, LONGEST = 6, 7, 9
LOW, HIGH = 0.2, 0.3
COUNT = torch.tensor([7, 3, 5, 1, 6, 2])
MASK = torch.arange(LENGTH) < COUNT.unsqueeze(1)


def log_probs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """new, old, reference ``[ROWS, LENGTH]`` and advantage ``[ROWS]``; ratios on both sides of every bound."""
    generator = torch.Generator().manual_seed(11)
    old = -3 * torch.rand(ROWS, LENGTH, generator=generator, dtype=torch.float64)
    new = old + 0.5 * torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64)
    new[1] = old[1] + 1.2  # far from the old policy, with the advantage that the dual clip acts on
    reference = old + 0.3 * torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.5, 0.5, -0.2, -0.7, 2.0], dtype=torch.float64)
    return new.requires_grad_(), old, reference, advantage


class Accelerator:
    num_processes = 1
    sync_gradients = True

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        return value


def theirs(loss_type: str, level: str = "token", *, beta: float = 0.0, delta: float | None = None) -> tuple[Any, ...]:
    """(loss, gradient, share of units that TRL counts as clipped) by GRPOTrainer._compute_loss."""
    new, old, reference, advantage = log_probs()
    arguments = {
        "delta": delta,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
    }
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(**arguments),
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        max_completion_length=LONGEST,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
    )
    nothing = torch.zeros(ROWS, 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.int64),
        "completion_mask": MASK.long(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": MASK.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(loss, new)
    return loss.item(), gradient, trainer._metrics["train"]["clip_ratio/region_mean"][0]


def ours(
    reduction: Reduction, level: str = "token", *, beta: float = 0.0, delta: float | None = None
) -> tuple[Any, ...]:
    new, old, reference, advantage = log_probs()
    weight, count = MASK.double(), COUNT
    values = [new, old, reference]
    if level == "sequence":  # length-normalised sequence units
        values = [(value * MASK).sum(1, keepdim=True) / COUNT.unsqueeze(1) for value in values]
        weight, count = torch.ones(ROWS, 1, dtype=torch.float64), torch.ones_like(COUNT)
    units = Units(values[0], values[1], advantage.unsqueeze(1).expand_as(values[0]), weight > 0)
    objective = Clipped(epsilon_low=LOW, epsilon_high=HIGH, dual=delta)
    per_unit = objective.per_unit(units)
    if beta:
        per_unit = per_unit + beta * k3(values[0], values[2])
    loss = reduce_loss(per_unit, weight, row_scale(reduction, count, float(count.sum()), ROWS))
    (gradient,) = torch.autograd.grad(loss, new)
    clipped, total = objective.metrics(units)["clip_share"]
    return loss.item(), gradient, float(clipped / total)


LOSS_TYPES: dict[str, Reduction] = {
    "grpo": "sequence_mean",
    "dapo": "token_mean",
    "bnpo": "token_mean",
    "dr_grpo": Constant(constant=LONGEST),
}


@pytest.mark.parametrize("delta", [None, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.07])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_token_ratios(loss_type: str, beta: float, delta: float | None) -> None:
    """Clip, dual clip (``delta``), k3 and every reduction that has a counterpart; loss, gradient, and what counts as clipped."""
    loss, gradient, clipped = theirs(loss_type, beta=beta, delta=delta)
    found = ours(LOSS_TYPES[loss_type], beta=beta, delta=delta)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(found[1], gradient, rtol=1e-5, atol=1e-8)
    assert gradient[~MASK].abs().max() == 0
    assert 0 < clipped < 1
    if delta is None:  # TRL does not count what delta stops
        assert found[2] == pytest.approx(clipped)
    assert (gradient == 0).sum() > (~MASK).sum() or beta  # some units really are clipped


@pytest.mark.parametrize("delta", [None, 2.0])
def test_sequence_ratios(delta: float | None) -> None:
    """GSPO as TRL recommends it: ``importance_sampling_level="sequence"`` with ``loss_type="grpo"``."""
    loss, gradient, clipped = theirs("grpo", "sequence", delta=delta)
    found = ours("sequence_mean", "sequence", delta=delta)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(found[1], gradient, rtol=1e-5, atol=1e-8)
    assert 0 < clipped < 1
    if delta is None:
        assert found[2] == pytest.approx(clipped)

"""DPO's loss and gradient against TRL's own loss code (1.16), called on log-probabilities by a stand-in for its trainer.

Counterparts: ``sigmoid``, ``robust`` (label smoothing) and ``sft``, whose mean is over all tokens where ours is per row: the same for
answers of one length. The other loss types are other objectives.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.dpo_trainer import DPOTrainer

from rl.objectives import Units
from rl.preference import Dpo
from rl.reduce import reduce_loss, row_scale

PAIRS, LENGTH, BETA = 4, 6, 0.3


def log_probs(equal_lengths: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """new, reference float64 and the mask of the answers' tokens, ``[2 * PAIRS, LENGTH]``: all chosen rows, then the rejected ones."""
    generator = torch.Generator().manual_seed(3)
    reference = -3 * torch.rand(2 * PAIRS, LENGTH, generator=generator, dtype=torch.float64)
    new = reference + torch.randn(2 * PAIRS, LENGTH, generator=generator, dtype=torch.float64)
    count = (
        torch.full((2 * PAIRS,), 4)
        if equal_lengths
        else torch.randint(1, LENGTH + 1, (2 * PAIRS,), generator=generator)
    )
    return new.requires_grad_(), reference, torch.arange(LENGTH) < count.unsqueeze(1)


class Accelerator:
    device = torch.device("cpu")

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value

    gather_for_metrics = gather


def theirs(
    kinds: dict[str, float], smoothing: float, equal_lengths: bool
) -> tuple[float, torch.Tensor, dict[str, Any]]:
    """(loss, gradient, metrics) by DPOTrainer._compute_loss."""
    new, reference, mask = log_probs(equal_lengths)
    nothing = torch.zeros_like(reference)
    outputs = SimpleNamespace(log_probs=new * mask, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    trainer: Any = SimpleNamespace(
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=list(kinds),
        loss_weights=list(kinds.values()),
        label_smoothing=smoothing,
        beta=BETA,
        use_weighting=False,
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    # A token in front of each answer: the first position predicts nothing.
    answer = torch.cat([torch.zeros(2 * PAIRS, 1, dtype=torch.int64), mask.long()], dim=1)
    sums = (reference * mask).sum(1)
    inputs = {
        "input_ids": torch.ones_like(answer),
        "attention_mask": torch.ones_like(answer),
        "completion_mask": answer,
        "ref_chosen_logps": sums[:PAIRS],
        "ref_rejected_logps": sums[PAIRS:],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    (gradient,) = torch.autograd.grad(loss, new)
    return loss.item(), gradient, {name: values[0] for name, values in trainer._metrics["train"].items()}


def ours(sft_weight: float, smoothing: float, equal_lengths: bool) -> tuple[float, torch.Tensor, dict[str, float]]:
    new, reference, mask = log_probs(equal_lengths)
    sums = [(value * mask).sum(1, keepdim=True) for value in (new, reference)]
    sign = torch.tensor([1.0] * PAIRS + [-1.0] * PAIRS, dtype=torch.float64).unsqueeze(1)
    group = torch.arange(PAIRS).repeat(2)
    units = Units(sums[0], sums[0].detach(), sign, torch.ones_like(sign) > 0, sums[1], group, mask.sum(1))
    objective = Dpo(beta=BETA, sft_weight=sft_weight, label_smoothing=smoothing)
    per_unit, rows = objective.per_unit(units), 2 * PAIRS
    loss = reduce_loss(per_unit, torch.ones_like(sign), row_scale("sequence_mean", torch.ones(rows), rows, rows))
    (gradient,) = torch.autograd.grad(loss, new)
    means = {name: float(total.detach() / count) for name, (total, count) in objective.metrics(units).items()}
    return loss.item(), gradient, means


@pytest.mark.parametrize(
    ("kinds", "sft_weight", "smoothing", "equal_lengths"),
    [
        ({"sigmoid": 1.0}, 0.0, 0.0, False),
        ({"robust": 1.0}, 0.0, 0.15, False),
        ({"sigmoid": 1.0, "sft": 0.05}, 0.05, 0.0, True),
    ],
    ids=["sigmoid", "robust", "sigmoid and sft"],
)
def test_the_loss_is_trl_s(kinds: dict[str, float], sft_weight: float, smoothing: float, equal_lengths: bool) -> None:
    loss, gradient, metrics = theirs(kinds, smoothing, equal_lengths)
    found = ours(sft_weight, smoothing, equal_lengths)
    assert found[0] == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-12)
    assert gradient.abs().max() > 0.01
    names = {"chosen": "chosen", "rejected": "rejected", "accuracies": "accuracy", "margins": "score"}
    for name, own in names.items():
        assert found[2][f"preference/{own}"] == pytest.approx(metrics[f"rewards/{name}"], rel=1e-9)

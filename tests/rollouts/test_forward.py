"""Sharing the forward of equal rows changes neither states nor gradients."""

import torch

from rollouts.forward import distinct_forward
from rollouts.tiny import build_tiny


def _rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 50, (3, 9), generator=generator)
    attention = torch.ones(3, 9, dtype=torch.bool)
    attention[1, 7:] = False
    pick = torch.tensor([1, 0, 1, 2, 0, 1])
    select = torch.rand(6, 9, generator=generator) < 0.4
    select &= attention[pick]
    select[3] = False  # a row that asks for nothing
    tokens = rows[pick].clone()
    tokens[2, 7:] = 5  # other padding, the same row
    return tokens, attention[pick], select


def test_states_and_gradients_are_those_of_separate_rows() -> None:
    policy = build_tiny(d_model=32, layers=2, heads=2)
    tokens, attention, select = _rows()
    slope = torch.randn(int(select.sum()), 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    for forward in (policy, lambda *args: distinct_forward(policy, *args)):
        policy.zero_grad(set_to_none=True)
        states = forward(tokens, attention, select)
        (states * slope).sum().backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
        if forward is policy:
            plain = states.detach()
    torch.testing.assert_close(states.detach(), plain, rtol=1e-5, atol=1e-6)
    for shared, separate in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(shared, separate, rtol=1e-4, atol=3e-5)


def test_each_distinct_row_is_forwarded_once() -> None:
    seen = []

    def policy(tokens: torch.Tensor, attention: torch.Tensor, select: torch.Tensor) -> torch.Tensor:
        seen.append(len(tokens))
        return tokens[select].unsqueeze(1).float()

    tokens, attention, select = _rows()
    states = distinct_forward(policy, tokens, attention, select)
    assert seen == [3]
    assert states.squeeze(1).tolist() == tokens[select].tolist()

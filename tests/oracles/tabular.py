"""A small policy whose every probability can be written down: a float64 function of the whole visible row.

It has the attributes and the two methods of a policy (``forward`` and ``logits``) and nothing else, so it also shows
that the code under test needs nothing else. It looks at every real token and its position, never at padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class LetterTokenizer:
    """Decodes id 0 as 'a', 1 as 'b', and so on."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


class TabularPolicy(torch.nn.Module):
    """Ids 0..V-3 are words, V-2 is EOS (and, to be nasty, also the padding id), V-1 is MASK.

    grid: round logits to multiples of it, so that equal logits are exactly equal (deliberate ties). position_blind:
    every position of a row has the same distribution, so that confidences tie across positions. mask_bias: added to the
    logit of MASK. dtype: of the parameters (a learner wants float32 masters); the arithmetic is always float64.
    """

    def __init__(
        self,
        vocab_size: int = 4,
        *,
        seed: int = 0,
        scale: float = 0.6,
        width: int = 6,
        max_length: int = 24,
        grid: float | None = None,
        position_blind: bool = False,
        mask_bias: float = 0.0,
        dtype: torch.dtype = torch.float64,
        forbidden_ids: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.mask_id = vocab_size - 1
        self.eos_ids = (vocab_size - 2,)
        self.pad_id = vocab_size - 2
        self.forbidden_ids = (self.mask_id,) if forbidden_ids is None else forbidden_ids
        self.max_length = max_length
        self.tokenizer = LetterTokenizer()
        self.grid = grid
        self.position_blind = position_blind
        self.scale = scale
        self.mask_bias = mask_bias
        generator = torch.Generator().manual_seed(seed)

        def table(*shape: int) -> torch.nn.Parameter:
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return torch.nn.Parameter(values.to(dtype))

        self.word = table(vocab_size, width)
        self.reading = table(max_length, width)  # how a token's contribution depends on where it stands
        self.place = table(max_length, width)
        self.gain = table(max_length, width)
        self.head = table(vocab_size, width)
        self.inputs: list[Tensor] = []  # every row the policy was shown, for tests of what the sampler asks
        self.modes: list[tuple[bool, bool]] = []  # (training, autograd) at every forward

    @property
    def device(self) -> torch.device:
        return self.word.device

    @property
    def dtype(self) -> torch.dtype:
        return self.word.dtype

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, select: Tensor) -> Tensor:
        real = torch.ones_like(select) if attention_mask is None else attention_mask
        self.inputs.append(torch.where(real, input_ids, -1))
        self.modes.append((self.training, torch.is_grad_enabled()))
        length = input_ids.shape[1]
        seen = (
            (self.word.double()[input_ids] * self.reading.double()[:length])
            .masked_fill(~real.unsqueeze(-1), 0.0)
            .sum(1, keepdim=True)
        )
        if self.position_blind:
            state = torch.tanh(seen).expand(-1, length, -1)
        else:
            state = torch.tanh(seen * self.gain.double()[:length] + self.place.double()[:length])
        return state[select]

    def exact_logits(self, hidden: Tensor) -> Tensor:
        """float64 ``[R, V]``."""
        bias = torch.zeros(self.vocab_size, dtype=torch.float64)
        bias[self.mask_id] = self.mask_bias
        logits = self.scale * hidden @ self.head.double().T + bias
        return logits if self.grid is None else (logits / self.grid).round() * self.grid

    def logits(self, hidden: Tensor) -> Tensor:
        return self.exact_logits(hidden).float()


@torch.no_grad()
def row_logits(policy: TabularPolicy, tokens: Sequence[int]) -> list[list[float]]:
    """float64 logits at every position of one unpadded row, as plain lists."""
    ids = torch.tensor([list(tokens)])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return policy.exact_logits(policy(ids, everywhere, everywhere)).tolist()

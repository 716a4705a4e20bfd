"""What diffusion knows of a completion beyond its text, for rewards that ask: when each token was fixed, and what stood there meanwhile."""

from collections.abc import Collection, Sequence
from typing import Any

from rewards.contract import Reward
from rewards.contract.reward import asked_for
from rewards.contract.text import HIDDEN
from rollouts.engine import step_answers
from rollouts.trajectory import FINISH_EOS, FINISH_LENGTH, RolloutBatch


def wanted(rewards: Sequence[Reward]) -> set[str]:
    """What these rewards ask for, of `rewards.contract.reward.ROLLOUT_ARGUMENTS`."""
    return {name for reward in rewards for name in asked_for(reward.fn)}


def rollout_arguments(
    names: Collection[str], rollouts: RolloutBatch, *, eos_ids: Sequence[int], tokenizer: Any, prefill: str
) -> dict[str, list[Any]]:
    """One value per rollout for each name; only what is named is computed."""
    found: dict[str, list[Any]] = {
        "forwards": rollouts.forwards.tolist(),
        "truncated": rollouts.truncated.tolist(),
        "finish_reason": list(rollouts.finish_reason),
    }
    if "reveal_steps" in names:
        found["reveal_steps"] = reveal_steps(rollouts, eos_ids)
    if "intermediate_texts" in names:
        texts = intermediate_texts(rollouts, eos_ids, tokenizer)
        found["intermediate_texts"] = [[prefill + text for text in row] for row in texts]
    return {name: found[name] for name in names}


def answer_arguments(names: Collection[str], ids: Sequence[Sequence[int]], eos_ids: Sequence[int]) -> dict[str, Any]:
    """The same of recorded answers with these token ids, each up to its first EOS: what they have without being a rollout."""
    ended = [any(token in eos_ids for token in one) for one in ids]
    found = {
        "truncated": [not end for end in ended],
        "finish_reason": [FINISH_EOS if end else FINISH_LENGTH for end in ended],
    }
    return {name: values for name, values in found.items() if name in names}


def invented_arguments(text: str, ids: Sequence[int], tokenizer: Any, prefill: str) -> dict[str, list[Any]]:
    """Of one completion that nobody drew: as if its tokens had been revealed from left to right, one a step."""
    shown = [tokenizer.decode(list(ids[:count]), skip_special_tokens=True) for count in range(1, len(ids))]
    states = [prefill + part + HIDDEN * (len(ids) - at - 1) for at, part in enumerate(shown)]
    return {
        "forwards": [len(ids)],
        "truncated": [False],
        "finish_reason": [FINISH_EOS],
        "reveal_steps": [list(range(len(ids)))],
        "intermediate_texts": [[*states, prefill + text]],
    }


def reveal_steps(rollouts: RolloutBatch, eos_ids: Sequence[int]) -> list[list[int]]:
    """The step that fixed each token of the completions, from 0; -1 for hints. As long as `completion_ids`."""
    kept = rollouts.canvas_mask & (rollouts.reveal_step < rollouts.steps)
    steps = [step[keep].tolist() for step, keep in zip(rollouts.reveal_step, kept, strict=True)]
    return [step[: len(ids)] for step, ids in zip(steps, rollouts.completion_ids(eos_ids), strict=True)]


def intermediate_texts(rollouts: RolloutBatch, eos_ids: Sequence[int], tokenizer: Any) -> list[list[str]]:
    """The completions after each of the T steps: T texts per rollout, the last of which is the completion.

    Read as the completion is, up to the first EOS that stands there; a token that is still hidden is one `HIDDEN`. Where answers were
    recorded (`x0_pred`), the answer that each step predicted instead; a rollout that is over keeps its completion.
    """
    if rollouts.x0_pred is not None:
        return _predicted(rollouts, eos_ids, tokenizer)
    known: dict[tuple[int, ...], str] = {}
    found = []
    for row in range(len(rollouts)):
        on = rollouts.canvas_mask[row]
        tokens, steps = rollouts.tokens[row][on].tolist(), rollouts.reveal_step[row][on].tolist()
        changes, texts = set(steps), []
        for step in range(rollouts.steps - 1):
            if step == 0 or step in changes:
                shown = [token if at <= step else None for token, at in zip(tokens, steps, strict=True)]
                text = _text(shown, eos_ids, tokenizer, known)
            texts.append(text)  # pyright: ignore[reportPossiblyUnboundVariable]
        found.append([*texts, rollouts.texts[row]])
    return found


def _text(
    tokens: Sequence[int | None], eos_ids: Sequence[int], tokenizer: Any, known: dict[tuple[int, ...], str]
) -> str:
    """Runs of tokens between hidden ones are decoded each by itself; `known` holds what was decoded before."""
    parts, run = [], []

    def close() -> None:
        key = tuple(run)
        if key and key not in known:
            known[key] = tokenizer.decode(list(key), skip_special_tokens=True)
        parts.append(known[key] if key else "")
        run.clear()

    for token in tokens:
        if token is None:
            close()
            parts.append(HIDDEN)
        elif token in eos_ids:
            break
        else:
            run.append(token)
    close()
    return "".join(parts)


def _predicted(rollouts: RolloutBatch, eos_ids: Sequence[int], tokenizer: Any) -> list[list[str]]:
    found = [[text] * rollouts.steps for text in rollouts.texts]
    for row, step, text, _ in step_answers(_Reader(eos_ids, tokenizer), rollouts):
        found[row][step] = text
    for row, texts in enumerate(found):
        texts[-1] = rollouts.texts[row]
    return found


class _Reader:
    """What `step_answers` needs of a policy."""

    def __init__(self, eos_ids: Sequence[int], tokenizer: Any) -> None:
        self.eos_ids, self.tokenizer = eos_ids, tokenizer

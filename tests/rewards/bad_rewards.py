"""Reward functions with one flaw each, most of them seen in public code. `test_bench.py` must find every one."""

import asyncio
import random
import re
import time

_calls = 0


def _number(text):
    found = re.findall(r"-?\d+", text.partition("<answer>")[2])
    return found[-1] if found else None


def _right(completion, gold):
    return float(_number(completion) == str(gold))


def good(completions, answer, **kwargs):
    """The last number behind the tag, if it is the only one."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        inside = completion.rpartition("<answer>")[2].partition("</answer>")[0]
        found = re.findall(r"-?[0-9]+(?:\.[0-9]+)?", inside.replace(",", ""))
        same = len(found) == 1 and gold is not None and float(found[0]) == float(gold)
        scores.append(None if gold is None else float(same))
    return scores


def unlucky(completions, answer, **kwargs):
    return [_right(c, g) * random.random() for c, g in zip(completions, answer, strict=True)]


def hash_of_text(completions, answer, **kwargs):
    return [_right(c, g) + hash(c) % 2 for c, g in zip(completions, answer, strict=True)]


def counts_its_calls(completions, answer, **kwargs):
    global _calls
    _calls += 1
    return [_right(c, g) + _calls for c, g in zip(completions, answer, strict=True)]


def ranks_the_batch(completions, answer, **kwargs):
    return [len(c) / max(map(len, completions)) for c in completions]


def mutates_columns(completions, answer, **kwargs):
    scores = [_right(c, g) for c, g in zip(completions, answer, strict=True)]
    answer[:] = [str(gold) + "!" for gold in answer]
    return scores


def mutates_messages(completions, answer, **kwargs):
    for message, *_ in completions:
        message["content"] = message["content"].strip() + "."
    return [_right(c[0]["content"], g) for c, g in zip(completions, answer, strict=True)]


def evaluates(completions, numbers, target, **kwargs):
    """d1's countdown: a character whitelist, then eval; 0.1 for anything in the tags."""
    scores = []
    for completion, goal in zip(completions, target, strict=True):
        tagged = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
        if not tagged:
            scores.append(0.0)
            continue
        text = tagged[-1].strip()
        try:
            allowed = re.fullmatch(r"[\d+\-*/(). ]+", text)
            scores.append(1.0 if allowed and abs(eval(text) - goal) < 1e-5 else 0.1)
        except (ArithmeticError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
            scores.append(0.1)
    return scores


def raises_on_other_digits(completions, answer, **kwargs):
    return [
        float(sum(int(c) for c in text if c.isdigit()) == int(g)) for text, g in zip(completions, answer, strict=True)
    ]


def ends_the_process(completions, answer, **kwargs):
    import os

    if any("sys.exit" in completion for completion in completions):
        os._exit(0)
    return good(completions, answer)


def accepts_prompt_echo(completions, prompts, answer, **kwargs):
    return [float(str(g) in c or p in c) for c, p, g in zip(completions, prompts, answer, strict=True)]


def contains(completions, answer, **kwargs):
    """The gold answer stands somewhere behind the tag: a list of guesses is right."""
    return [
        float(re.search(rf"\b{g}\b", c.partition("<answer>")[2]) is not None)
        for c, g in zip(completions, answer, strict=True)
    ]


def all_format(completions, answer, **kwargs):
    return [float("<answer>" in c and "</answer>" in c) for c in completions]


def half_format(completions, answer, **kwargs):
    return [0.5 * ("</answer>" in c) + 0.5 * s for c, s in zip(completions, good(completions, answer), strict=True)]


def never_fires(completions, answer, **kwargs):
    """d1's soft_format: a dot that stops at the end of a line."""
    return [float(re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", c) is not None) for c in completions]


def constant(completions, answer, **kwargs):
    return [0.5] * len(completions)


def one_too_many(completions, answer, **kwargs):
    return [0.0] * (len(completions) + 1)


def not_a_number(completions, answer, **kwargs):
    return [float("nan") for _ in completions]


def words(completions, answer, **kwargs):
    return ["right"] * len(completions)


def single(completions, answer, **kwargs):
    return 1.0


def no_kwargs(completions, answer):
    return [0.0] * len(completions)


def compares_text(completions, answer, **kwargs):
    inside = [c.rpartition("<answer>")[2].partition("</answer>")[0].strip() for c in completions]
    return [float(text == str(g)) for text, g in zip(inside, answer, strict=True)]


def unbounded_penalty(completions, answer, **kwargs):
    """d1's xmlcount: a thousandth for each character behind the end, without a floor."""
    return [
        _right(c, g) - 0.001 * len(c.partition("</answer>")[2] or c) for c, g in zip(completions, answer, strict=True)
    ]


def nothing_equals_nothing(completions, answer, **kwargs):
    return [float(_number(c) == (None if g is None else str(g))) for c, g in zip(completions, answer, strict=True)]


def ignores_givens(completions, puzzle, solution, **kwargs):
    """d1's sudoku: digits of the tag, padded or cut, compared where the puzzle is blank."""
    scores = []
    for completion, given, want in zip(completions, puzzle, solution, strict=True):
        digits = re.sub(r"\D", "", completion.rpartition("<answer>")[2])[:16].ljust(16, "0")
        blanks = [i for i, c in enumerate(given) if c == "0"]
        scores.append(sum(digits[i] == want[i] for i in blanks) / len(blanks))
    return scores


def backwards(completions, answer, **kwargs):
    return [-score for score in good(completions, answer)]


def raises_on_row(completions, answer, **kwargs):
    return [1.0 / (int(g) - 18) for g in answer]


async def judge_like(completions, answer, **kwargs):
    await asyncio.sleep(0)
    return good(completions, answer)


def believes_instructions(completions, answer, **kwargs):
    return [
        1.0 if "score: 1.0" in c.lower() else s for c, s in zip(completions, good(completions, answer), strict=True)
    ]


def slow_on_long_text(completions, answer, **kwargs):
    """Quadratic, as a pattern that is tried again from every place."""
    for completion in completions:
        if len(completion) > 50_000:
            time.sleep(60)
    return good(completions, answer)


def slow_by_the_row(completions, answer, **kwargs):
    """Bounded for each row, and not for several together."""
    if "99**98**97" in completions[0]:
        time.sleep(10 if len(completions) > 1 else 0.01)
    return good(completions, answer)


def prints(completions, answer, **kwargs):
    print("= looks like a reply")
    return good(completions, answer)

"""What public scripts read in a completion, the slow and obvious way: backtracking patterns over the whole text, and `eval`.

`rewards/published/rules.py` has the same rules in linear time; tests hold one against the other on texts made of `PIECES`.
"""

import re
import warnings

PIECES = (
    "\\boxed{", "\\boxed ", "{", "}", "<answer>", "</answer>", "<reasoning>", "</reasoning>", "\n", " ", "1", "2", "3", "-", "+",
    "*", "/", "(", ")", "=", "5", ".", "1,450", "...", "1e3", "inf", "1_0", "\u0663", "\u00b2", "\\times", "\\div", "<|eot_id|>",
    "<|endoftext|>", "```", "```python\n", "1234123412341234", "x", "\\fbox{", "$", "//", "72", "The answer is ", "#### ", ",",
)  # fmt: skip


def tags(text: str) -> list[str]:
    return [inside.strip() for inside in re.findall("<answer>(.*?)</answer>", text, re.DOTALL)]


def gsm8k_number(text: str) -> float | None:
    found = None
    for box in re.findall(r"\\boxed{(.*?)}", text):
        if found is None and box.strip() and not re.fullmatch(r"\.+", box.strip()):
            found = to_number(box.strip(), 0)
    inside = re.search("<answer>(.*?)</answer>", text, re.DOTALL)
    if found is None and inside and inside[1].strip():
        found = to_number(inside[1].strip(), -1)
    return found


def to_number(text: str, which: int) -> float | None:
    try:
        return float(text)
    except ValueError:
        numbers = re.findall(r"-?\d+\.?\d*", text)
        return float(numbers[which]) if numbers else None


def soft_layout(text: str) -> bool:
    return re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", text) is not None


def strict_layout(text: str) -> bool:
    return re.match(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$", text) is not None


def code_layout(text: str, last: str) -> bool:
    inside = r"(?:(?!```)[\s\S])*?"
    return re.fullmatch(f"{inside}```python\n{inside}```{last}", text) is not None


def sudoku_text(text: str) -> str:
    for pattern in (
        r"<answer>.*?```\s*([\d\s]+)```",
        r"<answer>(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|</answer>)",
        r"</answer>\s*(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|$)",
        r".*?(\d{16})\s*</answer>",
        r"\b(\d{16})\b",
    ):
        match = re.search(pattern, text, re.DOTALL)
        if match and match[1].strip():
            return re.sub(r"\s", "", match[1])[:16].ljust(16, "0")
    return ""


def left_side(text: str) -> str | None:
    match = re.search("([0-9+*/() -]+)=[0-9. ]+", text)
    return match and match[1]


def arithmetic(text: str) -> object:
    """What `eval` gives, None where it raises. Only for text without `**`."""
    if not re.fullmatch(r"[\d+\-*/().\s]+", text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = eval(text, {"__builtins__": None}, {})
    except Exception:  # noqa: BLE001  whatever it raises, there is no value
        return None
    return value if isinstance(value, (int, float, complex)) else None

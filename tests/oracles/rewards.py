"""Reward functions that behave well, and badly, as the text of a file that recipes name."""

FILE = """
import asyncio, ctypes, os, random, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent


def text_of(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]


def length(completions, log_extra, log_metric, **kwargs):
    log_extra("shouted", [text.upper() for text in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    return [float(len(text)) for text in completions]


def risky(completions, answer, **kwargs):
    for text in completions:
        if text == "die":
            os._exit(3)
        if text == "segfault":
            ctypes.string_at(0)
        if text == "hang":
            time.sleep(600)
        if text == "raise":
            raise ValueError("no")
    return [float(text == right) for text, right in zip(completions, answer)]


async def judge(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [float(len(text)) for text in completions]


async def judge_hangs(completions, **kwargs):
    if "hang" in completions:
        await asyncio.sleep(600)
    return [1.0 for _ in completions]


loops, calls = set(), []


async def same_loop(completions, **kwargs):
    loops.add(id(asyncio.get_running_loop()))
    calls.append(1)
    return [float(len(calls)) if len(loops) == 1 else -1.0 for _ in completions]


def dice(completions, **kwargs):
    return [random.random() for _ in completions]


def talks(completions, **kwargs):
    print("hello from a reward")
    return [1.0 for _ in completions]


def first_to_go(completions, **kwargs):
    return [float(Path("/proc/self/oom_score_adj").read_text()) for _ in completions]


def leaves_child(completions, **kwargs):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (HERE / "child").write_text(str(child.pid))
    child.wait()


def tells(completions, **kwargs):
    (HERE / "pid").write_text(str(os.getpid()))
    time.sleep(600)
"""

# The same, of rewards that compare the completions for a prompt.
GROUPS = """
import os
from collections import defaultdict

def rank(prompts, completions, **kwargs):
    for text in completions:
        if text == "die":
            os._exit(3)
        if text == "raise":
            raise ValueError("no")
    groups = defaultdict(list)
    for prompt, text in zip(prompts, completions):
        groups[str(prompt)].append(len(text))
    return [
        sum(one < len(text) for one in groups[str(prompt)]) / max(1, len(groups[str(prompt)]) - 1)
        for prompt, text in zip(prompts, completions)
    ]


rank.needs_groups = True


def alone(prompts, completions, **kwargs):
    return rank(prompts, completions)
"""

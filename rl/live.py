"""A rollout shown in the terminal while it unmasks: what is masked, what is there, what has just come."""

import time
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

MASKED, ENDED = "░", "·"  # one for each token that is hidden, or ends the text
PLAIN_MASKED, PLAIN_ENDED = "_", "."  # where the terminal knows ASCII only
STYLES = {"given": "", "old": "", "new": "bold reverse green", "masked": "dim", "end": "dim"}
FOOT_LINES = 3  # kept free below the text


def printable(text: str) -> str:
    """Text without control characters: what a model writes must not steer the terminal."""
    return "".join(
        "\ufffd" if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" else char
        for char in text.replace("\r\n", "\n")
    )


def trajectory_text(
    tokens: Sequence[int],
    reveal_step: Sequence[int],
    now: int,
    *,
    steps: int,
    tokenizer: Any,
    eos_ids: Sequence[int],
    ascii_only: bool = False,
) -> Text:
    """The canvas at step ``now``: one glyph per hidden token, the tokens of this step highlighted.

    tokens, reveal_step: one entry per canvas position; reveal_step as in ``RolloutBatch`` (-1 given, ``steps`` hidden).
    """
    masked, ended = (PLAIN_MASKED, PLAIN_ENDED) if ascii_only else (MASKED, ENDED)

    def kind(place: int) -> str:
        if reveal_step[place] == steps:
            return "masked"
        if tokens[place] in eos_ids:
            return "end"
        return "given" if reveal_step[place] < 0 else "new" if reveal_step[place] == now else "old"

    text = Text()
    for name, group in groupby(range(len(tokens)), key=kind):
        ids = [tokens[place] for place in group]
        if name in ("masked", "end"):
            shown = (masked if name == "masked" else ended) * len(ids)
        else:
            shown = printable(tokenizer.decode(ids, skip_special_tokens=False))
        text.append(shown, style=STYLES[name])
    return text


class Trajectory:
    """Shows one rollout after the other: ``begin``, ``step`` as often as there are steps, ``end``.

    On Ctrl-C ``stop`` leaves the canvas as it stands. delay: seconds to rest after each step, so that a person can follow.
    """

    def __init__(self, console: Console, policy: Any, *, canvas: int, steps: int, delay: float) -> None:
        self.console, self.policy = console, policy
        self.canvas, self.steps, self.delay = canvas, steps, delay
        self._live: Live | None = None
        self._prefix, self._text = "", Text()
        self._start = self._done = 0

    def begin(self, prompt: str, prompt_length: int, prefix: str, title: str = "") -> None:
        """A new rollout. prompt: as a person wrote it; prompt_length: its tokens; prefix: the answer's given beginning."""
        self._prefix, self._start, self._done = printable(prefix), prompt_length, 0
        self.console.print(Text().append(title, style="dim").append(printable(prompt), style="bold"))
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()

    def step(self, record: Any, step: int) -> None:
        """Shows ``record`` (of one row, as ``denoise`` hands it out) after ``step``."""
        on = slice(self._start, self._start + self.canvas)
        tokens, reveal = record.tokens[0, on].tolist(), record.reveal_step[0, on].tolist()
        self._done += 1
        canvas = trajectory_text(
            tokens,
            reveal,
            step,
            steps=self.steps,
            tokenizer=self.policy.tokenizer,
            eos_ids=self.policy.eos_ids,
            ascii_only=self.console.options.ascii_only,
        )
        self._text = Text().append(self._prefix, style="dim").append_text(canvas)
        shown = sum(one < self.steps for one in reveal)
        foot = Text(f"step {step + 1}/{self.steps}, {shown} of {self.canvas} tokens", style="dim")
        if self._live is not None:
            self._live.update(Text("\n").join([*self._window(), foot]), refresh=True)
            time.sleep(self.delay)

    def end(self, text: str, note: str) -> None:
        """The finished text takes the place of the canvas."""
        self._close()
        self.console.print(Text().append(self._prefix, style="dim").append(printable(text)), soft_wrap=True)
        self.console.print(Text(note, style="dim"))
        self.console.print()

    def stop(self) -> None:
        """Leaves the unfinished canvas on the screen."""
        self._close()
        if self._done:
            self.console.print(self._text)
        self.console.print(Text(f"stopped after step {self._done} of {self.steps}", style="dim"))

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _window(self) -> list[Text]:
        """The lines that fit the screen: those around the first hidden token, which is where things happen."""
        lines = list(self._text.wrap(self.console, self.console.width, overflow="fold"))
        room = max(2, self.console.height - FOOT_LINES)
        if len(lines) <= room:
            return lines
        hidden = (MASKED, PLAIN_MASKED)
        at = next((i for i, line in enumerate(lines) if any(glyph in line.plain for glyph in hidden)), len(lines))
        low = min(max(0, at - room // 2), len(lines) - room)
        return lines[low : low + room]

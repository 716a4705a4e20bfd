"""Writes the table of shipped protocols into docs/evaluation.md, from the protocols themselves.

Usage: python scripts/protocol_table.py
"""

from pathlib import Path

from rl.protocol import Protocol, load_protocol
from rl.recipes import protocol_names

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
BEGIN, END = "<!-- python scripts/protocol_table.py -->\n", "<!-- end of the table -->\n"


def table() -> str:
    """A row for every protocol."""
    lines = ["| protocol | rows | prompt | canvas, block, steps | parsers | hash |", "|---|---|---|---|---|---|"]
    for name in protocol_names():
        protocol = load_protocol(name).protocol
        sampler = protocol.sampler
        law = f"{sampler.canvas}, {sampler.block}, {sampler.steps}" + (
            f", threshold {sampler.threshold:g}" if sampler.threshold else ""
        )
        parsers = ", ".join(f"`{one.name or one.fn}`" for one in protocol.parsers)
        lines.append(
            f"| `{name}` | {_rows(protocol)} | {_prompt(protocol)} | {law} | {parsers} | `{protocol.hash[:12]}` |"
        )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with a fresh table between the marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


def _rows(protocol: Protocol) -> str:
    data = protocol.data
    return f"{data.subset.count} of {data.rows}" if data.subset else str(data.rows)


def _prompt(protocol: Protocol) -> str:
    prompt = protocol.prompt
    shots = f"{len(prompt.few_shot)} turns" if prompt.few_shot else "one message"
    if not prompt.prefill:
        return shots
    first = prompt.prefill.strip().partition("\n")[0]  # a cell of a table has one line
    return f"{shots}, prefill `{first if len(first) <= 24 else first[:20] + ' ...'}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

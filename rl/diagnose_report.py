"""What `unmask diagnose` leaves behind: a table in the terminal, ``diagnose.json``, ``diagnose.png`` and ``diagnose.html``."""

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rl.diagnose_picture import draw
from rl.diagnose_rows import Diagnosis, Row
from rl.diagnose_words import advice, law_name, share
from rl.errors import CommandError, check_folder
from rl.run import plain

JSON, PICTURE, PAGE = "diagnose.json", "diagnose.png", "diagnose.html"

GRADIENTS = ("estimator", "used by", "views", "plans", "signal/noise", "cosine", "tokens", "worth", "95 %")
VALUES = ("estimator", "deviation", "gap", "gap tok.", "spread", "ESS", "error", "s/plan", "MB")
NOTES = {
    "views": "cost of one plan per rollout, in forwards and backwards of a row; a scoring pass beforehand is a third of one",
    "plans": "plans that the budget pays for, whose average is judged",
    "signal/noise": "squared length of the mean gradient against the variance of that average, over mask plans",
    "cosine": "of the mean gradient with the trajectory gradient, without the bias of noise",
    "tokens": "the same with the gradient of the tokens given their order",
    "worth": "progress of a step along it, as a share of one along the trajectory gradient: cosine^2 * s / (s + n)",
    "deviation": "of the plans' average of a row's log-likelihood around its own mean, nats",
    "gap": "of that mean to the exact law of the trajectory, mean over rows, nats",
    "gap tok.": "to the law of the tokens given their order",
    "gap rand.": "to the random-order likelihood, where every mask could be scored",
    "spread": "over rows, of the log-ratio after one AdamW step along the trajectory gradient, one plan, nats",
    "ESS": "effective sample size of those ratios, as a share of the rows",
    "error": "root mean square distance of that log-ratio to the exact one of the tokens given their order, nats",
    "s/plan": "seconds of one plan of all rollouts, forwards and backwards",
    "MB": "most bytes of tensors that a plan of one prompt held beyond the weights",
}


def show(found: Diagnosis, console: Console | None = None) -> None:
    """The tables a person reads, and the recommendation."""
    console = console or Console(highlight=False)
    console.print("\n".join(facts(found)), markup=False, soft_wrap=True)
    for title, header, cells in tables(found):
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="")
        wide = console.width >= 100
        shown = [number for number, name in enumerate(header) if name != "used by"]  # below, for the sake of the width
        for number in shown:
            table.add_column(header[number], justify="left" if number == 0 else "right", no_wrap=wide, overflow="fold")
        for row, one in zip(cells, found.rows, strict=True):
            texts = [row[number].replace("[", r"\[") for number in shown]
            table.add_row(*texts, style="bold" if one is found.leader else None)
        console.print()
        console.print(table)
    console.print()
    for row in found.rows:
        if row.used_by:
            console.print(f"{row.name}: {', '.join(row.used_by)}", markup=False, style="dim")
    for name, why in found.refused.items():
        console.print(f"not applicable: {name}: {why}", markup=False, style="dim")
    console.print()
    for sentence in [*found.notes, *advice(found)]:
        console.print(f"- {sentence}", markup=False)


def write(found: Diagnosis, folder: Path) -> list[Path]:
    """The files. Raises CommandError where the disk refuses."""
    check_folder(folder)
    try:
        draw(found, folder / PICTURE)
        (folder / JSON).write_text(json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / PAGE).write_text(page(found, (folder / PICTURE).read_bytes()), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--out {folder}: cannot be written: {error.strerror}") from error
    return [folder / name for name in (JSON, PICTURE, PAGE)]


def as_json(found: Diagnosis) -> dict[str, Any]:
    """Everything, with the recipe's sampler and method in full."""
    rest = {key: value for key, value in vars(found).items() if key not in ("recipe", "rows")}
    recipe = found.recipe
    return plain(
        {
            "recipe": recipe.name,
            "seed": recipe.train.seed,
            "sampler": recipe.rollout.sampler.model_dump(),
            "method": recipe.method.model_dump(),
            **{key: asdict(value) if hasattr(value, "__dataclass_fields__") else value for key, value in rest.items()},
            "advice": advice(found),
            "rows": [{**asdict(row), "leader": row is found.leader} for row in found.rows],
        }
    )


def facts(found: Diagnosis) -> list[str]:
    """What was measured on, a line each."""
    spec = found.recipe.rollout
    kept = "all kept" if found.sketch is None else f"projected to {found.sketch:,}"
    lines = [
        f"{found.recipe.name or 'recipe'}: {found.model}",
        f"canvas {spec.canvas}, {spec.steps} steps, {spec.selection}, temperature {spec.temperature:g}",
        f"{found.rollouts} rollouts of {found.groups} prompts with a signal, of {found.prompts} sampled; "
        f"{found.reward_name} {found.outcome:.3f} over all",
        f"{found.parameters:,} trainable numbers, {kept}; measured in {found.seconds:.0f} s",
        f"held against the {law_name(found)}; the learner repeats the sampler's record to {found.record_gap:.1e} nats",
    ]
    if found.random_order is not None:
        lines.append(
            f"random order, by enumeration: log-likelihood {found.random_order['log_likelihood']:.3f}, ELBO "
            f"{found.random_order['elbo']:.3f} nats per row"
        )
    else:
        lines.append("random-order likelihood: not enumerable (more than 8 tokens a row, or too many rows)")
    return lines


def tables(found: Diagnosis) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """(title, header, cells) of both."""
    random_order = found.random_order is not None
    header = [*VALUES[:4], *(["gap rand."] if random_order else []), *VALUES[4:]]
    return [
        (f"Gradients, at {found.budget} views per rollout", GRADIENTS, [_gradient_cells(row) for row in found.rows]),
        (
            f"Values of a row, a step of {found.step_size:g}, and cost of a plan",
            header,
            [_value_cells(row, random_order) for row in found.rows],
        ),
    ]


def _gradient_cells(row: Row) -> list[str]:
    worth = row.worth
    beyond = "" if row.affordable else " (beyond)"
    return [
        row.name,
        ", ".join(row.used_by),
        f"{row.views:.3g}{beyond}",
        str(row.averaged) if row.random else "fixed",
        "no noise" if math.isinf(row.snr) else _number(row.snr),
        _cosine(row.cosine["value"]),
        _cosine(row.cosine_tokens),
        share(worth["value"]),
        "?" if math.isnan(worth["low"]) else f"{100 * worth['low']:.0f} to {100 * worth['high']:.0f}",
    ]


def _value_cells(row: Row, random_order: bool) -> list[str]:
    extra = [f"{row.value_random_order.gap:+.2f}"] if random_order and row.value_random_order is not None else []
    return [
        row.name,
        f"{row.value.deviation / math.sqrt(row.averaged if row.random else 1):.2f}",
        f"{row.value.gap:+.2f}",
        f"{row.value_tokens.gap:+.2f}",
        *extra,
        _number(row.step.spread),
        share(row.step.ess),
        _number(row.step.error),
        _number(row.seconds),
        f"{row.peak_bytes / 1e6:.0f}",
    ]


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _cosine(value: float) -> str:
    return "?" if math.isnan(value) else f"{min(max(value, -1.0), 1.0):.2f}"


_STYLE = """
:root { color-scheme: light dark; --line: #8885; --strong: #0b4f8a; }
@media (prefers-color-scheme: dark) { :root { --strong: #8ec5f0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; } tr.best td { font-weight: 600; color: var(--strong); }
p.facts { opacity: .8; font-size: .9rem; } dt { font-weight: 600; } dd { margin: 0 0 .3rem 1rem; } li { margin: .4rem 0; }
"""


def page(found: Diagnosis, picture: bytes) -> str:
    """One file that opens offline: words, picture, tables, what the columns mean."""
    name = html.escape(found.recipe.name or "recipe")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">",
        f"<title>{name} · unmask diagnose</title><style>{_STYLE}</style></head><body>",
        f"<h1>What each estimator's gradient is worth: {name}</h1>",
        f"<p class='facts'>{'<br>'.join(map(html.escape, facts(found)))}</p>",
        "<ul>",
        *(f"<li>{html.escape(sentence)}</li>" for sentence in [*found.notes, *advice(found)]),
        "</ul>",
        f"<img alt='Worth of each estimator, and worth against views' src='data:image/png;base64,{base64.b64encode(picture).decode()}'>",
    ]
    for title, header, cells in tables(found):
        parts.append(f"<h2>{html.escape(title)}</h2><div class='wide'><table><tr>")
        parts += [f"<th{_text(cell)}>{html.escape(cell)}</th>" for cell in header]
        parts.append("</tr>")
        for row, one in zip(cells, found.rows, strict=True):
            kind = " class='best'" if one is found.leader else ""
            inner = "".join(f"<td{_text(top)}>{html.escape(cell)}</td>" for top, cell in zip(header, row, strict=True))
            parts.append(f"<tr{kind}>{inner}</tr>")
        parts.append("</table></div>")
    parts += [
        "<h2>Columns</h2><dl>",
        *(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in NOTES.items()),
    ]
    parts.append("</dl>")
    if found.refused:
        parts.append("<h2>Not applicable here</h2><ul>")
        parts += [f"<li>{html.escape(f'{key}: {why}')}</li>" for key, why in found.refused.items()]
        parts.append("</ul>")
    return "\n".join([*parts, "</body></html>\n"])


def _text(header: str) -> str:
    return " class='text'" if header == "used by" else ""

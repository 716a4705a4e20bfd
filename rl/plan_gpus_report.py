"""What `unmask plan` prints: memory, time, the choice with its reasons, and the section of a recipe; or one JSON object."""

import json
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from rl import capacity
from rl.capacity import States
from rl.hardware import RESERVE
from rl.layout import PHASES, Layout, clusters, rank_rollouts, rank_views
from rl.plan_gpus import GpuPlan

GIB = 2**30
PLACED = {"alone": "colocate", "colocate": "colocate", "separate": "separate"}


def show(plan: GpuPlan, console: Console | None = None) -> None:
    """Tables for 80 columns."""
    console = console or Console(highlight=False)
    title = f"{plan.name} on {plan.hardware.words}, at {plan.utilisation:.0%} of peak"
    console.print(title, style="bold", markup=False)
    console.print()
    console.print(_lines(facts(plan)))
    layout = plan.choice.chosen
    if layout is None:
        console.print()
        console.print("This does not fit.", style="bold red")
        console.print(_lines([("needed", line) for line in shortage(plan)]))
        console.print(_lines([("remedy", remedy) for remedy in plan.remedies]))
    else:
        console.print()
        console.print(_memory(plan, layout))
        console.print()
        console.print(_time(layout, ahead=plan.work.ahead))
        console.print()
        console.print(_lines(reasons(plan, layout)))
        console.print()
        console.print(recipe_yaml(plan, layout), markup=False, style="cyan")
    console.print()
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, style="dim")
    console.print(f"formulas and assumptions: docs/scaling.md; {RESERVE:.0%} of each GPU is left free", style="dim")


def facts(plan: GpuPlan) -> list[tuple[str, str]]:
    """(what, how much) of the recipe, whatever the GPUs."""
    setting, work, model = plan.setting, plan.work, plan.recipe.model
    held = "4-bit base" if setting.quantized else "bfloat16" if setting.bfloat16 else "float32"
    sizes = setting.sizes
    if setting.adapter is None:
        trained = f"all {_count(sizes.parameters)} weights, as float32"
    else:
        adapter = setting.adapter
        trained = f"{_count(adapter.numbers)} in LoRA, rank {adapter.rank} on {adapter.modules} matrices"
    rollouts = f"{work.rollouts:,} rollouts" if work.rollouts else f"{work.prompts:,} stored pairs"
    row = f"{work.length - plan.recipe.rollout.canvas:,.0f} + {plan.recipe.rollout.canvas} positions"
    steps = f", {work.steps} denoising steps" if work.rollouts else ""
    views = work.trained_rows * work.views
    passes = "1 pass" if work.passes == 1 else f"{work.passes} passes"
    return [
        ("model", f"{model.path}, {plan.family}, {_count(sizes.parameters)} parameters, {held}"),
        ("trained", trained),
        ("update", f"{rollouts} of {row}{steps}"),
        ("", f"{passes} of {views:,} views, {'with' if work.reference else 'without'} a reference"),
    ]


# -- memory ---------------------------------------------------------------------------------------------------------------


def learner_parts(plan: GpuPlan, layout: Layout) -> list[tuple[str, float]]:
    """(what, bytes) on a learner's GPU at the fullest moment of training; what is 0 is left out."""
    states, stage = layout.states, layout.cluster.stage
    parts = [
        ("frozen weights", states.base),
        ("trained weights, float32", states.weights),
        ("ZeRO's copy of its share", states.masters),
        ("gradients", states.gradients),
        ("AdamW's two moments", states.moments),
        ("gathered weights" if stage == 3 else "gradients on their way", states.buffers),
        ("reference's weights", states.reference),
        ("scores of all views", layout.scores),
        (f"activations of {layout.micro_batch} views", layout.training),
    ]
    return [(what, size) for what, size in parts if size]


def sampler_parts(plan: GpuPlan, layout: Layout) -> list[tuple[str, float]]:
    if not plan.work.rollouts:
        return []
    own = [("weights of the sampler", layout.sampler)] if layout.sampler else []
    return [*own, (f"denoising {layout.max_rows} rows", layout.sampling)]


def _memory(plan: GpuPlan, layout: Layout) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("memory of a GPU, GiB", no_wrap=True)
    separate = layout.cluster.placement == "separate"
    table.add_column("learner", justify="right")
    table.add_column("sampler", justify="right")
    for what, size in learner_parts(plan, layout):
        table.add_row(what, _gib(size), "")
    for what, size in sampler_parts(plan, layout):
        table.add_row(what, "", _gib(size))
    room = f"{plan.hardware.room / GIB:.1f}"
    if separate:
        table.add_row("at most", _gib(layout.learner_peak), _gib(layout.sampler_peak), style="bold")
        table.add_row("room", room, room, style="dim")
    else:
        table.add_row("at most, taking turns", _gib(layout.peak), "", style="bold")
        table.add_row("room", room, "", style="dim")
    return table


# -- time -----------------------------------------------------------------------------------------------------------------


def _time(layout: Layout, *, ahead: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("phase", "left"),
        ("rows", "right"),
        ("PFLOP", "right"),
        ("seconds", "right"),
        ("", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    total = layout.total
    for phase in PHASES:
        spent = layout.seconds[phase]
        if not spent:
            continue
        rows = f"{layout.rows[phase]:,}" if phase in layout.rows else ""
        work = f"{layout.flops[phase] / 1e15:,.1f}" if phase in layout.flops else ""
        table.add_row(phase, rows, work, f"{spent:,.1f}" if spent >= 0.05 else "< 0.1", f"{spent / total:.0%}")
    work = f"{sum(layout.flops.values()) / 1e15:,.1f}"
    spent = layout.overlapped if ahead else total
    name = "an update, drawn ahead, at most" if ahead else "an update, at most"
    table.add_row(name, "", work, f"{spent:,.1f}", "", style="bold")
    return table


# -- the choice -----------------------------------------------------------------------------------------------------------


def reasons(plan: GpuPlan, layout: Layout) -> list[tuple[str, str]]:
    """(what was chosen, why)."""
    found = [("placement", _placement(plan, layout)), ("zero_stage", _stage(plan, layout))]
    views = rank_views(plan.work, layout.cluster.learners)
    own = plan.recipe.train.micro_batch
    said = f"{layout.micro_batch} views: {layout.most_views} of a rank's {views} in a pass fit"
    if layout.micro_batch < layout.most_views:
        said += ", shared out evenly"
    said += f"; the recipe's {own} {'fits' if own <= layout.most_views or own >= views == layout.most_views else 'does not'}"
    found += [("micro_batch", said), ("activations", _checkpointing(plan, layout))]
    if plan.work.rollouts:
        rows = rank_rollouts(plan.work, layout.cluster.samplers)
        found.append(("max_rows", f"{layout.max_rows} rows: {layout.most_rows} of a sampler's {rows} fit"))
    idle = layout.cluster.samplers - plan.work.prompts if plan.work.rollouts else 0
    if idle > 0:
        found.append(("idle", f"{idle} samplers: a group stays together, and there are {plan.work.prompts}"))
    return found


def _placement(plan: GpuPlan, layout: Layout) -> str:
    other, placement = plan.choice.other, layout.cluster.placement
    if not plan.work.rollouts:
        return "answers are stored: every GPU is a learner"
    if placement == "alone":
        return "one GPU: one process samples and learns, with one copy of the weights"
    if placement == "colocate":
        said = f"colocate: {_all(layout.cluster.learners)} work in both phases"
        if other is None:
            return f"{said}; separate samplers and learners do not fit"
        split = _split(other)
        return (
            f"{said}. The best split, {split}, takes {other.total:,.0f} s in turns, {other.overlapped:,.0f} s if the next rollouts "
            "are drawn meanwhile (one update stale)"
        )
    split = f"separate, {_split(layout)}, balances the phases best"
    if plan.work.ahead:
        why = "" if other is None else f", and colocate without it {other.total:,.0f} s"
        return (
            f"{split} as rollout.async_depth draws beside learning; in turns it would take {layout.total:,.0f} s{why}"
        )
    if other is None:
        why = "; a learner and a sampler's own weights do not fit on one GPU"
    else:
        why = f"; colocate takes {other.total:,.0f} s at ZeRO stage {other.cluster.stage}{_offloaded(other)}"
    return f"{split}{why}. {layout.overlapped:,.0f} s if the next rollouts are drawn meanwhile (one update stale)"


def _stage(plan: GpuPlan, layout: Layout) -> str:
    cannot = 3 if plan.setting.quantized else None
    sizes = ", ".join(
        f"{stage}: {'not for 4-bit weights' if stage == cannot else f'{size / GIB:.1f}' + ('' if ok else ' (no)')}"
        for stage, (size, ok) in plan.choice.by_stage.items()
    )
    cluster = layout.cluster
    if cluster.learners == 1 and not cluster.offload:
        return "0: one learner has nothing to share"
    said = f"{cluster.stage}: the smallest that fits; GiB of states by stage {sizes}"
    if cluster.learners == 1:
        said = f"{cluster.stage}: one learner has nothing to share, and its {plan.choice.by_stage[0][0] / GIB:.1f} GiB of states do not fit"
    if cluster.offload:
        said += f"; optimizer on the host, {layout.states.host * cluster.learners / GIB:,.0f} GiB of its memory in all"
    return said


def _all(count: int) -> str:
    return "one GPU does the" if count == 1 else "both GPUs" if count == 2 else f"all {count} GPUs"


def _split(layout: Layout) -> str:
    def many(count: int, what: str) -> str:
        return f"{count} {what}" if count == 1 else f"{count} {what}s"

    return f"{many(layout.cluster.samplers, 'sampler')} : {many(layout.cluster.learners, 'learner')}"


def _offloaded(layout: Layout) -> str:
    return " with the optimizer on the host" if layout.cluster.offload else ""


def _checkpointing(plan: GpuPlan, layout: Layout) -> str:
    """The activations with and without gradient checkpointing."""
    setting, work, count = plan.setting, plan.work, layout.micro_batch
    other = replace(setting, checkpointing=not setting.checkpointing)
    own, swapped = (
        capacity.train_peak(one, count, work.longest, count * work.scored_most) / GIB for one in (setting, other)
    )
    now, then = ("with", "without") if setting.checkpointing else ("without", "with")
    return f"{own:.1f} GiB {now} gradient checkpointing, {swapped:.1f} {then} it"


def recipe_yaml(plan: GpuPlan, layout: Layout) -> str:
    """The section of a recipe that says this."""
    cluster = layout.cluster
    lines = ["train:", f"  micro_batch: {layout.micro_batch}"]
    if plan.work.rollouts:
        lines += ["rollout:", f"  max_rows: {layout.max_rows}"]
    if cluster.placement == "alone" and not cluster.offload:
        lines.append("# one GPU needs no section cluster; with one it would be")
    section = {
        "backend": "ray",
        "samplers": cluster.samplers,
        "learners": cluster.learners,
        "zero_stage": cluster.stage,
        "offload": "optimizer" if cluster.offload else "none",
        "placement": PLACED[cluster.placement],
    }
    mark = "# " if cluster.placement == "alone" and not cluster.offload else ""
    lines.append(f"{mark}cluster:")
    lines += [f"{mark}  {key}: {value}" for key, value in section.items()]
    lines = [f"{line}  # nothing is sampled" if line.endswith("samplers: 0") else line for line in lines]
    return "\n".join(lines)


# -- what does not fit -----------------------------------------------------------------------------------------------------


def shortage(plan: GpuPlan) -> list[str]:
    """What the smallest layout asks for, against the room there is."""
    setting, work, hardware = plan.setting, plan.work, plan.hardware
    room, count = hardware.room / GIB, hardware.count
    found = []
    whole = capacity.states(setting, reference=work.reference)
    kind = "full fine-tuning" if setting.adapter is None else "training the adapter"
    size = _count(setting.trained)
    found.append(
        f"{kind} of {size} weights has {_whole(whole)} GiB of states: 16 bytes each for weight, gradient and two moments"
        + (", 4 for the reference" if work.reference else "")
        + ("" if setting.adapter is None else f", and the frozen base {whole.base / GIB:.1f}")
    )
    best = min(
        (capacity.states(setting, stage=c.stage, ranks=c.learners, offload=c.offload, reference=work.reference)
         for c in clusters(setting, work, hardware, "colocate")),
        key=lambda states: states.total,
    )  # fmt: skip
    one = capacity.train_peak(setting, 1, work.longest, work.scored_most)
    found.append(
        f"a rank of {count} holds at least {best.total / GIB:.1f} GiB of them, the host's memory used, and {one / GIB:.1f} for one view; "
        f"there is room for {room:.1f}"
    )
    if work.rollouts and count > 1:
        own = capacity.sampler_weights(setting) / GIB
        rows = capacity.sampler_peak(setting, 1, work.longest, work.step_logits_most) / GIB
        found.append(f"a sampler has {own:.1f} GiB of weights and {rows:.1f} for a row")
    return found


def _whole(states: States) -> str:
    return f"{(states.total - states.base) / GIB:,.0f}"


# -- JSON -----------------------------------------------------------------------------------------------------------------


def as_json(plan: GpuPlan) -> str:
    """Bytes, FLOPs and seconds, unrounded."""
    layout = plan.choice.chosen
    found: dict[str, Any] = {
        "recipe": plan.name,
        "hardware": {**asdict(plan.hardware), "count": plan.hardware.count, "room_bytes": plan.hardware.room},
        "utilisation": plan.utilisation,
        "model": {"path": plan.recipe.model.path, "family": plan.family, **asdict(plan.setting)},
        "workload": {key: value for key, value in vars(plan.work).items() if key != "costs"},
        "fits": layout is not None,
        "states_by_stage": {stage: {"bytes": size, "fits": ok} for stage, (size, ok) in plan.choice.by_stage.items()},
        "chosen": None if layout is None else _layout(plan, layout),
        "other": None if plan.choice.other is None else _layout(plan, plan.choice.other),
        "shortage": [] if layout else shortage(plan),
        "remedies": list(plan.remedies),
        "notes": list(plan.notes),
    }
    return json.dumps(found, indent=1)


def _layout(plan: GpuPlan, layout: Layout) -> dict[str, Any]:
    section = {**asdict(layout.cluster), "placement": PLACED[layout.cluster.placement]}
    return {
        "cluster": section,
        "micro_batch": layout.micro_batch,
        "max_rows": layout.max_rows,
        "learner_bytes": dict(learner_parts(plan, layout)),
        "sampler_bytes": dict(sampler_parts(plan, layout)),
        "peak_bytes": layout.peak,
        "host_bytes": layout.states.host * layout.cluster.learners,
        "rows": dict(layout.rows),
        "flops": dict(layout.flops),
        "seconds": dict(layout.seconds),
        "update_seconds": layout.overlapped if plan.work.ahead else layout.total,
        "overlapped_seconds": layout.overlapped,
    }


def _lines(lines: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how_much in lines:
        table.add_row(what, how_much.replace("[", r"\["))
    return table


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size >= 0.005 * GIB else "< 0.01"


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"

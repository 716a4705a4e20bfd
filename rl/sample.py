"""`unmask sample`: prompts to finished texts, watched as they unmask, or as plain lines where nobody watches."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO, get_args

from pydantic import ValidationError
from rich.console import Console

from rl.config_errors import listing, nearest
from rl.config_schema import PromptConfig
from rl.data import Prompt, load_split
from rl.errors import CommandError, DataError
from rl.live import Trajectory
from rl.prompts import read_prompts, template_fields
from rl.source import Source, find_source, prompt_columns
from rollouts.checkpoints import read_config, resolve_folder
from rollouts.engine import generate
from rollouts.families import MADE
from rollouts.spec import SamplerSpec, Selection
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch

DEFAULT_CANVAS = 256  # of a bare checkpoint: this, or half of its positions
ROWS = 16  # denoised together where nobody watches


def sample(
    target: str,
    prompt: str | None,
    *,
    file: Path | None = None,
    adapter: Path | None = None,
    sampler: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    count: int = 1,
    seed: int = 0,
    as_json: bool = False,
    delay: float = 0.0,
    console: Console | None = None,
) -> None:
    """Generate and print.

    target, adapter      as `rl.source.find_source` takes them
    prompt, file         one prompt, or a file of them; with neither, one from standard input
    sampler              fields of a SamplerSpec that were asked for; the rest is the run's evaluation sampler
    dtype, quantization  in place of the run's; a bare checkpoint: as its config.json says
    count                completions of each prompt
    delay                seconds each step stays on the screen

    Raises CommandError, DataError, ModelError, RecipeErrors.
    """
    console, complain = console or Console(highlight=False), Console(stderr=True, highlight=False)
    asked = {key: value for key, value in (sampler or {}).items() if value is not None}
    source = as_asked(find_source(target, adapter), dtype, quantization)
    config = PromptConfig() if source.recipe is None else source.recipe.data.prompt
    columns = {} if source.run is None else prompt_columns(source.run)
    fields = template_fields(config)
    rows = read_prompts(prompt, file, fields, columns)
    check_options(asked, count)
    if config.template is not None and file is None:
        complain.print(
            f"note: the text stands for {{{fields[0]}}} in the run's template: {config.template}",
            markup=False,
            soft_wrap=True,
        )
    if source.note:
        complain.print(f"note: {source.note}", markup=False, soft_wrap=True)
    watched = console.is_terminal and not as_json
    with console.status(f"loading {source.model.path}") if watched else nullcontext():
        policy = source.load()
    spec = make_spec(source, policy.max_length, asked)
    if count > 1 and spec.temperature == 0:
        raise CommandError("--n: at temperature 0 all completions of a prompt are the same; add --temperature 1")
    room = policy.max_length - spec.canvas
    # A prompt that does not fit is left out and counted; only where none is left is that an error.
    try:
        prompts = load_split(rows, config.model_copy(update={"max_length": "drop"}), policy, room=room, where="prompt")
    except DataError as error:
        hint = f"; of the model's {policy.max_length} positions the canvas takes {spec.canvas}: try a smaller --canvas"
        raise CommandError(f"{error}{hint if 'longer than' in str(error) else ''}") from error
    for reason, number in prompts.dropped.items():
        complain.print(f"left out: {number} of {len(rows)}: {reason}", markup=False, soft_wrap=True)
    jobs = [one for one in prompts.prompts for _ in range(count)]
    work = Work(policy, spec, jobs, seed, config.prefill or "")
    if watched:
        work.watch(console, delay)
    else:
        work.write(sys.stdout, as_json=as_json)


def as_asked(source: Source, dtype: str | None, quantization: str | None) -> Source:
    """The source with these options. A bare checkpoint is computed in the dtype of its config.json."""
    from dataclasses import replace

    changes: dict[str, Any] = {"gradient_checkpointing": False}
    if dtype is None and source.recipe is None and source.model.path not in MADE:
        config = read_config(resolve_folder(source.model.path, weights=False))
        stored = str(config.get("torch_dtype") or config.get("dtype")).removeprefix("torch.")
        dtype = "bfloat16" if stored == "bfloat16" else None
    if dtype is not None:
        changes["dtype"] = dtype
    if quantization is not None:
        changes["quantization"] = quantization
    return replace(source, model=source.model.model_copy(update=changes))


def check_options(asked: Mapping[str, Any], count: int) -> None:
    """What can be refused before a model is loaded. Raises CommandError."""
    selection = asked.get("selection")
    if selection is not None and selection not in get_args(Selection):
        near = nearest(selection, get_args(Selection))
        hint = f"did you mean {near}? " if near else ""
        raise CommandError(f"--selection: there is no rule {selection!r}; {hint}rules: {listing(get_args(Selection))}")
    if count > 1 and asked.get("temperature") == 0:
        raise CommandError("--n: at temperature 0 all completions of a prompt are the same; add --temperature 1")


def make_spec(source: Source, positions: int, asked: Mapping[str, Any]) -> SamplerSpec:
    """The sampler: the run's of evaluation (or that of rollouts, greedy), with what was asked for.

    positions: of the model. Raises CommandError for a combination that cannot run.
    """
    if source.recipe is None:
        spec = follow(SamplerSpec(temperature=0.0), {"canvas": min(DEFAULT_CANVAS, max(2, positions // 2))})
    elif source.recipe.eval is not None:
        spec = source.recipe.eval.sampler
    else:
        spec = source.recipe.rollout.sampler.model_copy(update={"temperature": 0.0})
    try:
        spec = SamplerSpec.model_validate(follow(spec, asked).model_dump())
    except ValidationError as error:
        told = [f"--{one['loc'][0]}: {one['msg']}, not {one['input']!r}".replace("_", "-") for one in error.errors()]
        raise CommandError("\n".join(told)) from error
    problems = spec.problems()
    if problems:
        raise CommandError("\n".join(f"--{key}: {message}" for key, message in problems))
    if spec.canvas >= positions:
        raise CommandError(f"--canvas: {spec.canvas} leaves no room for a prompt in the model's {positions} positions")
    return spec


def follow(spec: SamplerSpec, asked: Mapping[str, Any]) -> SamplerSpec:
    """``spec`` with the fields asked for; block and steps go along with a new canvas or block, unless they were asked for, too."""
    canvas = asked.get("canvas", spec.canvas)
    block = asked.get("block", max(size for size in range(1, canvas + 1) if canvas % size == 0 and size <= spec.block))
    steps = asked.get("steps", spec.steps)
    if "steps" not in asked and (canvas, block) != (spec.canvas, spec.block):
        per_block = min(block, max(1, round(block * spec.steps / spec.canvas)))
        steps = max(1, canvas // block) * per_block
    return spec.model_copy(update={**asked, "canvas": canvas, "block": block, "steps": steps})


class Work:
    """Rollouts to make. Each has its own random stream, so the company it is made in changes no draw."""

    def __init__(self, policy: Any, spec: SamplerSpec, jobs: Sequence[Prompt], seed: int, prefill: str) -> None:
        self.policy, self.spec, self.jobs, self.seed, self.prefill = policy, spec, jobs, seed, prefill

    def watch(self, console: Console, delay: float) -> None:
        """One after the other, live. On Ctrl-C what is there stays on the screen."""
        spec = self.spec
        view = Trajectory(console, self.policy, canvas=spec.canvas, steps=spec.steps, delay=delay)
        law = f"canvas {spec.canvas}, block {spec.block}, {spec.steps} steps, {spec.selection}, temperature {spec.temperature:g}"
        console.print(law, style="dim")
        try:
            for number, job in enumerate(self.jobs):
                title = f"{number + 1}/{len(self.jobs)}  " if len(self.jobs) > 1 else ""
                view.begin(spoken(job), len(job.token_ids), self.prefill, title)
                batch = self._generate(number, number + 1, on_step=view.step)
                ended = "ended by itself" if batch.finish_reason[0] == "eos" else "filled its canvas"
                view.end(batch.texts[0], f"{int(batch.forwards[0])} forwards; {ended}")
        except KeyboardInterrupt:
            view.stop()
            raise

    def write(self, out: TextIO, *, as_json: bool) -> None:
        """Finished texts, with a title each where there are several; or one JSON object a line."""
        for low in range(0, len(self.jobs), ROWS):
            high = min(low + ROWS, len(self.jobs))
            batch = self._generate(low, high)
            for place, job in enumerate(self.jobs[low:high]):
                if as_json:
                    out.write(json.dumps(as_row(batch, place, job, self.seed), ensure_ascii=False) + "\n")
                    continue
                title = f"--- prompt {job.prompt_id}\n" if len(self.jobs) > 1 else ""
                out.write(f"{title}{self.prefill}{batch.texts[place]}\n")
            out.flush()

    def _generate(self, low: int, high: int, **hooks: Any) -> RolloutBatch:
        jobs = self.jobs[low:high]
        return generate(
            self.policy,
            [job.token_ids for job in jobs],
            self.spec,
            seed=self.seed,
            step=0,
            group_ids=[job.prompt_id for job in jobs],
            prompt_ids=[job.prompt_id for job in jobs],
            purpose=Purpose.EVAL,
            max_rows=len(jobs),
            first_rollout=low,
            **hooks,
        )


def spoken(job: Prompt) -> str:
    """The prompt as a person wrote it: without chat markup."""
    if isinstance(job.raw, str):
        return job.raw
    return "\n".join(f"{message['role']}: {message['content']}" for message in job.raw)


def as_row(batch: RolloutBatch, place: int, job: Prompt, seed: int) -> dict[str, Any]:
    """One rollout as plain JSON; lists have one entry per canvas position, as in a run's rollout files."""
    on = batch.canvas_mask[place]
    return {
        "prompt_id": job.prompt_id,
        "rollout_id": int(batch.rollout_id[place]),
        "prompt": job.text,
        "text": batch.texts[place],
        "finish_reason": batch.finish_reason[place],
        "forwards": int(batch.forwards[place]),
        "seed": seed,
        "tokens": batch.tokens[place][on].tolist(),
        "reveal_step": batch.reveal_step[place][on].tolist(),
        "sampler_logprob": [round(value, 6) for value in batch.sampler_logprob[place][on].tolist()],
    }

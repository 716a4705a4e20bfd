"""An evaluation by a protocol: answers are sampled and graded in batches, each written down at once, so that a killed evaluation goes on.

Answer s of the prompt at place p under a seed draws from ``stream(seed, EVAL, s, p)``: neither the number of answers, nor the size of a
batch, nor a limit changes what is drawn. What is left is the rounding of a forward in another batch.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewards.contract import Reward, TrainerState, load_rewards
from rewards.contract.ready import check_ready
from rl.data import Prompt
from rl.errors import CommandError
from rl.evaluation_files import Identity, Journal, read_state, write_samples, write_state
from rl.evaluation_result import Outcome, summary
from rl.fingerprints import code_digests
from rl.grading import grade_rollouts
from rl.progress import Reporter
from rl.protocol import Loaded, load_protocol
from rl.protocol_items import Items, load_items
from rl.run import only_one
from rl.source import Source, find_source
from rl.votes import READERS
from rollouts.strategy import Here, Sampler
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch
from rollouts.worker import fingerprint

FOLDER = "evals"
BATCH = 16


@dataclass(frozen=True)
class Cell:
    """A batch of answers: this sample of the prompts at these places, under this seed."""

    seed: int
    sample: int
    places: range


def evaluate_protocol(
    protocol: str | Path | Loaded,
    model: str | Path | Source,
    adapter: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    data: str | None = None,
    out: str | Path | None = None,
    batch: int = BATCH,
    reporter: Reporter | None = None,
) -> Outcome:
    """Everything that a protocol says, of one model; a folder with samples.parquet, result.json and result.md.

    protocol        a name, a file, or one that was loaded
    model, adapter  a run or part of one, a checkpoint, a Hub name; a PEFT adapter to put on it
    overrides       ``key.path=value``: what makes another protocol of it, which the result says
    data            a file or Hub name in place of the protocol's
    out             the folder; default ``evals/PROTOCOL-MODEL-KEY``, where KEY names protocol, rows and weights. What it holds of the same
                    evaluation is kept, and only the rest is sampled
    batch           rows denoised together: memory and speed, never what is drawn

    Raises ProtocolErrors, CommandError, DataError, ModelError, RewardError, FolderBusyError.
    """
    loaded = protocol if isinstance(protocol, Loaded) else load_protocol(protocol, overrides)
    source = model if isinstance(model, Source) else find_source(str(model), None if adapter is None else Path(adapter))
    reporter = reporter or Reporter(quiet=True)
    folder_of_code = loaded.file.parent
    entries = [parser.model_dump() for parser in loaded.protocol.parsers]
    base = (
        folder_of_code
        if any((folder_of_code / one["fn"].partition(":")[0]).is_file() for one in entries)
        else Path.cwd()
    )
    rewards = load_rewards(entries, base=base)
    check_ready(rewards)
    source = replace(source, model=source.model.model_copy(update=_as_stated(loaded)))
    policy = source.load()
    loaded, items = load_items(loaded, rewards, policy, data)
    who = Identity(
        protocol=loaded.protocol.hash,
        data=items.fingerprint,
        model=hashlib.sha256(fingerprint(dict(policy.named_parameters())).encode()).hexdigest(),
        parsers=code_digests(rewards),
    )
    folder = Path(out) if out else Path(FOLDER) / f"{loaded.name}-{_slug(source)}-{who.key}"
    with only_one(folder):
        _claim(folder, who)
        journal = Journal(folder)
        with reporter:
            _sample(loaded, items, rewards, policy, journal, batch, reporter)
        found = summary(loaded, items, source, who, journal.rows, device=_device(policy))
        write_samples(folder, loaded, items, journal.rows)
        found.write(folder)
        journal.remove()
    return replace(found, folder=folder)


def _as_stated(loaded: Loaded) -> dict[str, Any]:
    """How the protocol wants the model: its dtype, and no 4-bit weights."""
    return {"dtype": loaded.protocol.dtype, "quantization": "none", "gradient_checkpointing": False}


def _device(policy: Any) -> str:
    """What tokens per second were measured on."""
    import torch

    return torch.cuda.get_device_name(policy.device) if policy.device.type == "cuda" else str(policy.device)


def _slug(source: Source) -> str:
    """A short name of the model for a folder."""
    part = source.checkpoint.name if source.checkpoint else Path(source.model.adapter or source.model.path).name
    name = f"{source.run.name}-{part}" if source.run is not None else part
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:60]


def _claim(folder: Path, who: Identity) -> None:
    """Raises CommandError where the folder holds another evaluation."""
    there = read_state(folder)
    if there is None:
        strangers = [one.name for one in folder.iterdir() if not one.name.startswith(".")] if folder.is_dir() else []
        if strangers:
            raise CommandError(
                f"--out {folder}: holds {', '.join(sorted(strangers)[:4])}, and no evaluation; name another folder"
            )
        write_state(folder, who)
        return
    differs = [name for name in ("protocol", "data", "model") if there.get(name) != getattr(who, name)]
    if differs:
        raise CommandError(
            f"{folder}: holds an evaluation with another {' and another '.join(differs)}; name another folder with --out"
        )
    if there.get("parsers") != who.parsers:
        raise CommandError(
            f"{folder}: the code of its parsers was changed since; name another folder with --out, or grade what is there again: "
            "unmask grade"
        )


def _cells(loaded: Loaded, count: int, batch: int) -> Iterator[Cell]:
    for seed in loaded.protocol.seeds:
        for sample in range(loaded.protocol.samples):
            for low in range(0, count, batch):
                yield Cell(seed, sample, range(low, min(low + batch, count)))


def _sample(
    loaded: Loaded,
    items: Items,
    rewards: Sequence[Reward],
    policy: Any,
    journal: Journal,
    batch: int,
    reporter: Reporter,
) -> None:
    """Sample and grade what the journal does not have."""
    total = len(items) * loaded.protocol.samples * len(loaded.protocol.seeds)
    reporter.phase("evaluation", total, done=len(journal.rows))
    for cell in _cells(loaded, len(items), batch):
        places = [place for place in cell.places if (cell.seed, cell.sample, place) not in journal.done]
        for stretch in runs(places):
            part = replace(cell, places=stretch)
            journal.append(_answers(loaded, items.prompts, rewards, policy, Here(policy), part))
            reporter.advance("evaluation", len(stretch))


def runs(places: Sequence[int]) -> list[range]:
    """Stretches of neighbouring places: rollout ids of a call count up."""
    found: list[range] = []
    for place in places:
        if found and found[-1].stop == place:
            found[-1] = range(found[-1].start, place + 1)
        else:
            found.append(range(place, place + 1))
    return found


def _answers(
    loaded: Loaded, every: Sequence[Prompt], rewards: Sequence[Reward], policy: Any, sampler: Sampler, cell: Cell
) -> list[dict[str, Any]]:
    """Rows for the journal: a batch sampled and graded."""
    protocol, prompts = loaded.protocol, [every[place] for place in cell.places]
    began = time.perf_counter()
    rollouts = sampler.sample(
        [prompt.token_ids for prompt in prompts],
        protocol.sampler.spec,
        group_size=1,
        prompt_ids=range(len(prompts)),
        seed=cell.seed,
        step=cell.sample,
        purpose=Purpose.EVAL,
        max_rows=len(prompts),
        first_rollout=cell.places.start,
    )
    seconds = (time.perf_counter() - began) / len(prompts)
    graded = replace(rollouts, texts=tuple(cut(text, protocol.prompt.stop) for text in rollouts.texts))
    prefill = protocol.prompt.prefill or ""
    marks = {reward.name: _marks(graded, prompts, reward, policy, prefill) for reward in rewards}
    ids = rollouts.completion_ids(policy.eos_ids)
    read = READERS[protocol.vote] if protocol.vote else None
    rows = []
    for i, place in enumerate(cell.places):
        completion = prefill + graded.texts[i]
        on = rollouts.canvas_mask[i]
        rows.append(
            {
                "prompt_id": prompts[i].prompt_id,
                "seed": cell.seed,
                "sample": cell.sample,
                "place": place,
                "completion": completion,
                "generated": rollouts.texts[i],
                "voted": read(completion) if read else None,
                "forwards": int(rollouts.forwards[i]),
                "generated_tokens": len(ids[i]),
                "truncated": bool(rollouts.truncated[i]),
                "finish_reason": rollouts.finish_reason[i],
                "token_ids": rollouts.tokens[i][on].tolist(),
                "reveal_step": rollouts.reveal_step[i][on].tolist(),
                "sampling_seconds": seconds,
                "scores": {name: scores[i] for name, (scores, _) in marks.items()},
                "reasons": {name: reasons[i] for name, (_, reasons) in marks.items() if reasons[i]},
            }
        )
    return rows


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _marks(
    rollouts: RolloutBatch, prompts: Sequence[Prompt], reward: Reward, policy: Any, prefill: str
) -> tuple[list[float | None], list[str | None]]:
    """A parser's scores, and where it gave none, why. Alone and at weight 1, so that each parser has its own reasons."""
    _, grades = grade_rollouts(
        rollouts,
        dict(enumerate(prompts)),
        [replace(reward, weight=1.0)],
        reward.name,
        eos_ids=policy.eos_ids,
        prefill=prefill,
        state=TrainerState(),
    )
    scores = grades.components[reward.name]
    reasons = [
        None if score is not None else (reason or "does not apply")
        for score, reason in zip(scores, grades.dropped, strict=True)
    ]
    return scores, reasons

"""`unmask pairs`: preference pairs by sampling and verifying, as a data set in TRL's format.

For each prompt a group is drawn and graded as in training; its best and its worst rollout by the recipe's reward are a pair, and a group
whose rewards are all equal gives none. Everything is addressed by (seed, batch), so an interrupted command goes on where it stopped.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rewards.compat import notes
from rewards.contract import TrainerState
from rl.advantages import best_worst
from rl.config import Recipe
from rl.config_errors import listing
from rl.data import Prompt
from rl.errors import CommandError
from rl.fingerprints import changes, fingerprints
from rl.grading import completion_of, grade_rollouts
from rl.loop import torch_settings
from rl.measure import model_of, recipe_and_source
from rl.progress import Reporter
from rl.run import plain, provenance
from rl.scored import ScoredBatch
from rl.setup import Setup, set_up
from rl.source import check_file
from rollouts.strategy import sample_groups
from rollouts.streams import Purpose

# Overrides that drop what making pairs does not need. The method is one that wants groups, and asks nothing else of the recipe.
# Held-out data stay: who trains on these pairs trains on their prompts, so they are held to what the recipe holds out.
_KEYS = ("data.preferences", "warm_start", "save.best_by", "stop.plateau")
UNUSED = (
    *(f"{key}=null" for key in _KEYS),
    "track={}",
    "health={}",
    "cluster={}",
    "method=online_vrpo",
)
NO_SIGNAL = "one reward for all"


def make_pairs(
    target: str,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    adapter: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, int]:
    """Writes `out` (jsonl), and beside it `out`.made.json: how it was made and what came of each prompt. Returns the counts.

    target, overrides, model, adapter: as `rl.measure.measure` takes them. Raises CommandError where `out` holds something else,
    RecipeErrors, DataError, ModelError, RewardError.
    """
    check_file(out, "pairs.jsonl")
    if out.suffix != ".jsonl":
        raise CommandError(f"--out {out}: pairs are written line by line; name a file that ends in .jsonl")
    recipe, source = recipe_and_source(target, overrides, model, adapter, unused=UNUSED, provided=(), command="pairs")
    recipe = _with_what_it_reads(recipe)
    if source is not None:
        recipe = recipe.model_copy(update={"model": model_of(recipe, source)})
    state = _begin(out, recipe, "" if source is None or source.checkpoint is None else str(source.checkpoint))
    with torch_settings(recipe), reporter or Reporter() as live:
        setup = set_up(recipe, trainable=source is not None and source.checkpoint is not None)
        if source is not None:
            source.restore(setup.policy)
        state["files"] = _same_files(out, state, fingerprints(setup))
        assert setup.train is not None
        prompts, size = setup.train.prompts, recipe.train.prompts_per_update
        for line in (*(f"note: {one}" for one in notes(setup.rewards)), *(f"overlap: {one}" for one in setup.overlaps)):
            live.say(line)
        state["overlaps"] = [one.as_json() for one in setup.overlaps]
        total = -(-len(prompts) // size)
        live.phase("pairs", len(prompts), done=min(state["batches"] * size, len(prompts)))
        for batch in range(state["batches"], total):
            part = prompts[batch * size : (batch + 1) * size]
            scored = _graded(setup, part, batch, total)
            rows = list(_pairs(setup, part, scored))
            state = _written(out, state, rows, _counts(scored, len(part), rows))
            live.advance("pairs", len(part), pairs=state["counts"]["pairs"])
        counts = state["counts"]
        reasons = "".join(
            f", {count} {name}" for name, count in counts.items() if name not in ("prompts", "pairs") and count
        )
        live.say(f"{counts['pairs']} pairs of {counts['prompts']} prompts in {out}{reasons}")
    return counts


def _with_what_it_reads(recipe: Recipe) -> Recipe:
    """Of the data to evaluate on, only what a rule holds out; the rest need not even be there."""
    held = {rule.against for rule in recipe.data.hold_out if isinstance(rule.against, str)}
    unread = {name: None for name in ("eval", "validation") if name not in held}
    data = recipe.data.model_copy(update=unread)
    return recipe.model_copy(update={"data": data, "eval": None if data.eval is None else recipe.eval})


def _graded(setup: Setup, prompts: Sequence[Prompt], batch: int, total: int) -> ScoredBatch:
    recipe = setup.recipe
    rollouts = sample_groups(
        setup.policy,
        [prompt.token_ids for prompt in prompts],
        recipe.rollout.sampler,
        group_size=recipe.rollout.group_size,
        prompt_ids=[prompt.prompt_id for prompt in prompts],
        seed=recipe.train.seed,
        step=batch,
        purpose=Purpose.PAIRS,
        max_rows=recipe.rollout.max_rows,
        deterministic=recipe.train.deterministic,
    )
    scored, _ = grade_rollouts(
        rollouts,
        {prompt.prompt_id: prompt for prompt in prompts},
        setup.rewards,
        setup.outcome,
        eos_ids=setup.policy.eos_ids,
        prefill=setup.prefill,
        state=TrainerState(global_step=batch, max_steps=total),
        mark=setup.mark,
        tokenizer=setup.policy.tokenizer,
    )
    return scored


def _pairs(setup: Setup, prompts: Sequence[Prompt], scored: ScoredBatch) -> Iterator[dict[str, Any]]:
    """A row for each group with a best and a worst. Answers hold the prefill, as rewards saw them."""
    if not len(scored):
        return
    sign, group = best_worst(scored.reward, scored.rollouts.group_id), scored.rollouts.group_id
    for number, prompt in enumerate(prompts):
        chosen, rejected = (((side > 0) & (group == number)).nonzero().flatten().tolist() for side in (sign, -sign))
        if not chosen:
            continue
        best, worst = chosen[0], rejected[0]
        yield {
            "prompt": _without_system(prompt.raw, setup.recipe.data.prompt.system),
            "chosen": completion_of(prompt, scored.rollouts.texts[best], setup.prefill),
            "rejected": completion_of(prompt, scored.rollouts.texts[worst], setup.prefill),
            "chosen_reward": float(scored.reward[best]),
            "rejected_reward": float(scored.reward[worst]),
            "chosen_outcome": float(scored.outcome[best]),
            "rejected_outcome": float(scored.outcome[worst]),
            "prompt_id": prompt.prompt_id,
        }


def _without_system(raw: Any, system: str | None) -> Any:
    """The prompt without the recipe's own system message, which is put before it again when the pair is read."""
    own = isinstance(raw, list) and system is not None and raw[0] == {"role": "system", "content": system}
    return raw[1:] if own else raw


def _counts(scored: ScoredBatch, prompts: int, rows: Sequence[Any]) -> dict[str, int]:
    groups = len(scored.rollouts.group_id.unique())
    lost = {f"rollouts dropped: {reason}": count for reason, count in scored.dropped.items()}
    return {
        "prompts": prompts,
        "pairs": len(rows),
        f"groups with {NO_SIGNAL}": groups - len(rows),
        "groups lost to grading": prompts - groups,
        **lost,
    }


def _begin(out: Path, recipe: Recipe, checkpoint: str) -> dict[str, Any]:
    """How far the file is. Raises CommandError where it was made otherwise, or not by this command."""
    # What decides the rows; how many are drawn at a time decides which numbers a rollout draws.
    told = recipe.model_dump(mode="json", include={"model", "data", "rollout", "rewards", "outcome"})
    told |= {"seed": recipe.train.seed, "prompts_per_update": recipe.train.prompts_per_update, "checkpoint": checkpoint}
    told["rollout"].pop("max_rows")
    # Which prompts are left because of these, the digest of the prompts tells.
    told["data"] |= {"eval": None, "validation": None}
    setting = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    record = _record(out)
    if not record.exists():
        if out.exists() and out.stat().st_size:  # an empty one is left where it ended before the first batch
            raise CommandError(f"--out {out}: this file is there already; name another, or move it away")
        out.touch()
        return {"setting": setting, "batches": 0, "bytes": 0, "counts": {}, "made_by": told, **provenance()}
    try:
        state = json.loads(record.read_text(encoding="utf-8"))
        same, known, _, _ = state["setting"] == setting, state["bytes"], state["batches"], state["counts"]
    except (ValueError, LookupError, TypeError):
        raise CommandError(
            f"--out {out}: {record} is damaged, so how far it is is not known; remove both, or name another"
        ) from None
    if not same:
        raise CommandError(f"--out {out}: its pairs were made with other settings ({record} tells which); name another")
    size = out.stat().st_size if out.exists() else 0
    if size < known:
        raise CommandError(
            f"--out {out}: it has {size} bytes, and {record} counts on {known}; remove both to begin anew"
        )
    out.touch()  # gone, where no batch had a pair
    os.truncate(out, known)  # what came after the last whole batch
    return state


def _same_files(out: Path, state: dict[str, Any], now: dict[str, str]) -> dict[str, str]:
    """Digests of the prompts and of the rewards' code. Raises CommandError where pairs were made with others: of two rewards in one
    file nobody could say which pair is whose, and prompts are counted off in batches."""
    changed, _ = changes(state.get("files") or {}, now, warmed=True)
    if changed:
        raise CommandError(
            f"--out {out}: its pairs were made with another {listing(changed, 8)}; the file was changed since. Put it back, or name another"
        )
    return now


def _written(
    out: Path, state: dict[str, Any], rows: Sequence[dict[str, Any]], counts: dict[str, int]
) -> dict[str, Any]:
    """Append the rows, then the record: in that order, so that a crash between the two only repeats a batch."""
    with out.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    summed = dict(Counter(state["counts"]) + Counter(counts))
    state = {
        **state,
        "batches": state["batches"] + 1,
        "bytes": out.stat().st_size,
        "counts": {"prompts": 0, "pairs": 0, **summed},
    }
    part = _record(out).with_suffix(".part")
    part.write_text(json.dumps(plain(state), indent=2) + "\n", encoding="utf-8")
    part.replace(_record(out))
    return state


def _record(out: Path) -> Path:
    return out.with_name(f"{out.name}.made.json")

"""What an evaluation found: accuracy by each parser with its interval, pass@k, majority votes, forwards, and all that it depends on."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl.evaluate import interval, pass_at_k
from rl.evaluation_files import RESULT, SUMMARY, Identity, replace_text
from rl.protocol import Loaded
from rl.protocol_items import Items, by_prompt
from rl.run import plain, provenance
from rl.source import Source
from rl.statistics import majority_at_k, proportion

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """result: what result.json holds. folder: where it lies."""

    result: dict[str, Any]
    folder: Path | None = None

    @property
    def accuracy(self) -> dict[str, dict[str, Any]]:
        """parser -> ``{value, low, high, n, ...}``; the first is the headline."""
        return self.result["accuracy"]

    def write(self, folder: Path) -> None:
        """result.json and result.md."""
        from rl.evaluation_report import markdown

        replace_text(
            folder / RESULT, json.dumps(plain(self.result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        )
        replace_text(folder / SUMMARY, markdown(self.result))


def summary(loaded: Loaded, items: Items, source: Source, who: Identity, rows: Rows, *, device: str) -> Outcome:
    """The numbers of a whole evaluation."""
    protocol, labels = loaded.protocol, items.labels
    parsers = list(rows[0]["scores"])
    each = by_prompt(rows)
    cluster = {
        prompt.prompt_id: prompt.prompt_id if labels is None else labels[i] for i, prompt in enumerate(items.prompts)
    }
    seconds, tokens = sum(row["sampling_seconds"] for row in rows), sum(row["generated_tokens"] for row in rows)
    several = {parser: _several(each, parser, cluster) for parser in parsers}
    votes = {parser: _votes(each, parser, cluster) for parser in parsers} if protocol.vote else {}
    return Outcome(
        {
            "protocol": loaded.name,
            "hash": protocol.hash,
            "changed": bool(loaded.changes),
            "changes": loaded.changes,
            "stated_hash": loaded.stated.hash,
            "departures": list(protocol.departures),
            "source": protocol.source.model_dump(),
            "settings": protocol.model_dump(mode="json"),
            "model": {
                "path": source.model.path,
                "adapter": source.model.adapter,
                "checkpoint": None if source.checkpoint is None else str(source.checkpoint),
                "fingerprint": who.model,
            },
            "data": {
                "source": items.source,
                "fingerprint": who.data,
                "prompts": len(items),
                "clusters": protocol.data.cluster,
            },
            "parsers": who.parsers,
            "answers": len(rows),
            "samples": protocol.samples,
            "seeds": list(protocol.seeds),
            "accuracy": {parser: _accuracy(rows, parser, cluster, protocol.data.cluster) for parser in parsers},
            "by_seed": {parser: _by_seed(rows, parser) for parser in parsers} if len(protocol.seeds) > 1 else {},
            "pass_at_k": {parser: found for parser, found in several.items() if found},
            "maj_at_k": {parser: found for parser, found in votes.items() if found},
            "truncated": float(np.mean([row["truncated"] for row in rows])),
            "forwards": sum(row["forwards"] for row in rows),
            "forwards_per_answer": float(np.mean([row["forwards"] for row in rows])),
            "tokens": tokens,
            "tokens_per_answer": tokens / len(rows),
            "tokens_per_second": tokens / seconds if seconds else math.nan,
            "sampling_seconds": seconds,
            "device": device,
            **provenance(),
        }
    )


def scores_of(rows: Rows, parser: str) -> np.ndarray:
    """f64 ``[rows]``; NaN where the parser gave none."""
    return np.array([math.nan if row["scores"][parser] is None else row["scores"][parser] for row in rows])


def _accuracy(rows: Rows, parser: str, cluster: Mapping[int, Any], column: str | None) -> dict[str, Any]:
    """The mean score with its interval. Answers to one prompt, and prompts of one cluster, are not independent."""
    found = proportion(scores_of(rows, parser), [cluster[row["prompt_id"]] for row in rows])
    reasons = Counter(row["reasons"][parser] for row in rows if parser in row["reasons"])
    grouped = found.clusters < found.n
    method = f"Wilson, {column or 'answers to a prompt'} together" if grouped else "Wilson"
    return {**asdict(found), "interval": method, "ungraded": dict(reasons.most_common())}


def _by_seed(rows: Rows, parser: str) -> dict[str, Any]:
    """The mean under each seed, and how far these are apart."""
    seeds = sorted({row["seed"] for row in rows})
    means = [float(np.nanmean(scores_of([row for row in rows if row["seed"] == seed], parser))) for seed in seeds]
    return {
        "values": {str(seed): value for seed, value in zip(seeds, means, strict=True)},
        "mean": float(np.mean(means)),
        "deviation": float(np.std(means, ddof=1)),
    }


def _several(each: Mapping[int, Rows], parser: str, cluster: Mapping[int, Any]) -> dict[str, Any]:
    """pass@k where a prompt has several answers and the parser says right or wrong: k -> interval over prompts."""
    table = [scores_of(rows, parser) for rows in each.values()]
    whole = np.concatenate(table)
    if len(table[0]) < 2 or not np.isin(whole[~np.isnan(whole)], (0.0, 1.0)).all():
        return {}
    labels = [cluster[prompt] for prompt in each]
    return {k: interval(values, labels) for k, values in pass_at_k(np.stack(table)).items()}


def _votes(each: Mapping[int, Rows], parser: str, cluster: Mapping[int, Any]) -> dict[str, Any]:
    """maj@k for the k of pass@k: the chance that the majority of k answers is right."""
    count = len(next(iter(each.values())))
    if count < 2 or not _several(each, parser, cluster):
        return {}
    labels = [cluster[prompt] for prompt in each]
    sizes = sorted({2**power for power in range(count.bit_length()) if 2**power <= count} | {count})
    return {
        str(k): interval(
            np.array(
                [
                    majority_at_k([row["voted"] for row in rows], scores_of(rows, parser).tolist(), k)
                    for rows in each.values()
                ]
            ),
            labels,
        )
        for k in sizes
    }

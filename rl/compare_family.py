"""Each of several models against a base: every comparison that is shown is one of Holm's family."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rl.compare import (
    ALPHA,
    Comparison,
    Difference,
    check_names,
    compare,
    difference,
    shared_parsers,
    turned,
    unseen,
    verdict_of,
)
from rl.compare_models import Pair, mixed, paired, weights_of
from rl.compare_sides import Side, read_sides
from rl.errors import CommandError
from rl.evaluation_result import scores_of
from rl.statistics import Proportion, holm, proportion

EVERY = "all"  # in place of the names of parsers


@dataclass(frozen=True)
class Compared:
    """A model less the base, by one protocol and one parser. found: with p adjusted, and verdict and words of the family.

    base, other: accuracy of each over all that was graded of it, with Wilson's interval.
    """

    model: str
    protocol: str
    parser: str
    base: Proportion
    other: Proportion
    found: Difference


@dataclass(frozen=True)
class Family:
    """All comparisons with the base. models: name -> where its weights come from, the base first."""

    base: str
    models: dict[str, str]
    compared: list[Compared]
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "family": len(self.compared)}


def compare_results(paths: Sequence[Path], *, mix: bool = False, parsers: Collection[str] = ()) -> Family | Comparison:
    """Two results in detail, by all parsers unless some are named; or each of several models against the first.

    paths: folders of results, their samples, or folders that hold several results.

    Raises CommandError where there is nothing to compare; else as `compare` and `compare_models`.
    """
    sides, notes = read_sides(paths)
    every = [side for one in sides for side in one]
    if len(every) < 2:
        raise CommandError(f"{every[0].path} is one result, and two are compared; name another")
    if len(every) == 2:
        found = compare(every[0], every[1], mix=mix, parsers=() if EVERY in parsers else parsers)
    else:
        found = compare_models(sides, mix=mix, parsers=parsers)
    return replace(found, notes=[*found.notes, *notes])


def compare_models(sides: Sequence[Sequence[Side]], *, mix: bool = False, parsers: Collection[str] = ()) -> Family:
    """Each model against that of the first result, by every protocol that measured both.

    sides    the results that each argument names; all of one model, wherever they lie, are put together
    mix      each argument is one result, and is compared with the first, however it was measured
    parsers  which; none: the first of each protocol; "all": all

    Raises MixError where no protocol measured a model and the base, or its rows were others; CommandError.
    """
    models, pairs, notes = mixed(sides) if mix else paired(sides)
    looks = [(pair, parser) for pair in pairs for parser in _chosen(pair, parsers)]
    check_names(
        [name for name in parsers if name != EVERY], list(dict.fromkeys(name for _, name in looks)) or _all(pairs)
    )
    found = [difference(parser, pair.base, pair.other, len(looks)) for pair, parser in looks]
    adjusted = holm([one.p_value for one in found])
    base = next(iter(models))
    compared = [
        Compared(
            pair.model,
            pair.protocol,
            parser,
            accuracy(pair.base, parser),
            accuracy(pair.other, parser),
            _judged(replace(one, adjusted=p), pair.model, base, len(looks)),
        )
        for (pair, parser), one, p in zip(looks, found, adjusted, strict=True)
    ]
    told = [note for pair in pairs for note in pair.notes]
    told += [note for (pair, parser), one in zip(looks, found, strict=True) for note in _ungraded(pair, parser, one)]
    return Family(base, models, compared, list(dict.fromkeys([*told, *notes, *_doubts(pairs)])))


def accuracy(side: Side, parser: str) -> Proportion:
    """As the result itself says it."""
    labels = [row.get("cluster_label") or row["prompt_id"] for row in side.rows]
    return proportion(scores_of(side.rows, parser), labels)


def _ungraded(pair: Pair, parser: str, found: Difference) -> list[str]:
    """Where the difference is not that of the two accuracies beside it."""
    both, prompts = int(found.difference["n"]), len({row["prompt_id"] for row in pair.base.rows})
    if not 0 < both < prompts:
        return []
    return [
        f"{pair.protocol}, {parser}: {pair.model} is compared over the {both} of {prompts} prompts that were graded in both"
    ]


def _chosen(pair: Pair, parsers: Collection[str]) -> list[str]:
    shared = shared_parsers(pair.base, pair.other)
    if not parsers:
        return shared[:1]
    return shared if EVERY in parsers else [parser for parser in shared if parser in parsers]


def _all(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in shared_parsers(pair.base, pair.other)))


def _judged(one: Difference, model: str, base: str, looks: int) -> Difference:
    """With the verdict and the words that hold among so many looks."""
    verdict = verdict_of(one.difference, one.p_value, one.adjusted)
    return replace(one, verdict=verdict, words=_words(one, verdict, model, base, looks) if one.clusters else one.words)


def _words(one: Difference, verdict: str, model: str, base: str, looks: int) -> str:
    """One sentence; points are percent points, and the interval is of this comparison alone."""
    gain = one.difference
    moved = f"{100 * gain['value']:+.1f} points [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
    chance = f"{_p(one.adjusted)} after Holm over {looks} comparisons" if looks > 1 else _p(one.p_value)
    if verdict in ("better", "worse"):
        return f"{model} is {verdict} than {base} by {abs(100 * gain['value']):.1f} points {turned(gain, verdict)}, {chance}"
    if verdict == "none":
        limit = "" if one.seen != one.seen else f"; {unseen(one.seen)} would mostly not have been seen"
        return f"no difference between {model} and {base} shown ({moved}, {chance}){limit}"
    alone = _p(one.p_value)
    if one.p_value < ALPHA <= one.adjusted:
        return f"not settled: {model} less {base} is {moved}, {alone} by itself and {chance}"
    return f"not settled: {model} less {base} is {moved}, and the test says otherwise ({alone})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _doubts(pairs: Sequence[Pair]) -> Iterator[str]:
    """What a reader should know besides."""
    for pair in pairs:
        a, b = pair.base.result, pair.other.result
        if not a or not b:
            continue
        if weights_of(pair.base) == weights_of(pair.other):
            yield f"{pair.model} has the weights of the base"
        shared = shared_parsers(pair.base, pair.other)
        other = [name for name in shared if a["parsers"].get(name) != b["parsers"].get(name)]
        if other:
            yield (
                f"{pair.protocol}: {pair.model} was graded by different code ({', '.join(other)}); grade both again with unmask grade "
                "before believing a difference"
            )
        if a["hash"] == b["hash"] and a["changed"] and b["changed"]:
            yield f"{pair.protocol}: measured with changes ({'; '.join(a['changes'])}); no published number is measured so"

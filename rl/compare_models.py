"""Results as models by protocols: which results are of one model, and which of a model's stand beside which of the base's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.compare import check_alike
from rl.compare_sides import MixError, Side, natural, unlike
from rl.errors import CommandError

PARTS = ("checkpoints", "adapter", "model")  # of a run's folder, and no name of a model


@dataclass(frozen=True)
class Model:
    """Weights, and their results by the hash of the protocol. source: as the results name it."""

    name: str
    source: str
    results: dict[str, Side]


@dataclass(frozen=True)
class Pair:
    """A result of a model and the base's by the same protocol, or, mixed, by another."""

    model: str
    protocol: str
    base: Side
    other: Side
    notes: tuple[str, ...] = ()


def mixed(sides: Sequence[Sequence[Side]]) -> tuple[dict[str, str], list[Pair], list[str]]:
    """Each argument against the first."""
    for one in sides:
        if len(one) != 1:
            raise CommandError(
                f"--mix compares single results with the first, whatever measured them, and {', '.join(side.path for side in one)} "
                "came from one argument; name the results themselves"
            )
    first, *others = (one for (one,) in sides)
    names = _told_apart([side.path for side in (first, *others)], [side.path for side in (first, *others)])
    pairs = []
    for name, side in zip(names[1:], others, strict=True):
        told = check_alike(first, side, mix=True)
        label = _title(first) if not told else f"{_title(first)} / {_title(side)}"
        notes = tuple(f"NOT MEASURED ALIKE: {name}: {what}" for what in told)
        pairs.append(Pair(name, label, first, side, notes))
    return dict(zip(names, (source_of(side) for side in (first, *others)), strict=True)), pairs, []


def _title(side: Side) -> str:
    return side.result.get("protocol", "unknown")


def paired(sides: Sequence[Sequence[Side]]) -> tuple[dict[str, str], list[Pair], list[str]]:
    """Each model's results beside the base's, by the hash of the protocol; and who was not measured by what."""
    base, *others = group(sides)
    if not others:
        raise CommandError(
            f"all of these are results of {base.name} ({base.source}); there is nothing to compare it with. "
            "Two results alone are compared, whatever their weights"
        )
    labels = _labels([base, *others])
    pairs, notes = [], []
    for model in others:
        both = [key for key in base.results if key in model.results]
        if not both:
            raise MixError(_nothing_shared(base, model))
        for key in both:
            check_alike(base.results[key], model.results[key], mix=False)
            pairs.append(Pair(model.name, labels[key], base.results[key], model.results[key]))
        notes += [f"{model.name} was not measured by {labels[key]}" for key in base.results if key not in both]
        notes += [
            f"{base.name} was not measured by {labels[key]}, and {model.name}'s result by it is compared with nothing"
            for key in model.results
            if key not in both
        ]
    # 128 before 1024; the models of one protocol stay as they were named.
    pairs.sort(key=lambda pair: natural(pair.protocol))
    return {model.name: model.source for model in (base, *others)}, pairs, notes


def group(sides: Sequence[Sequence[Side]]) -> list[Model]:
    """Results by their models, that of the first result first.

    One model: the same weights; or, where protocols ask different dtypes and weights therefore have different fingerprints, the same
    source. Raises CommandError where the first argument holds several, or a protocol measured one of them twice.
    """
    every = [side for one in sides for side in one]
    for side in every:
        if not side.result:
            raise MixError(
                f"nobody knows how {side.path} was measured: there is no result.json beside it; --mix compares it all the same"
            )
    members = [[side for many in one.values() for side in many] for one in _groups(every)]
    if len({_home(members, side) for side in sides[0]}) > 1:
        named = ", ".join(dict.fromkeys(source_of(side) for side in sides[0]))
        raise CommandError(
            f"the first argument holds results of several models ({named}), and one of them is the base: name a result of it first"
        )
    names = _told_apart([source_of(many[0]) for many in members], [weights_of(many[0])[:6] for many in members])
    return [
        Model(name, source_of(many[0]), _by_protocol(many, name)) for name, many in zip(names, members, strict=True)
    ]


def _groups(every: Sequence[Side]) -> list[dict[str, list[Side]]]:
    """Of each model, its results by dtype. Raises CommandError where weights changed and nobody knows which belong together."""
    groups: list[dict[str, list[Side]]] = []
    for side in every:
        dtype = side.result["settings"]["dtype"]
        for one in groups:
            if weights_of(one[dtype][0]) == weights_of(side) if dtype in one else _alike(one, side):
                one.setdefault(dtype, []).append(side)
                break
        else:
            groups.append({dtype: [side]})
    for one in groups:
        (first, *_), *_ = one.values()
        if len(one) > 1 and sum(_alike(other, first) for other in groups) > 1:
            raise CommandError(
                f"the weights at {source_of(first)} changed between these evaluations, and as their dtypes differ too nobody knows which "
                "belong together; name results of one state of them"
            )
    return groups


def _alike(one: Mapping[str, Sequence[Side]], side: Side) -> bool:
    return any(_origin(other) == _origin(side) for many in one.values() for other in many)


def _home(members: Sequence[Sequence[Side]], side: Side) -> int:
    return next(i for i, many in enumerate(members) if any(side is one for one in many))


def _by_protocol(sides: Sequence[Side], name: str) -> dict[str, Side]:
    found: dict[str, Side] = {}
    for side in sides:
        there = found.setdefault(side.result["hash"], side)
        if there is not side:
            raise CommandError(
                f"two results of {name} by {side.protocol}, with the same weights: {there.path} and {side.path}. Name one of them; "
                "several seeds are one result (unmask eval PROTOCOL --seeds 0,1,2), and two results alone are compared as they are"
            )
    return found


def _nothing_shared(base: Model, model: Model) -> str:
    """Which protocols measured either, and how the two that are most alike differ."""
    first, second = list(base.results.values()), list(model.results.values())
    near = next(((a, b) for a in first for b in second if a.result["protocol"] == b.result["protocol"]), None)
    told = "" if near is None else "".join(f"\n    {line}" for line in unlike(*near))
    return (
        f"no protocol measured both {base.name} ({', '.join(side.protocol for side in first)}) and {model.name} "
        f"({', '.join(side.protocol for side in second)}){told}\n    --mix compares single results all the same"
    )


# ------------------------------------------------------------------------------------------------------------- the names


def weights_of(side: Side) -> str:
    """Their fingerprint, 64 hexadecimal digits."""
    return side.result["model"]["fingerprint"]


def _origin(side: Side) -> list[str]:
    return [str(side.result["model"][name]) for name in ("path", "adapter", "checkpoint")]


def source_of(side: Side) -> str:
    """Where the weights were: a path or a name on the Hub."""
    model = side.result.get("model")
    return str(model["checkpoint"] or model["adapter"] or model["path"]) if model else side.path


def _told_apart(paths: Sequence[str], more: Sequence[str]) -> list[str]:
    """Short names: as many of the last parts of each path as tell it from the others, and `more` where all are alike."""
    parts = [[part for part in Path(path).parts if part not in PARTS] or [path] for path in paths]

    def called(i: int) -> str:
        mine = parts[i]
        for depth in range(2 if mine[-1].startswith(("update-", "best", "warm_start")) else 1, len(mine) + 1):
            if all(parts[j][-depth:] != mine[-depth:] for j in range(len(parts)) if j != i):
                return "/".join(mine[-depth:])
        return f"{mine[-1]} ({more[i]})"

    return [called(i) for i in range(len(parts))]


def _labels(models: Sequence[Model]) -> dict[str, str]:
    """Protocols by their hash: those of the base in its order, then the others'. Two of one name are told apart by the hash."""
    sides = {key: side for model in models for key, side in model.results.items()}
    names = [_title(side) for side in sides.values()]
    return {
        key: f"{_title(side)} ({key[:8]})" if names.count(_title(side)) > 1 else _title(side)
        for key, side in sides.items()
    }

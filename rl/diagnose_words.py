"""What a diagnosis says in words: which estimator, how sure that is, and what it does not say."""

import math
from collections.abc import Iterator, Sequence

from rl.config_errors import listing
from rl.diagnose_rows import Diagnosis, Row
from rl.diagnose_stats import FEW, MARGIN, UNDECIDED

OFF = 0.95  # a cosine whose interval ends below this points elsewhere, whatever the budget


def advice(found: Diagnosis) -> list[str]:
    """Sentences, the recommendation first."""
    return [
        *_recommendation(found),
        *_own(found),
        *_less(found),
        *_variance(found),
        *_beyond(found),
        *_caveats(found),
    ]


def contender(found: Diagnosis) -> Row | None:
    """The best that is not the target itself; None where nothing can be said."""
    rows = [row for row in found.rows if row.affordable and not row.exact]
    return rows[0] if found.leader is not None and rows and rows[0].worth["value"] > 0 else None


def rivals(found: Diagnosis) -> list[Row]:
    """What is as good as the contender: worth as much in at least ``UNDECIDED`` of the resamples, or within ``MARGIN`` of it."""
    best = contender(found)
    if best is None:
        return []
    others = [row for row in found.rows if row.affordable and row is not best and not row.exact]
    return [row for row in others if row.rival >= UNDECIDED or row.worth["value"] >= best.worth["value"] - MARGIN]


def frontier(found: Diagnosis) -> list[tuple[int, Row, float]]:
    """(views per rollout, the estimator worth most at no more than that, its worth) for 1, 2, 4, .. up to the budget."""
    best = []
    views = 1
    while views < found.budget:
        points = [
            (max((worth for cost, worth in row.curve if cost <= views + 1e-9), default=-math.inf), row)
            for row in found.rows
        ]
        worth, row = max(points, key=lambda point: point[0])
        if worth > 0:
            best.append((views, row, worth))
        views *= 2
    return best


def share(value: float) -> str:
    return "?" if math.isnan(value) else f"{100 * value:.0f} %"


def views_of(count: float) -> str:
    return "1 view" if count == 1 else f"{count:.3g} views"


def span(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{share(low)}, {share(high)}]"


def law_name(found: Diagnosis) -> str:
    return "joint law of tokens and order" if found.joint else "law of the tokens given their order"


def _recommendation(found: Diagnosis) -> Iterator[str]:
    more = f"--prompts {2 * max(found.prompts, FEW * found.prompts // max(found.groups, 1))}"
    if found.groups < FEW:
        have = "only 1 prompt has" if found.groups == 1 else f"only {found.groups} prompts have"
        yield (
            f"Cannot tell: of {found.prompts} prompts {have} rollouts with different rewards, and a recommendation from so "
            f"few is chance. Take more ({more}), a larger rollout.group_size, or a model that solves some and not all."
        )
        return
    leader = found.leader
    if leader is None:
        yield (
            "Cannot tell: no estimator's gradient stands out of its noise in the direction of the trajectory's. Take more of "
            f"both: {more} --plans 64 --budget {2 * found.budget}."
        )
        return
    best, close = contender(found), rivals(found)
    if leader.exact:
        told = "none" if best is None else f"{best.name}, worth {_worth(best)} of its progress per step"
        yield (
            f"{found.budget} views per rollout pay for the trajectory gradient itself: {leader.name}, which the others are "
            f"measured by and cannot beat. Best of the others by signal-to-noise towards it: {told}."
        )
    else:
        each = views_of(leader.views)
        paid = f"{leader.averaged} plans of {each}" if leader.averaged > 1 and leader.random else each
        yield (
            f"At {found.budget} views per rollout, {leader.name} has the best signal-to-noise towards the trajectory gradient "
            f"({paid}): a step along it is worth {_worth(leader)} of one along the exact gradient."
        )
    if best is not None and close:
        quickest = min([best, *close], key=lambda row: row.seconds * (row.averaged if row.random else 1))
        verb = "is" if len(close) == 1 else "are"
        yield (
            f"Within noise: {_names(close)} {verb} not told apart from {best.name} by these {found.groups} prompts (paired "
            f"bootstrap over prompts, or within {100 * MARGIN:g} points). Of these, {quickest.name} takes the least time. To "
            f"tell them apart: {more}."
        )


def _own(found: Diagnosis) -> Iterator[str]:
    for place, row in enumerate(found.rows, 1):
        if row.own and row is not found.leader:
            dear = "" if row.affordable else f", at {views_of(row.views)}, which is beyond the budget"
            yield (
                f"This recipe's own estimator, {row.name}, is worth {_worth(row)}: place {place} of {len(found.rows)}{dear}."
            )


def _less(found: Diagnosis) -> Iterator[str]:
    steps = frontier(found) if found.leader is not None else []
    if steps:
        told = [f"{views_of(n)}: {row.name} ({share(worth)})" for n, row, worth in steps]
        yield f"With a smaller budget, the best measured at {'; '.join(told)}."


def _variance(found: Diagnosis) -> Iterator[str]:
    """Why not by variance: whose gradient has the least noise, and what it is worth."""
    leader = found.leader
    ranked = [row for row in found.rows if row.affordable and not math.isnan(row.snr)]
    if leader is None or not ranked:
        return
    quiet = max(ranked, key=lambda row: (row.snr, -row.worth["value"]))
    if quiet is leader or quiet in rivals(found) or quiet.worth["value"] > 0.9 * leader.worth["value"]:
        return
    noise = "no variance at all" if math.isinf(quiet.snr) else "the least relative variance"
    yield (
        f"By variance alone one would take {quiet.name}, which has {noise}; its cosine to the trajectory gradient is "
        f"{quiet.cosine['value']:.2f}, so it is worth {share(quiet.worth['value'])}, and no further draws change that."
    )


def _beyond(found: Diagnosis) -> Iterator[str]:
    dear = [row for row in found.rows if not row.affordable]
    if dear:
        told = listing([f"{row.name} ({views_of(row.views)})" for row in dear], 20)
        most = max(math.ceil(row.views) for row in dear)
        yield f"Beyond the budget and not ranked: {told}. To rank them: --budget {most}."


def _caveats(found: Diagnosis) -> Iterator[str]:
    off = [row for row in found.rows if row.cosine["high"] < OFF]
    if off and found.groups >= FEW:
        yield (
            f"Biased for this purpose: the gradients of {_names(off)} point elsewhere than the trajectory's (the interval of "
            f"the cosine ends below {OFF:g}); averaging more draws removes their noise and not this."
        )
    if not math.isnan(found.chance):
        chance = share(min(max(found.chance, 0.0), 1.0))
        yield (
            f"Of the squared length of the trajectory gradient of these {found.groups} prompts, about {chance} is chance of "
            "the prompts and rollouts drawn. Mask noise well below that is not worth paying for: more prompts are."
        )
    yield _of_the_law(found)
    if found.joint:
        yield (
            f"After one AdamW step of size {found.step_size:g} along that gradient the exact log-ratio of a row spreads by "
            f"{found.step.spread:.2g} nats under the joint law (effective sample size {share(found.step.ess)}), by "
            f"{found.step_tokens.spread:.2g} under that of the tokens given their order ({share(found.step_tokens.ess)}). "
            "Where it is wide, ratios need a clip or a smaller step."
        )
    bent = [row for row in found.rows if not row.linear]
    if bent:
        verb = "is" if len(bent) == 1 else "are"
        yield (
            f"{_names(bent)} {verb} not linear in the scores: averaging plans lowers the variance, and the bias of few draws stays."
        )
    yield (
        "All this is at the weights at hand, on the first pass over one batch, to first order. It says what a gradient is "
        "worth, not how training ends; `unmask train` with two or three seeds does."
    )


def _of_the_law(found: Diagnosis) -> str:
    """What the law that gradients are held against leaves out."""
    if found.joint:
        return (
            "Gradients are held against the joint law of tokens and order. Its derivative holds the event of the order fixed, "
            "and leaves out what happens where a confidence crosses the threshold. The column 'tokens' holds them against the "
            "product of the tokens alone, which is order-conditional."
        )
    if found.selection == "random":
        return "The random order does not depend on the policy: the law of the tokens given their order is all that has a gradient."
    return (
        f"Order-conditional: under selection {found.selection} the order is a certain function of the policy and has no "
        "density; gradients are held against the law of the tokens given their order, which is not all of the policy."
    )


def _worth(row: Row) -> str:
    return share(row.worth["value"]) + span(row.worth["low"], row.worth["high"])


def _names(rows: Sequence[Row]) -> str:
    return listing([row.name for row in rows], 20)

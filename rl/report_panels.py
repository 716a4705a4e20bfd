"""What the report draws: one panel per quantity, in the order of the page, each with its unit and what to look for.

A panel without data in any of the compared runs is left out. A metric that no panel names gets a panel of its own under
"Other numbers", so that nothing a run wrote is hidden.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["line", "band", "stack", "spikes"]

# What each monitor of rl.monitors watches: the figures its alarms are marked on, besides the first.
ALARM_METRICS = {
    "group_collapse": ("group_diversity",),
    "reward_all_format": ("reward",),
    "zero_signal": ("zero_signal_groups",),
    "length_drift": ("length", "eos"),
    "ratio_tails": ("ratio", "ess"),
    "reference_drift": ("kl", "penalty"),
    "entropy_collapse": ("entropy",),
    "no_change": ("optim/changed_bf16",),
    "eval_falls": ("reward",),
}


@dataclass(frozen=True)
class Panel:
    """One small figure. keys: the metrics it draws; labels: their short names, where there are several.

    kind: line; band (keys are low, middle, high); stack (areas that add up); spikes (a line that is never smoothed). zero: the axis
    starts at 0. log: a log axis where the values span a wide range, or "always". source: which rows the keys belong to.
    """

    section: str
    title: str
    keys: tuple[str, ...]
    unit: str = ""
    note: str = ""
    labels: tuple[str, ...] = ()
    kind: Kind = "line"
    zero: bool = False
    log: bool | Literal["always"] = False
    source: Literal["metrics", "warm_start"] = "metrics"


LEARNING, GROUPS, POLICY = "Learning", "Rewards and groups", "Policy and ratios"
PAIRS, TEXT, OPTIMIZER, TIME = "Preferences", "Completions", "Optimizer", "Time"
WARM_START, USER, OTHER = "Warm start", "Your own numbers", "Other numbers"

_FIXED = (
    Panel(
        GROUPS,
        "reward",
        ("reward",),
        note="the weighted sum that is trained on; accuracy is drawn above, without format credit",
    ),
    Panel(
        GROUPS,
        "advantage spread",
        ("advantage_std",),
        note="standard deviation of the advantages; near 0 nothing is learned",
        zero=True,
    ),
    Panel(
        GROUPS,
        "groups without signal",
        ("zero_signal_groups",),
        "share",
        "groups whose rollouts all got the same reward: they add no gradient",
        zero=True,
    ),
    Panel(
        GROUPS,
        "group diversity",
        ("group_diversity",),
        "distinct / all",
        "distinct completions per group; falling towards 1 / group size means identical samples",
        zero=True,
    ),
    Panel(
        GROUPS, "rows with a gradient", ("signal_share",), "share", "rollouts that take part in the update", zero=True
    ),
    Panel(
        GROUPS,
        "groups that fail whole",
        ("failed_groups",),
        "share",
        "no rollout of the policy's own is right; under strategy inpaint these are given hints",
        zero=True,
    ),
    Panel(
        GROUPS, "hinted rollouts", ("hinted",), "share", "of the update: drawn with parts of a trace given", zero=True
    ),
    Panel(GROUPS, "verified rollouts", ("verified_share",), "share", "those that raft learns from", zero=True),
    Panel(
        GROUPS,
        "backslide",
        ("backslide",),
        "share",
        "rollouts that had a better answer at some denoising step than at the end",
        zero=True,
    ),
    Panel(GROUPS, "reward of recorded answers", ("step_reward",), note="mean over the denoising steps"),
    Panel(
        POLICY,
        "entropy",
        ("entropy",),
        "nats",
        "of the raw law where tokens were revealed; a collapse ends exploration",
        zero=True,
    ),
    Panel(POLICY, "KL to the reference", ("kl",), "nats", "how far the policy has moved", zero=True, log=True),
    Panel(
        POLICY,
        "penalty to the reference",
        ("penalty",),
        note="the KL term on a surrogate likelihood, so it is called a penalty",
        zero=True,
        log=True,
    ),
    Panel(
        POLICY,
        "ratio new / old",
        ("ratio_min", "ratio", "ratio_max"),
        note="smallest, mean and largest ratio of the last inner pass; 1 while there is only one pass",
        labels=("min", "mean", "max"),
        kind="band",
        log="always",
    ),
    Panel(POLICY, "effective sample size", ("ess",), "share", "of the ratios; 1 is on policy", zero=True),
    Panel(POLICY, "clipped units", ("clip_share",), "share", "units whose gradient the clip removed", zero=True),
    Panel(
        POLICY,
        "drift in the update",
        ("approx_kl_old",),
        "nats",
        "k3 estimate between the policy and itself before the update",
        zero=True,
        log=True,
    ),
    Panel(
        POLICY,
        "log-ratio",
        ("log_ratio",),
        "nats",
        "how far the policy is from the one that drew the samples; this objective does not correct it",
    ),
    Panel(
        POLICY,
        "weights of the rollouts",
        ("weight_min", "weight_max"),
        note="smallest and largest of the target's weights, less the baseline",
        labels=("min", "max"),
    ),
    Panel(
        POLICY,
        "effective size of the weights",
        ("weight_ess",),
        "share",
        "of a group; 1 / group size: one rollout has all the weight",
        zero=True,
    ),
    Panel(POLICY, "log-probability", ("logprob",), "nats per token", "of the scored tokens"),
    Panel(
        POLICY,
        "learner against sampler",
        ("sampler_gap", "sampler_gap_max"),
        "nats",
        "difference of the log-probabilities of drawn tokens; more than rounding means that two laws are at work",
        labels=("mean", "max"),
        zero=True,
        log=True,
    ),
    Panel(
        POLICY,
        "first pass gap",
        ("first_pass_gap",),
        "nats",
        "the same weights scored twice; rounding only",
        zero=True,
        log=True,
    ),
    Panel(
        PAIRS,
        "score",
        ("preference/score", "preference/chosen", "preference/rejected"),
        "nats",
        "ELBO against the reference, chosen minus rejected; both parts falling means that the policy unlearns either answer",
        labels=("score", "chosen", "rejected"),
    ),
    Panel(
        PAIRS,
        "pairs in the right order",
        ("preference/accuracy",),
        "share",
        "pairs of this update with a score above 0; they are trained on right after",
        zero=True,
    ),
    Panel(
        PAIRS,
        "terms of the loss",
        ("preference/loss", "preference/sft"),
        "nats",
        "log 2 at the start; sft: of the chosen answer, before its weight",
        labels=("dpo", "sft"),
    ),
    Panel(
        PAIRS,
        "extremes of the score",
        ("score_min", "score_max"),
        "nats",
        "of single pairs; a few that run away are pairs learned by heart",
        labels=("min", "max"),
    ),
    Panel(PAIRS, "pairs per update", ("pairs",), zero=True),
    Panel(TEXT, "length", ("length",), "tokens", "of completions, up to the first EOS", zero=True),
    Panel(TEXT, "completions with EOS", ("eos",), "share", zero=True),
    Panel(TEXT, "truncated", ("truncated",), "share", "completions that filled the canvas without EOS", zero=True),
    Panel(OPTIMIZER, "loss", ("loss",), note="of the surrogate: its level says little"),
    Panel(
        OPTIMIZER,
        "gradient norm",
        ("optim/grad_norm",),
        note="before it is scaled down to max_grad_norm",
        zero=True,
        log=True,
    ),
    Panel(OPTIMIZER, "learning rate", ("optim/lr",), zero=True),
    Panel(
        OPTIMIZER,
        "changed weights",
        ("optim/changed_bf16",),
        "share",
        "of the published elements that a step changed; 0: lr is below what the type can hold",
        zero=True,
    ),
    Panel(
        OPTIMIZER,
        "version lag",
        ("lag",),
        "updates",
        "by which the weights that drew a batch are older than those that learn from it",
        zero=True,
    ),
    Panel(
        OPTIMIZER,
        "correction",
        ("correction/weight", "correction/cut", "correction/effective_share"),
        note="mean weight of a rollout or unit, share of weights that were cut, and the share of them that the rest amounts to",
        labels=("weight", "cut", "effective share"),
        zero=True,
    ),
    Panel(OPTIMIZER, "largest log-ratio", ("correction/log_ratio_max",), "nats", "policy against what drew", zero=True),
    Panel(OPTIMIZER, "skipped updates", ("skipped",), note="1: no rollout had a gradient", kind="spikes", zero=True),
    Panel(
        TIME,
        "seconds per update",
        ("seconds/rollout", "seconds/reward", "seconds/train"),
        "s",
        "by phase; the areas add up, unless batches are drawn ahead (rollout.async_depth): then rollout and reward go on beside train. "
        "Evaluations and saving come between updates and stand by themselves",
        labels=("rollout", "reward", "train"),
        kind="stack",
        zero=True,
    ),
    Panel(
        TIME,
        "an update by the clock",
        ("seconds/update",),
        "s",
        "from one to the next, evaluation and saving left out",
        zero=True,
    ),
    Panel(
        TIME,
        "waiting for a batch",
        ("seconds/waiting",),
        "s",
        "of batches drawn ahead: what drawing and grading were not hidden behind learning",
        zero=True,
    ),
    Panel(TIME, "overlap", ("overlap",), "share", "of drawing and grading that was hidden behind learning", zero=True),
    Panel(TIME, "seconds of evaluation", ("seconds/eval",), "s", kind="spikes", zero=True),
    Panel(TIME, "seconds of saving", ("seconds/save",), "s", kind="spikes", zero=True),
    Panel(
        TIME,
        "tokens per second",
        ("tokens_per_second",),
        "1/s",
        "drawn tokens over the seconds of the rollouts",
        zero=True,
    ),
    Panel(WARM_START, "loss", ("loss",), "nats", source="warm_start"),
    Panel(WARM_START, "gradient norm", ("grad_norm",), zero=True, log=True, source="warm_start"),
    Panel(WARM_START, "learning rate", ("lr",), zero=True, source="warm_start"),
    Panel(WARM_START, "changed weights", ("changed_bf16",), "share", zero=True, source="warm_start"),
)

_OF_WORKERS = {
    "replaced": "lost and started anew, since the start",
    "waiting": "pieces of work per sampler when drawing began; below 2, the slowest is waited for",
}

_OF_GRADING = {
    "infrastructure_failures": "grading failed",
    "errors": "raised",
    "lost": "hung or died",
    "retries": "tried again",
    "cache_hits": "known before",
}

# The first is drawn with the held-out accuracy, the second is one number, said in the head.
_ELSEWHERE = {"outcome", "seconds/warm_start"}


def panels(metrics: Collection[str], warm_start: Collection[str]) -> list[dict[str, Any]]:
    """The panels for these metric names, in the order of the page, as plain data."""
    found = [_present(panel, warm_start if panel.source == "warm_start" else metrics) for panel in _FIXED]
    chosen = [panel for panel in found if panel is not None]
    named = _ELSEWHERE | {key for panel in chosen if panel.source == "metrics" for key in panel.keys}
    named_warm = {key for panel in chosen if panel.source == "warm_start" for key in panel.keys}
    chosen += list(_families(sorted(set(metrics) - named)))
    chosen += [Panel(WARM_START, name, (name,), source="warm_start") for name in sorted(set(warm_start) - named_warm)]
    order = (GROUPS, POLICY, PAIRS, TEXT, OPTIMIZER, TIME, WARM_START, USER, OTHER)
    # Rewards stand together, the total first.
    chosen.sort(key=lambda panel: (order.index(panel.section), not panel.keys[0].startswith("reward")))
    return [asdict(panel) for panel in chosen]


def _present(panel: Panel, names: Collection[str]) -> Panel | None:
    """The panel with the keys that have data; None without any. A band that lacks an edge becomes a line."""
    kept = [i for i, key in enumerate(panel.keys) if key in names]
    if not kept:
        return None
    labels = tuple(panel.labels[i] for i in kept) if panel.labels else ()
    whole = len(kept) == len(panel.keys)
    kind = panel.kind if whole or panel.kind != "band" else "line"
    return replace(panel, keys=tuple(panel.keys[i] for i in kept), labels=labels, kind=kind)


def _of_reward(name: str, tail: str, names: Collection[str]) -> Panel:
    """The panel of a reward's scores, or that of what went wrong in scoring."""
    base, _, what = name.rpartition("/")
    if what in _OF_GRADING:
        keys = tuple(f"{base}/{one}" for one in _OF_GRADING if f"{base}/{one}" in {name, *names})
        labels = tuple(_OF_GRADING[key.rpartition("/")[2]] for key in keys)
        title = f"grading: {base.removeprefix('reward/')}"
        return Panel(GROUPS, title, keys, "rollouts", "of an update", labels=labels, kind="spikes", zero=True)
    beside = [one for one in ("std", "hits") if f"{name}/{one}" in names]
    if not beside:
        return Panel(GROUPS, f"reward: {tail}", (name,))
    note = "over all rollouts; dashed: their spread, and the share of scores above 0 (hits)"
    keys = (name, *(f"{name}/{one}" for one in beside))
    return Panel(GROUPS, f"reward: {tail}", keys, note=note, labels=("mean", *beside))


def _families(names: list[str]) -> Iterable[Panel]:
    """Panels of the names that a recipe decides: rewards, dropped rollouts, the user's own; then whatever is left."""
    left = set(names)
    for name in names:
        head, _, tail = name.partition("/")
        if name not in left:
            continue
        left.discard(name)
        if head == "reward":
            panel = _of_reward(name, tail, left)
            left.difference_update(panel.keys)
            yield panel
        elif head == "dropped":
            yield Panel(
                GROUPS,
                f"dropped: {tail}",
                (name,),
                "rollouts",
                "left out of the update, for this reason",
                kind="spikes",
                zero=True,
            )
        elif head == "user":
            yield Panel(USER, tail, (name,))
        elif head == "workers" and tail.startswith("idle/"):
            idle = tuple(other for other in names if other.startswith("workers/idle/"))
            left.difference_update(idle)
            labels = tuple(other.removeprefix("workers/idle/") for other in idle)
            note = "of the time of drawing in which a sampler had nothing to do"
            yield Panel(TIME, "idle samplers", idle, "share", note, labels=labels, zero=True)
        elif head == "workers":
            note = _OF_WORKERS.get(tail, "")
            yield Panel(TIME, f"workers: {tail}", (name,), note=note, zero=True)
        elif head == "seconds":
            yield Panel(TIME, tail.replace("reward/", "seconds of reward: "), (name,), "s", zero=True)
        else:
            yield Panel(OTHER, name, (name,))

"""Named compositions. ``PRESETS`` holds what each published method differs in from the defaults; a recipe overrides any choice."""

import difflib
from typing import Any

# Each entry: what differs from the defaults. docs/methods.md gives the paper, the equation and the departures.
PRESETS: dict[str, dict[str, Any]] = {
    "diffu_grpo": {
        "estimator": {"kind": "mean_field", "prompt_mask_prob": 0.15, "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "trajectory_grpo": {
        "estimator": {"kind": "trajectory", "unit": "token", "law": "sampler"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "order_grpo": {
        "estimator": {"kind": "trajectory", "unit": "step", "law": "sampler", "order": True},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "cj_grpo": {
        "estimator": {"kind": "trajectory", "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 8,
    },
    "d2": {
        "estimator": {"kind": "trajectory", "segments": 8, "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "agrpo": {
        "estimator": {"kind": "trajectory", "sample_steps": 24, "unit": "token", "law": "sampler"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    "gspo": {
        "estimator": {"kind": "mean_field", "prompt_mask_prob": 0.0, "unit": "sequence"},
        "objective": {"kind": "clipped", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        "advantage": "group_normalized",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 4,
    },
    "espo": {
        "estimator": {"kind": "elbo", "draws": 2, "pair": "complement"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "leave_one_out",
        "reduction": "sequence_mean",
        "kl": {"beta": 1e-3, "estimator": "k2_sum", "reference": "base"},
        "inner_passes": 8,
    },
    "bgpo": {
        "estimator": {"kind": "elbo", "draws": 16, "unit": "draw"},
        "objective": {"kind": "linear_bound", "epsilon_low": 0.2, "epsilon_high": 0.2, "dual": 3.0},
        "advantage": "group_normalized",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
    # with rollout.strategy inpaint
    "igpo": {
        "estimator": {"kind": "mean_field", "prompt_mask_prob": 0.0, "hints": 0.2, "unit": "sequence"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.01, "estimator": "k3", "reference": "base"},
        "inner_passes": 4,
    },
    # with rollout.strategy recorded
    "mdpo": {
        "estimator": {"kind": "x0_action", "sample_steps": 8, "confidence": True, "law": "sampler"},
        "objective": {"kind": "stepwise", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "stepwise",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.02, "estimator": "k2", "reference": "start"},
        "inner_passes": 1,
    },
    "wd1": {
        "estimator": {
            "kind": "mean_field",
            "prompt_mask_prob": 0.15,
            "unit": "sequence",
            "length_normalized": False,
        },
        "objective": {"kind": "policy_gradient"},
        "advantage": "softmax_difference",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 12,
    },
    "dmpo": {
        "estimator": {"kind": "elbo", "draws": 2, "pair": "complement", "length_normalized": False},
        "objective": {"kind": "weighted_ce", "alpha": 0.04, "baseline": "negative"},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0, "reference": "base"},
        "inner_passes": 8,
    },
    "vrpo": {
        "estimator": {"kind": "elbo", "draws": 8, "length_normalized": False},
        "objective": {"kind": "dpo", "beta": 0.2, "sft_weight": 0.05},
        "advantage": "best_worst",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0, "reference": "start"},
        "inner_passes": 1,
    },
    "online_vrpo": {
        "estimator": {"kind": "elbo", "draws": 8, "length_normalized": False},
        "objective": {"kind": "dpo", "beta": 0.2, "sft_weight": 0.05},
        "advantage": "best_worst",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0, "reference": "start"},
        "inner_passes": 1,
    },
    "raft": {
        "estimator": {"kind": "elbo", "draws": 2},
        "objective": {"kind": "raft"},
        "advantage": "verified",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
}
DEFAULT_PRESET = "trajectory_grpo"

UNION_KEYS = ("estimator", "objective")


def resolve(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe's ``method:`` merged over its preset. Changing the ``kind`` of a component drops the preset's settings for it.

    Raises ``KeyError`` with the nearest name for an unknown preset.
    """
    name = raw.get("preset") or DEFAULT_PRESET
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise KeyError(f"unknown preset '{name}'{hint} Presets: {', '.join(PRESETS)}")
    merged: dict[str, Any] = {**PRESETS[name], **raw, "preset": name}
    for key in (*UNION_KEYS, "kl"):
        ours, theirs = PRESETS[name].get(key, {}), raw.get(key)
        if isinstance(theirs, dict) and theirs.get("kind", ours.get("kind")) == ours.get("kind"):
            merged[key] = {**ours, **theirs}
    return merged

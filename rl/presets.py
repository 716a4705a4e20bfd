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
        "approximations": ("order_conditional",),
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
        "approximations": ("order_conditional",),
    },
    "d2": {
        "estimator": {"kind": "trajectory", "segments": 8, "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "group_centered",
        "reduction": "token_mean",
        "kl": {"beta": 0.04, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
        "approximations": ("order_conditional",),
    },
    "agrpo": {
        "estimator": {"kind": "trajectory", "sample_steps": 24, "unit": "token", "law": "sampler"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
        "approximations": ("order_conditional",),
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
    "uni_grpo": {
        "estimator": {"kind": "random_tokens", "schedule": "random_start", "low": 0.234, "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "sequence_mean",
        "kl": {"beta": 0.01, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "mask_grpo": {
        "estimator": {"kind": "random_tokens", "schedule": "even", "low": 0.6, "positions": "late", "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.01, "estimator": "k3", "reference": "base"},
        "inner_passes": 12,
    },
    "coupled_grpo": {
        "estimator": {"kind": "coupled", "low": 0.2, "high": 0.8, "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.5, "epsilon_high": 0.5},
        "advantage": "leave_one_out",
        "reduction": "token_mean",
        "kl": {"beta": 0.01, "estimator": "k3", "reference": "moving", "mix": 0.6, "every": 32},
        "inner_passes": 2,
    },
    "gdpo": {
        "estimator": {"kind": "elbo", "noise": "quadrature", "draws": 2},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_centered",
        "reduction": "sequence_mean",
        "kl": {"beta": 1e-3, "estimator": "k2_sum", "reference": "base"},
        "inner_passes": 8,
    },
    "spg": {
        "estimator": {"kind": "sandwich", "draws": 2, "beta": 1.5, "mix": 0.5, "length_normalized": False},
        "objective": {"kind": "policy_gradient"},
        "advantage": "group_centered",
        "reduction": {"constant": 256.0},
        "kl": {"beta": 0.0},
        "inner_passes": 4,
    },
    "tracerl": {
        "estimator": {"kind": "trajectory", "shrink": 8, "unit": "token", "law": "raw"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": "token_mean",
        "kl": {"beta": 0.0},
        "inner_passes": 1,
        "approximations": ("order_conditional",),
    },
    "just_grpo": {
        "estimator": {"kind": "ar_order", "unit": "token"},
        "objective": {"kind": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2},
        "advantage": "group_normalized",
        "reduction": {"constant": 256.0},
        "kl": {"beta": 0.0},
        "inner_passes": 1,
    },
}
DEFAULT_PRESET = "trajectory_grpo"

# Where each comes from, for docs/methods.md; numbers are of arXiv.
PAPERS: dict[str, str] = {
    "diffu_grpo": "d1, 2504.12216",
    "trajectory_grpo": "ours; cf. CJ-GRPO, TraceRL",
    "order_grpo": "ours; see the law of LLaDA's own sampler",
    "cj_grpo": "CJ-GRPO, 2509.23924",
    "d2": "d2-StepMerge, 2509.21474",
    "agrpo": "AGRPO, 2510.04019",
    "gspo": "GSPO, 2507.18071; on diffusion WAM-Diff, 2512.11872",
    "espo": "ESPO, 2512.03759",
    "bgpo": "BGPO, 2510.11683",
    "wd1": "wd1, 2507.08838",
    "dmpo": "DMPO, 2510.08233",
    "raft": "RAFT, 2304.06767",
    "uni_grpo": "UniGRPO in MMaDA, 2505.15809",
    "mask_grpo": "MaskGRPO, 2510.02880",
    "coupled_grpo": "coupled-GRPO in DiffuCoder, 2506.20639",
    "gdpo": "GDPO, 2510.08554",
    "spg": "SPG, 2510.09541",
    "tracerl": "TraceRL, 2509.06949",
    "just_grpo": "JustGRPO, 2601.15165",
    "igpo": "IGPO, 2509.10396",
    "mdpo": "MDPO, 2508.13148",
    "vrpo": "VRPO (LLaDA 1.5), 2505.19223",
    "online_vrpo": "VRPO's loss on pairs sampled anew, 2505.19223",
}

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

"""How positions and tokens are chosen, and what is recorded of it. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

LAW = "tests/rollouts/test_law.py"
SELECT = "tests/rollouts/test_select.py"
SAMPLER = "tests/rollouts/test_sampler_law.py"
PARITY = "tests/rollouts/test_sampler_parity.py"
RECORD = "tests/rollouts/test_trajectory.py"
HINTS = "tests/rollouts/test_hints.py"
IGPO = "tests/rl/test_igpo.py"
MDPO = "tests/rl/test_mdpo.py"

MUTATIONS = (
    # the token law
    Mutation("temperature multiplies", "rollouts/law.py", "z / law.temperature", "z * law.temperature", LAW),
    Mutation(
        "temperature zero takes the least probable", "rollouts/law.py", "z.argmax(-1, keep", "z.argmin(-1, keep", LAW
    ),
    Mutation("forbidden ids favoured", "rollouts/law.py", 'z.device), float("-inf"))', 'z.device), float("inf"))', LAW),
    Mutation("nucleus too small", "rollouts/law.py", "cumsum(-1) - ordered", "cumsum(-1)", LAW),
    Mutation("nucleus one too many", "rollouts/law.py", "ids, before < top_p)", "ids, before <= top_p)", LAW),
    Mutation(
        "nucleus of the least probable", "rollouts/law.py", "descending=True, stable", "descending=False, stable", LAW
    ),
    Mutation(
        "nucleus renormalised over rows",
        "rollouts/law.py",
        """float("-inf")), dim=-1)""",
        """float("-inf")), dim=0)""",
        LAW,
    ),
    Mutation("top-p ignored", "rollouts/law.py", "if law.top_p < 1.0:", "if law.top_p > 1.0:", LAW),
    Mutation(
        "draw may return zero-probability ids", "rollouts/law.py", "point, right=True)", "point, right=False)", LAW
    ),
    Mutation("draw past the end", "rollouts/law.py", "torch.minimum(index, last)", "torch.maximum(index, last)", LAW),
    Mutation(
        "draw in float32",
        "rollouts/law.py",
        "logq.to(torch.float64, copy=True).exp_().cumsum_(-1)",
        "logq.exp().cumsum(-1).double()",
        LAW,
    ),
    Mutation("draw ignores the total", "rollouts/law.py", ".unsqueeze(-1) * cdf[:, -1:]", ".unsqueeze(-1) * 1.0", LAW),
    Mutation("entropy sign", "rollouts/law.py", "return -torch.where(logp", "return torch.where(logp", LAW),
    # quota and selection
    Mutation(
        "remainders last",
        "rollouts/schedule.py",
        "unsqueeze(0) < remainder)",
        "unsqueeze(0) >= steps - remainder)",
        SELECT,
    ),
    Mutation(
        "remainder off by one",
        "rollouts/schedule.py",
        "unsqueeze(0) < remainder)",
        "unsqueeze(0) <= remainder)",
        SELECT,
    ),
    Mutation(
        "keep the lowest",
        "rollouts/select.py",
        "argsort(dim=-1, descending=True",
        "argsort(dim=-1, descending=False",
        SELECT,
    ),
    Mutation("one too many kept", "rollouts/select.py", "rank < quota", "rank <= quota", SELECT),
    Mutation("keep what is not masked", "rollouts/select.py", "gather(-1, (~masked)", "gather(-1, (masked)", SELECT),
    Mutation("margin sign", "rollouts/select.py", "top[:, 0] - top[:, 1]", "top[:, 1] - top[:, 0]", SELECT),
    Mutation(
        "entropy rule sign",
        "rollouts/select.py",
        'return torch.where(logp == float("-inf"), 0.0, logp.exp() * logp).sum(-1)',
        'return -torch.where(logp == float("-inf"), 0.0, logp.exp() * logp).sum(-1)',
        SELECT,
    ),
    Mutation(
        "max_prob takes the minimum",
        "rollouts/select.py",
        "return logp.max(-1).values",
        "return logp.min(-1).values",
        SELECT,
    ),
    Mutation(
        "threshold is the highest",
        "rollouts/select.py",
        'float("inf"))\n    tau = value.min(-1)',
        'float("-inf"))\n    tau = value.max(-1)',
        SELECT,
    ),
    Mutation(
        "tie at the first of A",
        "rollouts/select.py",
        "-1).max(-1).values\n    return tau",
        "99).min(-1).values\n    return tau",
        SELECT,
    ),
    Mutation("order mass above", "rollouts/select.py", "(logp < bar", "(logp > bar", SELECT),
    Mutation(
        "order mass ties always lose", "rollouts/select.py", "(loses_ties, tau", "(loses_ties | True, tau", SELECT
    ),
    Mutation(
        "order mass ties never lose", "rollouts/select.py", "(loses_ties, tau", "(loses_ties & False, tau", SELECT
    ),
    Mutation(
        "order mass sign", "rollouts/select.py", "torch.logsumexp(safe, -1)", "-torch.logsumexp(safe, -1)", SELECT
    ),
    Mutation("random choice sign", "rollouts/select.py", "[-math.log(math.comb", "[math.log(math.comb", SELECT),
    # the sampler
    Mutation("tie rule in the sampler", "rollouts/denoise.py", "place > last", "place < last", SAMPLER),
    Mutation(
        "order mass of the kept", "rollouts/denoise.py", "(masked & ~kept)[masked]", "(masked & kept)[masked]", SAMPLER
    ),
    Mutation("random keeps no subset law", "rollouts/denoise.py", "score = -uniform[1]", "score = uniform[1]", SAMPLER),
    Mutation(
        "confidence under q",
        "rollouts/denoise.py",
        "keep_top(on_block(raw)",
        "keep_top(on_block(sampler)",
        SAMPLER,
    ),
    Mutation(
        "confidence under q, greedy",
        "rollouts/denoise.py",
        "keep_top(on_block(raw)",
        "keep_top(on_block(sampler)",
        PARITY,
    ),
    Mutation("raw recorded as sampler", "rollouts/denoise.py", "[at] = sampler", "[at] = raw", SAMPLER),
    Mutation("block offset", "rollouts/denoise.py", "block * spec.steps_per_block + offset", "block + offset", SAMPLER),
    Mutation("stop rows that go on", "rollouts/denoise.py", "rows = rows[~ended]", "rows = rows[ended]", SAMPLER),
    Mutation("never stop", "rollouts/denoise.py", "if spec.early_stop:", "if not spec.early_stop:", SAMPLER),
    Mutation("dropout left on", "rollouts/denoise.py", "    policy.eval()\n", "    policy.train()\n", RECORD),
    Mutation(
        "padding attended",
        "rollouts/denoise.py",
        "(canvas.canvas_mask | canvas.prompt_mask)",
        "(canvas.canvas_mask | True)",
        SAMPLER,
    ),
    Mutation(
        "hints overwritten",
        "rollouts/denoise.py",
        "(canvas.canvas_mask & ~canvas.hint_mask)",
        "(canvas.canvas_mask)",
        SAMPLER,
    ),
    # the record
    Mutation(
        "state one step late",
        "rollouts/trajectory.py",
        "(self.reveal_step >= step)",
        "(self.reveal_step > step)",
        RECORD,
    ),
    Mutation(
        "unrevealed counted as drawn",
        "rollouts/trajectory.py",
        "(self.reveal_step < self.steps)\n\n",
        "(self.reveal_step <= self.steps)\n\n",
        RECORD,
    ),
    Mutation("text keeps what follows EOS", "rollouts/canvas.py", "(before == 0)", "(before >= 0)", RECORD),
    Mutation("text without its EOS", "rollouts/canvas.py", "cumsum(1) - ends.int()", "cumsum(1)", RECORD),
    # hints (IGPO)
    Mutation("chunks too small", "rollouts/hints.py", "integers(low, high + 1)", "integers(low - 1, high + 1)", HINTS),
    Mutation("largest chunk left out", "rollouts/hints.py", "integers(low, high + 1)", "integers(low, high)", HINTS),
    Mutation("a short rest is a chunk", "rollouts/hints.py", "length - start >= low:", "length - start >= 1:", HINTS),
    Mutation("more chunks than their share", "rollouts/hints.py", "int(eta * len", "1 + int(eta * len", HINTS),
    Mutation("ends are given", "rollouts/hints.py", "if trace[offset] not in special", "if True", HINTS),
    Mutation("hints of a group are alike", "rollouts/hints.py", "step, group, 1 + i))", "step, group, 1))", HINTS),
    Mutation(
        "entropy of hints that are shown",
        "rollouts/hints.py",
        "torch.where(part.canvas_mask, part.mask_id",
        "torch.where(part.canvas_mask & ~part.hint_mask, part.mask_id",
        HINTS,
    ),
    Mutation("one right rollout is a failed group", "rollouts/hints.py", "if not (outcome", "if (outcome", HINTS),
    Mutation(
        "unverified hints replace", "rollouts/hints.py", "(hinted_outcome >= 1.0)", "(hinted_outcome >= 0.0)", HINTS
    ),
    Mutation(
        "right rollouts are replaced",
        "rollouts/hints.py",
        "(outcome < 1.0)).nonzero",
        "(outcome <= 1.0)).nonzero",
        HINTS,
    ),
    Mutation("the whole group is replaced", "rollouts/hints.py", ".tolist()[:most]", ".tolist()", HINTS),
    Mutation(
        "the answer begins at its first mark",
        "rollouts/strategies.py",
        "trace.rpartition(self",
        "trace.partition(self",
        HINTS,
    ),
    Mutation(
        "certain hints are trained on",
        "rl/masks.py",
        "descending=True, stable=True)\n    rank",
        "descending=False, stable=True)\n    rank",
        IGPO,
    ),
    Mutation("one hint too many", "rl/masks.py", "rank < keep.unsqueeze(1)", "rank <= keep.unsqueeze(1)", IGPO),
    Mutation("hints behind the end are trained on", "rl/masks.py", "(place < end)", "(place >= 0)", IGPO),
    Mutation(
        "trained hints are shown", "rl/masks.py", "_canvas(batch) if hints is None", "_canvas(batch) if True", IGPO
    ),
    Mutation(
        "groups with signal are left out",
        "rl/collect.py",
        "every[~torch.isin(every, loud)]",
        "every[torch.isin(every, loud)]",
        IGPO,
    ),
    # recorded answers (MDPO)
    Mutation("gain of a step negated", "rl/advantages.py", "(reward - before) + 1.0", "(before - reward) + 1.0", MDPO),
    Mutation("a step hopes for itself", "rl/advantages.py", ".flip(1) - reward) / count", ".flip(1)) / count", MDPO),
    Mutation(
        "the last step forgets itself",
        "rl/advantages.py",
        "(count > 0, after, reward)",
        "(count > 0, after, before)",
        MDPO,
    ),
    Mutation("steps without reward count", "rl/advantages.py", ".flip(1) - seen.long()", ".flip(1)", MDPO),
    Mutation("steps of the smallest advantages", "rl/x0_action.py", "descending=True", "descending=False", MDPO),
    Mutation("advantages cancel in a group", "rl/x0_action.py", "advantage.double().abs()", "advantage.double()", MDPO),
    Mutation(
        "tokens that stand are scored",
        "rl/x0_action.py",
        ">= step.unsqueeze(1))\n    sure",
        "> step.unsqueeze(1))\n    sure",
        MDPO,
    ),
    Mutation("sure tokens weigh less", "rl/x0_action.py", "sure / hidden.sum", "(1 - sure) / hidden.sum", MDPO),
    Mutation(
        "factor upside down",
        "rl/x0_action.py",
        "(length / scored.sum(1).clamp(min=1))",
        "(scored.sum(1) / length)",
        MDPO,
    ),
    Mutation(
        "factor on the KL term",
        "rl/objectives.py",
        "units.factor * super().per_unit(units)",
        "super().per_unit(units)",
        MDPO,
    ),
    Mutation(
        "own tokens in place of the answer's",
        "rl/likelihood.py",
        "(tokens if plan.target is None",
        "(tokens if True",
        MDPO,
    ),
    Mutation(
        "recorded before it is drawn",
        "rollouts/denoise.py",
        "record.x0_pred[every], record",
        "record.x0_pred[row[:, None].expand_as(place)[asked], 0, place[asked]], record",
        HINTS,
    ),
)

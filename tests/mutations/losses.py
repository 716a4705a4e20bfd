"""Advantages, objectives, reductions, and what may be composed. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

ADVANTAGES = "tests/rl/test_advantages.py"
OBJECTIVES = "tests/rl/test_objectives.py"
GROUPS = "tests/rl/test_objectives_group.py"
PREFERENCE = "tests/rl/test_preference.py"
PAIRS = "tests/rl/test_pairs.py"
REDUCE = "tests/rl/test_reduce.py"
METHOD = "tests/rl/test_method.py"
STEP = "tests/rl/test_step.py"

MUTATIONS = (
    # advantages
    Mutation(
        "advantage sign",
        "rl/advantages.py",
        "return (reward.double() - mean).float()",
        "return (mean - reward.double()).float()",
        ADVANTAGES,
    ),
    Mutation(
        "biased deviation",
        "rl/advantages.py",
        "count / (count - 1).clamp(min=1)).sqrt()",
        "count / count).sqrt()",
        ADVANTAGES,
    ),
    Mutation(
        "deviation multiplies",
        "rl/advantages.py",
        "centered / (std + STD_EPSILON)",
        "centered * (std + STD_EPSILON)",
        ADVANTAGES,
    ),
    Mutation("epsilon subtracted", "rl/advantages.py", "(std + STD_EPSILON)", "(std - STD_EPSILON)", ADVANTAGES),
    Mutation(
        "leave-one-out factor",
        "rl/advantages.py",
        "(count / (count - 1).clamp(min=1) *",
        "(count / (count + 1).clamp(min=1) *",
        ADVANTAGES,
    ),
    Mutation(
        "leave-one-out sign",
        "rl/advantages.py",
        "* (reward.double() - mean)).float()",
        "* (mean - reward.double())).float()",
        ADVANTAGES,
    ),
    Mutation("wrong answers verified", "rl/advantages.py", "outcome >= threshold", "outcome < threshold", ADVANTAGES),
    # objectives
    Mutation(
        "surrogate sign", "rl/objectives.py", "return -torch.minimum(ratio", "return torch.minimum(ratio", OBJECTIVES
    ),
    Mutation("surrogate optimistic", "rl/objectives.py", "-torch.minimum(ratio", "-torch.maximum(ratio", OBJECTIVES),
    Mutation(
        "ratio inverted",
        "rl/objectives.py",
        "clip_ratio((new - old).exp()",
        "clip_ratio((old - new).exp()",
        OBJECTIVES,
    ),
    Mutation(
        "clip bounds swapped",
        "rl/objectives.py",
        "clamp(1.0 - low, 1.0 + high)",
        "clamp(1.0 - high, 1.0 + low)",
        OBJECTIVES,
    ),
    Mutation("clip share above", "rl/objectives.py", "(ratio > 1.0 + high)", "(ratio < 1.0 + high)", OBJECTIVES),
    Mutation("clip share below", "rl/objectives.py", "(advantage < 0))", "(advantage > 0))", OBJECTIVES),
    Mutation("k2 sign", "rl/objectives.py", "return 0.5 * (new", "return -0.5 * (new", OBJECTIVES),
    Mutation(
        "k2 of the sum", "rl/objectives.py", "(new - reference).square()", "(new + reference).square()", OBJECTIVES
    ),
    Mutation("k3 direction", "rl/objectives.py", "d = reference - new", "d = new - reference", OBJECTIVES),
    Mutation("k3 linear term", "rl/objectives.py", "d.exp() - d - 1.0", "d.exp() + d - 1.0", OBJECTIVES),
    Mutation("k3 constant", "rl/objectives.py", "d.exp() - d - 1.0", "d.exp() - d + 1.0", OBJECTIVES),
    Mutation("approximate KL direction", "rl/objectives.py", "k3(old, new)", "k3(new, old)", OBJECTIVES),
    Mutation(
        "raft sign",
        "rl/objectives.py",
        'Literal["raft"] = "raft"\n    known_on_policy: ClassVar[bool] = True\n\n    def per_unit(self, units: Units) -> Tensor:\n'
        "        return -units",
        'Literal["raft"] = "raft"\n    known_on_policy: ClassVar[bool] = True\n\n    def per_unit(self, units: Units) -> Tensor:\n'
        "        return units",
        OBJECTIVES,
    ),
    # groups, bounds, weights
    Mutation("dual clip the wrong way", "rl/objectives.py", "(loss > most)", "(loss < most)", GROUPS),
    Mutation("dual clip of gains", "rl/objectives.py", "(advantage < 0) & (loss", "(advantage > 0) & (loss", GROUPS),
    Mutation("dual bound sign", "rl/objectives.py", "most = -bound", "most = bound", GROUPS),
    Mutation(
        "bound of the wrong sign", "rl/objectives.py", "advantage > 0, 1.0 + diff", "advantage < 0, 1.0 + diff", GROUPS
    ),
    Mutation(
        "bound starts at zero", "rl/objectives.py", "1.0 + difference, difference", "difference, difference", GROUPS
    ),
    Mutation("k2 of the sum divided twice", "rl/objectives.py", "length * k2(", "k2(", GROUPS),
    Mutation(
        "policy gradient sign",
        "rl/objectives.py",
        '-units.advantage * units.new\n\n    def metrics(self, units: Units) -> Metrics:\n        """log',
        'units.advantage * units.new\n\n    def metrics(self, units: Units) -> Metrics:\n        """log',
        GROUPS,
    ),
    Mutation(
        "target towards the old policy",
        "rl/objectives.py",
        "units.reference - units.old",
        "units.old - units.reference",
        GROUPS,
    ),
    Mutation(
        "target of the negated reward", "rl/objectives.py", "reference_gap + score", "reference_gap - score + 0", GROUPS
    ),
    Mutation("baseline added", "rl/objectives.py", "up = up - group_softmax", "up = up + group_softmax", GROUPS),
    Mutation("mean baseline added", "rl/objectives.py", "up = up - 1.0 / size", "up = up + 1.0 / size", GROUPS),
    Mutation("alpha multiplies", "rl/objectives.py", "[kept, 0] / self.alpha", "[kept, 0] * self.alpha", GROUPS),
    Mutation(
        "weighted cross-entropy sign", "rl/objectives.py", "-self.weights(units) *", "self.weights(units) *", GROUPS
    ),
    Mutation("ess of weights inverted", "rl/objectives.py", "group)) / squares", "group)) * squares", GROUPS),
    Mutation(
        "softmax over the batch", "rl/advantages.py", "0, index, weight)[index]", "0, index, weight).sum()", GROUPS
    ),
    Mutation("softmax not shifted", "rl/advantages.py", "(score - most[index]).exp()", "score.exp()", GROUPS),
    Mutation(
        "wd1 weights added",
        "rl/advantages.py",
        "group) - group_softmax(-reward",
        "group) + group_softmax(-reward",
        GROUPS,
    ),
    Mutation("wd1 without the size", "rl/advantages.py", "(group_size(group) *", "(1.0 *", GROUPS),
    Mutation(
        "shortcut for weights of scores",
        "rl/objectives.py",
        "known_on_policy = False",
        "known_on_policy = True",
        GROUPS,
    ),
    Mutation("draws not averaged", "rl/likelihood.py", "view(-1, count) * count", "view(-1, count)", STEP),
    Mutation("draws weigh one", "rl/likelihood.py", "expand_as(value) / count", "expand_as(value)", STEP),
    # reductions
    Mutation("constant multiplies", "rl/reduce.py", "1.0) * reduction.constant)", "1.0) / reduction.constant)", REDUCE),
    Mutation("token mean over rows", "rl/reduce.py", "max(total_units, 1.0)", "max(total_rows, 1.0)", REDUCE),
    Mutation(
        "sequence mean inverted", "rl/reduce.py", "* count.clamp(min=1).float()", "/ count.clamp(min=1).float()", REDUCE
    ),
    Mutation("weights dropped", "rl/reduce.py", "0.0) * weight * scale", "0.0) * (weight > 0) * scale", REDUCE),
    Mutation("empty units counted", "rl/reduce.py", "torch.where(weight > 0,", "torch.where(weight >= 0,", REDUCE),
    # compositions
    Mutation("group of one let through", "rl/compatibility.py", "and group_size < 2", "and group_size < 1", METHOD),
    Mutation(
        "temperature zero let through",
        "rl/compatibility.py",
        "sampler.temperature == 0.0",
        "sampler.temperature < 0.0",
        METHOD,
    ),
    Mutation(
        "order named where it is scored",
        "rl/compatibility.py",
        "and not estimator.order\n",
        "and estimator.order\n",
        METHOD,
    ),
    Mutation(
        "order of a single step",
        "rollouts/spec.py",
        "self.steps >= 2 * self.blocks",
        "self.steps >= self.blocks",
        METHOD,
    ),
    Mutation(
        "linear uses refused", "rl/compatibility.py", "and not method.on_policy\n", "or not method.on_policy\n", METHOD
    ),
    Mutation(
        "penalties taken for linear",
        "rl/compatibility.py",
        "nonlinear or (method.kl.beta > 0 and",
        "nonlinear or (method.kl.beta < 0 and",
        METHOD,
    ),
    Mutation(
        "merged steps called exact",
        "rl/method.py",
        "(sampler) < sampler.steps and",
        "(sampler) > sampler.steps and",
        METHOD,
    ),
    Mutation(
        "every step redrawn",
        "rl/likelihood.py",
        "return self.sample_steps is not None",
        "return self.sample_steps is None",
        METHOD,
    ),
    Mutation(
        "prompt masks shared",
        "rl/likelihood.py",
        "return self.prompt_mask_prob > 0.0",
        "return self.prompt_mask_prob < 0.0",
        METHOD,
    ),
    Mutation(
        "left to right redrawn",
        "rl/method.py",
        "if method.estimator.redraws else",
        "if not method.estimator.redraws else",
        METHOD,
    ),
    # preferences
    Mutation(
        "score reversed", "rl/preference.py", "return -logsigmoid(score)", "return -logsigmoid(-score)", PREFERENCE
    ),
    Mutation("smoothing added", "rl/preference.py", "(flipped - kept) /", "(-flipped - kept) /", PREFERENCE),
    Mutation("smoothing not unbiased", "rl/preference.py", "(1.0 - 2.0 * label", "(1.0 + 2.0 * label", PREFERENCE),
    Mutation(
        "reference added",
        "rl/preference.py",
        "(units.new - units.reference)",
        "(units.new + units.reference)",
        PREFERENCE,
    ),
    Mutation("margins added", "rl/preference.py", "loss = dpo_loss(up - down", "loss = dpo_loss(up + down", PREFERENCE),
    Mutation(
        "the chosen unlearnt", "rl/preference.py", "return -units.new[chosen", "return units.new[chosen", PREFERENCE
    ),
    Mutation(
        "supervised term of the sum",
        "rl/preference.py",
        "/ units.tokens[chosen].to(units.new)",
        "* units.tokens[chosen].to(units.new)",
        PREFERENCE,
    ),
    Mutation("pairs from two groups", "rl/preference.py", "rows[group[rows].argsort()]", "rows", PREFERENCE),
    Mutation(
        "partnerless rows kept",
        "rl/preference.py",
        "return chosen[torch.isin(group[chosen], group[rejected])], rejected[",
        "return chosen, rejected[",
        PREFERENCE,
    ),
    Mutation("pair weight one", "rl/preference.py", "units.advantage[rows, 0].abs() * loss", "loss", PREFERENCE),
    Mutation(
        "worst for best",
        "rl/advantages.py",
        "len(rows) / 2, -len(rows) / 2",
        "-len(rows) / 2, len(rows) / 2",
        PREFERENCE,
    ),
    Mutation(
        "pair without spread",
        "rl/advantages.py",
        "if reward[best] > reward[worst]",
        "if reward[best] >= reward[worst]",
        PREFERENCE,
    ),
    # stored pairs
    Mutation(
        "rejected for chosen",
        "rl/pairs.py",
        "for answer in (pair.chosen, pair.rejected)",
        "for answer in (pair.rejected, pair.chosen)",
        PAIRS,
    ),
    Mutation(
        "reward of the rejected",
        "rl/pairs.py",
        "torch.tensor([1.0, 0.0]).repeat",
        "torch.tensor([0.0, 1.0]).repeat",
        PAIRS,
    ),
    Mutation(
        "end beyond the first",
        "rl/sft.py",
        "text_mask(layout.tokens, layout.canvas_mask, policy.eos_ids, eos)",
        "layout.canvas_mask",
        PAIRS,
    ),
    Mutation(
        "given answers replayed",
        "rl/masks.py",
        "if FINISH_GIVEN in batch.finish_reason:",
        "if not batch.finish_reason:",
        PAIRS,
    ),
)

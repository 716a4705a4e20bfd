"""The table of mutations: each flips one sign, inequality or operand of a formula and names tests that must fail.

``before`` occurs exactly once in ``file`` (a quick test sees to that), so the table follows the code or fails.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str
    before: str
    after: str
    tests: str  # what pytest is told to run, separated by spaces


LAW = "tests/rollouts/test_law.py"
SELECT = "tests/rollouts/test_select.py"
SAMPLER = "tests/rollouts/test_sampler_law.py"
PARITY = "tests/rollouts/test_sampler_parity.py"
RECORD = "tests/rollouts/test_trajectory.py"
MASKS = "tests/rl/test_masks.py"
SCORES = "tests/rl/test_likelihood.py"
NOISE = "tests/rl/test_noise.py"
ESTIMATORS = "tests/rl/test_estimators.py"
BLOCKS = "tests/rl/test_estimators_blocks.py"
ADVANTAGES = "tests/rl/test_advantages.py"
OBJECTIVES = "tests/rl/test_objectives.py"
GROUPS = "tests/rl/test_objectives_group.py"
PREFERENCE = "tests/rl/test_preference.py"
PAIRS = "tests/rl/test_pairs.py"
SFT_LOSSES = "tests/rl/test_sft_losses.py"
REDUCE = "tests/rl/test_reduce.py"
METHOD = "tests/rl/test_method.py"
STEP = "tests/rl/test_step.py"
LEARNER = "tests/rl/test_learner.py"
EXACT_KL = "tests/rl/test_exact_kl.py"
SFT = "tests/rl/test_sft.py"
EVALUATE = "tests/rl/test_evaluate.py"
EXPORT = "tests/rl/test_export.py"
WATCHING = "tests/rollouts/test_watching.py"
RESUME = "tests/rl/test_resume.py"
HINTS = "tests/rollouts/test_hints.py"
IGPO = "tests/rl/test_igpo.py"
MDPO = "tests/rl/test_mdpo.py"
WORTH = "tests/rl/test_diagnose_stats.py"
BENCH = "tests/rl/test_diagnose_measure.py"
SKETCHES = "tests/rl/test_sketch.py"
DIAGNOSE = "tests/rl/test_diagnose.py"

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
    # mask plans
    Mutation("prompt coins reversed", "rl/masks.py", "< prompt_mask_prob", ">= prompt_mask_prob", MASKS),
    Mutation(
        "trajectory state one step late",
        "rl/masks.py",
        "batch.reveal_step[rows] >= at",
        "batch.reveal_step[rows] > at",
        MASKS,
    ),
    Mutation(
        "order of the wrong block", "rl/masks.py", "spec.steps_per_block, rounding", "spec.steps, rounding", MASKS
    ),
    Mutation(
        "order beyond the block", "rl/masks.py", "(place < (low + spec.block)", "(place <= (low + spec.block)", MASKS
    ),
    Mutation("segment end", "rl/masks.py", "int(part[0]) for part", "int(part[-1]) for part", MASKS),
    Mutation("no inverse inclusion", "rl/masks.py", "[float(len(part)) for", "[1.0 / len(part) for", MASKS),
    Mutation("ELBO weight inverted", "rl/noise.py", "scale = length / count", "scale = count / length", MASKS),
    Mutation(
        "ELBO draws not averaged",
        "rl/noise.py",
        "length + 1)), 1 / size) for generator",
        "length + 1)), 1.0) for generator",
        MASKS,
    ),
    Mutation(
        "ELBO never masks everything", "rl/noise.py", "integers(least, length + 1)", "integers(least, length)", MASKS
    ),
    Mutation("ELBO shows the tail", "rl/masks.py", "scored | hidden_tail[rows]", "scored", MASKS),
    Mutation("passes share their masks", "rl/masks.py", "rollout, self.inner_pass, draw)", "rollout, draw)", MASKS),
    Mutation("masks per level not averaged", "rl/noise.py", "* share / noise.masks_per_level /", "* share /", NOISE),
    Mutation(
        "halves of a pair not averaged",
        "rl/noise.py",
        "/ noise.masks_per_level / len(views)",
        "/ noise.masks_per_level",
        NOISE,
    ),
    Mutation(
        "strata shifted",
        "rl/noise.py",
        "(index + float(generator.random()))",
        "(index - float(generator.random()))",
        NOISE,
    ),
    Mutation(
        "systematic levels all alike", "rl/noise.py", "(index + offset) / size", "(0 * index + offset) / size", NOISE
    ),
    Mutation("levels of counts from zero", "rl/noise.py", "(min(least + int(", "(min(int(", NOISE),
    Mutation(
        "pairs without the fully masked state",
        "rl/noise.py",
        'least = 0 if noise.pair == "complement" else 1',
        'least = 1 if noise.pair == "complement" else 1',
        NOISE,
    ),
    Mutation("pair weight L / x", "rl/noise.py", "[(hidden, (length + 1) /", "[(hidden, length /", NOISE),
    Mutation("complement weighs as its partner", "rl/noise.py", "max(length - count, 1))]", "max(count, 1))]", NOISE),
    Mutation("mirror hides one more", "rl/noise.py", "rank >= length - count", "rank >= length - count - 1", NOISE),
    Mutation("mirror of coins is the mask", "rl/noise.py", "uniform > 1.0 - level", "uniform > level", NOISE),
    Mutation("complement of coins at t", "rl/noise.py", "1.0 / (1.0 - level))]", "1.0 / level)]", NOISE),
    Mutation("coins without 1/t", "rl/noise.py", "scale = 1.0 / level if", "scale = 1.0 if", NOISE),
    Mutation("t of a complement up to 1", "rl/noise.py", "high = 1.0 - noise.min_t if", "high = 1.0 if", NOISE),
    Mutation("nodes of [-1, 1]", "rl/noise.py", "float(node + 1) / 2", "abs(float(node))", NOISE),
    Mutation("node weights of [-1, 1]", "rl/noise.py", "float(weight) / 2", "float(weight)", NOISE),
    Mutation("coupled weights add to 3", "rl/masks.py", "view, scale / 2)", "view, scale)", ESTIMATORS),
    Mutation("coupled complement at t", "rl/masks.py", "(~hidden, 1 / (1 - t))", "(~hidden, 1 / t)", ESTIMATORS),
    Mutation("coupled range from zero", "rl/masks.py", "t = low + (high - low)", "t = high", ESTIMATORS),
    Mutation("random tokens unweighted", "rl/masks.py", "length / float(chance.sum())", "1.0", ESTIMATORS),
    Mutation(
        "late tokens kept", "rl/masks.py", "np.linspace(1.0, 0.0, length)", "np.linspace(0.0, 1.0, length)", ESTIMATORS
    ),
    Mutation(
        "steps merged without their first",
        "rl/masks.py",
        "steps // (shrink or 1) * (shrink or 1)",
        "steps // (shrink or 1)",
        BLOCKS,
    ),
    Mutation(
        "entropy of other steps",
        "rl/masks.py",
        "[state[index] == one].double()",
        "[state[index] >= one].double()",
        BLOCKS,
    ),
    Mutation("chances above one", "rl/masks.py", "over = (chance > 1.0)", "over = (chance > 9.0)", BLOCKS),
    Mutation("certain steps counted twice", "rl/masks.py", "left = count - int(certain.sum())", "left = count", BLOCKS),
    Mutation(
        "weight is the chance", "rl/masks.py", "from_numpy(1.0 / chance[picks])", "from_numpy(chance[picks])", BLOCKS
    ),
    Mutation("ticks on the wrong side", "rl/masks.py", "np.ceil(edges - float(", "np.ceil(edges + float(", BLOCKS),
    Mutation(
        "left to right shows its token",
        "rl/masks.py",
        "_canvas(batch)[row] & (at >= place.unsqueeze(1))",
        "_canvas(batch)[row] & (at > place.unsqueeze(1))",
        BLOCKS,
    ),
    Mutation("later blocks shown", "rl/masks.py", "later = block[plan.row] >", "later = block[plan.row] <", BLOCKS),
    Mutation("blocks unweighted", "rl/masks.py", "one.weight * inverse_probability)", "one.weight)", BLOCKS),
    Mutation(
        "blocks from the row's start",
        "rl/masks.py",
        "(torch.arange(batch.length) - start",
        "(torch.arange(batch.length) - 0 * start",
        BLOCKS,
    ),
    # likelihood
    Mutation("coupled unweighted", "rl/estimators.py", "values * weight)", "values * scored)", ESTIMATORS),
    Mutation("schedule one pass late", "rl/estimators.py", "(done + 1) / key.passes", "done / key.passes", ESTIMATORS),
    Mutation("random start of its own pass", "rl/estimators.py", "key.of_step().stream", "key.stream", ESTIMATORS),
    Mutation("random start ends early", "rl/estimators.py", "max(key.passes - 1, 1)", "key.passes", ESTIMATORS),
    Mutation("sandwich the other way", "rl/estimators.py", "reshape(-1, 1) <= 0)", "reshape(-1, 1) > 0)", ESTIMATORS),
    Mutation(
        "no advantage is a good one", "rl/estimators.py", "reshape(-1, 1) <= 0)", "reshape(-1, 1) < 0)", ESTIMATORS
    ),
    Mutation("power not undone", "rl/estimators.py", ".log() + peak) / beta", ".log() + peak)", ESTIMATORS),
    Mutation(
        "power without weights",
        "rl/estimators.py",
        "plan.weight.to(values), 1.0).log()",
        "plan.weight.to(values) * 0 + 1, 1.0).log()",
        ESTIMATORS,
    ),
    Mutation(
        "EUBO over all tokens", "rl/estimators.py", "/ seen.sum(1, keepdim=True).clamp(min=1)", "/ length", ESTIMATORS
    ),
    Mutation(
        "sandwich thought linear",
        "rl/estimators.py",
        "linear: ClassVar[bool] = False",
        "linear: ClassVar[bool] = True",
        ESTIMATORS,
    ),
    Mutation("ELBO bound, weight inverted", "rl/noise.py", "scale = length / count", "scale = count / length", SCORES),
    Mutation("sampled steps unweighted", "rl/masks.py", "[float(len(part)) for", "[1.0 for", SCORES),
    Mutation("tie rule in the scorer", "rl/likelihood.py", "place > last[view]", "place < last[view]", SCORES),
    Mutation("scored under the raw law", "rl/likelihood.py", 'if self.law == "raw":', 'if self.law != "raw":', SCORES),
    Mutation(
        "sequence sum unweighted",
        "rl/likelihood.py",
        "(values * weight).sum(1)",
        "(values * (weight > 0)).sum(1)",
        SCORES,
    ),
    Mutation(
        "lengths multiply", "rl/likelihood.py", "value = value / self.tokens", "value = value * self.tokens", SCORES
    ),
    Mutation("weights of steps summed", "rl/likelihood.py", "weight.amax(1)", "weight.sum(1)", SCORES),
    Mutation(
        "steps divided by inclusion",
        "rl/likelihood.py",
        "(values * (weight > 0)).sum(1)",
        "(values * weight).sum(1)",
        SCORES,
    ),
    Mutation(
        "order without its gradient",
        "rl/likelihood.py",
        "log_mass_below(own, logp",
        "log_mass_below(own.detach(), logp",
        SCORES,
    ),
    Mutation(
        "slope without its cotangent",
        "rl/likelihood.py",
        "(cotangents[0].unsqueeze(1) * slope)",
        "(cotangents[0].unsqueeze(1).sign() * slope)",
        SCORES,
    ),
    Mutation(
        "text for trajectory units", "rl/likelihood.py", "return batch.drawn_mask", "return batch.loss_mask", SCORES
    ),
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
        'Literal["raft"] = "raft"\n\n    def per_unit(self, units: Units) -> Tensor:\n        return -units',
        'Literal["raft"] = "raft"\n\n    def per_unit(self, units: Units) -> Tensor:\n        return units',
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
        "order of a single step", "rollouts/spec.py", "self.steps_per_block > 1\n", "self.steps_per_block > 0\n", METHOD
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
    # one step
    Mutation(
        "passes repeat what they redraw",
        "rl/step.py",
        "which = number if estimator.redraws else 0",
        "which = 0",
        STEP,
    ),
    Mutation("padding counted in denominators", "rl/step.py", "(count * counted).sum()", "count.sum()", STEP),
    Mutation(
        "denominators from the signal",
        "rl/step.py",
        "(count * counted).sum()",
        "(count * counted * (batch.advantage != 0)).sum()",
        STEP,
    ),
    Mutation(
        "signal ignores mask_truncated",
        "rl/step.py",
        "signal = counted & (torch",
        "signal = torch.ones_like(counted) & (torch",
        STEP,
    ),
    Mutation("scale of other rows", "rl/step.py", "count[picked], units", "count[: len(picked)], units", STEP),
    Mutation(
        "KL subtracted",
        "rl/step.py",
        "per_unit = per_unit + method.kl.beta",
        "per_unit = per_unit - method.kl.beta",
        STEP,
    ),
    Mutation(
        "old of the first plan for all",
        "rl/step.py",
        "_Frozen(plans[which], olds[which],",
        "_Frozen(plans[which], olds[0],",
        STEP,
    ),
    Mutation(
        "values not refreshed",
        "rl/step.py",
        "before = learner.score(work.rollouts, plan, law, anchors) if before is None else before",
        "before = old if before is None else before",
        STEP,
    ),
    Mutation("an estimator is believed", "rl/step.py", "once = once and all(", "once = once or all(", STEP),
    Mutation("old of the first micro-batch", "rl/step.py", "else whole[part]", "else whole[: len(values)]", STEP),
    Mutation(
        "one forward where groups are coupled",
        "rl/method.py",
        "return not self.objective.couples_rows and (",
        "return (",
        STEP,
    ),
    Mutation(
        "one forward of rows in parts",
        "rl/method.py",
        "self.estimator.scored_once or views <= micro_batch",
        "True",
        STEP,
    ),
    Mutation(
        "KL turned round",
        "rollouts/law.py",
        "(logq.exp() * (logq.masked_fill(out, 0.0) - logr",
        "(logr.exp() * (logq.masked_fill(out, 0.0) - logr",
        EXACT_KL,
    ),
    Mutation(
        "exact KL without beta",
        "rl/step.py",
        "distance = reduce(leaf[..., 1]).value",
        "distance = reduce(leaf[..., 1]).value / method.kl.beta",
        EXACT_KL,
    ),
    Mutation(
        "anchor of the policy itself",
        "rl/learner.py",
        "with self.reference():\n            for part",
        "if True:\n            for part",
        EXACT_KL,
    ),
    Mutation(
        "head of the policy itself",
        "rl/learner.py",
        "with self.reference():\n            return self",
        "if True:\n            return self",
        EXACT_KL,
    ),
    Mutation("rows cut anywhere", "rl/learner.py", "high + size - low > most", "high - low >= most", LEARNER),
    Mutation(
        "reference without swap",
        "rl/step.py",
        "with learner.reference():\n            references",
        "if True:\n            references",
        STEP,
    ),
    Mutation("plan key ignores step", "rl/step.py", "PlanKey(seed, step, number,", "PlanKey(seed, 0, number,", STEP),
    Mutation("one plan for all passes", "rl/step.py", "PlanKey(seed, step, number,", "PlanKey(seed, step, 0,", STEP),
    Mutation(
        "zero advantage kept under KL dropped",
        "rl/step.py",
        "torch.ones_like(counted) if method.scores_every_row else",
        "torch.ones_like(counted) if False else",
        STEP,
    ),
    # the learner
    Mutation(
        "cotangent of the wrong micro-batch",
        "rl/learner.py",
        "slope = cotangent[part] if",
        "slope = cotangent[: len(tokens)] if",
        STEP,
    ),
    Mutation(
        "gradient sign",
        "rl/learner.py",
        "(scores * slope[:, :width]).sum()",
        "-(scores * slope[:, :width]).sum()",
        STEP,
    ),
    Mutation(
        "width of the first row", "rl/learner.py", "width = int(real.sum(1).max())", "width = int(real.sum(1)[0])", STEP
    ),
    Mutation("warm-up from zero", "rl/learner.py", "return (step + 1) / warmup", "return step / warmup", LEARNER),
    Mutation("cosine starts low", "rl/learner.py", "(1.0 + cos(pi * progress))", "(1.0 - cos(pi * progress))", LEARNER),
    Mutation("base keeps B", "rl/learner.py", '".lora_B." in', '".lora_Z." in', LEARNER),
    Mutation(
        "weights not swapped back",
        "rl/learner.py",
        "            for parameter, data in zip(self.parameters, own, strict=True):\n                parameter.data = data",
        "            pass",
        LEARNER,
    ),
    Mutation(
        "mix the other way",
        "rl/learner.py",
        "torch._foreach_lerp_(self._reference, [p.data for p in self.parameters], share)",
        "torch._foreach_lerp_(self._reference, [p.data for p in self.parameters], 1 - share)",
        LEARNER,
    ),
    # SFT
    Mutation("sft sign", "rl/sft.py", "cotangent = -plan.weight", "cotangent = plan.weight", SFT),
    Mutation(
        "sft strata", "rl/sft.py", "float(order[index] + point) / size", "float(order[index] - point) / size", SFT
    ),
    Mutation(
        "sft per masked token",
        "rl/sft.py",
        "tokens = learner.total(batch.loss_mask.sum())",
        "tokens = learner.total(plan.scored.sum())",
        SFT,
    ),
    # several samples, ratios
    Mutation("pass@k of the right", "rl/evaluate.py", "math.comb(total - good, k)", "math.comb(good, k)", EVALUATE),
    Mutation("pass@k not of one", "rl/evaluate.py", "else 1.0 - math.comb", "else math.comb", EVALUATE),
    Mutation("half is right", "rl/evaluate.py", "right = (correct >= 1.0)", "right = (correct > 0.0)", EVALUATE),
    Mutation("ess not squared", "rl/objectives.py", "(ratio.sum().square() / (len", "(ratio.sum() / (len", OBJECTIVES),
    Mutation(
        "ess of masked",
        "rl/objectives.py",
        "(new - old)[mask].double()",
        "(new - old).double()",
        OBJECTIVES,
    ),
    # what a checkpoint holds
    Mutation(
        "moments forgotten", "rl/learner.py", "moments.setdefault(index[name], {})[moment] = value", "pass", RESUME
    ),
    Mutation(
        "schedule forgotten",
        "rl/learner.py",
        'self.schedule.load_state_dict({**rest["schedule"], "lr_lambdas": [None]})',
        "pass",
        RESUME,
    ),
    Mutation(
        "reference forgotten",
        "rl/learner.py",
        'frozen = tensors.get("reference")',
        'frozen = tensors["weights"] if "reference" in tensors else None',
        RESUME,
    ),
    # intervals
    Mutation(
        "clusters ignored",
        "rl/evaluate.py",
        "range(count) if clusters is None else",
        "range(count) if True else",
        EVALUATE,
    ),
    Mutation("gain reversed", "rl/evaluate.py", "interval(after - before", "interval(before - after", EVALUATE),
    Mutation("never seen, one-sided", "rl/evaluate.py", "1.0 - (ALPHA / 2) **", "1.0 - ALPHA **", EVALUATE),
    Mutation("never seen, entries for clusters", "rl/evaluate.py", "int(labels.max()) + 1", "len(labels)", EVALUATE),
    Mutation("never seen, wrong side", "rl/evaluate.py", "first + chance", "first - chance", EVALUATE),
    Mutation("span of a gain", "rl/evaluate.py", "span=(-1.0, 1.0)", "span=(0.0, 1.0)", EVALUATE),
    Mutation(
        "counts of clusters",
        "rl/evaluate.py",
        "counts = np.bincount(labels).astype(float)",
        "counts = np.ones_like(sums)",
        EVALUATE,
    ),
    # exports and lone rollouts
    Mutation(
        "merge without the adapter",
        "rollouts/checkpoints.py",
        "return sum(deltas, parameter",
        "return sum([], parameter",
        EXPORT,
    ),
    Mutation(
        "base rounded before the merge",
        "rl/export.py",
        'if stored_dtype(source) == "bfloat16" else "float32"',
        'if stored_dtype(source) != "bfloat16" else "bfloat16"',
        EXPORT,
    ),
    Mutation(
        "official names left out",
        "rollouts/lora.py",
        "{names[module]}.lora_{leaf}",
        "{module}.lora_{leaf}",
        EXPORT,
    ),
    Mutation(
        "a lone rollout draws another's numbers",
        "rollouts/engine.py",
        "torch.arange(first_rollout + part.start, first_rollout + part.stop)",
        "torch.arange(part.start, part.stop)",
        WATCHING,
    ),
    # what a gradient is worth
    Mutation(
        "noise of plans over n", "rl/diagnose_stats.py", "- mean).sum() / (count - 1))", "- mean).sum() / count)", WORTH
    ),
    Mutation(
        "noise of a mean added to its square",
        "rl/diagnose_stats.py",
        "own))] -= noise / plans",
        "own))] += noise / plans",
        WORTH,
    ),
    Mutation("averages as noisy as plans", "rl/diagnose_stats.py", "/ count / averaged", "/ count", WORTH),
    Mutation(
        "squared product with its noise",
        "rl/diagnose_stats.py",
        "np.square(cross) - along",
        "np.square(cross) + along",
        WORTH,
    ),
    Mutation(
        "worth of the signal alone",
        "rl/diagnose_stats.py",
        "np.maximum(signal, 0.0) + noise",
        "np.maximum(signal, 0.0)",
        WORTH,
    ),
    Mutation("worth without a sign", "rl/diagnose_stats.py", "np.sign(cross) * squared", "squared", WORTH),
    Mutation(
        "cosine of the squares",
        "rl/diagnose_stats.py",
        "cross / np.sqrt(signal * length)",
        "cross / (signal * length)",
        WORTH,
    ),
    Mutation(
        "pairs of a prompt with itself",
        "rl/diagnose_stats.py",
        "- np.square(weight) @ diagonal) /",
        "+ np.square(weight) @ diagonal) /",
        WORTH,
    ),
    Mutation(
        "batch of pairs alone",
        "rl/diagnose_stats.py",
        "same / count + (1.0 - 1.0 / count)",
        "same + (1.0 - 1.0 / count)",
        WORTH,
    ),
    Mutation("chance reversed", "rl/diagnose_stats.py", "float(1.0 - other /", "float(other /", WORTH),
    Mutation(
        "gap of the mean with its noise",
        "rl/diagnose_stats.py",
        "(np.square(gap) - variance / count)",
        "(np.square(gap) + variance / count)",
        WORTH,
    ),
    Mutation(
        "gap reversed",
        "rl/diagnose_stats.py",
        "gap = values.mean(0) - exact",
        "gap = exact - values.mean(0)",
        BENCH + " " + WORTH,
    ),
    Mutation(
        "ess inverted",
        "rl/diagnose_stats.py",
        "np.square(ratio.sum(1)) / (ratio.shape[1] * np",
        "np.square(ratio.sum(1)) * (ratio.shape[1] * np",
        WORTH,
    ),
    Mutation("orders summed", "rl/diagnose_stats.py", "- np.log(len(places))", "+ 0.0", WORTH),
    Mutation(
        "bound of the rest alone",
        "rl/diagnose_stats.py",
        "float((steps + bound[rest]).mean())",
        "float((bound[rest]).mean())",
        WORTH,
    ),
    Mutation("projection without signs", "rl/sketch.py", "values[part] * signs[part]", "values[part]", SKETCHES),
    Mutation("projection cut off", "rl/sketch.py", "total[: len(signed) - room] += signed[room:]", "pass", SKETCHES),
    Mutation(
        "projection never shifted",
        "rl/sketch.py",
        "generator.integers(self.size, size=runs)",
        "np.zeros(runs, dtype=int)",
        SKETCHES,
    ),
    Mutation(
        "step uphill",
        "rl/diagnose_measure.py",
        "(slope.abs() + eps), alpha=-lr)",
        "(slope.abs() + eps), alpha=lr)",
        BENCH,
    ),
    Mutation(
        "step not undone",
        "rl/diagnose_measure.py",
        "                    parameter.copy_(value)",
        "                    pass",
        BENCH,
    ),
    Mutation(
        "scoring beforehand is free", "rl/diagnose_measure.py", "if alone else 4.0 / 3.0)", "if alone else 1.0)", BENCH
    ),
    Mutation(
        "rows without advantage measured",
        "rl/diagnose_measure.py",
        "(group == one) & counts",
        "(group == one)",
        BENCH,
    ),
    Mutation(
        "every view hides the tokens it shows", "rl/masks.py", "bits[1:].astype(bool)", "~bits[1:].astype(bool)", BENCH
    ),
    Mutation(
        "the least worth leads", "rl/diagnose_rows.py", "-float(points[i].worth)", "float(points[i].worth)", DIAGNOSE
    ),
    Mutation("the dear ones lead", "rl/diagnose_rows.py", "(not affordable[i],", "(affordable[i],", DIAGNOSE),
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
    # losses of SFT
    Mutation(
        "uniform weight", "rl/sft_losses.py", "2.0 / (self.low + self.high)", "1.0 / (self.low + self.high)", SFT_LOSSES
    ),
    Mutation(
        "uniform range",
        "rl/sft_losses.py",
        "self.low + (self.high - self.low) * point",
        "self.high * point",
        SFT_LOSSES,
    ),
    Mutation(
        "level thrown away", "rl/sft_losses.py", "[generator], length, [point])", "[generator], length)", SFT_LOSSES
    ),
    Mutation(
        "variation doubled",
        "rl/mask_agnostic.py",
        "0.5 * (first.exp() - second",
        "1.0 * (first.exp() - second",
        SFT_LOSSES,
    ),
    Mutation(
        "variation of logs", "rl/mask_agnostic.py", "(first.exp() - second.exp())", "(first - second)", SFT_LOSSES
    ),
    Mutation(
        "one view in the cross-entropy",
        "rl/mask_agnostic.py",
        "both = (first + second)",
        "both = (first + first)",
        SFT_LOSSES,
    ),
    Mutation("tail beside the row", "rl/mask_agnostic.py", "(place >= end) &", "(place > end) &", SFT_LOSSES),
    Mutation("fewest tails", "rl/mask_agnostic.py", "integers(0, extra + 1, 2)", "integers(0, extra, 2)", SFT_LOSSES),
)

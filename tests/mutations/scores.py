"""Mask plans and the scores they reduce to. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

MASKS = "tests/rl/test_masks.py"
SCORES = "tests/rl/test_likelihood.py"
NOISE = "tests/rl/test_noise.py"
ESTIMATORS = "tests/rl/test_estimators.py"
BLOCKS = "tests/rl/test_estimators_blocks.py"

MUTATIONS = (
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
)

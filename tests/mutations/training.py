"""One step, the learner, SFT, checkpoints and exports. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

SFT_LOSSES = "tests/rl/test_sft_losses.py"
STEP = "tests/rl/test_step.py"
ONE = f"{STEP}::test_a_pass_takes_one_forward_where_rows_are_whole"  # seconds, where the whole file takes minutes
LEARNER = "tests/rl/test_learner.py"
TRUNCATED = "tests/rl/test_step.py::test_truncated_rows_leave_loss_and_denominators"
LEARNERS = "tests/rl/test_learners.py"
CLUSTER = "tests/rl/test_cluster.py::test_two_ranks_are_one_learner"
EXACT_KL = "tests/rl/test_exact_kl.py"
SFT = "tests/rl/test_sft.py"
EXPORT = "tests/rl/test_export.py"
WATCHING = "tests/rollouts/test_watching.py"
RESUME = "tests/rl/test_resume.py"

MUTATIONS = (
    # one step
    Mutation(
        "passes repeat what they redraw",
        "rl/step.py",
        "which = number if estimator.redraws else 0",
        "which = 0",
        STEP,
    ),
    Mutation("padding counted in denominators", "rl/step.py", "(count * counted).sum()", "count.sum()", TRUNCATED),
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
        ONE,
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
        LEARNER,
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
        "rl/backends.py",
        "            for parameter, data in zip(self.parameters, own, strict=True):\n                parameter.data = data",
        "            pass",
        LEARNER,
    ),
    Mutation(
        "mix the other way",
        "rl/learner.py",
        "self.backend.parts(), share)",
        "self.backend.parts(), 1 - share)",
        LEARNER,
    ),
    # several ranks
    Mutation(
        "a rank's views misplaced",
        "rl/learners.py",
        "Share(slice(low, high), kept",
        "Share(slice(0, high - low), kept",
        LEARNERS,
    ),
    Mutation(
        "rows not renumbered",
        "rl/learners.py",
        "replace(part, row=place), len",
        "replace(part, row=part.row), len",
        LEARNERS,
    ),
    Mutation("idle the wrong way", "rl/learners.py", "idle=most - share.idle", "idle=share.idle", LEARNERS),
    Mutation(
        "reference scored as the policy", "rl/rank.py", 'if which == "reference":', 'if which == "policy":', LEARNERS
    ),
    Mutation(
        "slope of other rows",
        "rl/step.py",
        "old, reference, self.scale[rows])",
        "old, reference, self.scale)",
        LEARNERS,
    ),
    Mutation(
        "gradients averaged",
        "rl/backends.py",
        "torch.distributed.all_reduce(flat)",
        "flat /= ranks()",
        f"{CLUSTER}[0]",
    ),
    Mutation(
        "shards averaged",
        "rl/zero.py",
        "self.engine.backward(value * ranks())",
        "self.engine.backward(value)",
        f"{CLUSTER}[2]",
    ),
    # SFT
    Mutation("sft sign", "rl/sft.py", "cotangent = -plan.weight", "cotangent = plan.weight", SFT),
    Mutation(
        "sft strata", "rl/sft.py", "float(order[index] + point) / size", "float(order[index] - point) / size", SFT
    ),
    Mutation(
        "sft per masked token",
        "rl/sft.py",
        "tokens = float(batch.loss_mask.sum())",
        "tokens = float(plan.scored.sum())",
        SFT,
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
    # what a checkpoint holds
    Mutation(
        "moments forgotten", "rl/learner.py", "moments.setdefault(moment, {})[index[name]] = value", "pass", RESUME
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
)

"""Evaluation, its intervals, and what a gradient is worth. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

OBJECTIVES = "tests/rl/test_objectives.py"
EVALUATE = "tests/rl/test_evaluate.py"
WORTH = "tests/rl/test_diagnose_stats.py"
BENCH = "tests/rl/test_diagnose_measure.py"
SKETCHES = "tests/rl/test_sketch.py"
DIAGNOSE = "tests/rl/test_diagnose.py"
FAMILY = "tests/rl/test_compare_family.py"

MUTATIONS = (
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
    # a base and several models
    Mutation(
        "no Holm",
        "rl/compare_family.py",
        "adjusted = holm([one.p_value for one in found])",
        "adjusted = [one.p_value for one in found]",
        FAMILY,
    ),
    Mutation("verdict of one look", "rl/compare_family.py", "one.p_value, one.adjusted)", "one.p_value)", FAMILY),
    Mutation("seen in one look", "rl/statistics.py", "(1 - LEVEL) / 2 / looks", "(1 - LEVEL) / 2", FAMILY),
    Mutation(
        "base less model",
        "rl/compare_family.py",
        "pair.base, pair.other, len(looks)",
        "pair.other, pair.base, len(looks)",
        FAMILY,
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
)

"""Drawing ahead, and the weights of rollouts that older weights drew. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

AHEAD = "tests/rl/test_ahead.py"
CORRECTION = "tests/rl/test_correction.py"
RATIO = f"{CORRECTION}::test_the_weight_is_the_ratio_of_the_laws"
UNIT = f"{CORRECTION}::test_each_unit_weighs_what_its_own_ratio_is"

MUTATIONS = (
    Mutation(
        "ratio upside down", "rl/correction.py", "(now - then.to(now.device))", "(then.to(now.device) - now)", RATIO
    ),
    Mutation(
        "order left out of the record",
        "rl/correction.py",
        "then = then + batch.select_logprob",
        "then = then + 0 * batch.select_logprob",
        RATIO,
    ),
    Mutation("order left out of the score", "rl/correction.py", "order=spec.policy_orders)", "order=False)", RATIO),
    Mutation("cut from below", "rl/correction.py", ".clamp(max=self.most)", ".clamp(min=self.most)", CORRECTION),
    Mutation(
        "record of the order taken away",
        "rl/correction.py",
        "argmax(1)] += batch.select",
        "argmax(1)] -= batch.select",
        UNIT,
    ),
    Mutation(
        "weight divides a row", "rl/step.py", "scale = scale * _corrected(", "scale = scale / _corrected(", CORRECTION
    ),
    Mutation(
        "weight divides a unit",
        "rl/step.py",
        "per_unit * method.correction.weights(drift)",
        "per_unit / method.correction.weights(drift)",
        UNIT,
    ),
    Mutation("drift turned round", "rl/step.py", "drift = before.value - then", "drift = then - before.value", UNIT),
    Mutation(
        "weighed by scores that are not known yet",
        "rl/method.py",
        'and (self.correction is None or self.correction.per == "trajectory")',
        "",
        UNIT,
    ),
    Mutation("one batch less ahead", "rl/ahead.py", "update + self.depth + 1", "update + self.depth", AHEAD),
    Mutation("drawn by the newest weights", "rl/session.py", "sampler = workers.pinned(leave)", "pass", AHEAD),
    Mutation(
        "drawn batches forgotten",
        "rl/session_checkpoint.py",
        "session.ahead.restore({update: Collected.of(*parts) for update, parts in drawn.items()})",
        "self.ahead.drop()",
        AHEAD,
    ),
    Mutation(
        "lag of the wrong sign",
        "rl/session.py",
        "(self.progress.version - batch",
        "(-self.progress.version + batch",
        AHEAD,
    ),
    Mutation("failed batches kept", "rl/ahead.py", "if job.exception() is None}", "}", AHEAD),
    Mutation(
        "overlap of the wrong sign",
        "rl/session.py",
        'max(0.0, 1.0 - self.clock.row["seconds/waiting"]',
        'max(0.0, 1.0 + self.clock.row["seconds/waiting"]',
        AHEAD,
    ),
)

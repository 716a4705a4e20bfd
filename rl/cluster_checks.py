"""What is wrong with a recipe's section ``cluster`` before anything is started; what the cluster itself lacks, `rl.cluster` says."""

import importlib.util
from collections.abc import Iterator

from rl.config_schema import ClusterConfig, Recipe
from rl.sft_losses import MaskAgnostic
from rl.zero import compiler_problem

# (keys, message, remedy), as `rl.config_checks.Check` takes them.
OF_GRADING = ("backend", "reward_workers", "reward_timeout", "start_timeout")  # what stands for both backends
Found = tuple[tuple[str, ...], str, str]


def cluster_problems(recipe: Recipe) -> Iterator[Found]:
    cluster = recipe.cluster
    if recipe.rollout.async_depth:
        yield from _ahead(recipe)
    if cluster.backend == "local":
        plain = ClusterConfig()
        for key in ClusterConfig.model_fields:
            if key not in OF_GRADING and getattr(cluster, key) != getattr(plain, key):
                what = "is for workers, and cluster.backend local does all in one process"
                yield (f"cluster.{key}", "cluster.backend"), what, "set cluster.backend: ray, or leave it out"
        return
    needed = ["ray", "deepspeed"] if cluster.zero_stage else ["ray"]
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        what = f"{' and '.join(absent)}: not installed here"
        yield ("cluster.backend", "cluster.zero_stage"), what, "pip install 'unmask[cluster]'"
    elif cluster.zero_stage and cluster.address is None:  # the workers will be on this machine
        lacking = compiler_problem()
        if lacking is not None:
            yield ("cluster.zero_stage",), *lacking
    if cluster.offload != "none" and not cluster.zero_stage:
        what = f"{cluster.offload} is offloaded by DeepSpeed, and cluster.zero_stage is 0"
        yield ("cluster.offload", "cluster.zero_stage"), what, "set cluster.zero_stage: 1, or offload: none"
    if cluster.weights == "direct" and cluster.placement == "colocate":
        what = "direct joins a learner and samplers by NCCL, which takes each GPU once, and under cluster.placement colocate they share"
        yield ("cluster.weights", "cluster.placement"), what, "set cluster.placement: separate, or weights: store"
    samples = recipe.data.preferences is None or recipe.eval is not None or recipe.data.validation is not None
    if not cluster.samplers and samples:
        what = "is 0, and this recipe draws rollouts or evaluates"
        yield ("cluster.samplers",), what, "set it to 1 or more"
    if cluster.zero_stage == 3:
        yield from _third_stage(recipe)
    if recipe.warm_start is not None and isinstance(recipe.warm_start.loss, MaskAgnostic):
        what = "mask_agnostic scores pairs of rows of its own making, which is not dealt out to workers"
        remedy = "run `unmask sft` with cluster.backend: local, and train from its model"
        yield ("warm_start.loss", "cluster.backend"), what, remedy


def _ahead(recipe: Recipe) -> Iterator[Found]:
    """What drawing ahead of the learner asks for."""
    key, method = "rollout.async_depth", recipe.method
    if recipe.data.preferences is not None:
        yield (key, "data.preferences"), "nothing is drawn where stored pairs are trained on", "leave it out"
        return
    if recipe.cluster.backend == "local":
        what = "draws while the learner works, and cluster.backend local does one thing after the other"
        yield (key, "cluster.backend"), what, "set cluster.backend: ray, or async_depth: 0"
    elif recipe.cluster.placement == "colocate":
        what = "draws while the learner works, and under cluster.placement colocate they take turns on one GPU"
        yield (key, "cluster.placement"), what, "set cluster.placement: separate, or async_depth: 0"
    named = method.correction is not None or "stale_rollouts" in method.approximations
    if method.objective.kind != "dpo" and not named:
        yield (
            (key, "method.approximations"),
            f"is {recipe.rollout.async_depth}, so rollouts are of older weights, and the method takes them for the policy's own",
            "set method.correction: {per: unit} (or trajectory) with approximations: [truncated_correction], or name it: [stale_rollouts]",
        )


def _third_stage(recipe: Recipe) -> Iterator[Found]:
    model = recipe.model
    if model.quantization != "none":
        what = f"stage 3 shards the base weights, and {model.quantization} packs them in a form of its own"
        yield ("cluster.zero_stage", "model.quantization"), what, "use zero_stage: 2, or quantization: none"
    if recipe.method.exact_kl and model.lora is None and model.adapter is None:
        what = "stage 3 keeps one head at hand, and the exact KL needs that of the reference beside the policy's"
        yield ("cluster.zero_stage", "method.kl.estimator"), what, "use zero_stage: 2, model.lora, or kl.estimator: k2"

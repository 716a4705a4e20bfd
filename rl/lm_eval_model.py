"""A masked diffusion model for lm-evaluation-harness (extra `eval`), through the same sampler as everything here.

    from rl.lm_eval_model import UnmaskLM
    lm_eval.simple_evaluate(model=UnmaskLM("GSAI-ML/LLaDA-8B-Instruct", canvas=256, block=32), tasks=["gsm8k"])

or, as lm-eval finds no models of other packages by itself, ``python -m rl.lm_eval_model run --model unmask --model_args path=...``: its
own command line with this model registered.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rl.bound import log_bound
from rl.errors import CommandError
from rl.evaluation import cut, runs
from rl.noise import Noise
from rl.sample import as_asked
from rl.source import find_source
from rollouts.policy import Policy
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.streams import Purpose, stream

KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p")  # generation arguments that mean something here


class _Answers:
    """What the harness asks of a model, without the harness: `UnmaskLM` is this and its base class."""

    def __init__(
        self,
        path: str | Policy,
        adapter: str | None = None,
        *,
        canvas: int | None = None,
        block: int = 32,
        steps: int | None = None,
        selection: str = "confidence",
        threshold: float | None = None,
        temperature: float | None = None,
        top_p: float = 1.0,
        dtype: str | None = None,
        seed: int = 0,
        draws: int = 128,
        greedy: bool = True,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """path, adapter: as `unmask eval --model` takes them, or a loaded policy.

        canvas       tokens generated; default what a task asks for (``max_gen_toks``). steps: default canvas
        temperature  default what a task asks for, 0 where it does not sample
        draws        masks of a lower bound, which stands for a log-likelihood
        greedy       whether log-likelihoods come with the word whether greedy decoding gives the text, a token a step; it costs as many
                     forwards as the text has tokens, and few metrics look at it. Off, the word is no

        Raises CommandError, ModelError.
        """
        super().__init__()
        if isinstance(path, str):
            source = as_asked(find_source(path, None if adapter is None else Path(adapter)), dtype, None)
            path = source.load()
        self.policy = path
        # cuda:0 is what the harness says where nobody said anything, GPU or not.
        if device not in (None, "cuda", "cuda:0", self.policy.device.type, str(self.policy.device)):
            raise CommandError(
                f"device {device}: the model is on {self.policy.device}; CUDA_VISIBLE_DEVICES chooses another"
            )
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise CommandError(f"batch_size {batch_size}: give a number of rows")
        self.rows, self.seed, self.draws, self.greedy = int(batch_size), seed, draws, greedy
        self.canvas, self.steps, self.temperature = canvas, steps, temperature
        self.law = {"block": block, "selection": selection, "threshold": threshold, "top_p": top_p}
        self.noise = Noise(draws=draws, levels="stratified")

    # -- what the harness reads

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.policy.tokenizer, "name_or_path", "")).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's own template. Raises CommandError where another is asked for, or there is none."""
        if not chat_template:
            return None
        own = getattr(self.policy.tokenizer, "chat_template", None)
        if chat_template is not True or not own:
            raise CommandError(
                "the model's own chat template is used, and no other; it has none"
                if not own
                else f"chat_template {chat_template!r}: the model's own is used, and no other"
            )
        return str(own)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text = self.policy.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    def get_model_info(self) -> dict[str, Any]:
        """What a result should say about its numbers."""
        return {
            "sampler": {
                **self.law,
                "canvas": self.canvas,
                "steps": self.steps,
                "temperature": self.temperature,
                "seed": self.seed,
            },
            "loglikelihood": f"Monte-Carlo estimate of a lower bound (ELBO), {self.draws} masks, stratified; not a log-likelihood",
        }

    # -- generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer s of document d of a task draws from ``stream(seed, EVAL, s, d)``, as a protocol's prompt at place d does."""
        texts: list[str] = [""] * len(requests)
        for (_, sample, settings), places in _grouped(requests).items():
            spec, until = self._spec(json.loads(settings))
            documents = dict(places)
            for stretch in runs(sorted(documents)):
                for low in range(stretch.start, stretch.stop, self.rows):
                    part = range(low, min(low + self.rows, stretch.stop))
                    prompts = [self._tokens(requests[documents[i]].args[0], spec.canvas) for i in part]
                    batch = sample_groups(
                        self.policy,
                        prompts,
                        spec,
                        group_size=1,
                        prompt_ids=list(part),
                        seed=self.seed,
                        step=sample,
                        purpose=Purpose.EVAL,
                        max_rows=self.rows,
                        first_rollout=low,
                    )
                    for i, text in zip(part, batch.texts, strict=True):
                        texts[documents[i]] = cut(text, until)
        return texts

    def _spec(self, asked: Mapping[str, Any]) -> tuple[SamplerSpec, list[str]]:
        """The sampler and the stops of a task's generation arguments. What was stated when the model was made goes first."""
        unknown = sorted(set(asked) - set(KNOWN))
        if unknown:
            raise CommandError(f"generation arguments {', '.join(unknown)}: unknown here; known are {', '.join(KNOWN)}")
        canvas = self.canvas or asked.get("max_gen_toks")
        if canvas is None:
            raise CommandError(
                "canvas: neither the model nor the task says how many tokens to generate; add canvas=256"
            )
        sampled = (
            asked.get("temperature", 1.0 if asked.get("do_sample") else 0.0) if asked.get("do_sample", True) else 0.0
        )
        values = {
            **self.law,
            "canvas": canvas,
            "steps": self.steps or canvas,
            "temperature": float(sampled if self.temperature is None else self.temperature),
            "top_p": asked.get("top_p", self.law["top_p"]),
        }
        try:
            spec = SamplerSpec.model_validate(values)
        except ValidationError as error:
            raise CommandError("\n".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())) from error
        if spec.problems():
            raise CommandError("\n".join(f"{key}: {message}" for key, message in spec.problems()))
        until = asked.get("until") or []
        return spec, [until] if isinstance(until, str) else list(until)

    def _tokens(self, text: str, room: int) -> list[int]:
        ids = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) + room > self.policy.max_length:
            raise CommandError(
                f"a context of {len(ids)} tokens and {room} more do not fit the model's {self.policy.max_length} positions; take fewer "
                "examples or a smaller canvas"
            )
        return ids

    # -- likelihood

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """A lower bound in place of each log-likelihood. The continuations of a document share their random numbers, so that choices are
        compared with less noise."""
        found = []
        for request in requests:
            context, target = self._pair(*request.args)
            found.append(
                (self._bound(context, target, request.doc_id or 0), self.greedy and self._is_greedy(context, target))
            )
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The bound of a whole text. Raises CommandError for one longer than the model."""
        return [self._bound([], self._tokens(request.args[0], 0), request.doc_id or 0) for request in requests]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; blanks at the end of a context belong to the continuation, where tokenizers put them."""
        blank = len(context) - len(context.rstrip())
        if blank:
            context, continuation = context[:-blank], context[-blank:] + continuation
        first = self._tokens(context, 0)
        return first, self._tokens(context + continuation, 0)[len(first) :]

    def _bound(self, context: Sequence[int], target: Sequence[int], document: int) -> float:
        if not target:
            return 0.0
        generators = [stream(self.seed, Purpose.BOUND, document, draw) for draw in range(self.draws)]
        return log_bound(self.policy, context, target, self.noise, generators, rows=self.rows)

    def _is_greedy(self, context: Sequence[int], target: Sequence[int]) -> bool:
        if not target:
            return True
        spec = SamplerSpec(canvas=len(target), block=len(target), steps=len(target), temperature=0.0, early_stop=False)
        batch = sample_groups(
            self.policy, [context], spec, group_size=1, prompt_ids=[0], seed=self.seed, step=0, purpose=Purpose.EVAL
        )
        return batch.tokens[0][batch.canvas_mask[0]].tolist() == list(target)


def _grouped(requests: Sequence[Any]) -> dict[tuple[str, int, str], list[tuple[int, int]]]:
    """(task, sample, generation arguments) -> (document, index of the request): repeats of a document are its samples."""
    seen: dict[tuple[str, int], int] = {}
    found: dict[tuple[str, int, str], list[tuple[int, int]]] = {}
    for index, request in enumerate(requests):
        task, document = request.task_name or "", index if request.doc_id is None else request.doc_id
        sample = seen.get((task, document), 0)
        seen[task, document] = sample + 1
        settings = json.dumps(dict(request.args[1]), sort_keys=True)
        found.setdefault((task, sample, settings), []).append((document, index))
    return found


@cache
def model_class() -> type:
    """`UnmaskLM`, registered with the harness as ``unmask``. Raises CommandError where the extra is not installed."""
    try:
        import lm_eval.models  # noqa: F401  the registry fills itself only while it is empty
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise CommandError("lm-evaluation-harness is not installed: pip install 'unmask[eval]'") from error
    made = type("UnmaskLM", (_Answers, LM), {"__doc__": _Answers.__doc__, "__module__": __name__})
    return register_model("unmask")(made)


def __getattr__(name: str) -> Any:
    if name == "UnmaskLM":
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """The harness's own command line, with ``--model unmask``."""
    try:
        model_class()
    except CommandError as error:
        sys.exit(f"error: {error}")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    # Under its own name, so that the class is made once.
    from rl import lm_eval_model

    lm_eval_model.main()

"""An evaluation protocol: one frozen, hashed value that says everything on which a measured accuracy depends, but for the model.

A protocol file is YAML with ``protocol: 1`` on top. Its hash covers all it says (not its comments), so that two results with
one hash were measured alike, and any override gives another protocol.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from rl.config_checks import missing_file
from rl.config_errors import Problem, RecipeErrors, listing, nearest
from rl.config_explain import explain
from rl.config_overrides import Origin, apply_overrides
from rl.config_schema import Section, values_or_ranges
from rl.config_yaml import Document, dotted, read_file
from rl.recipes import protocol_folder, protocol_names, recipe_names
from rollouts.spec import EosPolicy, SamplerSpec, Selection

SUFFIXES = (".yaml", ".yml")
Vote = Literal["number", "formula", "expression", "grid4", "grid9", "text"]


class ProtocolErrors(RecipeErrors):
    """Everything that is wrong with a protocol."""

    def render(self) -> str:
        return super().render().replace("with this recipe", "with this protocol", 1)


class Reproduces(Section):
    """What the numbers of this protocol may be compared with."""

    what: str = Field(description="the published table or row")
    paper: str | None = Field(default=None, description="arXiv number")
    code: str | None = Field(default=None, description="repository, commit and path that the settings were read from")
    kind: Literal["primary", "secondary", "own"] = Field(
        description="primary: read in the authors' code or paper; secondary: in others' copies or reports; own: ours"
    )


class Subset(Section):
    """Rows drawn from the data set: ``numpy.random.RandomState(seed).choice(rows, count, replace=False)``, in that order."""

    count: int = Field(ge=1, description="rows")
    seed: int = Field(ge=0, lt=2**32, description="of NumPy's legacy generator, which published scripts use")


class Replaced(Section):
    """A further column: the text of another one with a text in it replaced everywhere."""

    column: str = Field(description="the column it is made from")
    old: str = Field(min_length=1, description="what is replaced")
    new: str = Field(description="by what")


class ProtocolData(Section):
    """The rows that are asked. ``--data`` says where they lie on this machine, and changes nothing here."""

    path: str = Field(description="Hub name, or a file, looked for beside the protocol, then in the working folder")
    name: str | None = Field(default=None, description="configuration of a Hub data set")
    split: str = Field(default="train", description="split name")
    columns: dict[str, str] = Field(default_factory=dict, description="{our name: the data set's name}")
    add: dict[str, Replaced] = Field(default_factory=dict, description="further columns, by name")
    where: dict[str, Any] | None = Field(
        default=None,
        description="rows that count: {the data set's name: a value, a list of values, or {at_least: number, at_most: number}}",
    )
    rows: int | None = Field(default=None, ge=1, description="how many these are; other numbers are told as a change")
    subset: Subset | None = Field(default=None, description="which rows are asked; null: all, in order")
    limit: int | None = Field(default=None, ge=1, description="only the first of these")
    cluster: str | None = Field(
        default=None, description="column whose equal values share structure, so that intervals treat them together"
    )

    @field_validator("where")
    @classmethod
    def _values_or_ranges(cls, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if wanted is None else values_or_ranges(wanted)


class Shot(Section):
    """A worked example: a turn of the user, and the assistant's."""

    user: str
    assistant: str


class ProtocolPrompt(Section):
    """How a row becomes what the model reads, and where its answer ends."""

    template: str = Field(description="the user's message, made from columns: {question}; {{ and }} are braces")
    system: str | None = Field(default=None, description="system message")
    few_shot: tuple[Shot, ...] = Field(default=(), description="turns before the question")
    chat_template: Literal["auto", "none"] = Field(
        default="auto", description="the tokenizer's markup; none: plain text"
    )
    prefill: str | None = Field(default=None, description="beginning of the answer, which the model continues")
    stop: tuple[str, ...] = Field(default=(), description="the answer is graded up to the first of these texts")


class ProtocolSampler(SamplerSpec):
    """The sampler. Nothing that shapes the text has a default here."""

    canvas: int = Field(ge=1, description="number of positions that are generated")
    block: int = Field(ge=1, description="positions denoised together")
    steps: int = Field(ge=1, description="denoising steps over the whole canvas")
    selection: Selection = Field(description="which positions a step keeps")
    temperature: float = Field(ge=0.0, description="of the token draw; 0 takes the most probable token")
    eos: EosPolicy = Field(description="where text ends: at the first end token")
    early_stop: bool = Field(description="a row leaves the batch when a finished block holds an end token")

    @property
    def spec(self) -> SamplerSpec:
        return SamplerSpec(**self.model_dump())


class Parser(Section):
    """One way of grading the same answers: a reward function, by the name that recipes use."""

    fn: str = Field(description="gsm8k.correct, my_rewards.py:correct, package.module:function")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="extra keyword arguments of the function")
    name: str | None = Field(default=None, description="name in the results; null: the function's name")


class Protocol(Section):
    """Everything that an accuracy depends on, but for the model."""

    protocol: Literal[1] = Field(description="version of this schema")
    task: str = Field(description="what is asked")
    source: Reproduces
    departures: tuple[str, ...] = Field(default=(), description="where what is measured differs from the published way")
    data: ProtocolData
    prompt: ProtocolPrompt
    sampler: ProtocolSampler
    dtype: Literal["bfloat16", "float32"] = Field(description="of the forward pass")
    parsers: tuple[Parser, ...] = Field(
        min_length=1, description="graders of the same answers; the first gives the headline"
    )
    vote: Vote | None = Field(default=None, description="how answers are read for a majority vote; null: no maj@k")
    samples: int = Field(default=1, ge=1, description="answers to each prompt, for each seed")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="of the draws")

    @property
    def hash(self) -> str:
        """64 hexadecimal digits over all that is said. What is null is left out, so that a later word of the schema that is null by
        default leaves the hashes of older protocols alone."""
        said = self.model_dump(mode="json", exclude_none=True)
        text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Loaded:
    """A protocol as it will be run. stated: as its file says; file: where that stands."""

    name: str
    protocol: Protocol
    stated: Protocol
    file: Path

    @property
    def changes(self) -> list[str]:
        """``key: stated -> run`` for everything that an override, or data of another size, changed."""
        before, now = (flat(one.model_dump(mode="json")) for one in (self.stated, self.protocol))
        return [
            f"{key}: {shown(before.get(key))} -> {shown(now.get(key))}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key) and not (key in before and _inside(key, now))
        ]

    def with_rows(self, count: int) -> "Loaded":
        """The same, over data of another size."""
        data = self.protocol.data.model_copy(update={"rows": count})
        return replace(self, protocol=self.protocol.model_copy(update={"data": data}))


def _inside(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether settings say what stands in a mapping that is empty on the other side: {} of columns, and columns.question."""
    return any(other.startswith(f"{key}.") for other in settings)


def is_protocol(target: str) -> bool:
    """Whether a target of `unmask eval` names a protocol: a shipped one, or a file with ``protocol`` on top.

    Raises ProtocolErrors where a name could mean two things.
    """
    path = Path(target).expanduser()
    shipped = target in protocol_names()
    if shipped and (path.exists() or target in recipe_names()):
        other = f"the file or folder {path}" if path.exists() else "a recipe"
        remedy = f"write ./{target} for the file or folder here, or {protocol_folder() / target}.yaml for the protocol"
        raise ProtocolErrors([Problem(target, "", f"names a protocol and {other}", None, remedy)])
    if shipped or not (path.is_file() and path.suffix in SUFFIXES):
        return shipped
    return "protocol" in read_file(path).data


def load_protocol(target: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """A protocol by its name or file, with overrides ``key.path=value``.

    Raises ProtocolErrors, holding everything that is wrong.
    """
    path = Path(target).expanduser()
    if not path.is_file() and str(target) in protocol_names():
        path = protocol_folder() / f"{target}.yaml"
    if not path.is_file():
        raise ProtocolErrors([_no_such_file(str(target), path)])
    problems: list[Problem] = []
    stated = _read(read_file(path), (), problems)
    run = _read(read_file(path), overrides, problems) if overrides else stated
    if problems or stated is None or run is None:
        raise ProtocolErrors(list(dict.fromkeys(problems)))
    return Loaded(path.stem, run, stated, path)


def _no_such_file(target: str, path: Path) -> Problem:
    near = nearest(target, protocol_names())
    if near is None and path.suffix in SUFFIXES:
        message, remedy, near = missing_file(path.absolute())
        return Problem(target, "", message, near, remedy)
    return Problem(target, "", "there is no such protocol", near, f"protocols: {listing(protocol_names(), 40)}")


def _read(document: Document, overrides: Sequence[str], problems: list[Problem]) -> Protocol | None:
    """The protocol, or None; what is wrong goes to `problems`."""
    problems += document.problems
    if document.problems and not document.data:
        return None
    origin = apply_overrides(document, overrides, problems)
    found = _validated(document, origin, problems)
    for key, message, remedy in _contradictions(found) if found is not None else ():
        problems.append(origin.problem(key, message, None, remedy))
    return found


def _validated(document: Document, origin: Origin, problems: list[Problem]) -> Protocol | None:
    """The protocol, or what is wrong with it."""
    data = document.data
    parsers = data.get("parsers")
    if isinstance(parsers, list):  # a name alone stands for a parser
        data["parsers"] = [{"fn": one} if isinstance(one, str) else one for one in parsers]
    try:
        return Protocol.model_validate(_tuples(data), strict=True)
    except ValidationError as error:
        for fault in explain(error, data, Protocol):
            problems.append(origin.problem(dotted(fault.path), fault.message, fault.nearest, fault.remedy))
    return None


def _contradictions(found: Protocol) -> list[tuple[str, str, str | None]]:
    """(key, message, remedy) for what each key allows and all of them together do not."""
    wrong: list[tuple[str, str, str | None]] = [
        (f"sampler.{key}", message, None) for key, message in found.sampler.spec.problems()
    ]
    if found.sampler.temperature == 0 and (found.samples > 1 or len(found.seeds) > 1):
        key = "samples" if found.samples > 1 else "seeds"
        wrong.append((key, "at temperature 0 all answers to a prompt are the same", "set sampler.temperature"))
    if len(set(found.seeds)) < len(found.seeds):
        wrong.append(("seeds", "a seed stands twice, and would give the same answers twice", None))
    if found.prompt.few_shot and found.prompt.chat_template == "none":
        wrong.append(("prompt.few_shot", "turns need a chat template", "write the examples into prompt.template"))
    names = [one.name or one.fn.rpartition(":")[2] for one in found.parsers]
    wrong += [
        (f"parsers.{place}.name", f"two parsers are called {name!r}", "give one of them another name")
        for place, name in enumerate(names)
        if name in names[:place]
    ]
    return wrong


def _tuples(value: Any, key: str = "") -> Any:
    """Lists to tuples, which is what strict validation wants; arguments of parsers are left as written."""
    if isinstance(value, dict):
        return {name: item if name == "kwargs" else _tuples(item, name) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys of plain data; lists of sections by number, other lists whole."""
    if isinstance(value, Mapping) and value:
        parts = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = [(f"{path}.{index}", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: item for part, inside in parts for key, item in flat(inside, part).items()}


def shown(value: Any) -> str:
    """A setting as a message names it, cut if long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"

"""Asking a model behind an OpenAI-compatible endpoint: many requests at a time, again where that may help, each answer kept.

The client is `openai`'s own (extra `judge`), which retries with exponential back-off and heeds Retry-After. What it raises
becomes one of two things: an InfrastructureError for the row that was asked about, or a RewardError that ends the run,
where no later request can go better.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

from rewards.contract.answers import InfrastructureError
from rewards.contract.reward import RewardError
from rewards.judging.cache import Reply, read_cache, write_cache
from rewards.judging.endpoint import address_problem, hidden, key_problem, read_key, secret_in, variable_problem
from rewards.judging.prompts import Messages, again
from rewards.judging.verdicts import Token, UnreadableError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

T = TypeVar("T")
MISSING_EXTRA = "needs the package openai: pip install 'unmask[judge]'"
_OF_THE_ROW = (400, 413, 422)  # a text that is too long, or that the service does not like; another row's may pass
_PASSING = (408, 409, 425, 429)  # and 5xx
_LISTED = 12  # models named in a message
_OURS = ("model", "messages", "stream", "n")


@dataclass(frozen=True)
class Settings:
    """Which judge, and how it is asked. Each field is a kwarg of every judge reward.

    base_url     of the endpoint, as http://127.0.0.1:8000/v1
    model        its name there
    api_key_env  the name of the environment variable with the key; where the default is not set, no key is sent
    max_tokens   of a reply; None: not sent (models that take another name for it: extra_body)
    temperature  None: not sent (models that take none)
    concurrency  requests under way at a time, in one process
    timeout      seconds for one attempt
    retries      of a request that found nobody, 408, 409, 429 or 5xx
    cache        folder that keeps every reply that could be read; None: none
    price        [per million tokens in, per million tokens out], in any currency
    extra_body   further fields of the request, as {chat_template_kwargs: {enable_thinking: false}}
    log_as       begins the names of what is logged; None: the reward's own, such as judge.rubric
    """

    base_url: str = ""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    max_tokens: int | None = 512
    temperature: float | None = 0.0
    concurrency: int = 16
    timeout: float = 60.0
    retries: int = 3  # with `timeout`, less than half of what an entry of `rewards:` gives a batch
    cache: str | None = None
    price: tuple[float, float] | None = None
    extra_body: Mapping[str, Any] | None = None
    log_as: str | None = None


NAMES = tuple(one.name for one in fields(Settings))


def longest_request(**kwargs: Any) -> float:
    """Seconds that one request may take by these kwargs: all its attempts, and the client's pauses of 0.5, 1, 2, 4, 8, 8, ... between
    them (longer only where the endpoint asks for it by Retry-After)."""
    retries = kwargs.get("retries", Settings.retries)
    return (retries + 1) * kwargs.get("timeout", Settings.timeout) + sum(min(8.0, 0.5 * 2**n) for n in range(retries))


def settings_problems(kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kwarg, message) of everything that is wrong with the settings among a reward's kwargs. No message shows a key."""
    given = {one.name: kwargs.get(one.name, one.default) for one in fields(Settings)}
    found: list[tuple[str, str | None]] = []
    for name in ("base_url", "model"):
        if not given[name]:
            found.append(
                (name, f"is required: {'the address of the endpoint' if name == 'base_url' else 'its name there'}")
            )
    if given["base_url"]:
        found.append(("base_url", address_problem(given["base_url"])))
    found.append(("api_key_env", variable_problem(given["api_key_env"])))
    found += [(name, _text_problem(given[name])) for name in ("model", "cache", "log_as")]
    numbers = (("max_tokens", int, 1, True), ("temperature", float, 0, True), ("concurrency", int, 1, False))
    numbers += (("timeout", float, 0.001, False), ("retries", int, 0, False))
    found += [(name, _number_problem(given[name], kind, least, optional)) for name, kind, least, optional in numbers]
    price = given["price"]
    if price is not None and not (_is_list(price, 2) and all(_is_number(one) and one >= 0 for one in price)):
        found.append(("price", _odd("takes two numbers, [per million tokens in, per million tokens out]", price)))
    found.append(("extra_body", _body_problem(given["extra_body"])))
    if importlib.util.find_spec("openai") is None:
        found.append(("base_url", MISSING_EXTRA))
    return [(name, message) for name, message in found if message]


def _text_problem(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else _odd("takes a text", value)


def _number_problem(value: Any, kind: type, least: float, optional: bool) -> str | None:
    if value is None and optional:
        return None
    if _is_number(value) and (kind is float or isinstance(value, int)) and value >= least:
        return None
    return _odd(f"takes a {'whole ' if kind is int else ''}number from {least:g} on", value)


def _body_problem(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return _odd("takes a mapping of request fields to values", value)
    if secret_in(value):
        return "holds what looks like a key; a recipe is written to the run folder. Name its variable with api_key_env"
    taken = [name for name in _OURS if name in value]
    return f"cannot set {', '.join(taken)}; the reward does" if taken else None


def _odd(wanted: str, value: Any) -> str:
    column = " (a data column of this name takes its place: rename the column)" if isinstance(value, list) else ""
    return f"{wanted}, not {type(value).__name__}{column}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e12


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length


# --------------------------------------------------------------------------------------------------------------- asking


class RefusedError(InfrastructureError):
    """A request that the endpoint understood and would not answer, or answered with nonsense: the row's fault, or everyone's."""


@dataclass
class Tally:
    """What one call of a reward cost. seconds: of answered requests, waiting for a free place not counted."""

    requests: int = 0
    cached: int = 0
    reasked: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class _Client:
    """One per event loop and endpoint: connections and the limit on requests outlive a call."""

    openai: AsyncOpenAI
    limit: asyncio.Semaphore
    key: str | None
    answered: bool = False


class Judge:
    """One endpoint, as a call of a reward sees it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.tally = settings, Tally()
        self.client = _client(settings)
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def verdict(self, messages: Messages, read: Callable[[Reply], T], **more: Any) -> T:
        """What `read` finds in the reply; asked once more where it raises UnreadableError. Equal requests are sent once.

        more: fields of the request. Raises InfrastructureError, or RewardError where the endpoint will answer no request.
        """
        body = self._body(messages, more)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if key in self._under_way:
            self.tally.cached += 1
        else:
            self._under_way[key] = asyncio.create_task(self._verdict(body, key, read))
        return await self._under_way[key]

    async def close(self) -> None:
        """End what is still under way for a call that is over."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _verdict(self, body: dict[str, Any], key: str, read: Callable[[Reply], T]) -> T:
        kept = read_cache(self.settings.cache, key)
        if kept is not None:
            try:
                found = read(kept)
            except UnreadableError:
                pass  # kept by another version of this file
            else:
                self.tally.cached += 1
                return found
        reply = await self._send(body)
        try:
            found = read(reply)
        except UnreadableError as error:
            self.tally.reasked += 1
            why = _why(error, reply)
            reply = await self._send(body | {"messages": again(body["messages"], reply.text, why)})
            try:
                found = read(reply)
            except UnreadableError as second:
                raise self._failed(InfrastructureError(f"unreadable verdict: {_why(second, reply)}")) from None
        write_cache(self.settings.cache, key, reply)
        return found

    def _body(self, messages: Messages, more: Mapping[str, Any]) -> dict[str, Any]:
        one = self.settings
        body = {"model": one.model, "messages": messages, "max_tokens": one.max_tokens, "temperature": one.temperature}
        body = {name: value for name, value in body.items() if value is not None}
        return {**body, **more, **(one.extra_body or {})}

    async def _send(self, body: dict[str, Any]) -> Reply:
        """One request, retried by the client. The whole body goes as `extra_body`: what is sent is what was hashed."""
        import openai

        async with self.client.limit:
            started = time.perf_counter()
            try:
                raw = await self.client.openai.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=body
                )
                reply = self._reply(raw.parse())
            except openai.APIStatusError as error:
                raise await self._refusal(error) from None
            except openai.APIConnectionError as error:  # timeouts, too
                what = "no answer in time" if isinstance(error, openai.APITimeoutError) else "no answer"
                raise self._failed(InfrastructureError(f"{what} from the judge")) from None
            except (openai.OpenAIError, ValueError) as error:
                raise self._failed(RefusedError(f"the reply is no JSON ({type(error).__name__})")) from None
        self.client.answered = True
        self.tally.requests += 1
        self.tally.retries += raw.retries_taken
        self.tally.seconds += time.perf_counter() - started
        self.tally.tokens_in += reply.tokens_in
        self.tally.tokens_out += reply.tokens_out
        return reply

    def _reply(self, answer: Any) -> Reply:
        try:
            choice = answer.choices[0]
            text = hidden(choice.message.content or "", self.client.key)
            listed = getattr(choice.logprobs, "content", None)
            tokens = None if listed is None else tuple(map(_token, listed[:4]))
            usage = answer.usage
        except (AttributeError, LookupError, TypeError):
            raise self._failed(RefusedError("the reply has no choices")) from None
        counts = (getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
        return Reply(text, choice.finish_reason or "", tokens, *counts)

    def _failed(self, error: InfrastructureError) -> InfrastructureError:
        self.tally.failures[str(error).partition(":")[0].partition(" (")[0]] += 1
        return error

    async def _refusal(self, error: APIStatusError) -> Exception:
        """What an HTTP status means for the row, or for the run."""
        status, one = error.status_code, self.settings
        said = " ".join(hidden(_words(error), self.client.key).split())[:300]
        if status in _PASSING or status >= 500:
            return self._failed(InfrastructureError(f"HTTP {status} from the judge"))
        if status in _OF_THE_ROW:
            return self._failed(RefusedError(f"HTTP {status} ({said})"))
        hint = await self._hint(status)
        return RewardError(
            f"the judge at {one.base_url} refuses the model {one.model!r} with HTTP {status}: {said}\n    {hint}"
        )

    async def _hint(self, status: int) -> str:
        """What to do about a request that no later one can follow."""
        name = self.settings.api_key_env
        if status in (401, 403):
            sent = (
                f"the key in the environment variable {name} was sent"
                if self.client.key
                else f"no key was sent: the environment variable {name} is not set"
            )
            return f"{sent}; set the right one, or name another variable with api_key_env"
        models = await self._models()
        if models is None:
            return "the endpoint lists no models: check base_url (it mostly ends in /v1) and model"
        return (
            f"models there: {', '.join(models[:_LISTED]) or 'none'}{' ...' if len(models) > _LISTED else ''}; set model"
        )

    async def _models(self) -> list[str] | None:
        import openai

        try:
            page = await self.client.openai.with_options(max_retries=0).models.list()
            return [str(one.id) for one in page.data]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return None


def _client(settings: Settings) -> _Client:
    """The client of this event loop for these settings. Raises RewardError for a key that cannot be sent or is missing."""
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise RewardError(f"a judge {MISSING_EXTRA}") from error

    own = _clients.setdefault(asyncio.get_running_loop(), {})
    which = (settings.base_url, settings.api_key_env, settings.concurrency, settings.timeout, settings.retries)
    if which not in own:
        key = read_key(settings.api_key_env)
        wrong = key_problem(key)
        if wrong:
            raise RewardError(f"the environment variable {settings.api_key_env}: {wrong}")
        if key is None and settings.api_key_env != Settings.api_key_env:
            raise RewardError(
                f"api_key_env names the environment variable {settings.api_key_env}, which is not set here"
            )
        client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key or "none",  # the client insists on one; a server without keys ignores it
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        own[which] = _Client(client, asyncio.Semaphore(settings.concurrency), key)
    return own[which]


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Any, ...], _Client]] = WeakKeyDictionary()


def _token(one: Any) -> Token:
    return one.token, tuple((other.token, float(other.logprob)) for other in one.top_logprobs or [one])


def _why(error: UnreadableError, reply: Reply) -> str:
    return "cut off at max_tokens" if reply.finish == "length" else str(error)


def _words(error: APIStatusError) -> str:
    body = error.body
    said = body.get("message") or body.get("detail") or body if isinstance(body, Mapping) else body
    return str(said or error.response.text)

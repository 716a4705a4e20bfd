"""Replies of judges, kept on disk under the digest of the request: model, messages, parameters; never the address or the key."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from rewards.contract.reward import RewardError
from rewards.judging.verdicts import Token


@dataclass(frozen=True)
class Reply:
    """What came back. tokens: of the reply's beginning, with alternatives; None where the server sent no log-probabilities."""

    text: str
    finish: str
    tokens: tuple[Token, ...] | None
    tokens_in: int
    tokens_out: int


def read_cache(folder: str | None, key: str) -> Reply | None:
    """The reply kept under a request's digest; None where there is none, or none that can be read."""
    if folder is None:
        return None
    try:
        kept = json.loads(_place(folder, key).read_text(encoding="utf-8"))
        tokens = kept["tokens"]
        pairs = tokens and tuple((text, tuple((t, float(p)) for t, p in others)) for text, others in tokens)
        return Reply(str(kept["text"]), str(kept["finish"]), pairs, 0, 0)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_cache(folder: str | None, key: str, reply: Reply) -> None:
    """Keep a reply, whole or not at all, whoever else writes. Raises RewardError where the folder cannot be written."""
    if folder is None:
        return
    place = _place(folder, key)
    part = place.with_name(f".{key}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(
            json.dumps({"text": reply.text, "finish": reply.finish, "tokens": reply.tokens}), encoding="utf-8"
        )
        part.replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RewardError(
            f"the judge's cache {folder} cannot be written: {error.strerror}; name another folder with cache"
        ) from error


def _place(folder: str, key: str) -> Path:
    return Path(folder).expanduser() / key[:2] / f"{key}.json"

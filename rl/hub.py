"""Uploading an export to the Hugging Face Hub. Nothing is sent unless a person asked for it by name."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rl.errors import CommandError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def check_name(name: str, option: str) -> None:
    """Raises CommandError unless `name` is owner/name."""
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise CommandError(
            f"{option} {name}: this is no name of a Hub repository; give OWNER/NAME, as in jane/llada-gsm8k"
        )


def check_ready(name: str) -> None:
    """Raises CommandError for what would make an upload fail: the name, no token, offline mode."""
    from huggingface_hub import constants, get_token

    check_name(name, "--push")
    if constants.HF_HUB_OFFLINE:
        raise CommandError("--push: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave --push out")
    if get_token() is None:
        raise CommandError(f"--push: there is no Hugging Face token on this machine; {LOGIN}")


def upload(folder: Path, name: str, *, private: bool, files: Sequence[str], message: str) -> str:
    """Create the model repository `name` if need be and put `files` of `folder` there. Returns its address.

    Raises CommandError: refused by the Hub, no connection, or a public repository where a private one was asked for.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(name, folder):
        api.create_repo(name, private=private, exist_ok=True)
        if private and api.repo_info(name).private is False:
            raise CommandError(
                f"--push {name}: this repository exists and is public; add --public to upload to it all the same, "
                f"or name another one. The export is in {folder}"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, allow_patterns=list(files))
    return f"{api.endpoint}/{name}"


@contextmanager
def _hub_errors(name: str, folder: Path) -> Iterator[None]:
    """What the Hub and the network object to, in a sentence."""
    from huggingface_hub import errors

    kept = f"The export is in {folder}; nothing is lost."
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        reason = {
            401: f"the token is not valid; {LOGIN}",
            403: "the token may not write there; take one with write access, or another owner",
            404: "there is no such owner, or the token may not see it",
        }.get(status if isinstance(status, int) else 0, error.server_message or "the Hub refused")
        raise CommandError(f"--push {name}: {reason} ({status}). {kept}") from error
    except errors.HFValidationError as error:
        raise CommandError(f"--push {name}: {error}. {kept}") from error
    except (errors.HTTPError, OSError) as error:
        what = str(error) or type(error).__name__
        raise CommandError(f"--push {name}: the Hub cannot be reached ({what}). {kept}") from error
    except ValueError as error:
        if isinstance(error, CommandError):
            raise
        raise CommandError(f"--push {name}: {error}. {kept}") from error

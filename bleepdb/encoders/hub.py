"""Weights on the Hugging Face hub: fetched, and their failures in one line.

Tokens are the hub library's business (``HF_TOKEN``, or `hf auth login`); none is read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants, errors, hf_hub_download

from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence


def spelled(repository: str) -> str:
    """Return a repository's name as the cache spells it: the hub ignores case, folders do not."""
    base = Path(constants.HF_HUB_CACHE)
    wanted = "models--" + repository.replace("/", "--")
    names = [f.name for f in base.iterdir()] if base.is_dir() else []
    if wanted in names:
        return repository
    found = next((n for n in sorted(names) if n.lower() == wanted.lower()), wanted)
    return found.removeprefix("models--").replace("--", "/", 1)


def fetch(repository: str, files: Sequence[str]) -> Path:
    """Return the first of these files that the repository has, from the cache or the hub.

    Raises
    ------
    ModelError
        If it cannot be had.
    """
    missing: Exception | None = None
    for name in files:
        try:
            return Path(hf_hub_download(spelled(repository), name))
        except errors.LocalEntryNotFoundError as error:
            missing = missing or error  # another of them may lie in the cache
        except errors.EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError) as error:
            raise hub_fault(error, f"hf-hub:{repository}") from error
    raise hub_fault(
        missing or FileNotFoundError(", ".join(files)), f"hf-hub:{repository}"
    ) from missing


def hub_fault(error: Exception, where: str) -> ModelError:
    """Word what the hub's library raised: gated, unknown, out of reach, or as it said.

    Parameters
    ----------
    error
        What was raised.
    where
        The spec; a repository on the hub is named behind ``hf-hub:`` in it.
    """
    error = _cause(error)
    _, mark, repository = where.partition("hf-hub:")
    page = f"https://huggingface.co/{repository}"
    get = f"run `hf download {repository}`" if mark else "load it once"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            "its weights are gated, and this account has no access (or no token is set)",
            where=where,
            hint=f"ask for access at {page}, then set HF_TOKEN or run `hf auth login`; "
            "or give a weights file",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            "the hub has no such repository, or it is private",
            where=where,
            hint="check the name (`bleepdb encoders` lists known ones), or set HF_TOKEN",
        )
    offline = errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError
    if isinstance(error, offline):
        return ModelError(
            "its weights are not on this machine, and the hub is out of reach",
            where=where,
            hint=f"{get} where there is internet and copy the cache (HF_HOME), or give a weights "
            "file",
        )
    said = " ".join(str(error).split())[:160]
    return ModelError(
        f"the library could not make this backbone ({said})",
        where=where,
        hint="check the name, the internet and your access, or give a weights file",
    )


def _cause(error: Exception) -> Exception:
    """Find what the hub raised under what a library made of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, errors.HfHubHTTPError | errors.LocalEntryNotFoundError):
            return seen
        if isinstance(seen, ConnectionError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error

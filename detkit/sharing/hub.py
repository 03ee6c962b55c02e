"""Shared models on the Hugging Face Hub, by ``huggingface_hub``, which is needed here alone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

from detkit.checkpoint import CheckpointError

from .folder import SHARED_FILES

__all__ = ["fetch_shared_model", "push_shared_model"]

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def fetch_shared_model(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder of a shared model on this machine; one on the hub is fetched into the hub's cache.

    Args:
        name: the path of a folder, or "user/name" on the hub.
        revision: branch, tag or commit on the hub; None: the newest.

    Raises:
        CheckpointError: neither a folder nor a model on the hub, or it could not be fetched.
        ImportError: ``huggingface_hub`` is not installed.
    """
    if Path(name).is_dir():
        return Path(name)
    name = os.fspath(name)
    if not _ON_HUB.fullmatch(name):
        raise CheckpointError(f"There is no folder '{name}', and it is no name on the Hugging Face Hub, which would be 'user/name'.")
    hub = _hub()
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(SHARED_FILES), endpoint=_endpoint()))
    except Exception as error:  # errors of the hub, of its http client and of the system
        raise CheckpointError(
            f"The shared model '{name}' could not be fetched from {_endpoint() or 'the Hugging Face Hub'}: {_first_line(error)} Check the "
            "name and the connection; a folder that was fetched elsewhere works without both: Predictor.from_hub(FOLDER)."
        ) from error


def push_shared_model(folder: str | os.PathLike[str], name: str, *, private: bool = True) -> str:
    """Puts a folder that :func:`detkit.sharing.write_shared_model` made on the hub. Who does so is known from ``hf auth login``.

    Args:
        name: "user/name"; made if it is not there.
        private: whether a model that is made is seen by its owner alone.

    Returns:
        the address of the commit.

    Raises:
        CheckpointError: it is no such name, or could not be pushed.
        ImportError: ``huggingface_hub`` is not installed.
    """
    if not _ON_HUB.fullmatch(name):
        raise CheckpointError(f"'{name}' is no name on the Hugging Face Hub, which would be 'user/name'.")
    try:
        api = _hub().HfApi(endpoint=_endpoint())
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=os.fspath(folder), allow_patterns=list(SHARED_FILES)))
    except ImportError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"'{folder}' could not be pushed to '{name}': {_first_line(error)} Log in with 'hf auth login', and check name and connection."
        ) from error


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "huggingface_hub is not installed: pip install huggingface_hub. A folder on this machine is read without it."
        ) from error
    return huggingface_hub


def _endpoint() -> str | None:
    """``$HF_ENDPOINT`` as it is now; the package looks once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."

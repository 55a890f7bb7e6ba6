"""What is fetched from the Hub and sent to it, through `huggingface_hub`. Errors are one line."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from bitbayes.errors import require

SENT = ("README.md", "config.json", "*.safetensors")  # of a folder, and nothing else that may lie there
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_NETWORK = {"huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet"}


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a repository.

    Example:
        >>> is_id("owner/name"), is_id("name"), is_id("../folder/name")
        (True, False, False)
    """
    return _ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def checked_id(text: str) -> str:
    """Return the id of a repository.

    Raises:
        ValueError: If the text is none.
    """
    if not is_id(text):
        raise ValueError(f"an id on the Hub is OWNER/NAME, such as 'bitbayes/mnist', got {text!r}")
    return text


def fetched(
    repo_id: str,
    file: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the path of one file of a repository, in the cache of `huggingface_hub`; no other file is fetched.

    Raises:
        ConnectionError: If the Hub cannot be reached, or refuses in another way.
        FileNotFoundError: If there is no such repository, revision or file.
        ImportError: If `huggingface_hub` is not installed.
        PermissionError: If the token may not read the repository.
    """
    hub = require("huggingface_hub", "hub")
    with _one_line(repo_id, file, revision, token):
        return Path(
            hub.hf_hub_download(
                checked_id(repo_id),
                file,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                library_name="bitbayes",
            )
        )


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str = "Upload with bitbayes",
    create_pr: bool = False,
) -> str:
    """Upload a folder that `save_pretrained` wrote: its README.md, config.json and safetensors files, nothing else.

    Args:
        folder: Folder to upload.
        repo_id: Repository on the Hub, OWNER/NAME; it is made if it does not exist.
        private: Whether a new repository is private; None for the owner's default.
        token: Access token; None for the one of `hf auth login`. It is handed to `huggingface_hub` and kept nowhere.
        revision: Branch to upload to; None for the main one.
        message: Message of the commit.
        create_pr: Whether to open a pull request instead of changing the branch.

    Returns:
        Hash of the new commit; `from_pretrained(repo_id, revision=...)` takes it.

    Raises:
        ConnectionError: If the Hub cannot be reached, or refuses in another way.
        FileNotFoundError: If the folder has no model card.
        ImportError: If `huggingface_hub` is not installed.
        PermissionError: If the token may not write to the repository.
        ValueError: If the id is not OWNER/NAME.

    Example:
        >>> push("absent", "owner/name")
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent has no README.md; save_pretrained writes one
    """
    checked_id(repo_id)
    if not Path(folder, "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md; save_pretrained writes one")
    hub = require("huggingface_hub", "hub")
    with _one_line(repo_id, "", revision, token):
        api = hub.HfApi(token=token, library_name="bitbayes")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=list(SENT),
        )
    return str(commit.oid)


@contextlib.contextmanager
def _one_line(repo_id: str, file: str, revision: str | None, token: str | bool | None) -> Iterator[None]:
    """Replace errors of the Hub and of the network by a built-in error of one line, without the token."""
    from huggingface_hub import errors

    logger = logging.getLogger("huggingface_hub.utils._http")  # it writes two lines for each of several tries
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _NETWORK and not isinstance(error, OSError):
            raise
        where = f"{repo_id}{f' at revision {revision}' * (revision is not None)} on the Hub"
        # The error below says what happened where the outer one says only that nothing is in the cache.
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        text = " ".join(str(cause).split()) or type(cause).__name__
        text = (text.replace(token, "(token)") if isinstance(token, str) and token else text)[:200]
        if isinstance(error, errors.GatedRepoError):
            raise PermissionError(f"{where} is gated: accept its terms on its page, and give a token=") from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise FileNotFoundError(f"no {where}; if it is private, give a token= that may read it") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise FileNotFoundError(f"no {where}; its page lists the commits and branches") from error
        if isinstance(error, errors.LocalEntryNotFoundError):
            if cause is error:
                raise FileNotFoundError(f"{file} of {where} is not in the cache; leave local_files_only out") from error
            raise ConnectionError(f"cannot fetch {file} of {where}: {text}; a local folder works offline") from error
        if isinstance(error, errors.EntryNotFoundError):
            raise FileNotFoundError(f"{where} has no {file}, so it holds nothing of this kind") from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PermissionError(f"not allowed for {where}: {text}; give a token= with the right to do it") from error
        raise ConnectionError(f"the exchange with {where} failed: {text}") from error
    finally:
        logger.setLevel(level)

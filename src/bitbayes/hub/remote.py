"""Downloads from the Hub and uploads to it, through `huggingface_hub`. Errors are one line."""

from __future__ import annotations

import contextlib
import glob
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from bitbayes.errors import require

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(f"{_PART}/{_PART}")
_TOKEN = re.compile(r"[!-~]+")  # printable ASCII without whitespace
_NETWORK = {"huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet"}


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a repository, by the rules of `huggingface_hub`.

    Example:
        >>> is_id("owner/name"), is_id("name"), is_id("../folder/name")
        (True, False, False)
    """
    odd = ".." in text or "--" in text or text.endswith(".git")
    return _ID.fullmatch(text) is not None and not odd


def checked_id(text: str) -> str:
    """Return the id of a repository.

    Raises:
        ValueError: If the text is none.
    """
    if not is_id(text):
        raise ValueError(f"an id on the Hub is OWNER/NAME, such as 'bitbayes/mnist', got {text!r}")
    return text


def checked_token(token: str | bool | None) -> str | bool | None:
    """Return an access token that fits into the header of a request.

    Raises:
        ValueError: If it does not. The message does not quote the token.

    Example:
        >>> checked_token("hf_x ")
        Traceback (most recent call last):
        ...
        ValueError: token= is empty or has characters that no token has, such as whitespace; strip what you read
    """
    if isinstance(token, str) and _TOKEN.fullmatch(token) is None:
        raise ValueError("token= is empty or has characters that no token has, such as whitespace; strip what you read")
    return token


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
        ValueError: If the id is not OWNER/NAME, or the token has whitespace.
    """
    checked_id(repo_id)
    checked_token(token)
    hub = require("huggingface_hub", "hub")
    with _one_line(repo_id, file, revision, token):
        return Path(
            hub.hf_hub_download(
                repo_id,
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

    Inner folders stay here.

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
        ValueError: If the id is not OWNER/NAME, or the token has whitespace.

    Example:
        >>> push("absent", "owner/name")
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent is no folder; save_pretrained writes one
    """
    checked_id(repo_id)
    checked_token(token)
    if not Path(folder, "README.md").is_file():
        lack = "has no README.md" if Path(folder).is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder} {lack}; save_pretrained writes one")
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
            allow_patterns=[glob.escape(path.name) for path in _sent(Path(folder))],
        )
    return str(commit.oid)


def _sent(folder: Path) -> list[Path]:
    """Return the files to upload. A pattern such as `*.safetensors` would match those of inner folders too."""
    found = [folder / "README.md", folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return [path for path in found if path.is_file()]


@contextlib.contextmanager
def _one_line(repo_id: str, file: str, revision: str | None, token: str | bool | None) -> Iterator[None]:
    """Replace errors of the Hub and of the network by a built-in error of one line, without the token.

    The traceback ends there too: what the Hub or a proxy answered may repeat the token.
    """
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
            raise PermissionError(f"{where} is gated: accept its terms on its page, and give a token=") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise FileNotFoundError(f"no {where}; if it is private, give a token= that may read it") from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise FileNotFoundError(f"no {where}; its page lists the commits and branches") from None
        if isinstance(error, errors.LocalEntryNotFoundError):
            if cause is error:
                raise FileNotFoundError(f"{file} of {where} is not in the cache; leave local_files_only out") from None
            raise ConnectionError(f"cannot fetch {file} of {where}: {text}; a local folder works offline") from None
        if isinstance(error, errors.EntryNotFoundError):
            raise FileNotFoundError(f"{where} has no {file}, so it holds nothing of this kind") from None
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PermissionError(f"not allowed for {where}: {text}; give a token= with the right to do it") from None
        raise ConnectionError(f"the exchange with {where} failed: {text}") from None
    finally:
        logger.setLevel(level)

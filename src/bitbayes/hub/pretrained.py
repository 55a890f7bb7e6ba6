"""Methods that packed networks and posteriors share: `save_pretrained`, `from_pretrained` and `push_to_hub`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from bitbayes.files import replacing
from bitbayes.hub.card import ModelCard
from bitbayes.hub.remote import checked_id, fetched, is_id, push
from bitbayes.hub.render import Content, Description, readme

_MOST = 1 << 20  # bytes of a config.json that are read


class Pretrained(ABC):
    """Base of classes that can be kept in a folder with a model card, and shared on the Hugging Face Hub.

    `bitbayes.packed.PackedNetwork` and every `bitbayes.Posterior` are of this kind. A folder may hold one of each.
    """

    PRETRAINED: ClassVar[str]  # name of the file in a folder

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the file."""

    @classmethod
    @abstractmethod
    def _of_file(cls, path: Path) -> Self:
        """Read and check the file."""

    @abstractmethod
    def _description(self, source: str) -> Description:
        """Return what the model card says of the file; `source` is an id, "zoo:NAME", or "" for a folder."""

    def save_pretrained(self, folder: str | Path, *, card: ModelCard | None = None, repo_id: str = "") -> None:
        """Write the file, a model card README.md, and config.json, which holds the facts of the card, into a folder.

        If the folder holds a file of the other kind, the card describes both. A README.md that somebody has edited
        stays as it is, unless `card` is given.

        Args:
            folder: Folder to write to; it is made if it does not exist.
            card: Statements of the model card; None keeps those of the folder's card, without the figures of a file
                that this one replaces.
            repo_id: Id on the Hub, OWNER/NAME, that the card's examples load from; "" for a folder.

        Raises:
            OSError: If a file cannot be written.
            ValueError: If `repo_id` is not OWNER/NAME, or the folder holds the config.json of something else.

        Example:
            >>> import os, tempfile
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False))
            >>> _ = bb.STE([model[0].weight], seed=0).eval()
            >>> folder = tempfile.mkdtemp()
            >>> card = bb.hub.ModelCard(title="Two classes", license="mit")
            >>> bb.pack(model, torch.zeros(1, 16)).save_pretrained(folder, card=card)
            >>> sorted(os.listdir(folder))
            ['README.md', 'config.json', 'model.safetensors']
        """
        write_folder(self, folder, card, checked_id(repo_id) if repo_id else "")

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read what `save_pretrained` wrote, from a folder or from the Hub. Nothing is run, and nothing is unpickled.

        One file is read, and it is checked before it is used. The files of the Hub can change: `revision` pins one.

        Args:
            source: Folder, or id on the Hub, OWNER/NAME. A folder of that name goes first.
            revision: Commit hash, tag or branch on the Hub; None for the main branch.
            token: Access token for a private repository; None for the one of `hf auth login`. It is handed to
                `huggingface_hub` and kept nowhere.
            cache_dir: Folder for downloads; None for that of `huggingface_hub`.
            local_files_only: Whether to use nothing but what was downloaded before.

        Raises:
            ConnectionError: If the Hub cannot be reached.
            FileNotFoundError: If there is no such folder, repository, revision or file.
            ImportError: If `source` is an id and `huggingface_hub` is not installed.
            PermissionError: If the token may not read the repository.
            ValueError: If the file is damaged or of another kind, a folder is given with a revision, or the token has
                whitespace.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> bb.BernoulliPosterior({"w": torch.ones(2)}).save_pretrained(folder)
            >>> bb.BernoulliPosterior.from_pretrained(folder).natural["w"]
            tensor([1., 1.])
        """
        if Path(source).is_dir():
            if revision is not None:
                raise ValueError(f"{source} is a folder, which has no revision {revision!r}; leave revision out")
            path = Path(source, cls.PRETRAINED)
            if not path.is_file():
                raise FileNotFoundError(f"{source} has no {cls.PRETRAINED}; save_pretrained writes it")
            return cls._of_file(path)
        if not isinstance(source, str) or not is_id(source):
            raise FileNotFoundError(f"no folder {source}, and it is no id on the Hub, which would be OWNER/NAME")
        path = fetched(
            source,
            cls.PRETRAINED,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls._of_file(path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        message: str = "Upload with bitbayes",
        create_pr: bool = False,
    ) -> str:
        """Upload the file with its model card to the Hub; `bitbayes.hub.push` uploads a folder that is there already.

        If the repository holds a file of the other kind, the card describes both. `card` says what the model card says
        beside what the file says; None keeps what the card of the repository says, without the figures of a file that
        this one replaces. A README.md that somebody has edited there stays as it is, unless `card` is given. The other
        arguments, the result and further errors are those of `bitbayes.hub.push`.

        Raises:
            ValueError: If the repository holds the config.json of something else.
        """
        checked_id(repo_id)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work, repo_id)  # so errors name the repository
            folder.mkdir(parents=True)
            for file in ("config.json", "README.md"):
                with contextlib.suppress(FileNotFoundError):
                    found = fetched(repo_id, file, revision=revision, token=token, cache_dir=Path(work, ".cache"))
                    shutil.copyfile(found, folder / file)
            write_folder(self, folder, card, repo_id, whole=False)
            return push(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                message=message,
                create_pr=create_pr,
            )


def write_folder(
    item: Pretrained, folder: str | Path, card: ModelCard | None, source: str, *, whole: bool = True
) -> None:
    """Write a file, config.json and README.md; see `Pretrained.save_pretrained`.

    If the folder is not `whole`, files that config.json describes count as present.
    """
    folder = Path(folder)
    before = read_content(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, page = folder / item.PRETRAINED, folder / "README.md"
    before = Content() if before is None else before
    edited = page.is_file() and before.readme != _page_digest(page.read_text(encoding="utf-8", errors="replace"))
    item.save(path)
    files = {name: each for name, each in before.files.items() if not whole or (folder / name).is_file()}
    files |= {path.name: measured(item._description(source), path)}
    given = card is not None
    if card is None:
        card = before.card
        if path.name in before.files and before.files[path.name].sha256 != files[path.name].sha256:
            card = dataclasses.replace(card, metrics={}, examples=None, validation_accuracy=None)  # of the earlier file
    now = dataclasses.replace(before, card=card, files=dict(sorted(files.items())))
    write_content(now, folder, page=given or not edited)


def measured(described: Description, path: Path) -> Description:
    """Return a description with the size and the digest of its file."""
    content = path.read_bytes()
    return dataclasses.replace(described, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_content(content: Content, folder: Path, *, page: bool = True) -> None:
    """Write README.md, if `page` says so, and config.json, which keeps its digest."""
    if page:
        text = readme(content)
        _write(folder / "README.md", text)
        content = dataclasses.replace(content, readme=_page_digest(text))
    _write(folder / "config.json", json.dumps(_to_dict(content), indent=1, ensure_ascii=False) + "\n")


def read_content(folder: str | Path) -> Content | None:
    """Return what config.json of a folder holds, or None if there is none.

    Raises:
        ValueError: If `save_pretrained` did not write the file.
    """
    path = Path(folder, "config.json")
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is too long")
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("library_name") != "bitbayes":
            raise ValueError('it has no entry "library_name": "bitbayes"')
        files = {str(name): _description(each) for name, each in raw["files"].items()}
        return Content(card=ModelCard.from_dict(raw["card"]), files=files, readme=str(raw.get("readme", "")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} was not written by save_pretrained: {error!s:.120}") from error


def _to_dict(content: Content) -> dict[str, Any]:
    files = {name: dataclasses.asdict(each) for name, each in content.files.items()}
    return {"library_name": "bitbayes", "card": content.card.to_dict(), "readme": content.readme, "files": files}


def _page_digest(text: str) -> str:
    """Return the digest of a page's text, whatever its line ends are in the file."""
    return hashlib.sha256(text.encode()).hexdigest()


def _description(raw: dict[str, Any]) -> Description:
    """Return the description of a file, with the tuples that JSON does not have."""
    raw = dict(raw)
    facts = tuple((str(name), str(value)) for name, value in raw.pop("facts"))
    lines = {name: tuple(map(str, raw.pop(name))) for name in ("python", "commands", "limits")}
    return Description(facts=facts, bytes=int(raw.pop("bytes")), sha256=str(raw.pop("sha256")), **lines, **raw)


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")

"""Files of a run, which are written atomically, so that a kill, Ctrl-C or a full disk leaves the last complete file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitbayes.files import check_replaceable, check_seal, sealed
from bitbayes.lab.train import checkpoint, lock

_CHECKPOINT = "checkpoint.pt"
COUNT = "ensemble.json"
"""File with the number of members of an ensemble, in the folder that holds their folders."""

_MOST_PROGRAM = 1 << 24  # bytes


class RunError(RuntimeError):
    """Error of a run that cannot continue; its message of one line says what was saved."""


class _Guard:
    """Binary file that remembers its OSError, because torch.save replaces it by another error."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


class RunFolder:
    """Folder of a run: names of its files, and safe reading and writing.

    Files are written under another name, flushed to disk, and renamed into place. If writing fails, a RunError names
    the last good checkpoint, and the old file is unchanged. A folder that does not exist is created when it is held or
    a file is written.

    Args:
        path: The folder.
        writes: Whether to write files. Ranks other than the first of a data-parallel run drop all writes.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> folder.write_json("summary.json", {"epochs": 3})
        >>> folder.read_json("summary.json")
        {'epochs': 3}
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.saved_epoch: int | None = None  # epoch of checkpoint.pt, for messages
        self._held, self._lock = False, None

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self.path / name).is_file()

    # Holding. -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder and lock it until the block or the process ends.

        A folder that was created here and is empty at the end is removed.

        Raises:
            RunError: If the folder cannot be created, or another process holds it.
        """
        if not self.writes:
            yield
            return
        new = [place for place in (self.path, *self.path.parents) if not place.exists()]
        self._make()
        self._held, self._lock = True, self._acquired()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty
                for place in new:
                    place.rmdir()
            lock.release(self._lock)
            self._held, self._lock = False, None

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create the folder {self.path}: {error.strerror}") from error

    def _find(self) -> None:
        """Create the folder for a file; check that a held folder is still in place."""
        if not self._held:
            self._make()
        elif not lock.leads(self.path, self._lock):
            raise RunError(f"{self.path} was renamed or removed while it was in use; continue the run in its new place")

    def _acquired(self) -> int | None:
        try:
            return lock.acquire(self.path)
        except BlockingIOError as error:
            raise _in_use(self.path, str(error.strerror)) from None
        except OSError as error:
            raise RunError(f"cannot open the folder {self.path}: {error.strerror}") from error

    # Writing. -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path, and afterwards replace the file by what was written there."""
        target, partial = self.path / name, self.path / f".{name}.partial"
        self._find()
        try:
            check_replaceable(target)
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the disk already has a problem; the next start removes the file
                partial.unlink(missing_ok=True)
            if isinstance(error, SafetensorError):  # its only message for a full disk
                error = OSError(one_line(error))
            if isinstance(error, OSError):
                raise self._failure(target, error) from error
            raise

    def _failure(self, target: Path, cause: OSError) -> RunError:
        state = ""  # most files need no further advice
        if self.saved_epoch is not None:
            state = f"; the last good state is {_CHECKPOINT} of epoch {self.saved_epoch}"
        elif target.name == _CHECKPOINT:
            state = "; there is no checkpoint yet"
        return RunError(f"cannot write {target}: {cause.strerror or cause}{state}")

    def write(self, name: str, fill: Callable[[_Guard], object]) -> None:
        """Write a file through a function of an open binary file."""
        if not self.writes:
            return
        with self._replacing(name) as partial, open(partial, "wb") as file:
            guard = _Guard(file)
            try:
                fill(guard)
            except Exception:
                if guard.error is not None:
                    raise guard.error from None
                raise

    def write_path(self, name: str, save: Callable[[Path], object]) -> None:
        """Write a file through a function of a path, such as a method of safetensors."""
        if not self.writes:
            return
        with self._replacing(name) as partial:
            save(partial)
            partial.chmod(0o644)  # safetensors makes files that only their owner can read

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write(name, lambda file: file.write(text.encode()))

    def write_json(self, name: str, value: object) -> None:
        """Write indented JSON; numbers that are not finite become null."""
        self.write_text(name, json.dumps(_finite(value), indent=2) + "\n")

    def write_lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a file of JSON objects, one per line."""
        self.write_text(name, "".join(json.dumps(_finite(row)) + "\n" for row in rows))

    def append_line(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one JSON object to a file of lines, with a single write."""
        if not self.writes:
            return
        self._find()
        target = self.path / name
        try:
            with open(target, "ab") as file:
                file.write((json.dumps(_finite(row)) + "\n").encode())
        except OSError as error:
            raise self._failure(target, error) from error

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
        """Write a safetensors file with metadata; tensors that share memory are written separately."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self.write(name, lambda file: [file.write(piece) for piece in sealed(save(whole, metadata=about))])

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state that a run continues from: tensors and plain values, including "epoch"."""
        self.write(_CHECKPOINT, lambda file: checkpoint.save(state, file))
        self.saved_epoch = state["epoch"]

    @property
    def programs(self) -> Path:
        """Folder, in that of the run, of the Python files that define its recipe."""
        return self.path / "recipe"

    def write_programs(self, files: Mapping[str, bytes]) -> None:
        """Write the Python files of the recipe, by their paths in `programs`; nothing there is changed or removed.

        Raises:
            RunError: If `programs` or a folder inside is a symbolic link, or holds other files.
        """
        if not self.writes:
            return
        inside, left = self.programs, dict(files)
        for path in itertools.chain([inside], inside.rglob("*")):
            name, passing = path.relative_to(inside).as_posix(), path.suffix in (".pyc", ".partial")
            if not path.is_symlink() and (path.is_dir() or not path.exists() or passing):
                continue
            if path.is_symlink() or name not in left or left.pop(name) != path.read_bytes():
                raise RunError(f"{path} is not of this run, which keeps its recipe in {inside}; choose another --out")
        for name, content in left.items():
            target = inside / name
            RunFolder(target.parent).write(target.name, lambda file, content=content: file.write(content))

    # Reading. -----------------------------------------------------------------------------------------------------

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            RunError: If it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error

    def read_object(self, name: str) -> dict[str, Any]:
        """Return the entries of a JSON file that holds an object.

        Raises:
            RunError: If it is missing or damaged, or holds anything else.
        """
        found = self.read_json(name)
        if not isinstance(found, dict):
            raise RunError(f"{self.path / name} is damaged: it holds no JSON object; restore it, or remove it")
        return found

    def trained_on(self, data: str) -> bool:
        """Return whether the run had data of this fingerprint, as far as it has recorded that of its own."""
        known = self.read_object("environment.json").get("data") if self.has("environment.json") else None
        return known in (None, data)

    def read_programs(self) -> dict[str, bytes]:
        """Return the Python files of the recipe by their paths in `programs`.

        Raises:
            RunError: If there are none, or they are not regular files of moderate size.
        """
        inside, found, left = self.programs, dict[str, bytes](), _MOST_PROGRAM
        if inside.is_symlink():
            raise RunError(f"{inside} is a symbolic link; restore the folder")
        for path in sorted(inside.rglob("*.py")):
            if path.is_symlink() or not path.is_file():
                raise RunError(f"{path} is no regular file; restore it")
            try:
                with open(path, "rb") as file:
                    content = file.read(left + 1)
            except OSError as error:
                raise RunError(f"cannot read {path}: {error.strerror}") from error
            left -= len(content)
            if left < 0:
                raise RunError(f"{inside} holds more than {_MOST_PROGRAM:,} bytes of programs; restore it")
            found[path.relative_to(inside).as_posix()] = content
        if not found:
            raise RunError(f"{inside} has no Python files; restore the recipe of the run")
        return found

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a safetensors file by name, on the CPU.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path} does not exist; let the run finish first, for example with --resume")
        try:
            with safe_open(str(path), framework="pt") as file:
                check_seal(path, file.metadata() or {})
                return {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{path} is damaged: {one_line(error)}") from error

    def read_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Return the state of the checkpoint, after checking every byte of the file.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.path / _CHECKPOINT
        advice = "restore a copy of it, or train again with another --out"
        if not path.is_file():
            raise RunError(f"{path} does not exist")
        try:
            with open(path, "rb") as file:
                state = checkpoint.load(file, device)
        except Exception as error:  # one of a dozen types, depending on which byte is wrong
            raise RunError(f"{path} is damaged ({one_line(error)}); {advice}") from error
        if not isinstance(state, dict) or "epoch" not in state:
            raise RunError(f"{path} is not a checkpoint of a run; {advice}")
        self.saved_epoch = state["epoch"]
        return state

    # Removing. ----------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Delete files that a killed run left half written; call this only before writing."""
        for left in self.path.glob(".*.partial") if self.writes else ():
            left.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        if self.writes:
            (self.path / name).unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Rename a folder that holds an older run, and return its new name, or None if there was no older run.

        The folder must be held. Afterwards, the new folder of its name is held.

        Raises:
            RunError: If the folder cannot be renamed, or another process holds a subfolder.
        """
        if not self.writes or not any(map(self.has, (_CHECKPOINT, "summary.json", COUNT))):
            return None
        if not self.path.name:
            raise RunError(f"{self.path} holds an older run and has no name by which it could be renamed; give another")
        for inside, _, _ in os.walk(self.path):
            if Path(inside) != self.path and (holder := lock.locked(Path(inside))):
                raise _in_use(Path(inside), holder)
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        try:
            os.replace(self.path, aside)
            self.path.mkdir()
        except OSError as error:
            raise RunError(f"cannot rename the older run {self.path}: {error.strerror}") from error
        old, self._lock = self._lock, None
        lock.release(old)
        self._lock = self._acquired()
        return aside


def set_aside_from(path: Path) -> tuple[Path, int] | None:
    """Return the path of an older run before `set_aside`, and its number; None for any other folder.

    Example:
        >>> set_aside_from(Path("runs/digits.old-2"))
        (PosixPath('runs/digits'), 2)
    """
    name, _, number = path.name.rpartition(".old-")
    return (path.with_name(name), int(number)) if name and number.isascii() and number.isdecimal() else None


def require_checkpoint(folders: Sequence[str]) -> None:
    """Raise ValueError if no folder holds a checkpoint, although the user asked to resume."""
    if not any(Path(folder, _CHECKPOINT).is_file() for folder in folders):
        places = folders[0] if len(folders) == 1 else f"{folders[0]} to {folders[-1]}"
        raise ValueError(f"nothing to resume: there is no {_CHECKPOINT} in {places}; leave out --resume to start a run")


def _in_use(path: Path, holder: str) -> RunError:
    return RunError(f"{path} is in use by {holder}; wait until it ends, or choose another folder")


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 160 characters, or the name of its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _finite(value: Any) -> Any:
    """Return a value in which NaN and infinities are None, because JSON has no NaN."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""The files of a run, each written so that a kill, Ctrl-C or a full disk leaves the last whole one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitbayes.files import check_seal, sealed
from bitbayes.lab.train import checkpoint, lock

_CHECKPOINT = "checkpoint.pt"


class RunError(RuntimeError):
    """A run that cannot go on; the message is one line and says what is left."""


class _Guard:
    """A binary file that remembers its OSError: torch.save reports another one on top of it."""

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
    """Names and safe writing of the files of one run.

    Files are written under another name, flushed to the disk, and renamed into place. Where writing fails, a RunError
    names the last good checkpoint of a run, and the old file is untouched. A folder that does not exist is made as
    soon as it is held, or a file is written.

    Args:
        path: The folder.
        writes: False for all ranks but the first of a data-parallel run: what they are told to write is dropped.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> folder.write_json("summary.json", {"epochs": 3})
        >>> folder.read_json("summary.json")
        {'epochs': 3}
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.saved_epoch: int | None = None  # of checkpoint.pt, for messages
        self._held, self._lock = False, None

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self.path / name).is_file()

    # Holding. -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep everybody else from holding it, until the block ends or the process does.

        A folder that was made here and is empty at the end is removed.

        Raises:
            RunError: If it cannot be made, or somebody else holds it.
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
            raise RunError(f"cannot make the folder {self.path}: {error.strerror}") from error

    def _find(self) -> None:
        """Make the folder for a file; a folder that is held must be where it was, for it may be another one now."""
        if not self._held:
            self._make()
        elif not lock.leads(self.path, self._lock):
            raise RunError(f"{self.path} was renamed or removed while it was in use; continue the run where it is now")

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
        """Lend a path to write to, and put what is there in the place of the file."""
        target, partial = self.path / name, self.path / f".{name}.partial"
        self._find()
        try:
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the disk is in trouble already; the next start removes it
                partial.unlink(missing_ok=True)
            if isinstance(error, SafetensorError):  # its only word for a full disk
                error = OSError(one_line(error))
            if isinstance(error, OSError):
                raise self._failure(target, error) from error
            raise

    def _failure(self, target: Path, cause: OSError) -> RunError:
        state = ""  # for most files there is no more to say
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
        """Write a file of JSON objects, one a line."""
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
        """Write a safetensors file with metadata; tensors that share memory are written each on its own."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self.write(name, lambda file: [file.write(piece) for piece in sealed(save(whole, metadata=about))])

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state that a run continues from: tensors and plain values, among them "epoch"."""
        self.write(_CHECKPOINT, lambda file: checkpoint.save(state, file))
        self.saved_epoch = state["epoch"]

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

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a safetensors file by name, on the CPU.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path} does not exist; train to the end first, or continue with --resume")
        try:
            with safe_open(str(path), framework="pt") as file:
                check_seal(path, file.metadata() or {})
                return {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{path} is damaged: {one_line(error)}") from error

    def read_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Return the state of the checkpoint, after every byte of the file was checked.

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
        except Exception as error:  # one of a dozen types, depending on the byte that is wrong
            raise RunError(f"{path} is damaged ({one_line(error)}); {advice}") from error
        if not isinstance(state, dict) or "epoch" not in state:
            raise RunError(f"{path} is not a checkpoint of a run; {advice}")
        self.saved_epoch = state["epoch"]
        return state

    # Removing. ----------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Delete what a killed run had half written; only for who begins to write it."""
        for left in self.path.glob(".*.partial") if self.writes else ():
            left.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.writes:
            (self.path / name).unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Rename a folder that holds an older run, and return its new name; None if there was no older run.

        The folder must be held; the new one of its name is.

        Raises:
            RunError: If it cannot be renamed, or somebody else holds a folder inside.
        """
        if not self.writes or not (self.has(_CHECKPOINT) or self.has("summary.json")):
            return None
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
            raise RunError(f"cannot move the older run {self.path} aside: {error.strerror}") from error
        old, self._lock = self._lock, None
        lock.release(old)
        self._lock = self._acquired()
        return aside


def set_aside_from(path: Path) -> tuple[Path, int] | None:
    """Return where an older run stood before `set_aside`, and its number; None for any other folder.

    Example:
        >>> set_aside_from(Path("runs/digits.old-2"))
        (PosixPath('runs/digits'), 2)
    """
    name, _, number = path.name.rpartition(".old-")
    return (path.with_name(name), int(number)) if name and number.isascii() and number.isdecimal() else None


def require_checkpoint(folders: Sequence[str]) -> None:
    """Raise ValueError if no folder holds a checkpoint, for a user who expects to go on from one."""
    if not any(Path(folder, _CHECKPOINT).is_file() for folder in folders):
        places = folders[0] if len(folders) == 1 else f"{folders[0]} to {folders[-1]}"
        raise ValueError(f"nothing to resume: there is no {_CHECKPOINT} in {places}; leave out --resume to start there")


def _in_use(path: Path, holder: str) -> RunError:
    return RunError(f"{path} is in use by {holder}; wait until it ends, or choose another folder")


def one_line(error: BaseException) -> str:
    """Return the first line of a message, at most 160 characters; the name of the type if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""The files of a run, each written so that a kill, Ctrl-C or a full disk leaves the last whole one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

__all__ = ["RunError", "RunFolder", "one_line"]


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

    Args:
        path: The folder; made if it does not exist.
        writes: False for all ranks but one of a data-parallel run: what they are told to write is dropped.

    Raises:
        RunError: If it cannot be made.

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
        if not writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {self.path}: {error.strerror}") from error

    def clean(self) -> None:
        """Deletes what a killed run had half written; only for who begins to write it."""
        for left in self.path.glob(".*.partial") if self.writes else ():
            left.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether a file exists.

        Args:
            name: File name inside the folder.
        """
        return (self.path / name).is_file()

    def write(self, name: str, fill: Callable[[_Guard], object]) -> None:
        """Writes a file under another name, flushes it to the disk, and renames it into place.

        Args:
            name: File name inside the folder.
            fill: Writes the content to the open binary file that it is given.

        Raises:
            RunError: If the file cannot be written; the old one, if any, is untouched.
        """
        if not self.writes:
            return
        target, partial = self.path / name, self.path / f".{name}.partial"
        guard: _Guard | None = None
        try:
            with open(partial, "wb") as file:
                guard = _Guard(file)
                fill(guard)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException as error:
            self._discard(partial)
            cause = guard.error if guard is not None and guard.error is not None else error
            if isinstance(cause, OSError):
                raise self.failure(target, cause) from cause
            raise

    def write_path(self, name: str, save: Callable[[Path], object]) -> None:
        """The same for a writer that wants a path.

        Args:
            name: File name inside the folder.
            save: Writes the file at the path that it is given.

        Raises:
            RunError: If the file cannot be written; the old one, if any, is untouched.
        """
        if not self.writes:
            return
        target, partial = self.path / name, self.path / f".{name}.partial"
        try:
            save(partial)
            partial.chmod(0o644)  # safetensors makes files that only their owner can read
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException as error:
            self._discard(partial)
            if isinstance(error, SafetensorError):  # its only word for a full disk
                error = OSError(one_line(error))
            if isinstance(error, OSError):
                raise self.failure(target, error) from error
            raise

    @staticmethod
    def _discard(partial: Path) -> None:
        with contextlib.suppress(OSError):  # the disk is in trouble already; the next start removes it
            partial.unlink(missing_ok=True)

    def failure(self, target: Path, cause: OSError) -> RunError:
        """The one line for a write that failed.

        Args:
            target: The file.
            cause: What the system said.

        Returns:
            The error to raise.
        """
        state = "there is no checkpoint yet"
        if self.saved_epoch is not None:
            state = f"the last good state is checkpoint.pt of epoch {self.saved_epoch}"
        return RunError(f"cannot write {target}: {cause.strerror or cause}; {state}")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file, whole or not at all.

        Args:
            name: File name inside the folder.
            text: Its content.
        """
        self.write(name, lambda file: file.write(text.encode()))

    def write_json(self, name: str, value: object) -> None:
        """Writes indented JSON; numbers that are not finite become null.

        Args:
            name: File name inside the folder.
            value: What to write.
        """
        self.write_text(name, json.dumps(_finite(value), indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the run.

        Args:
            name: File name inside the folder.

        Returns:
            Its content.

        Raises:
            RunError: If it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error

    def append_line(self, name: str, row: dict[str, Any]) -> None:
        """Appends one JSON object to a file of lines, with a single write.

        Args:
            name: File name inside the folder.
            row: The object.

        Raises:
            RunError: If the file cannot be written.
        """
        if not self.writes:
            return
        target = self.path / name
        try:
            with open(target, "ab") as file:
                file.write((json.dumps(_finite(row)) + "\n").encode())
        except OSError as error:
            raise self.failure(target, error) from error

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Writes a file of JSON lines whole; used to cut off lines that a checkpoint does not know.

        Args:
            name: File name inside the folder.
            rows: One object a line.
        """
        self.write_text(name, "".join(json.dumps(_finite(row)) + "\n" for row in rows))

    def write_tensors(self, name: str, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Writes a safetensors file; tensors that share memory are written each on its own.

        Args:
            name: File name inside the folder.
            tensors: By name.
            about: Metadata.
        """
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self.write(name, lambda file: file.write(save(whole, metadata=about)))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Reads a safetensors file of the run, onto the CPU.

        Args:
            name: File name inside the folder.

        Returns:
            Tensors by name.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path} does not exist; train to the end first, or continue with --resume")
        try:
            return load_file(str(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{path} is damaged: {one_line(error)}") from error

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there.

        Args:
            name: File name inside the folder.
        """
        if self.writes:
            (self.path / name).unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Renames a folder that holds an older run, so that a new run cannot overwrite it.

        Returns:
            The new name of the old run, or None if there was none.
        """
        if not self.writes or not (self.has("checkpoint.pt") or self.has("summary.json")):
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        try:
            os.replace(self.path, aside)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"cannot move the older run {self.path} aside: {error.strerror}") from error
        return aside


def one_line(error: BaseException) -> str:
    """The first line of a message, cut to a length that fits a terminal.

    Args:
        error: Any exception.

    Returns:
        At most 160 characters; the name of the type if there is no message.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

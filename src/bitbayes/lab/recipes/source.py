"""The program of a recipe: a file and the modules beside it that it imports, run from memory, and its errors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import sys
import traceback
import types
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from bitbayes import errors

_PACKAGE = Path(errors.__file__).parent
_LONGEST = 300  # characters of a message of somebody else's
_INSTALLED = {"site-packages", "dist-packages"}  # folders of packages, some of which extend sys.path themselves
_SHARED = {"__main__", "bitbayes", "torch", "numpy"}  # modules that are never the program's own, wherever they are


class RecipeError(ValueError):
    """An error in a recipe file; the message is one line and names the file and its line."""


@dataclass(frozen=True)
class Source:
    """The program that defines a recipe.

    Args:
        text: Name that the user gave: "my_recipe.py", or "my_recipe.py:name".
        place: Folder of the files.
        main: Name of the file that is run.
        files: Content of the file and of the modules beside it that it imports, by path within the folder.
    """

    text: str
    place: Path
    main: str
    files: Mapping[str, bytes] = field(repr=False)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the program, see `digest`."""
        return digest(self.main, self.files)

    @property
    def path(self) -> Path:
        """Absolute path of the file that is run."""
        return (self.place / self.main).absolute()

    def same_on_disk(self) -> bool:
        """Return whether all files are as they were read."""
        return all(_content(self.place / name) == content for name, content in self.files.items())

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Raise an error that comes from a line of the program as `RecipeError`, which names that line."""
        try:
            yield
        except (RecipeError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            if (told := self._told(error)) is None:
                raise
            raise RecipeError(told) from error

    def _told(self, error: BaseException) -> str | None:
        """Return where in the program an error was raised, the error, and the line; None if it was raised elsewhere."""
        names = {str(self.place / name): name for name in self.files}
        found = _line_of(error, names)
        if found is None and error.__cause__ is not None:  # a check of ours has said what it means
            found = _line_of(error.__cause__, names)
        if found is None:
            return None
        file, number = found
        inner = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        message = (" ".join(str(error).splitlines()[:1]) or "no message")[:_LONGEST]
        if isinstance(error, SyntaxError):
            message = error.msg
        if _PACKAGE in Path(inner).parents and isinstance(error, ValueError):  # our own, which says what to do
            return f"{' '.join(str(error).split())} ({file}, line {number})"
        message = f"{type(error).__name__}: {message}"
        if isinstance(error, ModuleNotFoundError) and (self.place / f"{error.name}.py").is_file():
            message += f" ({error.name}.py is beside it, so import it at the top of the file)"
        lines = self.files[names[file]].decode(errors="replace").splitlines()
        code = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        return f"{file}, line {number}: {message}" + (f", in: {code}" if code else "")


def _line_of(error: BaseException, names: Container[str]) -> tuple[str, int] | None:
    """Return the innermost of some files that an error went through, and its line."""
    if isinstance(error, SyntaxError) and error.filename is not None and error.filename in names:
        return error.filename, error.lineno or 0
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return next((step for step in reversed(steps) if step[0] in names), None)


def digest(main: str, files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of a program: that of JSON with the name of the main file and the SHA-256 of each file.

    Example:
        >>> digest("my_recipe.py", {"my_recipe.py": b""})[:8]
        '9f37cfc2'
    """
    each = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return hashlib.sha256(json.dumps({"files": each, "main": main}, sort_keys=True).encode()).hexdigest()


def run_program(
    text: str, path: Path, files: Mapping[str, bytes] | None = None, origin: Path | None = None
) -> tuple[Source, types.ModuleType]:
    """Run a file, and return its program and the module that it defines.

    Modules and packages beside the file are imported as in a script, and anew, so that `Source.files` has all of them.
    A package needs an `__init__.py`. Modules elsewhere, which the program finds by extending sys.path, are refused.
    Nothing is written beside the file.

    Args:
        text: Name that the user gave.
        path: The file.
        files: All files of the program, which is then run from them and not from the disk; None reads the disk.
        origin: Path that the program sees as its `__file__`, with its modules beside it; None for `path`.

    Raises:
        RecipeError: If the file cannot be read, or a line of it raises an error.
    """
    origin = (origin or path).absolute()
    finder = _Beside(path.parent, files, origin.parent)
    content = finder.read(path.name)
    if content is None:
        raise RecipeError(f"{path} cannot be read; give a Python file")
    module = types.ModuleType(f"bitbayes_recipe_{hashlib.sha256(content).hexdigest()[:12]}")
    module.__file__ = str(origin)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look there
    whole = Source(text, path.parent, path.name, finder.files)  # whose files grow while it runs
    try:
        with whole.blamed(), _importing(finder):
            _run(content, path, module)
    except BaseException:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        raise
    # Of given files, those that are imported may depend on the machine, but the program is the same.
    return Source(text, path.parent, path.name, dict(finder.files if files is None else files)), module


def _run(content: bytes, path: Path, module: types.ModuleType) -> None:
    try:
        code = compile(content, str(path), "exec", dont_inherit=True)
    except ValueError as error:  # a null byte, before Python 3.12
        raise SyntaxError(str(error), (str(path), 1, 0, "")) from error
    exec(code, module.__dict__)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


class _Beside(MetaPathFinder, Loader):
    """Finder of modules in one folder, on the disk or in memory, that remembers what it has read."""

    def __init__(self, place: Path, known: Mapping[str, bytes] | None, origin: Path) -> None:
        self.place, self.known, self.origin = place, known, origin
        self.files: dict[str, bytes] = {}
        self.found: dict[str, str] = {}
        self.paths = list(sys.path)

    def read(self, name: str) -> bytes | None:
        content = _content(self.place / name) if self.known is None else self.known.get(name)
        if content is not None:
            self.files[name] = content
        return content

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        top, dot, _ = fullname.partition(".")
        if top in sys.stdlib_module_names or top in _SHARED or (dot and top not in self.found):
            return None
        stem = fullname.replace(".", "/")
        for name, package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if self.read(name) is not None:
                self.found[fullname] = name
                origin = str(self.origin / name)
                spec = importlib.util.spec_from_loader(fullname, self, origin=origin, is_package=package)
                assert spec is not None
                spec.has_location = True
                return spec
        if not dot:
            self._check_elsewhere(top)
        return None

    def _check_elsewhere(self, name: str) -> None:
        """Refuse a module that would be imported from files which are no part of the program and not installed."""
        installed = PathFinder.find_spec(name, self.paths)
        if installed is not None and installed.loader is not None:
            return
        if self.known is None and any((self.place / name).glob("*.py")):
            raise ModuleNotFoundError(f"No module named {name!r}: add an empty {name}/__init__.py", name=name)
        if PathFinder.find_spec(name, self.added()) is not None:
            advice = f"put {name} beside the recipe file, or install it"
            raise ModuleNotFoundError(f"{name!r} is in a folder that the file adds to sys.path: {advice}", name=name)

    def added(self) -> list[str]:
        """Return the entries of sys.path that the program has added."""
        return [each for each in sys.path if each not in self.paths and not _INSTALLED & set(Path(each).parts)]

    def beside(self) -> dict[str, types.ModuleType]:
        """Return the imported modules that come from the folder, such as those of a notebook, and their parts."""
        loaded, tops = dict(sys.modules), set[str]()
        for name, module in loaded.items():
            if "." in name or name in _SHARED or name in sys.stdlib_module_names:
                continue
            origin = getattr(module, "__file__", None)
            for path in (self.place / f"{name}.py", self.place / name / "__init__.py"):
                if origin is not None and path.is_file() and path.resolve() == Path(origin).resolve():
                    tops.add(name)
        return {name: module for name, module in loaded.items() if name.partition(".")[0] in tops}

    def exec_module(self, module: types.ModuleType) -> None:
        name = self.found[module.__name__]
        _LOADED[module.__name__] = module
        _run(self.files[name], self.place / name, module)


_LOADED: dict[str, types.ModuleType] = {}  # modules beside the program that ran last


@contextlib.contextmanager
def _importing(finder: _Beside) -> Iterator[None]:
    """Import modules beside a program, anew, because another program may have had modules of the same names."""
    for name, module in _LOADED.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _LOADED.clear()
    before = finder.beside()
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for entry in finder.added():  # a later import would not be part of the program
            sys.path.remove(entry)
        for name, module in before.items():
            if name.partition(".")[0] not in finder.found:
                sys.modules.setdefault(name, module)

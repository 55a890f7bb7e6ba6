"""Finds the functions by which the C files start threads.

The kernels run on the threads of the OpenMP runtime that torch has loaded, whatever its file is called: two runtimes
have two pools, and the threads of one spin while those of the other work. So a library is linked with none of them,
and learns the addresses when it is loaded. Without torch it takes the system's runtime, and without that POSIX threads.
"""

from __future__ import annotations

import ctypes
import sys
from array import array

_OPENMP = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"
_POSIX = "pthread_create", "pthread_join"


def _addresses(file: str | None, names: tuple[str, ...]) -> list[int]:
    """Return the addresses of functions in a library or in the libraries that it needs; zeros if one is missing."""
    try:
        library = ctypes.CDLL(file)
        found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]
    except (OSError, AttributeError, TypeError):  # Windows has no library without a name
        found = [0]
    return found if all(found) else [0] * len(names)


def _openmp() -> list[int]:
    torch = sys.modules.get("torch")
    if torch is not None and any(found := _addresses(torch._C.__file__, _OPENMP)):
        return found
    return _addresses("libgomp.so.1", _OPENMP)


def connect(library: ctypes.CDLL) -> None:
    """Tell a library of kernels how to start threads; one that starts none has no function to be told by."""
    tell = getattr(library, "bitbayes_threads", None)
    if tell is not None:
        found = array("q", [*_openmp(), *_addresses(None, _POSIX)])
        tell.restype = None
        tell(ctypes.c_void_p(found.buffer_info()[0]))

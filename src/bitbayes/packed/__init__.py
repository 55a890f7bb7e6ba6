"""Networks of one bit a weight as files, and what runs them. Without torch all of it works but `pack`."""

from bitbayes.packed.network import PackedNetwork
from bitbayes.packed.pack import pack
from bitbayes.packed.program import PackedFileError, Program, Step
from bitbayes.packed.runtime import ArrayPrediction, Runtime, load
from bitbayes.packed.summary import PackedRow, PackedSummary

__all__ = [
    "ArrayPrediction",
    "PackedFileError",
    "PackedNetwork",
    "PackedRow",
    "PackedSummary",
    "Program",
    "Runtime",
    "Step",
    "load",
    "pack",
]

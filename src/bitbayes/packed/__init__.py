"""Networks of one bit a weight as files, and what runs them. Without torch all of it works but `pack`."""

from bitbayes.packed.c_export import c_header
from bitbayes.packed.network import PackedNetwork
from bitbayes.packed.onnx_export import onnx_model
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
    "c_header",
    "load",
    "onnx_model",
    "pack",
]

"""Files of networks with one bit per binary weight, and backends that run them.

Only `pack` and `write_gguf` need torch.
"""

from bitbayes.packed.backends.c.write import c_header
from bitbayes.packed.backends.load import load
from bitbayes.packed.backends.onnx import onnx_model, qonnx_model
from bitbayes.packed.backends.runtime import Runtime
from bitbayes.packed.convert.pack import pack
from bitbayes.packed.format.inputs import Inputs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import PackedFileError, Program, Step
from bitbayes.packed.format.summary import PackedRow, PackedSummary
from bitbayes.packed.gguf.write import write_gguf

__all__ = [
    "Inputs",
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
    "qonnx_model",
    "write_gguf",
]

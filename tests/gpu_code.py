"""A backend of torch.compile for machines without a GPU: it makes the code that a GPU would run, and runs it.

Inductor is told that the tensors are on an H200, and writes Triton kernels; Triton's interpreter runs these on the
CPU. It leans on inner parts of torch, which 2.11, 2.13 and 2.15 have.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._guards import detect_fake_mode
from torch._inductor import config, scheduler
from torch._inductor.compile_fx import compile_fx
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils import _pytree, _triton

_H200 = SimpleNamespace(
    name="NVIDIA H200",
    multi_processor_count=132,
    major=9,
    minor=0,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    total_memory=140 << 30,
)
_BLOCK = 64

# What kernels call of NVIDIA's mathematics (`libdevice.tanh`), which the interpreter does not have.
_MATHS = """
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_helpers import math as tl_math

@triton.jit
def _tanh(x):
    y = tl.exp(-2 * tl.abs(x).to(tl.float64))
    return (tl.where(x < 0, -1, 1) * (1 - y) / (1 + y)).to(tl.float32)

@triton.jit
def _exp(x): return tl.exp(x)

@triton.jit
def _pow(x, y): return tl.exp(y * tl.log(x))
"""


class GpuCode:
    """Compiles as for a GPU.

    Args:
        folder: For the kernels.

    Attributes:
        launches: Names of the kernels that ran, in their order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launches: list[str] = []
        self._kernels = 0

    def compile(self, function: Any, *, dynamic: bool, options: dict[str, Any]) -> Any:
        """As torch.compile; to be put in its place."""

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            with config.patch(options):
                return compile_fx(graph, inputs, inner_compile=self._compiled)  # pyright: ignore[reportArgumentType]

        return torch._dynamo.optimize(backend, dynamic=dynamic)(function)

    def _compiled(self, graph: torch.fx.GraphModule, inputs: list[Any], **_: Any) -> Any:
        mode: Any = detect_fake_mode(inputs)

        def moved(value: Any) -> Any:
            if not isinstance(value, FakeTensor):
                return value
            with in_kernel_invocation_manager(mode):
                meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            return FakeTensor(mode, meta, torch.device("cuda:0"))

        for node in graph.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
            if "val" in node.meta:
                node.meta["val"] = _pytree.tree_map(moved, node.meta["val"])
        there = [moved(value) for value in inputs]
        with _pretending():
            lowering: Any = GraphLowering(graph, example_inputs=there, shape_env=mode.shape_env, cpp_wrapper=False)
            with V.set_graph_handler(lowering), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
                lowering.run(*there)
                code, _ = lowering.codegen()
        call = self._loaded(getattr(code, "value", code))

        def boxed(arguments: list[Any]) -> Any:
            return call(arguments)

        boxed._boxed_call = True  # pyright: ignore[reportFunctionMemberAccess]
        return boxed

    def _loaded(self, code: str) -> Any:
        """The function that launches the kernels, with what needs a GPU taken out."""
        code = code.partition("def get_args")[0].replace("async_compile.triton(", "_kernel(")
        code = re.sub(r"^from torch\._C import _cuda_getCurrentRawStream.*$", "", code, flags=re.MULTILINE)
        code = code.replace("torch.cuda._DeviceGuard(0)", "_nothing()").replace("torch.cuda.set_device(0)", "pass")
        code = re.sub(r"empty_strided_cuda\((.*), (torch\.\w+)\)", r"torch.empty_strided(\1, dtype=\2)", code)
        space = {"_kernel": self._kernel, "_nothing": ExitStack, "get_raw_stream": lambda index: index}
        exec(code, space)
        return space["call"]

    def _kernel(self, name: str, source: str, device_str: str) -> Any:
        assert device_str == "cuda"
        source = source[source.index("@triton.jit") :]
        path = self.folder / f"kernel_{self._kernels}.py"
        self._kernels += 1
        path.write_text(_MATHS + source.replace("libdevice.", "_"))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names = [each.partition(":")[0].strip() for each in source[source.index("(") : source.index("):")].split(",")]
        assert "YBLOCK" not in source and "R0_BLOCK" not in source, "pointwise kernels only"
        fixed = [
            int(number)
            for found in re.findall(r"xnumel = (\d+)|cdiv\((\d+), XBLOCK", source)
            for number in found
            if number
        ]

        def run(*arguments: Any, stream: Any = None) -> None:
            self.launches.append(name)
            sizes = [int(value) for key, value in zip(names, arguments, strict=False) if "numel" in key]
            parts = 1 + source.count("elif pid")  # programs beyond the last do nothing
            getattr(module, name)[(parts * -(-max(sizes + fixed) // _BLOCK),)](*arguments, XBLOCK=_BLOCK)

        return SimpleNamespace(run=run)


@contextmanager
def _pretending() -> Iterator[None]:
    """As if there were a GPU, and a driver for it."""
    answers = {"get_device_properties": _H200, "is_available": True, "current_device": 0, "device_count": 1}
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any, wrap: Any = staticmethod) -> None:
            stack.enter_context(mock.patch.object(owner, name, wrap(lambda *_: value)))

        for name, value in answers.items():
            put(CudaInterface, name, value)
            put(torch.cuda, name, value, lambda function: function)
        put(CudaInterface.Worker, "get_device_properties", _H200)
        put(CudaInterface, "get_compute_capability", 90)
        put(torch.cuda, "get_device_capability", (9, 0), lambda function: function)
        put(scheduler, "has_triton", True, lambda function: function)
        put(_triton, "triton_hash_with_backend", "", lambda function: function)
        yield

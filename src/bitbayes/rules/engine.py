"""Execution of updates: a rule's pure functions over the flat storage of each tensor.

Rules are written as equations that return new tensors. This module applies them chunk by chunk, so that temporaries
stay in the processor's cache and none has the size of the network. A single pass over memory is faster: by the C kernel
that the rule names, if `bitbayes.kernels` is available, or else by torch.compile. The option `compile` says which of
these may run: neither (False), only the kernels ("kernels"), or both (True). If the required compiler is missing, the
rule runs chunk by chunk. On a GPU, torch.compile makes one call for all tensors of a step.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from bitbayes.kernels import run as kernels
from bitbayes.noise import Noise, spans
from bitbayes.rules.places import Place
from bitbayes.rules.rule import Belief, Compile, Options, Rule

# If a call costs little beside the work, tensors are updated one by one with a shared compiled function. A function for
# all of them takes about a second per tensor to compile.
ALONE = {"cpu"}

# On a GPU, the kernels of one graph are fused, up to eight at a time. Inductor's estimate of memory would forbid this,
# because it counts tensors that are written in place as new. Older torch has no such estimate. On a CPU, torch 2.8 and
# older cannot compile fused kernels, and newer torch leaves them apart.
_JOINED = {"combo_kernels": True, "combo_kernel_peak_memory_pct_threshold": None}

# An update by a kernel is faster at every size, for small networks by about half a millisecond per step. Below ten
# thousand weights, this is not worth the second in which a machine compiles the kernels for the first time.
# torch.compile takes seconds in every process and saves tens of milliseconds per step from a million weights on.
_KERNELS_FROM, _COMPILE_FROM = 10_000, 1_000_000

_FAILED: set[tuple[type[Rule[Any]], str]] = set()  # rules and devices for which torch.compile failed in this process

Static = tuple[tuple[str, object], ...]
Method = TypeVar("Method", bound=Callable[..., Any])


class Update(NamedTuple):
    """Update of one tensor, or of a piece of a tensor.

    Attributes:
        rule: The learning rule.
        belief: Flat float32 tensors, or rows of such tensors. They are changed in place.
        gradient: Flat gradient at the weights, or an estimate that is already averaged over draws.
        weights: Flat weights of the current draw. The next draw overwrites them.
        o: Options of the rule.
        drawn: Noise of the current draw.
        noise: Noise of the next draw.
        estimated: Whether `gradient` is already an estimate.
        accept: 0-d bool on the device; False leaves the belief unchanged. None accepts the update.
    """

    rule: type[Rule[Any]]
    belief: Belief
    gradient: Tensor
    weights: Tensor
    o: Options
    drawn: Noise
    noise: Noise
    estimated: bool = False
    accept: Tensor | None = None

    def part(self, span: slice) -> Update:
        """Return the update of a piece of the tensor."""
        return self._replace(
            belief=_part(self.belief, span),
            gradient=self.gradient[..., span],
            weights=self.weights[span],
            drawn=self.drawn.part(span),
            noise=self.noise.part(span),
        )

    def estimate(self) -> Tensor:
        """Return the rule's estimate from the draw, in float32 whatever type the weights have."""
        if self.estimated:
            return self.gradient
        return self.rule.estimate(self.belief, self.gradient.float(), self.weights.float(), self.drawn, self.o)

    def run(self) -> None:
        """Change the belief and write the next draw, operation by operation."""
        for name, value in self.rule.update(self.belief, self.estimate(), self.o).items():
            old = self.belief[name]
            old.copy_(value if self.accept is None else torch.where(self.accept, value, old))
        self.weights.copy_(self.rule.draw(self.belief, self.noise, self.o))


def _part(belief: Belief, span: slice) -> Belief:
    return {name: tensor[..., span] for name, tensor in belief.items()}


def _spans(belief: Belief, weights: Tensor) -> Iterator[slice]:
    """Cut the weights into pieces, shorter ones for beliefs of many rows."""
    count = weights.numel()
    rows = max(tensor.dim() and tensor.numel() // max(count, 1) for tensor in belief.values())
    return spans(count, weights.device, max(rows, 1))


class Queue(NamedTuple):
    """Deferred updates of one step, which run for all tensors in one call."""

    jobs: list[kernels.Job]
    compiled: list[Update]


@contextmanager
def together() -> Iterator[Queue]:
    """Queue the updates of one step and run them in a single call, so that Python's caches stay warm."""
    queue = Queue([], [])
    try:
        yield queue
    finally:
        kernels.run(queue.jobs)
        run_compiled(queue.compiled)


def without_autocast(method: Method) -> Method:
    """Make a method for one tensor compute in the types of its arguments, whatever autocast surrounds the call.

    Autocast would compute matrix products in half precision. The weights of a draw would then depend on where it is
    made, and resuming would not be exact.
    """

    @functools.wraps(method)
    def exact(self: Any, place: Place, *arguments: Any) -> Any:
        device = place.parameter.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return method(self, place, *arguments)
        with torch.autocast(device, enabled=False):
            return method(self, place, *arguments)

    return cast("Method", exact)


def automatic(weights: int) -> Compile:
    """Return which fast implementations pay off for a number of weights."""
    return weights >= _COMPILE_FROM or ("kernels" if weights >= _KERNELS_FROM else False)


def implementation(update: Update, compile: Compile) -> str:
    """Return which implementation `advance` runs for an update: "kernel", "torch.compile" or "eager"."""
    device = update.weights.device.type
    call = _kernel(update) if compile and device == "cpu" else None
    if call and kernels.takes(call, update.weights):
        return "kernel"
    return "torch.compile" if compile is True and _compiles(update) else "eager"


def advance(update: Update, *, compile: Compile = False, queue: Queue | None = None) -> None:
    """Update a belief in place and write the next draw.

    Args:
        update: Update of one tensor.
        compile: Which fast implementations may run.
        queue: Queue of `together`, for updates in one pass; None runs them at once.
    """
    device = update.weights.device.type
    if compile and device == "cpu":
        if update.accept is not None and not update.accept:
            redraw(update.rule, update.belief, update.weights, update.o, update.noise, compile)
            return
        call, jobs = _kernel(update), None if queue is None else queue.jobs
        if call and kernels.submit(call, update.gradient, update.weights, update.noise, jobs):
            return
    if compile is True and _compiles(update):
        if queue is None:
            run_compiled([update])
        else:
            queue.compiled.append(update)
        return
    run_in_pieces(update)


def run_in_pieces(update: Update) -> None:
    """Run an update chunk by chunk, so that its temporaries stay in the processor's cache."""
    for span in _spans(update.belief, update.weights):
        update.part(span).run()


def _kernel(update: Update) -> kernels.Call | None:
    """Return the kernel that the rule names for an update."""
    # A subclass does not inherit the kernel, because it may have changed the equations.
    kernel = vars(update.rule).get("update_kernel")
    return kernel and kernel(update.belief, update.o, update.drawn, update.noise, update.estimated)


def accumulate(update: Update, samples: int, total: Tensor | None) -> Tensor:
    """Add one draw's contribution to the mean estimate of a step.

    Args:
        update: The draw and its gradient, which stay unchanged.
        samples: Number of draws in the step.
        total: Sum over the previous draws, which is changed in place; None for the first draw.

    Returns:
        The total: flat, or rows for rules with several estimates per weight.
    """
    weights, first = update.weights, total is None
    for span in _spans(update.belief, weights):
        estimate = update.part(span).estimate() / samples
        if total is None:
            total = estimate.new_empty(*estimate.shape[:-1], weights.numel())
        total[..., span] = estimate if first else total[..., span] + estimate
    return weights.new_empty(0, dtype=torch.float32) if total is None else total


def redraw(
    rule: type[Rule[Any]], belief: Belief, weights: Tensor, o: Options, noise: Noise, compile: Compile = False
) -> None:
    """Write a draw of an unchanged belief into flat weights, equal to the draw that `advance` would write."""
    if compile and weights.device.type == "cpu":
        kernel = vars(rule).get("draw_kernel")
        call = kernel and kernel(belief, o, noise)
        if call and kernels.submit(call, None, weights, noise):
            return
    for span in _spans(belief, weights):
        weights[span].copy_(rule.draw(_part(belief, span), noise.part(span), o))


# Updates by torch.compile. ------------------------------------------------------------------------------------------


@functools.cache
def has_compiler(device: str) -> bool:
    """Return whether torch.compile can work: it needs a C++ compiler on a CPU, and a C compiler on a GPU."""
    named, *usual = ("CXX", "c++", "g++", "clang++") if device == "cpu" else ("CC", "cc", "gcc", "clang")
    return any(shutil.which(name) for name in (os.environ.get(named, usual[0]).split()[:1] + usual))


def run_compiled(updates: Iterable[Update]) -> None:
    """Update the tensors of one step, with one call for all tensors of the same kind."""
    for (rule, static, names, device), group in itertools.groupby(updates, _kind):
        alike, compiled = list(group), compiled_update(rule, static, names, device.type in ALONE)
        for part in ([update] for update in alike) if device.type in ALONE else [alike]:
            try:
                call_compiled(compiled, part)
            except Exception as error:
                if not _is_compile_error(error):
                    raise
                _FAILED.add((rule, device.type))
                warnings.warn(
                    f"torch.compile failed ({str(error).strip().splitlines()[0]}); {rule.__name__} runs without it and "
                    "is slower. Pass compile=False to the optimizer to silence this warning",
                    RuntimeWarning,
                    stacklevel=2,
                )
                for update in part:  # nothing has changed, because the compiler failed and not the compiled code
                    run_in_pieces(update)


def _compiles(update: Update) -> bool:
    """Return whether to try torch.compile: after one failure for a rule, it is not tried again."""
    device = update.weights.device.type
    return has_compiler(device) and (update.rule, device) not in _FAILED


def _is_compile_error(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # already loaded by torch.compile

    return isinstance(error, TorchDynamoException)


def _numbers(update: Update) -> dict[str, Any]:
    """Return the options that are arguments of a compiled update; the others are compiled in."""
    values = vars(update.o).items()
    return {n: v for n, v in values if isinstance(v, (int, float, Tensor)) and not isinstance(v, bool)}


def _kind(update: Update) -> tuple[Any, ...]:
    """Return the key that updates of one call share: the compiled function and its device."""
    names = tuple(_numbers(update))
    static = tuple((name, value) for name, value in sorted(vars(update.o).items()) if name not in names)
    return update.rule, static, names, update.weights.device


def call_compiled(compiled: Callable[..., None], updates: list[Update]) -> None:
    """Run several updates with their compiled function."""
    device, estimated, accept = updates[0].weights.device, updates[0].estimated, updates[0].accept
    numbers = on_device([[*_numbers(update).values()] for update in updates], torch.float32, device)
    noises = [(update.drawn, update.noise) for update in updates]
    where = [[value for n in pair for value in (n.key, n.shared_key, n.start)] for pair in noises]
    keys = on_device(where, torch.int64, device)
    tensors = ([getattr(update, role) for update in updates] for role in ("belief", "gradient", "weights"))
    compiled(*tensors, numbers, keys, estimated, accept)


@functools.cache
def compiled_update(rule: type[Rule[Any]], static: Static, names: tuple[str, ...], alone: bool) -> Callable[..., None]:
    """Return the compiled update of one rule with one set of options that are not numbers, for one or many tensors."""
    from torch._inductor import config  # imported here, because `import bitbayes` does not need it

    def compiled(
        beliefs: list[Belief],
        gradients: list[Tensor],
        weights: list[Tensor],
        numbers: Tensor,
        keys: Tensor,
        estimated: bool,
        accept: Tensor | None,
    ) -> None:
        for place, flat in enumerate(weights):
            o = Options(**dict(static), **dict(zip(names, numbers[place].unbind(), strict=True)))
            drawn, noise = (
                Noise(own, flat.numel(), flat.device, shared_key=shared, start=start)
                for own, shared, start in keys[place].view(2, 3).unbind()
            )
            Update(rule, beliefs[place], gradients[place], flat, o, drawn, noise, estimated, accept).run()

    # torch.compile stops after eight recompilations of one code object, so every rule gets its own code object.
    compiled.__code__ = compiled.__code__.replace(co_name=f"compiled_{rule.__name__}")
    joined = {name: value for name, value in _JOINED.items() if not alone and hasattr(config, name)}
    return torch.compile(compiled, dynamic=True, options=joined)


def on_device(rows: list[list[Any]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as one tensor without waiting for the device, as a copy from pageable memory would.

    If some numbers are on the device already, the step may be part of a CUDA graph, which must not depend on host
    memory.
    """
    values = list(itertools.chain.from_iterable(rows))
    if not any(isinstance(value, Tensor) for value in values):
        sent = torch.tensor(rows, dtype=dtype)
        return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent.to(device)
    # Each operation on the device takes longer than its number is worth, so equal numbers share one.
    plain = {value for value in values if not isinstance(value, Tensor)}
    written = {value: torch.full((), value, dtype=dtype, device=device) for value in plain}
    there = {id(value): value.to(device, dtype) for value in values if isinstance(value, Tensor)}
    parts = [there[id(value)] if isinstance(value, Tensor) else written[value] for value in values]
    return torch.stack(parts).view(len(rows), -1)


# Steps that are refused. ---------------------------------------------------------------------------------------------


class NotFiniteError(RuntimeError):
    """Error for a loss or gradient that is NaN or infinite; the beliefs are as they were before the step."""


class Refusals:
    """Steps that were refused because a gradient was not finite and that are not yet reported.

    On a CPU, non-finite gradients raise immediately. On a GPU, where waiting for the device would be slow, a flag on
    the device decides whether to accept the step, and a later call reports the refusal when the flag has arrived.

    Args:
        defer: Whether to report refusals later; None does so if the gradients are on a GPU.
    """

    def __init__(self, defer: bool | None = None) -> None:
        self.defer = defer
        self._waiting: list[tuple[list[str], Tensor, torch.cuda.Event | None]] = []

    def accept(
        self, gradients: dict[str, Tensor], *, compile: Compile, agree: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor | None:
        """Check the gradients of a step before a belief may change.

        Args:
            gradients: Gradients by name.
            compile: Which fast implementations may run; the kernels can also check gradients.
            agree: Function that combines the flags of all processes that share the parameters.

        Returns:
            A 0-d bool tensor that says whether to accept the step; None means yes.

        Raises:
            NotFiniteError: If a gradient is not finite and this is known immediately.
        """
        tensors = list(gradients.values())
        if not tensors or (not self.defer and agree is None and surely_finite(tensors, compile=compile)):
            return None
        flags = finite_flags(tensors) if agree is None else agree(finite_flags(tensors))
        event = torch.cuda.Event() if flags.is_cuda else None
        self._waiting.append((list(gradients), flags.to("cpu", non_blocking=True), event))
        if event is not None:
            event.record()
        if flags.is_cuda if self.defer is None else self.defer:
            return flags.all()
        self.report()
        return None

    def report(self) -> None:
        """Raise NotFiniteError for a refused step whose flags have arrived."""
        while self._waiting and (self._waiting[0][2] is None or self._waiting[0][2].query()):
            names, flags, _ = self._waiting.pop(0)
            refuse(name for name, fine in zip(names, flags.tolist(), strict=True) if not fine)


def refuse(names: Iterable[str]) -> None:
    """Raise NotFiniteError if any names of tensors with a non-finite gradient are given."""
    bad = ", ".join(map(repr, names))
    if bad:
        raise NotFiniteError(
            f"the gradient of {bad} is not finite; the step was refused and the beliefs are "
            "unchanged. Look for NaN in the data, lower the learning rate, or clip the gradients"
        )


def note(
    gradients: dict[str, Tensor], notes: list[Tensor], agree: Callable[[Tensor], Tensor] | None = None
) -> Tensor | None:
    """Check gradients inside a CUDA graph, where nothing can be read back: refusals are noted on the device.

    Args:
        gradients: Gradients by name.
        notes: A 0-d bool per gradient, which becomes True if it is not finite.
        agree: Function that combines the flags of all processes that share the parameters.

    Returns:
        A 0-d bool that says whether to accept the step; None if there are no gradients.
    """
    if not gradients:
        return None
    flags = finite_flags(list(gradients.values()))
    flags = flags if agree is None else agree(flags)
    torch._foreach_copy_(notes, [*(torch.stack(notes) | ~flags)])  # pyright: ignore[reportPrivateImportUsage]
    return flags.all()


def refuse_noted(notes: dict[str, Tensor]) -> None:
    """Raise NotFiniteError for refusals that were noted on the device, and clear their notes."""
    bad = [name for name, noted in notes.items() if noted]
    for name in bad:
        notes[name].zero_()
    refuse(bad)


def finite_flags(gradients: list[Tensor]) -> Tensor:
    """Return a stacked bool per gradient that says whether every entry is finite, without reading it back."""
    # aminmax reads once, vectorised, and propagates NaN. isfinite() would write a temporary.
    extremes = [torch.aminmax(each) if each.numel() else (each.new_zeros(()),) * 2 for each in gradients]
    return torch.stack(list(itertools.chain(*extremes))).view(-1, 2).isfinite().all(1)


def surely_finite(gradients: list[Tensor], *, compile: Compile) -> bool:
    """Return True if a quick check shows that all CPU gradients are finite; False may mean that it cannot tell."""
    if compile and kernels.finite(gradients):
        return True
    if any(gradient.device.type != "cpu" or gradient.dtype != torch.float32 for gradient in gradients):
        return False  # torch's sums are fast only for float32
    # A single infinity or NaN makes the sum non-finite. A sum that overflows proves nothing.
    return bool(torch.stack([gradient.sum() for gradient in gradients]).isfinite().all())

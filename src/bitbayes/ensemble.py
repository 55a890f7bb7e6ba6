"""An ensemble of networks that are drawn once, kept as bits, and predict many times."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import Batches, Weights, as_found
from bitbayes.draws import (
    Output,
    check_sampling,
    check_tensor,
    drawn_networks,
    group_size,
    outputs_of,
    stacks,
    unwrapped,
)
from bitbayes.packed import Runtime
from bitbayes.packed.convert.pack import pack_networks
from bitbayes.packed.convert.refusals import check_packable
from bitbayes.parameters import Follower
from bitbayes.posterior import Posterior, SamplePosterior
from bitbayes.predict import check_chunk, check_output, packed_outputs, runtime_of
from bitbayes.prediction import Prediction

_KEPT = 1 << 24  # most weights of all networks that are also kept in the type of the parameters


class Ensemble:
    """Networks that are drawn from a posterior once, and then predict many times.

    The outputs equal those of `bitbayes.predict` bit for bit, with the same arguments. `predict` draws the networks
    anew at every call, and an ensemble keeps one bit per weight and network. Networks of up to 2²⁴ weights in total are
    also kept in the type of the parameters. The ensemble has its own copy of the network, so that later training does
    not change it. The attribute `posterior` is a `SamplePosterior` whose members are the networks, in the order in
    which they were drawn.

    Args:
        model: Network. If torch.compile or DistributedDataParallel wraps the network and the posterior has the
            parameter names of the inner network, the inner network is used.
        posterior: Posterior over the binary parameters, keyed by the model's parameter names.
        samples: Number of networks to sample.
        seed: Seed of the samples.
        batches: Training batches, as x or (x, ...), from which the BatchNorm statistics of every network are estimated
            once. None uses the model's statistics.
        backend: Backend of `bitbayes.packed.load` that runs the networks packed to one bit per weight. For small
            networks and few inputs, "native" takes a tenth of the time of None, and its outputs are equal up to
            rounding. The networks are packed at the first prediction.
        output: How to find the logits if the model returns more than one tensor, as in `bitbayes.predict`.

    Raises:
        TypeError: If `posterior` is not a `Posterior`, `samples` is not a whole number, or `batches` is one tensor or
            data set.
        ValueError: If `samples` is less than 1, if the names of the posterior differ from those of the model, or if a
            backend is given with an output.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> posterior = bb.BernoulliPosterior({"weight": torch.zeros(2, 3)})
        >>> ensemble, x = Ensemble(model, posterior, samples=4), torch.ones(5, 3)
        >>> torch.equal(ensemble.predict(x).outputs, bb.predict(model, x, posterior, samples=4).outputs)
        True
        >>> ensemble
        Ensemble(Linear, 4 networks, 4 bytes of bits)
    """

    @torch.inference_mode(False)  # its tensors would be of no use outside of that mode
    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        posterior: Posterior,
        samples: int = 32,
        *,
        seed: int = 0,
        batches: Batches | None = None,
        backend: str | None = None,
        output: Output | None = None,
    ) -> None:
        check_sampling(posterior, samples)
        if backend is not None:
            check_output(output)
        model = unwrapped(model, posterior.shapes)
        follower = vars(model).get("train")
        followed = isinstance(follower, Follower)  # would bring a copy of the optimizer along
        self.model = copy.deepcopy(model, {id(follower): ()} if followed else {})
        if followed:
            del self.model.train
        self.posterior = SamplePosterior.of_samples(posterior, samples, seed=seed)
        self._drawn = _InOrder(self.posterior)
        self.backend, self.output = backend, output
        self._statistics: list[Weights] | None = None
        self._kept: list[tuple[int, Weights]] = []
        self._runtimes: dict[torch.Size, Runtime] = {}
        with as_found(self.model):
            networks = drawn_networks(self.model, self._drawn, samples, batches=batches)
            if batches is None:
                next(networks)  # checks the names
            else:
                names = self.posterior.shapes
                self._statistics = [{n: t for n, t in each.items() if n not in names} for each in networks]

    def __len__(self) -> int:
        return len(self.posterior)

    def __repr__(self) -> str:
        held = sum(bits.numel() for bits in self.posterior.bits.values())
        return f"{type(self).__name__}({type(self.model).__name__}, {len(self)} networks, {held} bytes of bits)"

    @torch.no_grad()
    def predict(self, x: Tensor, *, chunk: int | None = None) -> Prediction[Tensor]:
        """Predict with all networks.

        Args:
            x: Inputs, shape (N, ...). Without `chunk`, dimension 0 may also be time, as in recurrent layers.
            chunk: Number of inputs at a time; None for all at once.

        Returns:
            Outputs of shape (C, N, K) for C networks, with means and uncertainties as properties.

        Raises:
            TypeError: If the inputs are no tensor.
            ValueError: If `chunk` is less than 1, if the backend does not exist or cannot run a layer, or if the logits
                are not found among the outputs.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False))
            >>> posterior = bb.BernoulliPosterior({"0.weight": torch.zeros(2, 16)})
            >>> Ensemble(model, posterior, 8, backend="native").predict(torch.ones(1, 16)).probs.shape
            torch.Size([1, 2])
        """
        check_tensor("x", x)
        check_chunk(chunk)
        if self.backend is not None:
            return Prediction(packed_outputs(self._runtime(x, self.backend), x, chunk))
        size = group_size(self.posterior, x, chunk)
        with as_found(self.model):
            return Prediction(outputs_of(self.model, self._groups(size), x, chunk, self.output))

    def _networks(self) -> Iterator[Weights]:
        networks = drawn_networks(self.model, self._drawn, len(self))
        if self._statistics is None:
            return networks
        return (weights | buffers for weights, buffers in zip(networks, self._statistics, strict=True))

    def _groups(self, size: int) -> Iterable[tuple[int, Weights]]:
        numbers = len(self) * sum(map(torch.Size.numel, self.posterior.shapes.values()))
        if size == 1 or numbers > _KEPT:
            return stacks(self._networks(), len(self), size)
        if not self._kept:
            self._kept = list(stacks(self._networks(), len(self), size))
        return self._kept

    def _runtime(self, x: Tensor, backend: str) -> Runtime:
        """Return the packed networks; a graph is made for each shape of one input."""
        shape = x.shape[1:]
        if shape not in self._runtimes:
            check_packable(self.model, x[:1])
            network = pack_networks(self.model, x[:1], self._networks(), len(self))
            self._runtimes[shape] = runtime_of(network, backend)
        return self._runtimes[shape]


class _InOrder(SamplePosterior):
    """The networks of a bag, which are sampled in the order in which they were drawn, whatever the seed."""

    def __init__(self, bag: SamplePosterior) -> None:
        vars(self).update(vars(bag))  # the same bits

    def sample_at(self, index: int, *, seed: int = 0, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return self.member(index, out=out)

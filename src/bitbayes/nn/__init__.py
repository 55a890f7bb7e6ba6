"""Networks of the published experiments, and the layers that they need beside torch's own."""

from bitbayes.nn.perceptron import mlp, mnist_mlp, synthetic_mlp
from bitbayes.nn.scale import LogitScale

__all__ = ["LogitScale", "mlp", "mnist_mlp", "synthetic_mlp"]

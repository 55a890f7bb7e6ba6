"""Settings that users choose in Python or on the command line. This module needs only the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Budget = Literal["paper", "quick"]
"""Schedule and hyper-parameters of a run: the published ones, or those of a short run."""

Views = Literal["one", "mirror", "mirror-shift"]
"""Names of test-time augmentations.

"one" is the image alone. "mirror" adds the horizontally flipped image. "mirror-shift" adds both of them moved by one
pixel, once to the upper left and once to the lower right.
"""

Way = Literal["single", "members", "cycles"]
"""Ways to train in a study of members: one run, independent runs that share its epochs, and cycles of one run."""


@dataclass(frozen=True)
class Overrides:
    """Settings that override those of a recipe; None keeps the recipe's setting.

    Args:
        estimator: Gradient estimator of bayesbinn: straight-through, concrete or released. The recipe sets the default.
        data: Folder or Hugging Face Hub id of the data set. The recipe sets the default.
        epochs: Number of epochs of the learning-rate schedule. The default is the published number.
        stop_after: Stop after this epoch of the schedule. By default, train to the end of the schedule.
        seed: Random seed; with --seeds, the seed of the first run. The recipe sets the default.
        device: PyTorch device, such as cpu or cuda. auto selects a GPU if one is available.
        precision: Floating-point precision: fp32, bf16, or auto, which measures both and selects the faster.
        capture: Capture whole training steps as a CUDA graph and replay it.
        protocol: How to select the best epoch: by validation accuracy (validation), or by test accuracy after training
            on all training data, as in the VISPA paper (test).
        out: Folder where the run is written. The default is runs/RECIPE-RULE[-ESTIMATOR]-seedS.
        budget: Schedule and hyper-parameters: the published ones (paper) or those of a short run (quick).
        lr: Learning rate of the binary weights. The recipe sets the default.
        real_lr: Learning rate of the real-valued parameters. The recipe sets the default.
        batch_size: Number of examples per step, or 0 for all training data in one batch. The recipe sets the default.
        accumulate: Number of micro-batches that each batch is split into to save memory. The default is 1.
        samples: Number of posterior samples per training step. The recipe sets the default.
        dropout: Dropout probability of every dropout layer. The network sets the default.
        first_scale: Factor of the first layer's binary weights: one, fan_in, channel, normal (a fixed random factor for
            every weight, which suits few inputs), or weight (the same, learned). By default, it is that of the other
            layers.
        augment: Augmentation of training images. flip flips them at random. crop also moves them over a black frame of
            4 pixels, and shift over a reflected frame of 2 pixels. alternate is shift with a flip in every other epoch.
            cutout is alternate with a frame of 4 pixels and a grey square of 12 pixels. resize enlarges a random part.
            The recipe sets the default.
        label_smoothing: Share of each training target that is uniform over the classes. The recipe sets the default.
        views: Test-time augmentation, which averages the logits of several views of an image. one is the image alone.
            mirror adds the flipped image, and mirror-shift also both of them moved by a pixel. The recipe sets the
            default.
        teacher: Folder of a finished run whose network teaches this one (distillation), such as a full-precision run of
            the same recipe. By default, there is none.
        teacher_share: Weight of the teacher's probabilities among the training targets. The default is 0.5.
        pretrain_epochs: Number of epochs for which a float network is trained first, into OUT-pretrained. The binary
            network begins with its weights; 0 trains none. The recipe sets the default.
        pretrained: Folder of a finished full-precision run of the same network, with whose weights this one begins, in
            place of a network trained first.
        cycles: Number of times that the learning-rate schedule runs, each time over a part of the epochs. The best
            network of each cycle becomes a member of an ensemble, in OUT/member1, OUT/member2, ... The default is 1.
        relax: With --cycles, the share of the belief that each further cycle keeps, in (0, 1]. The default is 0.3 for
            ste, bayesbinn and vispa.
        options: Options of the rule by name. They override the recipe's options.
    """

    estimator: str | None = None
    data: str | None = None
    epochs: int | None = None
    stop_after: int | None = None
    seed: int | None = None
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: bool = False
    protocol: Literal["validation", "test"] = "validation"
    out: str | None = None
    budget: Budget = "paper"
    lr: float | None = None
    real_lr: float | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    samples: int | None = None
    dropout: float | None = None
    first_scale: Literal["one", "fan_in", "channel", "normal", "weight"] | None = None
    augment: Literal["none", "flip", "crop", "shift", "alternate", "cutout", "resize"] | None = None
    label_smoothing: float | None = None
    views: Views | None = None
    teacher: str | None = None
    teacher_share: float | None = None
    pretrain_epochs: int | None = None
    pretrained: str | None = None
    cycles: int | None = None
    relax: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableChoice:
    """The runs of a table.

    Args:
        dataset: Recipe to train. The default is the recipe of the published table.
        seeds: Number of runs per rule. The budget sets the default.
        rules: Rules to include, such as ste or bayesbinn:straight-through. By default, include all rules of the table.
        jobs: Number of runs to train in parallel, each in its own process.
    """

    dataset: str | None = None
    seeds: int | None = None
    rules: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True)
class StreamChoice:
    """How a sequence of tasks is learned.

    Args:
        tasks: Number of tasks of permuted-mnist.
        scenario: Scenario of split-mnist: task-, domain- or class-incremental learning.
        prior: Use each task's posterior as the prior of the next task.
        prior_decay: Fraction of the prior that each task passes on: 1 keeps all of it; 0.9 remembers about the last ten
            tasks.
        ess_decay: Factor by which ess changes from one task to the next. With a prior, the default is 0.55 (nearer to 1
            for more than five tasks). Without a prior, or with --prior-decay below 1, the default is 1.
        method: Method against forgetting: none, coreset or replay. full-precision also supports ewc and si.
        method_options: Options of the method by name.
        statistics: BatchNorm statistics at test time: those saved at the end of each task (task) or the latest ones
            (shared). The default is task; it is shared for replay and for the domain and class scenarios.
        curve_examples: Number of test examples per task on which accuracy is measured after every epoch; 0 disables
            these measurements.
    """

    tasks: int = 5
    scenario: Literal["task", "domain", "class"] = "task"
    prior: bool = True
    prior_decay: float = 1.0
    ess_decay: float | None = None
    method: str = "none"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    statistics: Literal["task", "shared"] | None = None
    curve_examples: int = 1000

"""Configuration of a run: a frozen record that is written to and read from config.json."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bitbayes.errors import nearest
from bitbayes.lab.choices import Views
from bitbayes.lab.data import AUGMENTATIONS
from bitbayes.lab.train.records import parsed
from bitbayes.lab.train.rules import RULES, RuleName, RuleSpec, relaxes
from bitbayes.lab.train.schedule import Schedule

_PRECISIONS = ("auto", "fp32", "bf16")
_COUNTS = ("epochs", "accumulate", "evaluate_every", "checkpoint_every", "refresh_batches", "predict_samples", "cycles")

# Settings that may differ between a run and its continuation. They do not change what is learned, as long as the data
# are the same, which their fingerprint verifies.
_FREE = ("stop_after", "out", "data", "device", "variant", "teacher", "pretrained", "recipe_file")

# Settings that config.json leaves out at their defaults, because older records lack them.
_RARE = (
    "variant",
    "first_scale",
    "augment",
    "label_smoothing",
    "views",
    "teacher",
    "teacher_sha256",
    "teacher_share",
    "pretrain_epochs",
    "pretrained",
    "pretrained_sha256",
    "recipe_file",
    "recipe_sha256",
    "cycles",
    "relax",
)

# The first entries of config.json; the others follow in the order of the fields.
_FIRST = (
    *("recipe", "rule", "out", "lr", "epochs", "estimator", "options", "real_lr", "real_optimizer"),
    *("real_weight_decay", "schedule", "stop_after", "batch_size", "accumulate", "samples", "clip_gradient", "dropout"),
)


@dataclass(frozen=True)
class RunConfig:
    """All settings that a training run depends on, apart from the code.

    Args:
        recipe: Name of the recipe that builds the network and the data.
        rule: Name of the learning rule.
        out: Folder where the run is written.
        spec: Settings of the rule.
        epochs: Number of epochs of the schedule.
        estimator: Gradient estimator of BayesBiNN; None for other rules.
        variant: Name of a variant of the rule's settings, such as "default" or "rank1"; None for the rule's or its
            estimator's own settings.
        stop_after: Last epoch of this run on that schedule; None means `epochs`.
        batch_size: Number of examples per step; 0 means all training examples.
        accumulate: Number of micro-batches that each batch is split into to save memory. BatchNorm sees each
            micro-batch separately.
        seed: Seed of the network, the batches, dropout and the draws.
        data_seed: Seed of the split into training and validation data.
        device: Torch device.
        precision: "fp32", "bf16" (autocast around the forward pass) or "auto" (measured).
        capture: Whether to capture whole steps as a CUDA graph.
        data: Folder or Hugging Face Hub id of the data; None for the recipe's default.
        refresh_batches: Number of training batches of 500 from which BatchNorm statistics of the mode are estimated.
        evaluate_every: Number of epochs between two evaluations, and so between two lines of metrics.jsonl.
        checkpoint_every: Number of epochs between two checkpoints.
        predict_samples: Number of posterior samples that the mean prediction averages over.
        first_scale: Scale of the first layer's binary weights, as the option `scale` of all rules; None for that of the
            other layers.
        augment: Name of the augmentation in `bitbayes.lab.data.AUGMENTATIONS`; None for that of the recipe.
        label_smoothing: Share of the target distribution that is uniform over the classes during training, in [0, 1).
        views: Test-time augmentation. The logits of several views of an image are averaged: "one" (the image alone),
            "mirror" (also the flipped image) or "mirror-shift" (also both of them moved by a pixel).
        protocol: How the best epoch is selected. "validation" selects it by the validation accuracy of the mode. "test"
            is the protocol of VISPA's paper, without validation data: the best *test* accuracy, of the posterior mean
            if there is a posterior.
        teacher: Folder of a finished run whose network teaches this one (distillation); None for the labels alone.
        teacher_sha256: SHA-256 of that network's weights.
        teacher_share: Weight of the teacher's probabilities among the targets, in (0, 1].
        pretrain_epochs: Number of epochs for which a float network is trained first, if `pretrained` is None.
        pretrained: Folder of a finished full-precision run with whose weights this one begins. None leaves the
            network's own initial weights, or those of the float network that will be trained.
        pretrained_sha256: SHA-256 of those weights.
        recipe_file: File of the recipe, as the user named it; None for the recipes of this package.
        recipe_sha256: SHA-256 of that file and of the modules beside it that it imports.
        cycles: Number of times that the schedule runs, each time over a part of the epochs. With several cycles, the
            best network of each cycle is written as a member of an ensemble.
        relax: Share of the belief that each further cycle keeps, in (0, 1]; see `BinaryOptimizer.relax`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> config = RunConfig("digits", "ste", "runs/digits", RuleSpec(lr=1e-2), epochs=3)
        >>> RunConfig.from_json(config.to_json()) == config
        True
        >>> config.last_epoch
        3
    """

    recipe: str
    rule: str
    out: str
    spec: RuleSpec
    epochs: int
    estimator: str | None = None
    variant: str | None = None
    stop_after: int | None = None
    batch_size: int = 100
    accumulate: int = 1
    seed: int = 0
    data_seed: int = 0
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: bool = False
    data: str | None = None
    refresh_batches: int = 20
    evaluate_every: int = 1
    checkpoint_every: int = 1
    predict_samples: int = 10
    first_scale: str | None = None
    augment: str | None = None
    label_smoothing: float = 0.0
    views: Views = "one"
    protocol: Literal["validation", "test"] = "validation"
    teacher: str | None = None
    teacher_sha256: str | None = None
    teacher_share: float = 0.5
    pretrain_epochs: int = 0
    pretrained: str | None = None
    pretrained_sha256: str | None = None
    recipe_file: str | None = None
    recipe_sha256: str | None = None
    cycles: int = 1
    relax: float = 1.0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.checkpoint_every % self.evaluate_every:
            factor = f"evaluate_every ({self.evaluate_every})"
            raise ValueError(f"checkpoint_every ({self.checkpoint_every}) must be a multiple of {factor}")
        if self.pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs must be at least 0, got {self.pretrain_epochs}")
        if self.batch_size < 0:
            raise ValueError(f"batch_size must be positive, or 0 for all data, got {self.batch_size}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), got {self.seed}")
        if self.spec.lr is None and self.rule != "bayesbinn":
            raise ValueError(f"lr of rule {self.rule} must be a number, got None, which only bayesbinn supports")
        if self.stop_after is not None and not 1 <= self.stop_after <= self.epochs:
            raise ValueError(f"stop_after must lie between 1 and epochs ({self.epochs}), got {self.stop_after}")
        if self.augment is not None and self.augment not in AUGMENTATIONS:
            raise nearest("augmentation", self.augment, AUGMENTATIONS)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if not 0 < self.teacher_share <= 1:
            raise ValueError(f"teacher_share must be in (0, 1], got {self.teacher_share}")
        if self.views not in get_args(Views):
            raise ValueError(f"views must be one of {', '.join(get_args(Views))}; got {self.views!r}")
        if self.precision not in _PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}; got {self.precision!r}")
        if self.protocol not in ("validation", "test"):
            raise ValueError(f"protocol must be validation or test, got {self.protocol!r}")
        self._check_cycles()

    def _check_cycles(self) -> None:
        if not 0 < self.relax <= 1:
            raise ValueError(f"relax must be in (0, 1], got {self.relax}")
        if self.cycles == 1:
            if self.relax < 1:
                raise ValueError(f"relax {self.relax} has no effect without cycles; leave it out, or give cycles")
            return
        if self.epochs % self.cycles:
            raise ValueError(f"epochs ({self.epochs}) must be a multiple of cycles ({self.cycles})")
        if not self.spec.schedule.falls(self.cycle_epochs):
            what = f"the schedule {self.spec.schedule.kind} does not fall within {self.cycle_epochs} epoch"
            what += "s" * (self.cycle_epochs > 1)
            raise ValueError(f"cycles need a learning rate that falls in each cycle, but {what}; give more epochs")
        if not relaxes(self.rule) and (self.rule != "full-precision" or self.relax < 1):
            names = ", ".join(name for name in RULES if relaxes(name))
            more = "; full-precision has cycles with relax 1" if self.rule == "full-precision" else ""
            raise ValueError(f"rule {self.rule} cannot relax its belief for cycles; choose from: {names}{more}")

    @property
    def last_epoch(self) -> int:
        """The epoch after which this run ends."""
        return self.stop_after or self.epochs

    @property
    def cycle_epochs(self) -> int:
        """Number of epochs over which the schedule runs once."""
        return self.epochs // self.cycles

    @property
    def rule_name(self) -> RuleName:
        """Rule with its variant or else its estimator, as users name it."""
        return RuleName(self.rule, self.variant or self.estimator)

    def flat(self) -> dict[str, Any]:
        """Return all settings by name, including those of the rule, in the order of config.json."""
        values = {**vars(self), **vars(self.spec)}
        del values["spec"]
        return {name: values.pop(name) for name in _FIRST} | values

    def changed(self, **settings: Any) -> RunConfig:
        """Return a copy with other settings of the run or of its rule.

        Raises:
            ValueError: If there is no such setting, or a value is out of range.

        Example:
            >>> config = RunConfig("digits", "ste", "runs/digits", RuleSpec(lr=1e-2), epochs=3)
            >>> config.changed(lr=0.5, seed=7).spec.lr
            0.5
        """
        return _from_flat({**self.flat(), **settings})

    def to_json(self) -> str:
        """Return the record as indented JSON."""
        values = self.flat()
        for name in _RARE:
            if values[name] == _DEFAULTS[name]:
                del values[name]
        return json.dumps(values, indent=2, default=dataclasses.asdict) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote; unknown entries are ignored, so that newer files can be read.

        Raises:
            ValueError: If the text is not a JSON object, or a value is out of range or of another type.
        """
        raw = parsed(text)
        if not isinstance(raw, dict):
            raise ValueError(f"expected settings by name, got {_short(raw)}")
        raw["schedule"] = Schedule.from_dict(raw.get("schedule", {}))
        config = _from_flat({name: value for name, value in raw.items() if name in _SPEC | _OWN})
        for record in (config, config.spec, config.spec.schedule):
            _check_types(record)
        return config

    @classmethod
    def load(cls, folder: str | Path) -> RunConfig:
        """Read config.json of a run.

        Raises:
            ValueError: If there is no readable config.json.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            inside = sorted(each.parent.name for each in Path(folder).glob("*/config.json"))
            inside = [*inside[:5], *["..."] * (len(inside) > 5)]
            advice = (
                f"the folder of a run in it: {', '.join(inside)}"
                if inside
                else "the folder of a run, such as runs/NAME"
            )
            raise ValueError(f"{folder} is not a run: it has no config.json; name {advice}")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a record of a run: {error}") from error

    def differences(self, other: RunConfig) -> list[str]:
        """Return a short text for each difference from another record that changes what is learned."""
        ours, theirs = self.flat(), other.flat()
        free = {*_FREE}
        if "auto" in (self.precision, other.precision):
            free.add("precision")
        if self.pretrain_epochs and None in (self.pretrained, other.pretrained):  # not trained yet
            free.add("pretrained_sha256")
        names = [name for name in ours if name not in free and ours[name] != theirs[name]]
        return [f"{name} {_short(ours[name])}, not {_short(theirs[name])}" for name in names]

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine what is learned, by name and in JSON types."""
        return with_defaults({name: value for name, value in json.loads(self.to_json()).items() if name not in _FREE})

    def differing(self, identity: Mapping[str, Any]) -> list[str]:
        """Return a short text for each setting that differs in the `identity` of another record.

        Settings that only one of the two has are ignored, so that checkpoints of other versions can be read.

        Example:
            >>> config = RunConfig("digits", "ste", "runs/digits", RuleSpec(lr=1e-2), epochs=3)
            >>> config.differing(config.changed(seed=7).identity())
            ['seed 7, not 0']
        """
        ours = self.identity()
        identity = with_defaults(identity)
        names = [name for name, value in identity.items() if name in ours and ours[name] != value]
        return [f"{name} {_short(identity[name])}, not {_short(ours[name])}" for name in names]


_SPEC = {item.name for item in dataclasses.fields(RuleSpec)}
_DEFAULTS = {item.name: item.default for item in dataclasses.fields(RunConfig)}
_OWN = {item.name for item in dataclasses.fields(RunConfig)} - {"spec"}


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name, with the defaults of those that `RunConfig.to_json` leaves out."""
    return {name: _DEFAULTS[name] for name in _RARE if name not in _FREE} | dict(values)


def _from_flat(values: dict[str, Any]) -> RunConfig:
    """Return the record of settings by name."""
    for name in values:
        if name not in _SPEC | _OWN:
            raise nearest("setting", name, sorted(_SPEC | _OWN))
    spec = RuleSpec(**{name: value for name, value in values.items() if name in _SPEC})
    return RunConfig(spec=spec, **{name: value for name, value in values.items() if name in _OWN})


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_types(record: RunConfig | RuleSpec | Schedule) -> None:
    """Raise ValueError unless the fields of a record hold what their annotations say."""
    for name, kind in get_type_hints(type(record)).items():
        if not _fits(value := getattr(record, name), kind):
            raise ValueError(f"{name} cannot be {_short(value)}")


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value from JSON has the type of an annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, origin or kind)

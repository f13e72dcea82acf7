"""What all losses have in common: options, which are fixed when a loss is made, and the reduction of a table."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.autograd import refuse_script
from ..passes.inputs import Inputs, check_inputs
from ..passes.lazy_logits import LazyLogits
from ..passes.options import as_number, check_activation, check_choice, check_flag, check_ignore_index
from .weights import check_class_weight, check_weight_length

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def of_this_package(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _option_names(cls: type) -> tuple[str, ...]:
    """The options of a loss that this package knows: the parameters of its constructor and, if that hands on what it
    does not know, of those of its bases."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        if of_this_package(base):
            names |= dict.fromkeys(p.name for p in parameters if p.kind != p.VAR_KEYWORD)
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return tuple(names)


option_names: Callable[[type], tuple[str, ...]] = functools.cache(_option_names)


# What other libraries call an option, and what to write here
ELSEWHERE = {
    "to_onehot_y": "labels as they are, without it",
    "softmax": "activation='softmax', the default",
    "sigmoid": "activation='sigmoid'",
    "use_softmax": "activation='softmax' or 'sigmoid'",
    "other_act": "activation=None, and the function applied to the logits before",
    "apply_nonlin": "activation='softmax', 'sigmoid', or None for probabilities",
    "from_logits": "activation='softmax' or 'sigmoid', or None for probabilities",
    "mode": "activation='softmax' (multiclass) or 'sigmoid' (binary, multilabel)",
    "squared_pred": "squared=",
    "jaccard": "JaccardLoss",
    "smooth_nr": "smooth=(of the numerator, of the denominator)",
    "smooth_dr": "smooth=(of the numerator, of the denominator)",
    "eps": "smooth=, a number or a pair (of the numerator, of the denominator)",
    "weight": "class_weight=",
    "class_weights": "class_weight=",
    "pos_weight": "WeightedCrossEntropyLoss(beta=, activation='sigmoid')",
    "smooth_factor": "label_smoothing=",
    "lambda_dice": "dice_weight=",
    "weight_dice": "dice_weight=",
    "lambda_ce": "ce_weight=",
    "weight_ce": "ce_weight=",
    "lambda_focal": "focal_weight=",
    "w_type": "weighting=",
    "batch_dice": "batch=",
    "do_bg": "include_background=",
    "ignore_label": "ignore_index=",
    "ddp": "process_group='world'",
    "per_image": "per_sample=",
    "size_average": "reduction=",
    "reduce": "reduction=",
}


def _constructor(cls: type) -> Callable[..., None]:
    """The constructor of a loss, given plain numbers, after which the options are fixed."""
    init = cls.__init__  # type: ignore[misc]
    names = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def constructor(self: SegmentationLoss, *values: Any, **options: Any) -> None:
        if of_this_package(cls):
            for name in options:
                if name in ELSEWHERE and name not in names:
                    raise TypeError(f"{name}: is no option of {cls.__name__}, expected {ELSEWHERE[name]}")
            named = zip(names, values, strict=False)
            values = (*(as_number(value, name) for name, value in named), *values[len(names) :])
            options = {name: as_number(value, name) for name, value in options.items()}
        init(self, *values, **options)
        if type(self).__init__ is constructor:
            self.__dict__["_made"] = True

    return constructor


class CalledWithInput(nn.Module):
    """A module whose logits may be named ``input=`` as well, as torch's losses and MONAI's name theirs."""

    def __call__(self, *tensors: Any, **named: Any) -> Any:
        if "input" in named:
            if tensors or "logits" in named:
                raise TypeError("input: given besides logits, expected one of them, which are the same")
            named["logits"] = named.pop("input")
        return super().__call__(*tensors, **named)

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # code of its own for each class: torch.compile counts the graphs of a code, and leaves it to Python beyond 8
        call: Any = CalledWithInput.__call__
        code = call.__code__.replace(co_name=f"{cls.__name__}.__call__")
        cls.__call__ = types.FunctionType(code, call.__globals__, "__call__", None, call.__closure__)  # type: ignore[method-assign]


class SegmentationLoss(CalledWithInput):
    """The options that all losses share, and the reduction of a table of values per sample and class.

    Options may be NumPy scalars, or tensors without axes, as well as numbers. They are fixed when the loss is made, as
    its terms and parts follow from them: setting one later raises AttributeError. An ``nn.Parameter`` as
    ``class_weight`` (or as another option that says so) is learned: it is a parameter of the loss and gets a gradient.

    Args:
        activation: ``"softmax"``, ``"sigmoid"`` or None (the input holds probabilities).
        include_background: False drops channel 0 after the activation (if there is more than one channel).
        batch: adds the sums over the samples first, as if the batch were one volume.
        ignore_index: label or labels whose voxels leave every sum and gradient.
        class_weight: one weight for each channel, the background's included, multiplied into the table.
        reduction: of the table ``[B, C]``: ``"mean"``, ``"sum"`` or ``"none"``. Losses that each voxel has also know
            ``"voxel"``.
        validate: see :func:`fastloss.voxel_sums`.
    """

    reductions: tuple[str, ...] = ("mean", "sum", "none")
    lazily = False  # whether lazy logits are made chunk by chunk
    channel_masks = False  # whether each of the channels may have a mask of its own
    class_weight: Tensor | None
    _class_vectors: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        activation: str | None = "softmax",
        include_background: bool = True,
        batch: bool = False,
        ignore_index: int | Iterable[int] | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
    ):
        super().__init__()
        check_flag(include_background=include_background, batch=batch)
        if validate is not None:
            check_flag(validate=validate)
        self.activation = check_activation(activation)
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = check_ignore_index(ignore_index)
        self.reduction = check_choice("reduction", reduction, self.reductions)
        self.validate = validate
        self.register_class_vector("class_weight", check_class_weight(class_weight))

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        made = self.modules() if "_made" in vars(self) and name not in self._parameters else ()
        parts = [type(part) for part in made if isinstance(part, SegmentationLoss)]
        if parts and any(name in option_names(cls) for cls in (*parts, SegmentationLoss)):
            raise AttributeError(
                f"{name}: is fixed when a {type(self).__name__} is made, since what it computes follows from it; "
                "expected a new loss"
            )
        super().__setattr__(name, value)

    __jit_unused_properties__ = ("__jit_ignored_attributes__",)

    @property
    def __jit_ignored_attributes__(self) -> list[str]:
        """What torch.jit.script need not understand of a loss that a scripted network holds and does not call."""
        return [*(name for name in vars(self) if name not in _OF_EVERY_MODULE), *self._buffers]

    def register_class_vector(self, name: str, value: Tensor | None) -> None:
        """Numbers for the channels: a parameter, or a buffer that moves with the module and stays float64."""
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
            return
        self.register_buffer(name, value, persistent=False)
        self._class_vectors = (*self._class_vectors, name)

    @torch.jit.unused
    def inputs(
        self, logits: Tensor | LazyLogits, target: Tensor, mask: Tensor | None, weight_map: Tensor | None = None
    ) -> Inputs:
        """The checked tensors of a call."""
        refuse_script(self)
        if isinstance(logits, LazyLogits) and not self.lazily:
            logits = logits.tensor(type(self).__name__)
        tensors = (logits, target, mask, weight_map)
        return check_inputs(*tensors, self.activation, self.ignore_index, self.validate, self.channel_masks)

    def exclusive(self, channels: int) -> bool:
        """Whether the channels are the classes of a voxel (softmax), rather than each a problem of its own."""
        return self.activation == "softmax" or (self.activation == "none" and channels > 1)

    def check_target(self, target: Tensor, dense: bool) -> None:
        """Raises ValueError for a target that the formula does not hold for."""

    def reduce(self, table: Tensor) -> Tensor:
        """The table ``[B, C]`` weighted, without the background if that is dropped, and reduced."""
        weight = self.weights(table)
        if weight is not None:
            table = table * weight
        if not self.include_background and table.shape[1] > 1:
            table = table[:, 1:]
        return self.collapse(table)

    def collapse(self, table: Tensor) -> Tensor:
        """The reduction alone."""
        if self.reduction == "none":
            return table
        return table.mean() if self.reduction == "mean" and table.numel() else table.sum()

    def weights(self, table: Tensor) -> Tensor | None:
        """The class weights, checked against the channels of ``table`` ``[B, C]``."""
        if self.class_weight is not None:
            check_weight_length(self.class_weight, table.shape[1])
        return self.class_weight

    def extra_repr(self) -> str:
        shown = {name: getattr(self, name, None) for name in option_names(type(self)) if name != "terms"}
        said = {
            name: repr(value) for name, value in shown.items() if isinstance(value, Tensor) or value not in (None, ())
        }
        if self.activation == "none":
            said["activation"] = "None"
        return ", ".join(f"{name}={text}" for name, text in said.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: getattr(self, name) for name in self._class_vectors}
        super()._apply(fn, recurse)
        for name, vector in before.items():
            if vector is not None:
                self._buffers[name] = vector.to(getattr(self, name).device)  # .half() must not round the weights
        return self

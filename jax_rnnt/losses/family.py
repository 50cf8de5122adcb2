"""Finds the options of a loss that a user names."""

import dataclasses
from collections.abc import Callable, Mapping

from jax import Array

from jax_rnnt import checks
from jax_rnnt.core.options import Options
from jax_rnnt.losses.hat import HatOptions, hat_loss
from jax_rnnt.losses.loss_object import Loss, RNNTLoss
from jax_rnnt.losses.monotonic import MonotonicOptions, monotonic_rnnt_loss
from jax_rnnt.losses.multiblank import MultiblankOptions, multiblank_rnnt_loss
from jax_rnnt.losses.rnnt import RnntOptions, rnnt_loss
from jax_rnnt.losses.tdt import TdtOptions, tdt_loss

_OPTIONS: dict[Callable[..., Array], Callable[..., Options]] = {
    rnnt_loss: RnntOptions,
    monotonic_rnnt_loss: MonotonicOptions,
    multiblank_rnnt_loss: MultiblankOptions,
    tdt_loss: TdtOptions,
    hat_loss: HatOptions,
}


def options_of(loss: Callable[..., Array], options: Mapping[str, object]) -> Options:
    """The options of a loss of this library, or of an object made from one. ``options`` override them."""
    function, given = loss, dict(options)
    if isinstance(loss, RNNTLoss):
        function = rnnt_loss
        given = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)} | given
    elif isinstance(loss, Loss):
        function, given = loss.function, loss.options | given
    if not callable(function) or function not in _OPTIONS:
        names = ", ".join(f"`{known.__name__}`" for known in _OPTIONS)
        raise TypeError(f"`loss` must be one of {names}, or a `Loss` or `RNNTLoss`, got {checks.described(loss)}.")
    return _OPTIONS[function](**Loss(function, **given).options)

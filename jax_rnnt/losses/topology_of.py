"""From a loss, with its options, to the topology that it sums over: what decoders need to know of a trained model."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

from jax import Array

from jax_rnnt.core.loss import MakeTopology
from jax_rnnt.core.topology import Topology
from jax_rnnt.losses.hat import hat_loss, hat_topology
from jax_rnnt.losses.loss_object import Loss, RNNTLoss
from jax_rnnt.losses.monotonic import monotonic_rnnt_loss, monotonic_topology
from jax_rnnt.losses.multiblank import multiblank_rnnt_loss, multiblank_topology
from jax_rnnt.losses.rnnt import rnnt_loss, rnnt_topology
from jax_rnnt.losses.tdt import tdt_loss, tdt_topology

LossLike = Loss | RNNTLoss | Callable[..., Array]
"""A loss function of this library, or one with its options set beforehand."""

_TOPOLOGIES: dict[Callable[..., Array], Callable[..., Topology]] = {
    rnnt_loss: rnnt_topology,
    monotonic_rnnt_loss: monotonic_topology,
    multiblank_rnnt_loss: multiblank_topology,
    tdt_loss: tdt_topology,
    hat_loss: hat_topology,
}


def function_of(loss: LossLike) -> Callable[..., Array]:
    """The loss function behind ``loss``."""
    if isinstance(loss, RNNTLoss):
        return rnnt_loss
    return loss.function if isinstance(loss, Loss) else loss


def topology_of(loss: LossLike) -> MakeTopology:
    """The loss's topology, by the width of a row of logits."""
    function = function_of(loss)
    if not callable(function) or function not in _TOPOLOGIES:
        names = ", ".join(known.__name__ for known in _TOPOLOGIES)
        raise TypeError(f"`loss` must be {names}, or one of them as a `Loss` or `RNNTLoss`, got {loss!r}.")
    options = {}
    if isinstance(loss, RNNTLoss):
        options = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    elif isinstance(loss, Loss):
        options = loss.options
    make = _TOPOLOGIES[function]
    parameters = list(inspect.signature(make).parameters.values())[1:]
    chosen = {p.name: options[p.name] for p in parameters if p.name in options}
    if missing := [p.name for p in parameters if p.default is p.empty and p.name not in chosen]:
        raise TypeError(
            f"`loss` must have the options of {function.__name__} that have no default, and it lacks {missing}: "
            f"give Loss({function.__name__}, {', '.join(f'{name}=...' for name in missing)})."
        )
    return functools.partial(make, **chosen)

"""The programs of decoders. Outside of jit each is compiled once for equal decoders and equal shapes."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from jax_rnnt import checks
from jax_rnnt.decoding import fusion as fusions
from jax_rnnt.decoding.hypotheses import DecoderState, Hypotheses
from jax_rnnt.decoding.parameters import Parameters
from jax_rnnt.xla.sharding import vary_alike, with_automatic_axes

if TYPE_CHECKING:
    from jax_rnnt.decoding.decoder import Decoder


def parts(decoder: "Decoder", params: Any, axes: tuple[str, ...], *static: Any) -> tuple[Any, ...]:
    """The first arguments of a program: what it is compiled for, and then what may change from call to call."""
    without = dataclasses.replace(decoder, fusion=())
    return without, axes, *static, Parameters.of((params, fusions.with_arrays(decoder.fusions)))


def _whole(static: "Decoder", parameters: Parameters) -> tuple["Decoder", Any]:
    """The decoder and ``params``, from their :func:`parts`."""
    params, fusion = parameters.tree()
    return dataclasses.replace(static, fusion=fusion), params


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def init(
    static: "Decoder",
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
    parameters: Parameters,
    state: Any,
) -> DecoderState:
    def start(parameters: Parameters, state: Any) -> DecoderState:
        decoder, params = _whole(static, parameters)
        return vary_alike(decoder._start(shape, dtype, params, state), parameters)

    return with_automatic_axes(start, PartitionSpec(axes or None), parameters, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(
    static: "Decoder", axes: tuple[str, ...], parameters: Parameters, state: DecoderState, x: Array, lengths: Array
) -> DecoderState:
    def advance(parameters: Parameters, state: DecoderState, x: Array, lengths: Array) -> DecoderState:
        decoder, params = _whole(static, parameters)
        state, x, t_b = vary_alike((state, x, checks.to_int32(lengths)), parameters)
        valid = (t_b >= 0) & (t_b <= x.shape[1])
        score = jnp.where(valid[:, None], state.frontier.score, jnp.nan)
        state = state._replace(frontier=state.frontier._replace(score=score))
        return decoder._advance(params, state, x, jnp.where(valid, t_b, 0))

    return with_automatic_axes(advance, PartitionSpec(axes or None), parameters, state, x, lengths)


@functools.partial(jax.jit, static_argnums=(0, 1))
def reset(
    static: "Decoder", axes: tuple[str, ...], parameters: Parameters, state: DecoderState, where: Array
) -> DecoderState:
    def again(parameters: Parameters, state: DecoderState, where: Array) -> DecoderState:
        state, where = vary_alike((state, where), parameters)
        return _whole(static, parameters)[0]._again(state, where)

    return with_automatic_axes(again, PartitionSpec(axes or None), parameters, state, where)


@functools.partial(jax.jit, static_argnums=(0, 1))
def hypotheses(static: "Decoder", axes: tuple[str, ...], parameters: Parameters, state: DecoderState) -> Hypotheses:
    def found(parameters: Parameters, state: DecoderState) -> Hypotheses:
        return _whole(static, parameters)[0]._found(vary_alike(state, parameters))

    return with_automatic_axes(found, PartitionSpec(axes or None), parameters, state)

"""Derivatives with `clamp` and `vocab_axis_name`: some exist, and the library explains why it refuses others."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference
import tolerances
from cases import lengths, random_batch

import jax_rnnt

CLAMP = 0.1
T_B, U_B = lengths(5, 3, 4, 0), lengths(3, 3, 1, 0)
LOGITS, TARGETS = random_batch("refusals")
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.0])
V, W = np.random.default_rng(0).normal(size=(2, *LOGITS.shape))


def _total(x, implementation: str) -> jax.Array:
    costs = jax_rnnt.rnnt_loss(x, TARGETS, T_B, U_B, clamp=CLAMP, reduction="none", implementation=implementation)
    return jnp.sum(costs * WEIGHTS)


def _clipped_gradient(x) -> np.ndarray:
    return reference.rnnt_loss(x, TARGETS, T_B, U_B, clamp=CLAMP)[1] * WEIGHTS[:, None, None, None]


def _forward_over_reverse(f: Callable, x, v) -> jax.Array:
    return jax.jvp(jax.grad(f), (x,), (v,))[1]


def _reverse_over_reverse(f: Callable, x, v) -> jax.Array:
    return jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x)


def _reverse_over_forward(f: Callable, x, v) -> jax.Array:
    return jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1])(x)


def _forward_mode(f: Callable, x, v) -> jax.Array:
    return jax.jvp(f, (x,), (v,))[1]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_clamp_has_no_forward_mode(wrap: Callable) -> None:
    derivative = functools.partial(_forward_mode, functools.partial(_total, implementation="lax"))
    more = (None,) if wrap is jax.vmap else ()
    with pytest.raises(TypeError, match=r"`clamp`.*no forward mode.*jax\.grad"):
        wrap(derivative)(jnp.asarray(LOGITS)[(*more,)], jnp.asarray(V)[(*more,)])


def test_second_order_with_clamp_is_that_of_the_clipped_gradient() -> None:
    """Forward over reverse gives J v, and reverse over reverse gives J^T v.

    J is the Jacobian of the clipped gradient, by differences of the oracle's gradient. If an entry is clipped, its row
    of J is 0, but its column is not.
    """
    h = tolerances.FINITE_STEP
    jv, jw = ((_clipped_gradient(LOGITS + h * d) - _clipped_gradient(LOGITS - h * d)) / (2 * h) for d in (V, W))
    total = functools.partial(_total, implementation=losses.QUICK)
    x, v = jnp.asarray(LOGITS), jnp.asarray(V)
    forward = jax.jit(functools.partial(_forward_over_reverse, total))(x, v)
    reverse = jax.jit(functools.partial(_reverse_over_reverse, total))(x, v)
    np.testing.assert_allclose(forward, jv, rtol=0, atol=tolerances.FINITE_ATOL)
    np.testing.assert_allclose(jnp.vdot(reverse, W), np.vdot(V, jw), rtol=1e-7)
    assert np.abs(forward - reverse).max() > 0.01, "J is not symmetric"


def _of_divided_vocabulary(clamp: float, way: str) -> Callable:
    _, *arrays = meshes.batch()
    loss = meshes.total("lax", clamp=clamp, vocab_axis_name="model")
    if way == "set_mesh":
        return lambda x: loss(x, *arrays)
    return jax.shard_map(
        lambda x: loss(x, *arrays),
        mesh=meshes.make_mesh(model=2),
        in_specs=meshes.P(None, None, None, "model"),
        out_specs=meshes.P(),
    )


@pytest.mark.parametrize("clamp", [-1.0, CLAMP])
@pytest.mark.parametrize("way", ["set_mesh", "shard_map"])
def test_divided_vocabulary_has_first_derivatives_in_reverse_mode_only(way: str, clamp: float) -> None:
    total = _of_divided_vocabulary(clamp, way)
    x = jnp.asarray(meshes.batch()[0])
    wanted = {
        _forward_mode: "no forward mode",
        _reverse_over_forward: "no forward mode",
        _forward_over_reverse: "no second derivatives",
        _reverse_over_reverse: "no second derivatives",
    }
    with jax.set_mesh(meshes.make_mesh(model=2)):
        for derivative, words in wanted.items():
            with pytest.raises(TypeError, match=f"`vocab_axis_name`.*{words}"):
                jax.jit(functools.partial(derivative, total))(x, x)

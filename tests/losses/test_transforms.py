"""Eager calls, vmap, a second backward pass, debug_nans: the result is the same, whichever way JAX gets there.

Other tests compare plain calls on such batches with the oracle. So only the transformation can fail here. Meshes have
files of their own.
"""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
from cases import T, U, lengths, random_batch

import jax_rnnt

T_B, U_B = lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)


def _costs(implementation: str, **options):
    """The loss as a function of [B, T, U+1, V], with costs [B]."""
    return functools.partial(jax_rnnt.rnnt_loss, reduction="none", implementation=implementation, **options)


def _total(implementation: str, **options):
    """The loss as a function of [B, T, U+1, V], with the sum of the costs."""
    return functools.partial(jax_rnnt.rnnt_loss, reduction="sum", implementation=implementation, **options)


def _groups(n: int) -> tuple[jax.Array, ...]:
    """n batches of four examples. vmap maps over their first axis."""
    logits, targets = (jnp.asarray(np.stack(a)) for a in zip(*(random_batch(100 + i) for i in range(n)), strict=True))
    rolled = [jnp.stack([jnp.roll(a, i) for i in range(n)]) for a in (T_B, U_B)]
    return logits, targets, *rolled


def _expected(arrays) -> tuple[np.ndarray, np.ndarray]:
    """The costs [n, B] and the gradients of their sums, batch by batch, by the oracle."""
    results = [reference.rnnt_loss(*(np.asarray(a[i]) for a in arrays)) for i in range(len(arrays[0]))]
    return np.stack([cost for cost, _ in results]), np.stack([gradient for _, gradient in results])


def _mapped(implementation: str, axes: tuple):
    """The costs under vmap, and the gradient of their sum with respect to the logits."""
    mapped = jax.vmap(_costs(implementation), in_axes=axes)
    return jax.jit(lambda x, *rest: (mapped(x, *rest), jax.grad(lambda y: mapped(y, *rest).sum())(x)))


def _close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_eager() -> None:
    """Also without jit, a mode for debuggers. There JAX still compiles the library's own operations."""
    arrays = tuple(a[0] for a in _groups(1))
    loss = _costs(losses.QUICK)
    value, gradient = _expected(tuple(a[None] for a in arrays))
    _close(loss(*arrays), value[0])
    _close(jax.grad(_total(losses.QUICK))(*arrays), gradient[0])
    with jax.disable_jit():
        _close(jax.grad(jax.jit(_total(losses.QUICK)))(*arrays), gradient[0])


@pytest.mark.parametrize("axes", [(0, 0, 0, 0), (2, 1, 0, 1), (-1, -1, -1, -1)], ids=str)
def test_vmap_over_any_axis(axes: tuple[int, ...]) -> None:
    arrays = _groups(3)
    moved = tuple(jnp.moveaxis(a, 0, axis) for a, axis in zip(arrays, axes, strict=True))
    cost, gradient = _expected(arrays)
    value, actual = _mapped(losses.QUICK, axes)(*moved)
    _close(value, cost)
    _close(actual, np.moveaxis(gradient, 0, axes[0]))


@pytest.mark.parametrize("axes", [(0, None, None, None), (None, 0, 0, 0), (None, None, 0, None)], ids=str)
def test_vmap_with_shared_arguments(axes: tuple) -> None:
    """vmap broadcasts operands that are not mapped. The gradient of such an operand is the sum."""
    arrays = tuple(a if axis == 0 else a[0] for a, axis in zip(_groups(3), axes, strict=True))
    full = tuple(a if axis == 0 else jnp.stack([a] * 3) for a, axis in zip(arrays, axes, strict=True))
    cost, gradient = _expected(full)
    value, actual = _mapped(losses.QUICK, axes)(*arrays)
    _close(value, cost)
    _close(actual, gradient if axes[0] == 0 else gradient.sum(0))


def test_nested_vmap_and_vmap_of_grad() -> None:
    arrays = _groups(6)
    cost, gradient = _expected(arrays)
    nested = tuple(a.reshape(2, 3, *a.shape[1:]) for a in arrays)
    loss = _costs(losses.QUICK)
    _close(jax.jit(jax.vmap(jax.vmap(loss)))(*nested), cost.reshape(2, 3, 4))
    grad = jax.grad(_total(losses.QUICK))
    actual = jax.jit(jax.vmap(jax.vmap(grad), in_axes=1, out_axes=1))(*nested)
    _close(actual, gradient.reshape(2, 3, *gradient.shape[1:]))


def test_vmap_of_clamped_gradient() -> None:
    arrays = _groups(3)
    _, gradient = _expected(arrays)
    loss = _costs(losses.QUICK, clamp=0.1)
    actual = jax.jit(jax.vmap(jax.grad(lambda *a: -2.0 * loss(*a).sum())))(*arrays)
    _close(actual, -2.0 * np.clip(gradient, -0.1, 0.1))


def test_vmap_of_the_operations_alone(implementation: str) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 2, 3, 7)), rng.integers(-2, 7, size=(2, 3, 5)).astype(np.int32)
    arcs = functools.partial(jax_rnnt.arc_log_probs, columns=(0, -1), implementation=implementation)
    actual = jax.vmap(jax.vmap(arcs, in_axes=(0, 1)), in_axes=(1, 0), out_axes=1)(logits, labels)
    expected = np.stack(
        [[reference.arc_log_probs(logits[i, j], labels[j, :, i], (0, -1)) for j in range(2)] for i in range(5)]
    )
    _close(actual, expected)
    log_probs = rng.normal(size=(2, 4, T, U + 1, 2))
    lattice = functools.partial(jax_rnnt.lattice_posteriors, implementation=implementation)
    cost, posteriors = jax.vmap(lattice, in_axes=(0, None, None))(log_probs, T_B, U_B)
    for i in range(2):
        expected = reference.lattice_cost(log_probs[i], T_B, U_B)
        _close(cost[i], expected[0])
        _close(posteriors[i], expected[1])


def test_a_second_backward_is_right() -> None:
    """The backward pass leaves the residuals as they are.

    Some libraries multiply saved gradients in place, and their second backward pass is wrong.
    """
    logits, *rest = (a[0] for a in _groups(1))
    _, expected = reference.rnnt_loss(*(np.asarray(a) for a in (logits, *rest)))
    for clamp in (-1.0, 0.1):
        _, pull = jax.vjp(lambda x, clamp=clamp: _costs(losses.QUICK, clamp=clamp)(x, *rest), logits)
        unit = np.clip(expected, -clamp, clamp) if clamp > 0 else expected
        for scale in (1.0, -3.0, 0.0, 1.0):
            _close(pull(jnp.full(4, scale))[0], unit * scale)
        _close(logits, _groups(1)[0][0])


def test_debug_nans_is_quiet_where_nothing_is_wrong(implementation: str) -> None:
    """Logits of -inf, filler rows and impossible examples are not mistakes.

    No NaN occurs on the way to their results.
    """
    logits, targets = random_batch("debug_nans")
    logits[0, :, :, 1] = -np.inf
    targets[0] = 2
    logits[1] = -np.inf
    arrays = jnp.asarray(logits), targets, lengths(5, 5, 0, 0), lengths(3, 3, 2, 0)
    loss = _costs(implementation)
    with jax.debug_nans(True):
        assert np.isinf(jax.jit(loss)(*arrays)).tolist() == [False, True, True, False]
        grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.where(jnp.arange(4) == 0, loss(x, *arrays[1:]), 0.0))))
        assert np.isfinite(grad(arrays[0])).all()


def test_debug_nans_finds_a_nan(implementation: str) -> None:
    """It raises the error that JAX documents. To find the operation that made the NaN, JAX runs ours once more."""
    logits, *rest = (a[0] for a in _groups(1))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.block_until_ready(jax.jit(_costs(implementation))(logits.at[0, 0, 0, 0].set(jnp.nan), *rest))

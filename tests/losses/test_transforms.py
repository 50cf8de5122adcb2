"""jit, grad, vmap, remat, scan, donation, debug_nans: the result is the same, whichever way JAX gets there.

Other tests compare plain calls on such batches with the oracle. So only the transformation can fail here. Meshes have
files of their own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import T, U, V, lengths, random_batch

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


def _close(actual, expected, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=atol)


def test_eager_equals_jit(implementation: str) -> None:
    arrays = tuple(a[0] for a in _groups(1))
    loss = _costs(implementation)
    value, gradient = _expected(tuple(a[None] for a in arrays))
    for call in (loss, jax.jit(loss)):
        _close(call(*arrays), value[0])
    total = _total(implementation)
    for call in (jax.grad(total), jax.grad(jax.jit(total))):
        _close(call(*arrays), gradient[0])


@pytest.mark.full(implementation="lax")
def test_value_and_grad_with_aux_arguments(implementation: str) -> None:
    logits, *rest = (a[0] for a in _groups(1))

    @jax.jit
    def step(logits, rest):
        return jax.value_and_grad(lambda x: (_costs(implementation)(x, *rest).sum(), x.shape[0]), has_aux=True)(logits)

    (value, aux), gradient = step(logits, tuple(rest))
    cost, expected = reference.rnnt_loss(*(np.asarray(a) for a in (logits, *rest)))
    _close(value, cost.sum())
    _close(gradient, expected)
    assert aux == 4


@pytest.mark.full(implementation="lax")
@pytest.mark.parametrize("axes", [(0, 0, 0, 0), (2, 1, 0, 1), (-1, -1, -1, -1)], ids=str)
def test_vmap_over_any_axis(axes: tuple[int, ...], implementation: str) -> None:
    arrays = _groups(3)
    moved = tuple(jnp.moveaxis(a, 0, axis) for a, axis in zip(arrays, axes, strict=True))
    cost, gradient = _expected(arrays)
    value, actual = _mapped(implementation, axes)(*moved)
    _close(value, cost)
    _close(actual, np.moveaxis(gradient, 0, axes[0]))


@pytest.mark.full(implementation="lax", axes=[(None, 0, 0, 0), (0, None, None, None)])
@pytest.mark.parametrize("axes", [(0, None, None, None), (None, 0, 0, 0), (None, None, 0, None)], ids=str)
def test_vmap_with_shared_arguments(axes: tuple, implementation: str) -> None:
    """vmap broadcasts operands that are not mapped. The gradient of such an operand is the sum."""
    arrays = tuple(a if axis == 0 else a[0] for a, axis in zip(_groups(3), axes, strict=True))
    full = tuple(a if axis == 0 else jnp.stack([a] * 3) for a, axis in zip(arrays, axes, strict=True))
    cost, gradient = _expected(full)
    value, actual = _mapped(implementation, axes)(*arrays)
    _close(value, cost)
    _close(actual, gradient if axes[0] == 0 else gradient.sum(0))


def test_nested_vmap_and_vmap_of_grad(implementation: str) -> None:
    arrays = _groups(6)
    cost, gradient = _expected(arrays)
    nested = tuple(a.reshape(2, 3, *a.shape[1:]) for a in arrays)
    loss = _costs(implementation)
    _close(jax.vmap(jax.vmap(loss))(*nested), cost.reshape(2, 3, 4))
    grad = jax.grad(_total(implementation))
    actual = jax.jit(jax.vmap(jax.vmap(grad), in_axes=1, out_axes=1))(*nested)
    _close(actual, gradient.reshape(2, 3, *gradient.shape[1:]))


@pytest.mark.full(implementation="lax")
def test_vmap_over_single_examples(implementation: str) -> None:
    """Maps over single utterances, as a user does whose model takes one utterance."""
    arrays = tuple(a[0] for a in _groups(1))
    cost, gradient = reference.rnnt_loss(*(np.asarray(a) for a in arrays))

    def one(*example):
        return _costs(implementation)(*(a[None] for a in example))[0]

    _close(jax.vmap(one)(*arrays), cost)
    _close(jax.vmap(jax.grad(one))(*arrays), gradient)


@pytest.mark.full(implementation="lax")
def test_vmap_of_clamped_gradient(implementation: str) -> None:
    arrays = _groups(3)
    _, gradient = _expected(arrays)
    loss = _costs(implementation, clamp=0.1)
    actual = jax.vmap(jax.grad(lambda *a: -2.0 * loss(*a).sum()))(*arrays)
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


POLICIES = {
    "default": None,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
}


@pytest.mark.full(implementation="lax", policy=["nothing", "dots"])
@pytest.mark.parametrize("policy", POLICIES)
def test_remat_of_joint_and_loss(policy: str, implementation: str) -> None:
    """The usual way to save memory: the joint's output is not kept, and the backward pass makes it again."""
    rng = np.random.default_rng(1)
    encoder, predictor, weight = rng.normal(size=(4, T, 8)), rng.normal(size=(4, U + 1, 8)), rng.normal(size=(8, V))
    targets = random_batch(1)[1]

    def loss(encoder, predictor, weight):
        logits = jnp.tanh(encoder[:, :, None] + predictor[:, None]) @ weight
        return _costs(implementation)(logits, targets, T_B, U_B).sum()

    saved = jax.jit(jax.grad(jax.checkpoint(loss, policy=POLICIES[policy]), argnums=(0, 1, 2)))
    expected = jax.grad(loss, argnums=(0, 1, 2))(encoder, predictor, weight)
    for a, b in zip(saved(encoder, predictor, weight), expected, strict=True):
        _close(a, b)


@pytest.mark.full(implementation="lax")
def test_accumulation_in_a_scan(implementation: str) -> None:
    """A lax.scan adds up the gradients of micro-batches. Then a loss that is itself a scan is differentiated."""
    arrays = _groups(3)
    cost, gradient = _expected(arrays)
    total = _total(implementation)

    def body(carry, batch):
        value, grad = jax.value_and_grad(total)(*batch)
        return (carry[0] + value, carry[1] + grad), None

    zero = jnp.zeros(()), jnp.zeros_like(arrays[0][0])
    (value, grad), _ = jax.jit(lambda a: jax.lax.scan(body, zero, a))(arrays)
    _close(value, cost.sum())
    _close(grad, gradient.sum(0))

    def scanned(logits):
        return jax.lax.scan(lambda c, batch: (c + total(*batch), None), jnp.zeros(()), (logits, *arrays[1:]))[0]

    _close(jax.jit(jax.grad(scanned))(arrays[0]), gradient)


@pytest.mark.full(implementation="lax")
def test_while_cond_and_map(implementation: str) -> None:
    arrays = _groups(3)
    cost, _ = _expected(arrays)
    loss = _costs(implementation)
    _close(jax.jit(lambda a: jax.lax.map(lambda b: loss(*b), a))(arrays), cost)
    first = tuple(a[0] for a in arrays)
    chosen = jax.jit(lambda flag: jax.lax.cond(flag, lambda: loss(*first), lambda: jnp.zeros(4)))
    _close(chosen(True), cost[0])
    _close(chosen(False), 0.0)


@pytest.mark.full(implementation="lax")
def test_donated_logits(implementation: str) -> None:
    """With donation XLA may write the gradient over the logits. The numbers stay the same."""
    arrays = tuple(a[0] for a in _groups(1))
    _, expected = reference.rnnt_loss(*(np.asarray(a) for a in arrays))
    grad = jax.jit(jax.grad(_total(implementation)), donate_argnums=0)
    _close(grad(arrays[0] + 0.0, *arrays[1:]), expected)


@pytest.mark.full(implementation="lax")
def test_a_second_backward_is_right(implementation: str) -> None:
    """The backward pass leaves the residuals as they are.

    Some libraries multiply saved gradients in place, and their second backward pass is wrong.
    """
    logits, *rest = (a[0] for a in _groups(1))
    _, expected = reference.rnnt_loss(*(np.asarray(a) for a in (logits, *rest)))
    for clamp in (-1.0, 0.1):
        _, pull = jax.vjp(lambda x, clamp=clamp: _costs(implementation, clamp=clamp)(x, *rest), logits)
        unit = np.clip(expected, -clamp, clamp) if clamp > 0 else expected
        for scale in (1.0, -3.0, 0.0, 1.0):
            _close(pull(jnp.full(4, scale))[0], unit * scale)
        _close(logits, _groups(1)[0][0])


@pytest.mark.full(implementation="lax")
def test_loss_object_as_static_and_as_pytree_argument(implementation: str) -> None:
    arrays = tuple(a[0] for a in _groups(1))
    loss = jax_rnnt.RNNTLoss(clamp=0.5, reduction="none", implementation=implementation)
    assert jax.tree.leaves(loss) == [], "it holds no arrays"
    cost, _ = reference.rnnt_loss(*(np.asarray(a) for a in arrays))
    _close(jax.jit(lambda f, a: f(*a), static_argnums=0)(loss, arrays), cost)
    _close(jax.jit(lambda f, a: f(*a))(loss, arrays), cost)


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


@pytest.mark.full(implementation="lax")
def test_without_jit(implementation: str) -> None:
    """This is a mode for debuggers. JAX still compiles the library's own operations."""
    arrays = tuple(a[0] for a in _groups(1))
    cost, gradient = reference.rnnt_loss(*(np.asarray(a) for a in arrays))
    with jax.disable_jit():
        value, actual = jax.value_and_grad(jax.jit(_total(implementation)))(*arrays)
    _close(value, cost.sum())
    _close(actual, gradient)


def test_debug_infs_leaves_finite_results_alone(implementation: str) -> None:
    logits, *rest = (a[0] for a in _groups(1))
    with jax.debug_infs(True):
        assert np.isfinite(jax.jit(_costs(implementation))(logits, *rest)).all()
        with pytest.raises(FloatingPointError):
            jax.block_until_ready(jax.jit(_costs(implementation))(jnp.full_like(logits, -jnp.inf), *rest))


@pytest.mark.full(implementation="lax")
def test_shapes_without_values(implementation: str) -> None:
    """eval_shape and lowering need no arrays."""
    x = jax.ShapeDtypeStruct((2, T, U + 1, V), jnp.bfloat16)
    targets, one = jax.ShapeDtypeStruct((2, U), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int64)
    total = _total(implementation)
    value, grad = jax.eval_shape(jax.value_and_grad(total), x, targets, one, one)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert (grad.shape, grad.dtype) == (x.shape, x.dtype)
    jax.jit(jax.grad(total)).lower(x, targets, one, one).compile()

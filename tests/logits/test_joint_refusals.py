"""What `JointLogits` refuses: wrong operands, joint networks that do not fit, derivatives that it does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from joints import LENGTHS, TARGETS, B, D, T, U, operands

import jax_rnnt


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params["kernel"] + params["bias"][None]


def _costs(params, encoded, predicted, *, joint=_joint, options=None, **source):
    logits = jax_rnnt.JointLogits(joint, params, encoded, predicted, **source)
    return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none", **(options or {}))


def test_closures_are_refused() -> None:
    params, encoded, predicted = operands()

    def loss(kernel):
        return jnp.sum(_costs({}, encoded, predicted, joint=lambda _, e, p: jnp.tanh(e + p) @ kernel))

    for run in (loss, jax.grad(loss), jax.jit(loss)):
        with pytest.raises(TypeError, match=r"`joint` must not close over an array, and it does over .*`params`"):
            run(params["kernel"])


REFUSED = {
    "no_array": ({"encoded": [[1.0]]}, TypeError, r"`encoded` must be an array, got .*list"),
    "rank": ({"encoded": np.zeros((B, T, 1, D))}, ValueError, r"`encoded` must have 3 dimensions \[B, T, De\], got 4"),
    "dtype": ({"predicted": np.zeros((B, U + 1, D), int)}, TypeError, r"`predicted` must be one of .*, got int64"),
    "batch": ({"predicted": np.zeros((B + 1, U + 1, D))}, ValueError, r"`predicted` must have encoded.shape\[0\] == 4"),
    "budget": ({"gradient_budget": 1.0}, ValueError, r"`gradient_budget` must be in \[0, 1\), got 1.0"),
    "rows": ({"tile_rows": 0}, ValueError, r"`tile_rows` must be None or at least 1, got 0"),
    "axes": ({"batch_axis_names": "data"}, TypeError, r"`batch_axis_names` must be a tuple .*got 'data'"),
    "no_mesh": ({"batch_axis_names": ("data",)}, ValueError, r"`batch_axis_names` is 'data', which is neither"),
    "joint": (
        {"joint": lambda params, e, p: e[0]},
        ValueError,
        r"`joint` must give logits \[N, W\] for rows .* \(1, 6\)",
    ),
    "vocab_axis_name": ({"options": {"vocab_axis_name": "m"}}, ValueError, r"`vocab_axis_name` is 'm', and .* dense"),
    "positions": ({"predicted": np.zeros((B, U, D))}, ValueError, r"needs `targets` of shape \[B, U\] = \(4, 4\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments(case: str) -> None:
    changed, error, message = REFUSED[case]
    params, encoded, predicted = operands()
    arguments = {"params": params, "encoded": encoded, "predicted": predicted} | changed
    with pytest.raises(error, match=message):
        _costs(**arguments)


class _Unhashable:
    __hash__ = None

    def __call__(self, params, e, p):
        return e


def _checked(params, e, p):
    checkify.check(jnp.all(e > 0), "e must be positive")
    return _joint(params, e, p)


UNFIT = {
    "two_arguments": (lambda params, e: e, {}, TypeError, r"`joint` is called with \(params, e, p\), and it does not"),
    "no_keys": (_joint, {"dropout_key": jax.random.key(0)}, TypeError, r"\(params, e, p, keys\), since .*dropout_key"),
    "no_key": (_joint, {"dropout_key": 0}, TypeError, "`dropout_key` must be a JAX random key, such as .*, got 0"),
    "not_a_function": (3, {}, TypeError, r"`joint` must be a function of \(params, e, p\), got 3"),
    "unhashable": (_Unhashable(), {}, TypeError, r"`joint` is static, so it must be hashable, got .*_Unhashable"),
    "checkify": (_checked, {}, NotImplementedError, r"`joint` must not call checkify.check"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_joints_are_told_why(case: str) -> None:
    joint, options, error, message = UNFIT[case]
    with pytest.raises(error, match=message):
        _costs(*operands(), joint=joint, **options)


def test_a_key_in_a_closure_is_a_key() -> None:
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="for dropout give the key as `dropout_key`"):
        _costs(*operands(), joint=lambda params, e, p: _joint(params, e + jax.random.normal(key, (1, D)), p))


def test_sources_are_equal_only_to_themselves() -> None:
    one, other = (jax_rnnt.JointLogits(_joint, *operands()) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.once
def test_too_many_nodes() -> None:
    shapes = jax.ShapeDtypeStruct((2**11, 2**10, D), "float32"), jax.ShapeDtypeStruct((2**11, 2**10, D), "float32")
    small = jax.ShapeDtypeStruct((2**11,), "int32")
    targets = jax.ShapeDtypeStruct((2**11, 2**10 - 1), "int32")

    def loss(encoded, predicted, *rest):
        return jax_rnnt.rnnt_loss(jax_rnnt.JointLogits(lambda _, e, p: e + p, {}, encoded, predicted), *rest)

    with pytest.raises(ValueError, match=r"make B T \(U\+1\) = 2147483648 nodes; one call takes at most 2\^31 - 1"):
        jax.eval_shape(loss, *shapes, targets, small, small)


def test_no_forward_mode_and_no_second_order() -> None:
    given = operands()

    def total(encoded):
        return jnp.sum(_costs(given[0], encoded, given[2]))

    with pytest.raises(TypeError, match="With `JointLogits` the loss has no forward mode"):
        jax.jvp(total, (given[1],), (given[1],))
    with pytest.raises(TypeError, match="With `JointLogits` the loss has no second derivatives"):
        jax.grad(lambda x: jnp.sum(jax.grad(total)(x)))(given[1])

"""The loss object in Flax: as a field of linen and nnx modules, under remat, and as an argument of jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import T, U, V, lengths, random_batch

import jax_rnnt

nnx = pytest.importorskip("flax.nnx")
nn = pytest.importorskip("flax.linen")

H = 8
TARGETS = random_batch("flax")[1]
ARRAYS = TARGETS, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
HIDDEN = np.random.default_rng(0).normal(size=(4, T, U + 1, H))


def _oracle(kernel, bias) -> tuple[float, np.ndarray]:
    """The loss, and its gradient with respect to the kernel of the dense layer that makes the logits."""
    cost, gradient = reference.rnnt_loss(HIDDEN @ np.asarray(kernel) + np.asarray(bias), *ARRAYS)
    return cost.mean(), np.einsum("btuh,btuv->hv", HIDDEN, gradient) / 4


class LinenModel(nn.Module):
    loss: Callable

    @nn.compact
    def __call__(self, hidden, *arrays):
        return self.loss(nn.Dense(V, param_dtype=jnp.float64)(hidden), *arrays)


class NnxModel(nnx.Module):
    def __init__(self, loss: Callable, rngs: nnx.Rngs):
        self.loss = loss
        self.dense = nnx.Linear(H, V, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, hidden, *arrays):
        return self.loss(self.dense(hidden), *arrays)


@pytest.mark.full(implementation="lax")
@pytest.mark.parametrize("wrap", [lambda m: m, nn.remat], ids=["plain", "remat"])
def test_field_of_a_linen_module(wrap: Callable, implementation: str) -> None:
    model = wrap(LinenModel)(jax_rnnt.RNNTLoss(implementation=implementation))
    variables = model.init(jax.random.key(0), jnp.asarray(HIDDEN), *ARRAYS)
    run = jax.jit(jax.value_and_grad(lambda v: model.apply(v, jnp.asarray(HIDDEN), *ARRAYS)))
    value, grads = run(variables)
    (layer,) = variables["params"].values()
    (grad,) = grads["params"].values()
    cost, expected = _oracle(layer["kernel"], layer["bias"])
    np.testing.assert_allclose(value, cost, rtol=1e-12)
    np.testing.assert_allclose(grad["kernel"], expected, atol=1e-12)


@pytest.mark.full(implementation="lax")
@pytest.mark.parametrize("remat", [False, True])
def test_field_of_an_nnx_module(remat: bool, implementation: str) -> None:
    model = NnxModel(jax_rnnt.RNNTLoss(implementation=implementation), nnx.Rngs(0))

    def forward(model, hidden):
        return model(hidden, *ARRAYS)

    step = nnx.jit(nnx.value_and_grad(nnx.remat(forward) if remat else forward))
    value, grads = step(model, jnp.asarray(HIDDEN))
    cost, expected = _oracle(model.dense.kernel[...], model.dense.bias[...])
    np.testing.assert_allclose(value, cost, rtol=1e-12)
    np.testing.assert_allclose(grads["dense"]["kernel"][...], expected, atol=1e-12)
    assert jax.tree.leaves(nnx.state(model)), "the loss is not a parameter and hides none"
    assert nnx.clone(model).loss == model.loss

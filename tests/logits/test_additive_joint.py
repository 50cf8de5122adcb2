"""The additive joint: with it, JointLogits are the dense logits of that network, for any tiles, types and options."""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from joints import LENGTHS, TARGETS, B, D, T, U, V, assert_close, dense_costs, expected, operands, step

import jax_rnnt
from jax_rnnt.ops import dropout_bits

TANH = jax_rnnt.additive_joint()


def _costs(*operands, joint=TANH, clamp=-1.0, **source):
    logits = jax_rnnt.JointLogits(joint, *operands, **source)
    return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none", clamp=clamp)


@pytest.mark.parametrize("rows", [7, None])
def test_it_is_the_dense_network(rows: int | None) -> None:
    (_, cost), gradient = step(functools.partial(_costs, tile_rows=rows))(*operands())
    assert_close((cost, gradient), expected())


def test_gelu_clamp_and_no_bias() -> None:
    """tests/ops/test_hidden_rows.py has each activation."""
    params, *inputs = operands()
    given = {"kernel": params["kernel"]}, *inputs
    joint = jax_rnnt.additive_joint("gelu")
    got = step(functools.partial(_costs, joint=joint, clamp=0.05, tile_rows=16))(*given)
    assert_close(got, step(functools.partial(dense_costs, activation=jax.nn.gelu, clamp=0.05))(*given))


@pytest.mark.once
def test_types() -> None:
    """Gradients have the types of the operands; parameters may be wider than the activations."""
    dtype = "bfloat16"
    params, encoded, predicted = operands()
    given = jax.tree.map(lambda x: x.astype("float32"), params), encoded.astype(dtype), predicted.astype(dtype)
    (_, cost), gradient = step(functools.partial(_costs, tile_rows=5))(*given)
    assert cost.dtype == jnp.float32
    wanted_cost, wanted = expected()
    wanted = wanted_cost.astype("float32"), jax.tree.map(lambda x, like: x.astype(like.dtype), wanted, given)
    assert_close((cost, gradient), wanted, 3e-2)


def _factors(key, rate: float):
    """Dropout's factors of all nodes, from the definition of the bits."""
    dropped = round(rate * 65536)
    b, t, u = (jnp.asarray(x.ravel(), jnp.int32) for x in np.indices((B, T, U + 1)))
    stays = dropout_bits.kept(jax.random.bits(key, (2,), "uint32"), b, t, u, D, dropped).reshape(B, T, U + 1, D)
    return jnp.where(stays, 65536 / (65536 - dropped), 0.0)


def test_dropout() -> None:
    """The mask is that of the node and the column, whatever the tiles; without a key nothing is dropped."""
    joint, key = jax_rnnt.additive_joint("tanh", dropout_rate=0.3), jax.random.key(2)
    got = step(functools.partial(_costs, joint=joint, dropout_key=key, tile_rows=11))(*operands())
    assert_close(got, step(functools.partial(dense_costs, factors=_factors(key, 0.3)))(*operands()))
    (_, cost), gradient = step(functools.partial(_costs, joint=joint))(*operands())
    assert_close((cost, gradient), expected())


def test_two_views_of_one_model() -> None:
    """A loss of two models has the two masks, and each side's budget."""
    joint, keys = jax_rnnt.additive_joint("tanh", dropout_rate=0.3), [*jax.random.split(jax.random.key(5))]
    params, *inputs = operands()
    loss = functools.partial(jax_rnnt.consistency_loss, jax_rnnt.RNNTLoss())

    def tiled(params, budget):
        views = [
            jax_rnnt.JointLogits(joint, params, *inputs, dropout_key=k, tile_rows=16, gradient_budget=budget)
            for k in keys
        ]
        return loss(*views, TARGETS, *LENGTHS)

    def dense(params):
        nodes = jnp.tanh(inputs[0][:, :, None] + inputs[1][:, None])
        views = [nodes * _factors(k, 0.3) @ params["kernel"] + params["bias"][None, None, None] for k in keys]
        return loss(*views, TARGETS, *LENGTHS)

    step = losses.jit(jax.value_and_grad(tiled), static_argnums=1)
    wanted = losses.jit(jax.value_and_grad(dense))(params)
    assert wanted[0] > 1e-3
    assert_close(step(params, 0.0), wanted)
    cost, frugal = step(params, 0.2)
    lost = np.abs(frugal["kernel"] - wanted[1]["kernel"]).max() / np.abs(wanted[1]["kernel"]).max()
    assert 1e-4 < lost < 0.3
    assert_close(cost, wanted[0])


def test_nan_stays_in_its_utterance_and_padding_is_not_read() -> None:
    params, encoded, predicted = operands()
    frames, positions = np.arange(T)[None] >= LENGTHS[0][:, None], np.arange(U + 1)[None] > LENGTHS[1][:, None]
    encoded = jnp.where(frames[..., None], jnp.nan, encoded).at[2, 1].set(jnp.nan)
    predicted = jnp.where(positions[..., None], jnp.nan, predicted)
    (_, cost), (_, of_encoded, of_predicted) = step(functools.partial(_costs, tile_rows=16))(params, encoded, predicted)
    others = np.array([0, 1, 3])
    wanted, (_, wanted_encoded, wanted_predicted) = expected()
    assert_close(
        (cost[others], of_encoded[others], of_predicted[others]),
        (wanted[others], wanted_encoded[others], wanted_predicted[others]),
    )
    assert np.isnan(cost[2]) and np.isnan(of_encoded[2]).any()


def test_a_batch_on_two_devices() -> None:
    mesh = meshes.make_mesh(data=2)
    params, *inputs = operands()
    with jax.set_mesh(mesh):
        given = meshes.put(mesh, params), *(meshes.put(mesh, x, "data") for x in inputs)

        def costs(*operands):
            logits = jax_rnnt.JointLogits(TANH, *operands, tile_rows=16, batch_axis_names=("data",))
            return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none")

        (_, cost), gradient = step(costs)(*given)
    assert_close(jax.tree.map(np.asarray, (cost, gradient)), jax.tree.map(np.asarray, expected()))


def test_mapped_and_without_jit() -> None:
    params, encoded, predicted = operands()

    def one(e, p, targets, *lengths):
        logits = jax_rnnt.JointLogits(TANH, params, e[None], p[None])
        return jax_rnnt.rnnt_loss(logits, targets[None], *(x[None] for x in lengths), reduction="none")[0]

    mapped = jax.vmap(one)(encoded, predicted, TARGETS, *LENGTHS)
    np.testing.assert_allclose(mapped, expected()[0], rtol=1e-10)


def test_the_call_is_the_network() -> None:
    params, encoded, predicted = operands()
    dense = jnp.tanh(encoded[:, :, None] + predicted[:, None]) @ params["kernel"] + params["bias"][None, None, None]
    np.testing.assert_allclose(TANH(params, encoded[:, :, None], predicted[:, None]), dense, rtol=1e-12)
    assert jax_rnnt.additive_joint() == TANH and hash(jax_rnnt.additive_joint()) == hash(TANH)


UNFIT = {
    "activation": (
        lambda: jax_rnnt.additive_joint("swish"),
        ValueError,
        r"`activation` must be one of 'tanh', .*'swish'",
    ),
    "rate": (
        lambda: jax_rnnt.additive_joint(dropout_rate=1.0),
        ValueError,
        r"`dropout_rate` must be in \[0, 1\), got 1",
    ),
    "no_number": (lambda: jax_rnnt.additive_joint(dropout_rate="a"), TypeError, r"`dropout_rate` must be"),
    "dtype": (
        lambda: _with(predicted="float32"),
        TypeError,
        r"`encoded` and `predicted` must have one dtype .*float32",
    ),
    "width": (
        lambda: _costs(*operands()[:2], jnp.zeros((B, U + 1, 3))),
        ValueError,
        r"`predicted` must have encoded.shape\[-1\] == 6 columns",
    ),
    "names": (lambda: _costs({"w": 1}, *operands()[1:]), ValueError, r"`params` must be .*\"kernel\".*got \['w'\]"),
    "kernel": (
        lambda: _costs({"kernel": jnp.zeros((5, V))}, *operands()[1:]),
        ValueError,
        r"`params\[\"kernel\"\]` must have encoded.shape\[-1\] == 6 rows, got shape \(5, 9\)",
    ),
    "bias": (
        lambda: _costs({"kernel": jnp.zeros((D, V)), "bias": jnp.zeros(3)}, *operands()[1:]),
        ValueError,
        r"`params\[\"bias\"\]` must have shape",
    ),
}


def _with(**dtypes):
    params, encoded, predicted = operands()
    return _costs(params, encoded, predicted.astype(dtypes["predicted"]))


@pytest.mark.parametrize("case", UNFIT)
def test_wrong_operands(case: str) -> None:
    call, error, message = UNFIT[case]
    with pytest.raises(error, match=message):
        call()

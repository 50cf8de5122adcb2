"""The additive joint: with it, JointLogits are the dense logits of that network, for any tiles, types and options."""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from jax.sharding import AxisType

import jax_rnnt
from jax_rnnt.ops import dropout_bits

B, T, U, D, V = 4, 7, 5, 6, 9
LENGTHS = np.array([7, 4, 6, 0], np.int32), np.array([5, 0, 3, 0], np.int32)
TARGETS = np.random.default_rng(4).integers(0, V - 1, (B, U)).astype(np.int32)
COTANGENT = np.array([1.0, -2.0, 0.5, 1.0])
TANH = jax_rnnt.additive_joint()


@functools.cache
def _operands(dtype: str = "float64"):
    rng = np.random.default_rng(3)
    shapes = (D, V), (V,), (B, T, D), (B, U + 1, D)
    kernel, bias, encoded, predicted = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return {"kernel": kernel, "bias": bias}, encoded, predicted


def _step(costs):
    def total(*operands):
        cost = costs(*operands)
        return jnp.sum(cost * COTANGENT.astype(cost.dtype)), cost

    return losses.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))


def _costs(*operands, joint=TANH, loss=jax_rnnt.rnnt_loss, clamp=-1.0, **source):
    logits = jax_rnnt.JointLogits(joint, *operands, **source)
    return loss(logits, TARGETS, *LENGTHS, reduction="none", clamp=clamp)


def _dense(params, encoded, predicted, activation=jnp.tanh, factors=1.0, **options):
    """The network by JAX alone; ``factors`` are dropout's."""
    hidden = activation(encoded[:, :, None] + predicted[:, None]) * factors
    logits = jnp.einsum("btud,dv->btuv", hidden, params["kernel"])
    logits = logits + params["bias"][None, None, None] if "bias" in params else logits
    return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none", **options)


def _assert_close(actual, wanted, rtol=1e-10):
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == w.dtype
        wide = np.asarray(w, np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(np.asarray(a, np.float64), wide, rtol=rtol, atol=rtol * scale)


@functools.cache
def _expected():
    (_, cost), gradient = _step(_dense)(*_operands())
    return cost, gradient


@pytest.mark.parametrize("rows", [7, None])
def test_it_is_the_dense_network(rows: int | None) -> None:
    (_, cost), gradient = _step(functools.partial(_costs, tile_rows=rows))(*_operands())
    _assert_close((cost, gradient), _expected())


@pytest.mark.full(name=["relu", "sigmoid", "identity"])  # tests/ops/test_hidden_rows.py has each of them
@pytest.mark.parametrize(
    ("name", "activation"),
    [("relu", jax.nn.relu), ("gelu", jax.nn.gelu), ("sigmoid", jax.nn.sigmoid), ("identity", lambda x: x)],
)
def test_activations_clamp_and_no_bias(name: str, activation) -> None:
    params, *inputs = _operands()
    operands = {"kernel": params["kernel"]}, *inputs
    joint = jax_rnnt.additive_joint(name)
    got = _step(functools.partial(_costs, joint=joint, clamp=0.05, tile_rows=16))(*operands)
    _assert_close(got, _step(functools.partial(_dense, activation=activation, clamp=0.05))(*operands))


@pytest.mark.once
@pytest.mark.full(dtype=["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_types(dtype: str) -> None:
    """Gradients have the types of the operands; parameters may be wider than the activations."""
    params, encoded, predicted = _operands()
    operands = jax.tree.map(lambda x: x.astype("float32"), params), encoded.astype(dtype), predicted.astype(dtype)
    (_, cost), gradient = _step(functools.partial(_costs, tile_rows=5))(*operands)
    assert cost.dtype == jnp.float32
    wanted_cost, wanted = _expected()
    wanted = wanted_cost.astype("float32"), jax.tree.map(lambda x, like: x.astype(like.dtype), wanted, operands)
    _assert_close((cost, gradient), wanted, {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}[dtype])


def _factors(key, rate: float):
    """Dropout's factors of all nodes, from the definition of the bits."""
    dropped = round(rate * 65536)
    b, t, u = (jnp.asarray(x.ravel(), jnp.int32) for x in np.indices((B, T, U + 1)))
    stays = dropout_bits.kept(jax.random.bits(key, (2,), "uint32"), b, t, u, D, dropped).reshape(B, T, U + 1, D)
    return jnp.where(stays, 65536 / (65536 - dropped), 0.0)


@pytest.mark.full(rows=64)
@pytest.mark.parametrize("rows", [11, 64])
def test_dropout(rows: int) -> None:
    """The mask is that of the node and the column, whatever the tiles; without a key nothing is dropped."""
    joint, key = jax_rnnt.additive_joint("tanh", dropout_rate=0.3), jax.random.key(2)
    got = _step(functools.partial(_costs, joint=joint, dropout_key=key, tile_rows=rows))(*_operands())
    _assert_close(got, _step(functools.partial(_dense, factors=_factors(key, 0.3)))(*_operands()))
    if rows == 11:
        (_, cost), gradient = _step(functools.partial(_costs, joint=joint))(*_operands())
        _assert_close((cost, gradient), _expected())


@pytest.mark.once
def test_a_budget_and_another_loss() -> None:
    """Leaving out nothing but rows that are nearly 0 changes the gradient by as much as the budget allows."""
    loss = functools.partial(jax_rnnt.tdt_loss, durations=(0, 1, 2))
    params, encoded, predicted = _operands()
    params = {"kernel": jnp.pad(params["kernel"], ((0, 0), (0, 3))), "bias": jnp.pad(params["bias"], (0, 3))}
    exact, frugal = (
        _step(functools.partial(_costs, loss=loss, gradient_budget=budget))(params, encoded, predicted)
        for budget in (0.0, 1e-4)
    )
    logits = TANH(params, encoded[:, :, None], predicted[:, None])
    wanted = loss(logits, TARGETS, *LENGTHS, reduction="none")
    np.testing.assert_allclose(exact[0][1], wanted, rtol=1e-10)
    _assert_close(frugal, exact, 1e-3)


def test_two_views_of_one_model() -> None:
    """A loss of two models has the two masks, and each side's budget."""
    joint, keys = jax_rnnt.additive_joint("tanh", dropout_rate=0.3), [*jax.random.split(jax.random.key(5))]
    params, *inputs = _operands()
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
    _assert_close(step(params, 0.0), wanted)
    cost, frugal = step(params, 0.2)
    lost = np.abs(frugal["kernel"] - wanted[1]["kernel"]).max() / np.abs(wanted[1]["kernel"]).max()
    assert 1e-4 < lost < 0.3
    _assert_close(cost, wanted[0])


def test_nan_stays_in_its_utterance_and_padding_is_not_read() -> None:
    params, encoded, predicted = _operands()
    frames, positions = np.arange(T)[None] >= LENGTHS[0][:, None], np.arange(U + 1)[None] > LENGTHS[1][:, None]
    encoded = jnp.where(frames[..., None], jnp.nan, encoded).at[2, 1].set(jnp.nan)
    predicted = jnp.where(positions[..., None], jnp.nan, predicted)
    (_, cost), (_, of_encoded, of_predicted) = _step(functools.partial(_costs, tile_rows=16))(
        params, encoded, predicted
    )
    others = np.array([0, 1, 3])
    wanted, (_, wanted_encoded, wanted_predicted) = _expected()
    _assert_close(
        (cost[others], of_encoded[others], of_predicted[others]),
        (wanted[others], wanted_encoded[others], wanted_predicted[others]),
    )
    assert np.isnan(cost[2]) and np.isnan(of_encoded[2]).any()


@pytest.mark.parametrize("explicit", [False, True])
def test_a_batch_on_two_devices(explicit: bool) -> None:
    mesh = meshes.make_mesh(AxisType.Explicit if explicit else AxisType.Auto, data=2)
    params, *inputs = _operands()
    with jax.set_mesh(mesh):
        operands = meshes.put(mesh, params), *(meshes.put(mesh, x, "data") for x in inputs)

        def costs(*operands):
            axes = () if explicit else ("data",)
            logits = jax_rnnt.JointLogits(TANH, *operands, tile_rows=16, batch_axis_names=axes)
            return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none")

        (_, cost), gradient = _step(costs)(*operands)
    _assert_close(jax.tree.map(np.asarray, (cost, gradient)), jax.tree.map(np.asarray, _expected()))


def test_mapped_and_without_jit() -> None:
    params, encoded, predicted = _operands()

    def one(e, p, targets, *lengths):
        logits = jax_rnnt.JointLogits(TANH, params, e[None], p[None])
        return jax_rnnt.rnnt_loss(logits, targets[None], *(x[None] for x in lengths), reduction="none")[0]

    mapped = jax.vmap(one)(encoded, predicted, TARGETS, *LENGTHS)
    np.testing.assert_allclose(mapped, _expected()[0], rtol=1e-10)


def test_the_call_is_the_network() -> None:
    params, encoded, predicted = _operands()
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
        lambda: _costs(*_operands()[:2], jnp.zeros((B, U + 1, 3))),
        ValueError,
        r"`predicted` must have encoded.shape\[-1\] == 6 columns",
    ),
    "names": (lambda: _costs({"w": 1}, *_operands()[1:]), ValueError, r"`params` must be .*\"kernel\".*got \['w'\]"),
    "kernel": (
        lambda: _costs({"kernel": jnp.zeros((5, V))}, *_operands()[1:]),
        ValueError,
        r"`params\[\"kernel\"\]` must have encoded.shape\[-1\] == 6 rows, got shape \(5, 9\)",
    ),
    "bias": (
        lambda: _costs({"kernel": jnp.zeros((D, V)), "bias": jnp.zeros(3)}, *_operands()[1:]),
        ValueError,
        r"`params\[\"bias\"\]` must have shape",
    ),
}


def _with(**dtypes):
    params, encoded, predicted = _operands()
    return _costs(params, encoded, predicted.astype(dtypes["predicted"]))


@pytest.mark.parametrize("case", UNFIT)
def test_wrong_operands(case: str) -> None:
    call, error, message = UNFIT[case]
    with pytest.raises(error, match=message):
        call()

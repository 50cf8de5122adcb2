"""JointLogits: every loss, corner case, tile size and derivative is that of the dense array that it stands for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import runner
import tolerances
from jax.experimental import checkify
from losses import LossUnderTest
from table_joint import joint_logits

import jax_rnnt
from jax_rnnt.xla import native

B, T, U, D, V = 4, 7, 5, 6, 9
LENGTHS = np.array([7, 4, 6, 0], np.int32), np.array([5, 0, 3, 0], np.int32)


def _on_joint(loss: LossUnderTest, **source) -> LossUnderTest:
    def call(logits, *rest, **options):
        return loss.call(joint_logits(logits, **source), *rest, **options)

    return dataclasses.replace(loss, call=call)


@pytest.mark.once
@pytest.mark.parametrize("loss", losses.LOSSES, ids=lambda loss: loss.name)
def test_contract(loss: LossUnderTest) -> None:
    """Compares all losses with their definitions, in all corner cases."""
    cost, gradient = losses.evaluate(_on_joint(loss, tile_rows=64), losses.QUICK)
    losses.assert_matches(loss, cost, gradient)


@pytest.mark.once
@pytest.mark.parametrize("loss", losses.PLAIN[-2:], ids=lambda loss: loss.name)
def test_clamp_and_cotangents(loss: LossUnderTest) -> None:
    """Elements are clipped in the tile. An example with a cotangent of 0 has a gradient of 0, even if it holds NaN."""
    examples = losses.batch(loss)
    cotangent = np.random.default_rng(0).normal(size=len(examples.names))
    cotangent[[examples["nan_in_label"], examples["label_-1"], 0]] = 0
    cost, gradient = losses.evaluate(_on_joint(loss), losses.QUICK, clamp=0.05, cotangent=cotangent)
    losses.assert_matches(loss, cost, gradient, clamp=0.05, cotangent=cotangent)


@pytest.mark.once
def test_lax_form() -> None:
    loss = losses.PLAIN[0]
    losses.assert_matches(loss, *losses.evaluate(_on_joint(loss), "lax"))


# --- a joint network with parameters ----------------------------------------------------------------------------------


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params["kernel"] + params["bias"][None]


@functools.cache
def _operands(dtype: str = "float64") -> tuple:
    rng = np.random.default_rng(3)
    arrays = rng.normal(size=(D, V)), rng.normal(size=V), rng.normal(size=(B, T, D)), rng.normal(size=(B, U + 1, D))
    kernel, bias, encoded, predicted = (jnp.asarray(x, dtype) for x in arrays)
    return {"kernel": kernel, "bias": bias}, encoded, predicted


TARGETS = np.random.default_rng(4).integers(0, V - 1, (B, U)).astype(np.int32)


def _costs(params, encoded, predicted, *, joint=_joint, loss=jax_rnnt.rnnt_loss, options=None, **source):
    logits = jax_rnnt.JointLogits(joint, params, encoded, predicted, **source)
    return loss(logits, TARGETS, *LENGTHS, reduction="none", **(options or {}))


def _dense_costs(params, encoded, predicted, *, joint=_joint, loss=jax_rnnt.rnnt_loss, options=None):
    logits = joint(params, encoded[:, :, None], predicted[:, None])
    return loss(logits, TARGETS, *LENGTHS, reduction="none", **(options or {}))


def _joint_of_nodes(params, e, p):
    """The joint for arrays that broadcast against each other, as dense logits need it."""
    return jnp.tanh(e + p) @ params["kernel"] + params["bias"][None, None, None]


COTANGENT = np.array([1.0, -2.0, 0.5, 1.0])


def _with_gradient(costs, **options):
    def total(*operands):
        cost = costs(*operands, **options)
        return jnp.sum(cost * COTANGENT.astype(cost.dtype)), cost

    return losses.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))


@functools.cache
def _expected(dtype: str = "float64"):
    (_, cost), gradient = _with_gradient(_dense_costs, joint=_joint_of_nodes)(*_operands(dtype))
    return cost, gradient


def _assert_close(actual, wanted, rtol: float = 1e-10) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == w.dtype
        wide = np.asarray(w, np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(np.asarray(a, np.float64), wide, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000, None])
def test_tiles_do_not_matter(rows: int | None) -> None:
    (_, cost), gradient = _with_gradient(_costs, tile_rows=rows)(*_operands())
    _assert_close((cost, gradient), _expected())


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(dtype: str) -> None:
    """Gradients have the types of the operands. Small tiles lose nothing, because they are summed in float32."""
    (_, cost), gradient = _with_gradient(_costs, tile_rows=5)(*_operands(dtype))
    assert cost.dtype == jnp.float32
    rtol = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}[dtype]
    wanted_cost, wanted = _expected()
    wanted = wanted_cost.astype("float32"), jax.tree.map(lambda x: x.astype(dtype), wanted)
    _assert_close((cost, gradient), wanted, rtol)


@pytest.mark.once
def test_nan_stays_in_its_utterance() -> None:
    params, encoded, predicted = _operands()
    step = _with_gradient(_costs, tile_rows=16)
    bad = encoded.at[2, 1].set(jnp.nan)
    (_, cost), (of_params, of_encoded, of_predicted) = step(params, bad, predicted)
    others = np.array([0, 1, 3])
    _assert_close((cost[others], of_encoded[others], of_predicted[others]), _rows(_expected(), others))
    assert np.isnan(cost[2])
    assert np.isnan(of_encoded[2]).any()
    assert all(np.isnan(x).any() for x in jax.tree.leaves(of_params))


def _rows(expected, rows):
    cost, (_, of_encoded, of_predicted) = expected
    return cost[rows], of_encoded[rows], of_predicted[rows]


@pytest.mark.once
@pytest.mark.parametrize("index", [0, 2])
def test_a_bad_utterance_can_be_masked(index: int) -> None:
    """With a cotangent of 0 it changes nothing, though tiles contain its nodes.

    The parameters' gradient stays finite.
    """
    params, encoded, predicted = _operands()
    keep = np.arange(B) != index

    def total(costs, encoded):
        return lambda params: jnp.sum(jnp.where(keep, costs(params, encoded, predicted), 0))

    bad = encoded.at[index].set(jnp.nan)
    gradient = losses.jit(jax.grad(total(functools.partial(_costs, tile_rows=16), bad)))(params)
    dense = functools.partial(_dense_costs, joint=_joint_of_nodes)
    _assert_close(gradient, losses.jit(jax.grad(total(dense, encoded)))(params))


@pytest.mark.once
def test_padding_is_not_read() -> None:
    params, encoded, predicted = _operands()
    frames, positions = np.arange(T)[None] >= LENGTHS[0][:, None], np.arange(U + 1)[None] > LENGTHS[1][:, None]
    encoded = jnp.where(frames[..., None], jnp.nan, encoded)
    predicted = jnp.where(positions[..., None], jnp.nan, predicted)
    (_, cost), gradient = _with_gradient(_costs, tile_rows=16)(params, encoded, predicted)
    _assert_close((cost, gradient), _expected())


def test_parameters_of_any_type() -> None:
    """Integers and random keys have no gradient. An empty pytree is valid too."""

    def joint(params, e, p):
        kernel = params["kernel"][params["order"]]
        noise = jax.random.normal(params["key"], (V,), kernel.dtype)
        return jnp.tanh(e + p) @ kernel + noise[None]

    params, encoded, predicted = _operands()
    own = {
        "kernel": params["kernel"],
        "order": jnp.arange(D)[::-1],
        "key": jax.random.key(1),
        "none": None,
        "empty": {},
    }

    def total(kernel, costs):
        return jnp.sum(costs({**own, "kernel": kernel}, encoded, predicted, joint=joint))

    def dense(params, e, p, joint):
        rows = jnp.broadcast_arrays(e[:, :, None], p[:, None])
        logits = joint(params, *(x.reshape(-1, D) for x in rows)).reshape(B, T, U + 1, V)
        return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none")

    actual, wanted = (
        losses.jit(jax.grad(functools.partial(total, costs=c)))(params["kernel"]) for c in (_costs, dense)
    )
    _assert_close(actual, wanted)


# --- dropout ----------------------------------------------------------------------------------------------------------


def _with_dropout(params, e, p, keys):
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.6, (D,)))(keys)
    return jnp.where(keep, jnp.tanh(e + p), 0) @ params["kernel"] + params["bias"][None]


def test_dropout_belongs_to_the_node() -> None:
    """Forward and backward use the same mask for any tiles. Dense logits with the nodes' keys have that mask too."""
    key = jax.random.key(2)
    keys = jax.vmap(lambda node: jax.random.fold_in(key, node))(jnp.arange(B * T * (U + 1)))

    def dense(params, encoded, predicted):
        rows = jnp.broadcast_arrays(encoded[:, :, None], predicted[:, None])
        logits = _with_dropout(params, *(x.reshape(-1, D) for x in rows), keys)
        return jax_rnnt.rnnt_loss(logits.reshape(B, T, U + 1, V), TARGETS, *LENGTHS, reduction="none")

    (_, cost), gradient = _with_gradient(dense)(*_operands())
    step = _with_gradient(_costs, joint=_with_dropout, dropout_key=key, tile_rows=16)
    (_, actual), actual_gradient = step(*_operands())
    _assert_close((actual, actual_gradient), (cost, gradient))


# --- leaving out small rows -------------------------------------------------------------------------------------------


BUDGET = 0.02


@functools.cache
def _frugal(loss: LossUnderTest):
    return losses.jit(jax.grad(lambda x, *rest: jnp.sum(_on_joint(loss, gradient_budget=BUDGET).costs(x, *rest))))


@pytest.mark.once
@pytest.mark.parametrize("peaked", [0.0, 3.0, 12.0], ids=["random", "trained", "overfitted"])
@pytest.mark.parametrize("loss", [losses.PLAIN[2], losses.PLAIN[3], losses.FASTEMIT], ids=lambda loss: loss.name)
def test_gradient_budget_is_a_bound(loss: LossUnderTest, peaked: float) -> None:
    """Each row of the gradient is whole or 0.

    The rows left out of an utterance hold at most the budget of its gradient.
    """
    rng = np.random.default_rng(0)
    shape = 3, losses.T, losses.U + 1, loss.width
    x, labels = rng.normal(size=shape), rng.integers(*losses.LABELS, (3, losses.U)).astype(np.int32)
    for t, u in zip((0, 1, 2, 2, 3, 3, 4), (0, 0, 0, 1, 1, 2, 3), strict=True):  # this path gets the mass
        x[:, t, u, loss.oracle.blanks(loss.width)[0]] += peaked
        if u < losses.U:
            x[np.arange(3), t, u, labels[:, u]] += peaked / 2
    rest = labels, np.array([5, 5, 4], np.int32), np.array([3, 3, 2], np.int32)
    _, exact = loss.expected(x, *rest)
    actual = np.asarray(_frugal(loss)(x, *rest))
    left_out = (actual == 0).all(-1) & (exact != 0).any(-1)
    np.testing.assert_allclose(actual[~left_out], exact[~left_out], rtol=1e-9, atol=1e-12)
    norms = np.abs(exact).sum(-1)
    assert (np.where(left_out, norms, 0).sum((1, 2)) <= BUDGET * norms.sum((1, 2))).all()
    if peaked:
        assert left_out.any()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_closures_are_refused() -> None:
    params, encoded, predicted = _operands()

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
    params, encoded, predicted = _operands()
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
    "no_keys": (
        _joint,
        {"dropout_key": jax.random.key(0)},
        TypeError,
        r"\(params, e, p, keys\), since .*dropout_key",
    ),
    "no_key": (_joint, {"dropout_key": 0}, TypeError, "`dropout_key` must be a JAX random key, such as .*, got 0"),
    "not_a_function": (3, {}, TypeError, r"`joint` must be a function of \(params, e, p\), got 3"),
    "unhashable": (_Unhashable(), {}, TypeError, r"`joint` is static, so it must be hashable, got .*_Unhashable"),
    "checkify": (_checked, {}, NotImplementedError, r"`joint` must not call checkify.check"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_joints_are_told_why(case: str) -> None:
    joint, options, error, message = UNFIT[case]
    with pytest.raises(error, match=message):
        _costs(*_operands(), joint=joint, **options)


def test_a_key_in_a_closure_is_a_key() -> None:
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="for dropout give the key as `dropout_key`"):
        _costs(*_operands(), joint=lambda params, e, p: _joint(params, e + jax.random.normal(key, (1, D)), p))


def test_sources_are_equal_only_to_themselves() -> None:
    one, other = (jax_rnnt.JointLogits(_joint, *_operands()) for _ in range(2))
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
    operands = _operands()

    def total(encoded):
        return jnp.sum(_costs(operands[0], encoded, operands[2]))

    with pytest.raises(TypeError, match="With `JointLogits` the loss has no forward mode"):
        jax.jvp(total, (operands[1],), (operands[1],))
    with pytest.raises(TypeError, match="With `JointLogits` the loss has no second derivatives"):
        jax.grad(lambda x: jnp.sum(jax.grad(total)(x)))(operands[1])


# --- memory -----------------------------------------------------------------------------------------------------------


def test_no_array_of_the_size_of_the_logits() -> None:
    """There are 60 times as many nodes as in a tile.

    Temporaries are those of tiles, and a few numbers for each node.
    """
    b, t, u1, d, v, rows = 4, 60, 16, 8, 96, 64

    def shape(*dims, dtype="float32"):
        return jax.ShapeDtypeStruct(dims, jnp.dtype(dtype))

    def step(params, encoded, predicted, *rest):
        logits = jax_rnnt.JointLogits(_joint, params, encoded, predicted, tile_rows=rows)
        return jax_rnnt.rnnt_loss(logits, *rest)

    params = {"kernel": shape(d, v), "bias": shape(v)}
    small = shape(b, dtype="int32")
    operands = params, shape(b, t, d), shape(b, u1, d), shape(b, u1 - 1, dtype="int32"), small, small
    compiled = jax.jit(jax.value_and_grad(step, (0, 1, 2))).lower(*operands).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    nodes, tile = b * t * u1, 4 * rows * (v + d)
    if native.native_available():
        assert temporary < 64 * nodes + 4 * tile
    assert temporary < 4 * nodes * v / 2
    assert f"f32[{b},{t},{u1},{v}]" not in compiled.as_text()
    assert f"f32[{nodes},{v}]" not in compiled.as_text()


@pytest.mark.parametrize(("b", "t"), [(0, 3), (2, 0)])
def test_no_nodes(b: int, t: int) -> None:
    """Tests an empty batch, and filler rows in arrays without frames."""
    none = np.zeros(b, np.int32)

    def total(params, encoded, predicted):
        logits = jax_rnnt.JointLogits(_joint, params, encoded, predicted)
        return jnp.sum(jax_rnnt.rnnt_loss(logits, np.zeros((b, 2), np.int32), none, none, reduction="none"))

    value, gradient = jax.value_and_grad(total, (0, 1, 2))(_operands()[0], np.zeros((b, t, D)), np.zeros((b, 3, D)))
    assert value == 0
    assert all((x == 0).all() for x in jax.tree.leaves(gradient))


def test_a_call_without_jit() -> None:
    cost = _costs(*_operands())
    x = _joint_of_nodes(_operands()[0], _operands()[1][:, :, None], _operands()[2][:, None])
    wanted = losses.reference_losses.batch(losses.Rnnt(), np.asarray(x), TARGETS, *LENGTHS, losses.NONE, -1.0)[0]
    allowed = tolerances.tolerance("float64", runner.scale_of(np.asarray(x)), T + U, float(np.abs(wanted).max()))
    np.testing.assert_allclose(cost, wanted, allowed.cost_rtol, allowed.cost_atol)

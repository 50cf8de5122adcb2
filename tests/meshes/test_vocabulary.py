"""The vocabulary of the logits is divided over a mesh axis.

No device sees the part of another one, and the loss is that of whole logits.
"""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference
from jax.sharding import AxisType
from meshes import B, P, T, U, V

import jax_rnnt
from jax_rnnt.core.arc_scores import ArcScores
from jax_rnnt.core.node_labels import NodeLabels
from jax_rnnt.core.pipeline import Pipeline, costs
from jax_rnnt.core.topology import Topology
from jax_rnnt.logits.dense import DividedLogits
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import RNNT_MOVES

LOCAL = V // 4  # the vocabulary of one device of `_mesh()`
WEIGHTS = np.arange(1.0, B + 1) * np.where(np.arange(B) % 3, 1, -1)
SPEC = P("data", None, None, "model")
MODES = pytest.mark.parametrize("mode", ["checked", "unchecked", "auto"])


def _mesh(kind: AxisType = AxisType.Auto):
    return meshes.make_mesh(kind, data=2, model=4)


@pytest.fixture(autouse=True)
def shardy():
    """Selects Shardy. GSPMD gathers the operands of any partly manual shard_map."""
    with meshes.partitioner("shardy"):
        yield


def _loss(mode: str, implementation: str, **options):
    """A function from whole logits to costs [B], in the way that `mode` says."""
    loss = functools.partial(meshes.costs(implementation, **options), vocab_axis_name="model")
    if mode == "auto":
        return loss
    return jax.shard_map(
        loss, mesh=_mesh(), in_specs=(SPEC, *(P("data"),) * 3), out_specs=P("data"), check_vma=mode == "checked"
    )


@functools.cache
def _step(mode: str, implementation: str, blank: int = -1, clamp: float = -1.0, fused: bool = True):
    """Costs, and the gradient of their sum weighted by WEIGHTS."""
    loss = _loss(mode, implementation, blank=blank, clamp=clamp, fused_log_softmax=fused)

    @jax.jit
    def step(x, *rest):
        cost, pull = jax.vjp(lambda x: loss(x, *rest), x)
        return cost, pull(jnp.asarray(WEIGHTS, cost.dtype))[0]

    return step


def _run(mode: str, implementation: str, arrays, **options):
    mesh = _mesh()
    with jax.set_mesh(mesh):
        logits, *rest = arrays
        divided = meshes.put(mesh, logits, *SPEC), *(meshes.put(mesh, a, "data") for a in rest)
        return _step(mode, implementation, **options)(*divided)


def _assert_is_oracle(result, arrays, blank: int = -1, clamp: float = -1.0, fused: bool = True) -> None:
    cost, gradient = reference.rnnt_loss(*arrays, blank=blank, clamp=clamp, fused=fused)
    meshes.assert_close(result[0], cost)
    meshes.assert_close(result[1], gradient * WEIGHTS[:, None, None, None])


@pytest.mark.full(implementation="lax", mode="unchecked")
@pytest.mark.full(implementation="lax", options=[{"clamp": 0.1}], mode="auto")
@pytest.mark.full(implementation="lax", options=[{"fused": False}])
@MODES
@pytest.mark.parametrize("options", [{}, {"clamp": 0.1}, {"fused": False}], ids=["plain", "clamp", "log_probs"])
def test_values_and_gradients(options: dict, mode: str, implementation: str) -> None:
    """The mesh divides batch and vocabulary. Each example has a cotangent of its own."""
    arrays = meshes.batch()
    result = _run(mode, implementation, arrays, **options)
    _assert_is_oracle(result, arrays, **options)
    assert meshes.is_sharded_as(result[1], _mesh(), *SPEC)


@pytest.mark.full(implementation="lax", blank=[0, -LOCAL - 1])
@pytest.mark.parametrize("blank", [0, LOCAL, -LOCAL - 1])
def test_blank_in_every_part(blank: int, implementation: str) -> None:
    """All other tests have the default, -1, which is in the last part."""
    logits, targets, t_b, u_b = meshes.batch()
    targets = np.where(targets == blank % V, (blank + 1) % V, targets).astype(np.int32)
    arrays = logits, targets, t_b, u_b
    _assert_is_oracle(_run("checked", implementation, arrays, blank=blank), arrays, blank=blank)


def _corner_cases() -> tuple[tuple[np.ndarray, ...], dict[str, int]]:
    """A batch whose first examples each have a mistake or an oddity, and the index of each."""
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(B, T, U + 1, V))
    targets = rng.integers(0, V - 1, size=(B, U)).astype(np.int32)
    t_b, u_b = np.full(B, T, np.int32), np.full(B, U, np.int32)
    where = {}

    def case(name: str) -> int:
        where[name] = len(where)
        return where[name]

    b = case("a whole part masked")
    logits[b, ..., LOCAL : 2 * LOCAL], targets[b] = -np.inf, LOCAL - 1
    b = case("every part but blank's masked")
    logits[b, ..., : 3 * LOCAL], targets[b] = -np.inf, V - 2
    b = case("no path: a label's part masked")
    logits[b, ..., :LOCAL], targets[b] = -np.inf, 1
    b = case("everything masked")
    logits[b] = -np.inf
    b = case("NaN in one part")
    logits[b, 1, 1, LOCAL + 2] = np.nan
    b = case("+inf in one part")
    logits[b, 0, 0, 2] = np.inf
    b = case("NaN in padding")
    t_b[b], u_b[b] = 3, 1
    logits[b, 3:], logits[b, :, 2:] = np.nan, np.nan
    b = case("filler")
    t_b[b], u_b[b], logits[b], targets[b] = 0, 0, np.nan, 10**6
    b = case("no frames, one label")
    t_b[b], u_b[b] = 0, 1
    b = case("label beyond the vocabulary")
    targets[b, 1] = V
    b = case("negative label")
    targets[b, 0] = -3
    b = case("label is blank")
    targets[b, 2] = V - 1
    b = case("length beyond T")
    t_b[b] = T + 1
    b = case("large logits")
    logits[b] *= 300
    return (logits, targets, t_b, u_b), where


@pytest.mark.full(implementation="lax", clamp=0.1)
@pytest.mark.full(implementation="lax", mode="unchecked")
@MODES
@pytest.mark.parametrize("clamp", [-1.0, 0.1])
def test_corner_cases(clamp: float, mode: str, implementation: str) -> None:
    arrays, where = _corner_cases()
    cost, gradient = _run(mode, implementation, arrays, clamp=clamp)
    wanted, unit = reference.rnnt_loss(*arrays, clamp=clamp)
    unit = unit * WEIGHTS[:, None, None, None]
    for name, b in where.items():
        np.testing.assert_allclose(cost[b], wanted[b], rtol=1e-11, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(gradient[b], unit[b], rtol=1e-9, atol=1e-10, err_msg=name)
    assert (np.asarray(gradient)[where["NaN in padding"], 3:] == 0).all()
    assert (np.asarray(gradient)[where["filler"]] == 0).all()


def test_log_probabilities_with_nan_where_nothing_is_read(implementation: str) -> None:
    logits, targets, t_b, u_b = meshes.batch()
    logits = logits.copy()
    unread = np.ones((B, V), bool)
    np.put_along_axis(unread, targets, False, axis=1)
    unread[:, -1] = False
    logits[np.broadcast_to(unread[:, None, None], logits.shape)] = np.nan
    arrays = logits, targets, t_b, u_b
    _assert_is_oracle(_run("checked", implementation, arrays, fused=False), arrays, fused=False)


@pytest.mark.full(implementation="lax", mode=["checked", "unchecked"])
@MODES
def test_what_crosses_the_mesh(mode: str, implementation: str) -> None:
    """Only sums of arrays of size [B, T, U+1] cross the mesh, and no gather. Each kernel reads its part of the rows."""
    mesh = _mesh()
    logits, *rest = meshes.batch()
    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *SPEC), *(meshes.put(mesh, a, "data") for a in rest)
        program = meshes.Program(_step(mode, implementation).lower(*arrays).compile().as_text())
    nodes = (B // 2) * T * (U + 1)
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    large = [shape for _, shape in program.collectives() if np.prod(shape) >= nodes]
    assert sum(int(np.prod(shape)) for shape in large) <= 4 * nodes, f"maximum, sum and two picks only: {large}"
    if implementation == "native":
        assert program.operands("jax_rnnt_arcs_backward")[0] == (B // 2, T, U + 1, LOCAL)
        assert f"f64[{B // 2},{T},{U + 1},{V}]" not in program.text


@functools.cache
def _windowed_step(implementation: str, window: tuple[int, int], clamp: float):
    scores = ArcScores(Topology((V - 1,), window, RNNT_MOVES, V, (V - 1,)))
    static = Pipeline(ArcParameters((V - 1,), V, window, implementation), scores, 0.0, clamp, implementation)
    loss = jax.shard_map(
        lambda x, *nodes: costs(DividedLogits(x, "model"), NodeLabels(*nodes), static, {}),
        mesh=_mesh(),
        in_specs=(SPEC, *(P("data"),) * 3),
        out_specs=P("data"),
    )

    @jax.jit
    def step(x, *rest):
        cost, pull = jax.vjp(lambda x: loss(x, *rest), x)
        return cost, pull(jnp.asarray(WEIGHTS, cost.dtype))[0]

    return step


@pytest.mark.full(implementation="lax", clamp=-1.0)
@pytest.mark.parametrize(
    ("window", "clamp"), [((0, V - 1), -1.0), ((LOCAL - 1, 2 * LOCAL + 1), 0.1), ((LOCAL, LOCAL + 2), -1.0)], ids=str
)
def test_window(window: tuple[int, int], clamp: float, implementation: str) -> None:
    """The window is in some parts or in one. Parts outside of it and windows without mass are not special cases."""
    logits, targets, t_b, u_b = meshes.batch()
    logits = logits.copy()
    logits[3, ..., window[0] : window[1]] = -np.inf
    t, u = np.arange(T)[:, None], np.arange(U + 1)
    t_of, u_of = t_b[:, None, None], u_b[:, None, None]
    labels = np.where(u < u_of, np.pad(targets, ((0, 0), (0, 1)))[:, None], np.where(u == u_of, -1, -2))
    labels = np.where(t < t_of, labels, -2).astype(np.int32)
    cost, gradient = _windowed_step(implementation, window, clamp)(logits, labels, t_b, u_b)
    log_probs = reference.arc_log_probs(logits, labels, (V - 1,), window)
    wanted, posteriors = reference.lattice_cost(log_probs, t_b, u_b)
    meshes.assert_close(cost, wanted)
    unit = reference.arc_gradient(logits, labels, (V - 1,), -posteriors, window)
    unit = np.clip(unit, -clamp, clamp) if clamp > 0 else unit
    meshes.assert_close(gradient, unit * WEIGHTS[:, None, None, None])


def test_bfloat16(implementation: str) -> None:
    dtype = "bfloat16"
    logits, *rest = meshes.batch()
    narrow = np.asarray(logits).astype(jnp.dtype(dtype))
    cost, gradient = _run("checked", implementation, (narrow, *rest))
    wanted, unit = reference.rnnt_loss(narrow.astype(np.float64), *rest)
    assert (str(cost.dtype), str(gradient.dtype)) == ("float32", dtype)
    np.testing.assert_allclose(cost, wanted, rtol=2e-6, atol=1e-6)
    unit = unit * WEIGHTS[:, None, None, None]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), unit, rtol=0.51 * eps, atol=1e-5 * abs(WEIGHTS).max())


@pytest.mark.full(implementation="lax")
@MODES
def test_tensor_parallel_output_layer(mode: str, implementation: str) -> None:
    """The joint's last matrix is divided by columns, as in practice. All weights have the gradients of one device."""
    mesh = _mesh()
    encoder, predictor, weight = meshes.model_of(np.random.default_rng(4))
    rest = meshes.batch()[1:]

    def local(encoder, predictor, weight, *rest):
        logits = meshes.joint(encoder, predictor, weight)
        total = meshes.total(implementation)(logits, *rest, vocab_axis_name="model")
        return total if mode == "auto" else jax.lax.psum(total, "data")

    def alone(encoder, predictor, weight):
        return meshes.total("lax")(meshes.joint(encoder, predictor, weight), *rest)

    wanted = jax.jit(jax.value_and_grad(alone, argnums=(0, 1, 2)))(encoder, predictor, weight)
    specs = (P("data"), P(), P(None, "model"), *(P("data"),) * 3)
    loss = local
    if mode != "auto":
        loss = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=mode == "checked")
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, a, *s) for a, s in zip((encoder, predictor, weight, *rest), specs, strict=True)]
        result = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
        meshes.assert_close(a, b)


@pytest.mark.full(implementation="lax", check_vma=False)
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_gradient_taken_inside(check_vma: bool, implementation: str) -> None:
    """Each device takes the gradient with respect to its own logits. All devices hold the same loss."""
    total = functools.partial(meshes.total(implementation), vocab_axis_name="model")
    grad = jax.grad(lambda x, *rest: total(x, *rest) / (1 if check_vma else 4))
    specs = (SPEC, *(P("data"),) * 3)
    mapped = jax.shard_map(grad, mesh=_mesh(), in_specs=specs, out_specs=SPEC, check_vma=check_vma)
    meshes.assert_close(jax.jit(mapped)(*meshes.batch()), meshes.expected()[1])


@pytest.mark.full(implementation="lax", reduction=["mean", "none"])
@pytest.mark.parametrize(
    ("reduction", "kind"), [("mean", AxisType.Auto), ("sum", AxisType.Explicit), ("none", AxisType.Explicit)], ids=str
)
def test_reductions_in_a_mesh_that_is_set(reduction: str, kind: AxisType, implementation: str) -> None:
    mesh = _mesh(kind)
    logits, *rest = meshes.batch()
    cost, wanted = meshes.expected()

    def loss(x, *rest):
        value = jax_rnnt.rnnt_loss(
            x, *rest, reduction=reduction, implementation=implementation, vocab_axis_name="model"
        )
        return value.sum(), value

    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *SPEC), *(meshes.put(mesh, a, "data") for a in rest)
        gradient, value = jax.jit(jax.grad(loss, has_aux=True))(*arrays)
    meshes.assert_close(value, {"mean": cost.mean(), "sum": cost.sum(), "none": cost}[reduction])
    meshes.assert_close(gradient, wanted / (B if reduction == "mean" else 1))


@pytest.mark.once
@pytest.mark.parametrize("loss", losses.PLAIN, ids=lambda loss: loss.name)
@pytest.mark.parametrize("spec", [SPEC, ("data",), (None, None, None, "model")], ids=["both", "batch", "vocabulary"])
def test_gradients_in_an_explicit_mesh(spec: tuple, loss: losses.LossUnderTest) -> None:
    """The gradient is divided as the logits are."""
    mesh = meshes.make_mesh(AxisType.Explicit, data=2, model=2)
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 3, loss.width)), rng.integers(1, 5, (2, 2)).astype(np.int32)
    batch = targets, np.array([4, 3], np.int32), np.array([2, 1], np.int32)
    _, wanted = loss.expected(logits, *batch)

    def total(x, *rest):
        return loss.costs(x, *rest, implementation=losses.QUICK, vocab_axis_name="model").sum()

    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *spec), *(meshes.put(mesh, a, spec[0]) for a in batch)
        gradient = losses.jit(jax.grad(total))(*arrays)
    meshes.assert_close(gradient, wanted)
    assert meshes.is_sharded_as(gradient, mesh, *spec)


def test_transformations(implementation: str) -> None:
    """Puts vmap, remat and scan around the divided loss."""
    mesh = _mesh()
    arrays = meshes.batch()
    stacked = tuple(np.stack([a, np.roll(a, 2, 0)]) for a in arrays)
    wanted = np.stack([meshes.expected()[1], np.roll(meshes.expected()[1], 2, 0)])
    costs = _loss("checked", implementation)
    grad = jax.grad(jax.checkpoint(lambda *a: costs(*a).sum()))
    with jax.set_mesh(mesh):
        meshes.assert_close(jax.jit(jax.vmap(grad))(*stacked), wanted)
        total = jax.jit(lambda s: jax.lax.scan(lambda c, a: (c + grad(*a), None), jnp.zeros_like(s[0][0]), s)[0])
        meshes.assert_close(total(stacked), wanted.sum(0))


@pytest.mark.full(implementation="lax")
def test_one_device_along_the_axis(implementation: str) -> None:
    mesh = meshes.make_mesh(data=8, model=1)
    with jax.set_mesh(mesh):
        grad = jax.jit(jax.grad(functools.partial(meshes.total(implementation), vocab_axis_name="model")))
        meshes.assert_close(grad(*(meshes.put(mesh, a, "data") for a in meshes.batch())), meshes.expected()[1])


def test_unknown_axis_is_named(implementation: str) -> None:
    call = functools.partial(meshes.total(implementation), *meshes.batch(), vocab_axis_name="vocabulary")
    with pytest.raises(ValueError, match=r"'vocabulary'.*shard_map.*set_mesh"):
        call()
    with jax.set_mesh(_mesh()), pytest.raises(ValueError, match=r"'vocabulary'.*\('data', 'model'\)"):
        jax.jit(lambda: call())()


def test_vocabulary_that_does_not_divide_is_said(implementation: str) -> None:
    mesh = meshes.make_mesh(data=1, model=8)
    logits, *rest = meshes.batch()
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="V = 23, and the mesh has 8 devices"):
        jax.jit(functools.partial(meshes.total(implementation), vocab_axis_name="model"))(logits[..., :-1], *rest)


def test_blank_outside_the_whole_vocabulary_is_said(implementation: str) -> None:
    """The valid range is that of the whole vocabulary, not of one device's part."""
    call = functools.partial(meshes.total(implementation), *meshes.batch(), blank=V, vocab_axis_name="model")
    with jax.set_mesh(_mesh()), pytest.raises(ValueError, match=rf"`blank`.*{V}"):
        call()


def test_no_forward_mode_is_said(implementation: str) -> None:
    logits, *rest = meshes.batch()
    for mode in ("checked", "auto"):
        loss = _loss(mode, implementation)
        with jax.set_mesh(_mesh()), pytest.raises(TypeError, match=r"`vocab_axis_name`.*forward mode"):
            # Under jit, because an eager shard_map of any custom_vjp fails earlier, inside JAX.
            jax.jit(lambda x, loss=loss: jax.jvp(lambda y: loss(y, *rest), (x,), (x,)))(logits)

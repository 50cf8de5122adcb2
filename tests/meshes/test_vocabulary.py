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
from meshes import B, P, T, U, V

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


def _mesh():
    return meshes.make_mesh(data=2, model=4)


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


PLAIN, CLAMP, LOG_PROBS = {}, {"clamp": 0.1}, {"fused": False}


@pytest.mark.full(implementation="lax", mode=["unchecked", "auto"])
@pytest.mark.full(implementation="lax", options=[LOG_PROBS])
@pytest.mark.parametrize(
    ("options", "mode"),
    [(PLAIN, "checked"), (PLAIN, "auto"), (CLAMP, "unchecked"), (CLAMP, "auto"), (LOG_PROBS, "checked")],
    ids=["plain-checked", "plain-auto", "clamp-unchecked", "clamp-auto", "log_probs-checked"],
)
def test_values_and_gradients(options: dict, mode: str, implementation: str) -> None:
    """The mesh divides batch and vocabulary. Each example has a cotangent of its own."""
    arrays = meshes.batch()
    result = _run(mode, implementation, arrays, **options)
    _assert_is_oracle(result, arrays, **options)
    assert meshes.is_sharded_as(result[1], _mesh(), *SPEC)


@pytest.mark.parametrize("blank", [0, LOCAL])
def test_blank_in_every_part(blank: int) -> None:
    """All other tests have the default, -1, which is in the last part."""
    logits, targets, t_b, u_b = meshes.batch()
    targets = np.where(targets == blank % V, (blank + 1) % V, targets).astype(np.int32)
    arrays = logits, targets, t_b, u_b
    _assert_is_oracle(_run("checked", losses.QUICK, arrays, blank=blank), arrays, blank=blank)


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
@pytest.mark.parametrize(("mode", "clamp"), [("checked", -1.0), ("auto", 0.1)])
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


def test_log_probabilities_with_nan_where_nothing_is_read() -> None:
    logits, targets, t_b, u_b = meshes.batch()
    logits = logits.copy()
    unread = np.ones((B, V), bool)
    np.put_along_axis(unread, targets, False, axis=1)
    unread[:, -1] = False
    logits[np.broadcast_to(unread[:, None, None], logits.shape)] = np.nan
    arrays = logits, targets, t_b, u_b
    _assert_is_oracle(_run("checked", losses.QUICK, arrays, fused=False), arrays, fused=False)


@pytest.mark.parametrize("mode", ["checked", "unchecked", "auto"])
def test_what_crosses_the_mesh(mode: str) -> None:
    """Only sums of arrays of size [B, T, U+1] cross the mesh, and no gather. Each kernel reads its part of the rows."""
    mesh = _mesh()
    logits, *rest = meshes.batch()
    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *SPEC), *(meshes.put(mesh, a, "data") for a in rest)
        program = meshes.Program(_step(mode, losses.QUICK).lower(*arrays).compile().as_text())
    nodes = (B // 2) * T * (U + 1)
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    large = [shape for _, shape in program.collectives() if np.prod(shape) >= nodes]
    assert sum(int(np.prod(shape)) for shape in large) <= 4 * nodes, f"maximum, sum and two picks only: {large}"
    if losses.QUICK == "native":
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


@pytest.mark.parametrize(("window", "clamp"), [((LOCAL - 1, 2 * LOCAL + 1), 0.1), ((LOCAL, LOCAL + 2), -1.0)], ids=str)
def test_window(window: tuple[int, int], clamp: float) -> None:
    """The window is in some parts or in one. Parts outside of it and windows without mass are not special cases."""
    logits, targets, t_b, u_b = meshes.batch()
    logits = logits.copy()
    logits[3, ..., window[0] : window[1]] = -np.inf
    t, u = np.arange(T)[:, None], np.arange(U + 1)
    t_of, u_of = t_b[:, None, None], u_b[:, None, None]
    labels = np.where(u < u_of, np.pad(targets, ((0, 0), (0, 1)))[:, None], np.where(u == u_of, -1, -2))
    labels = np.where(t < t_of, labels, -2).astype(np.int32)
    cost, gradient = _windowed_step(losses.QUICK, window, clamp)(logits, labels, t_b, u_b)
    log_probs = reference.arc_log_probs(logits, labels, (V - 1,), window)
    wanted, posteriors = reference.lattice_cost(log_probs, t_b, u_b)
    meshes.assert_close(cost, wanted)
    unit = reference.arc_gradient(logits, labels, (V - 1,), -posteriors, window)
    unit = np.clip(unit, -clamp, clamp) if clamp > 0 else unit
    meshes.assert_close(gradient, unit * WEIGHTS[:, None, None, None])


def test_bfloat16() -> None:
    dtype = "bfloat16"
    logits, *rest = meshes.batch()
    narrow = np.asarray(logits).astype(jnp.dtype(dtype))
    cost, gradient = _run("checked", losses.QUICK, (narrow, *rest))
    wanted, unit = reference.rnnt_loss(narrow.astype(np.float64), *rest)
    assert (str(cost.dtype), str(gradient.dtype)) == ("float32", dtype)
    np.testing.assert_allclose(cost, wanted, rtol=2e-6, atol=1e-6)
    unit = unit * WEIGHTS[:, None, None, None]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), unit, rtol=0.51 * eps, atol=1e-5 * abs(WEIGHTS).max())

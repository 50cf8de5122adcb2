"""The losses under test, each with its definition, and one batch with every corner case of the contract.

To add a loss, add a row here and a definition to reference_losses.py.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import reference_losses
import runner
import tolerances
from reference_losses import Hat, Monotonic, MultiBlank, Regularisers, Rnnt, Tdt

import jax_rnnt
from jax_rnnt.xla import native

T, U, V = 5, 3, 8
LABELS = (1, 5)  # the range of the labels of the batch; no row has a blank in it
NONE = Regularisers()
QUICK = "native" if native.native_available() else "lax"
"""For tests whose result does not depend on the implementation. Programs with kernels compile ten times faster."""

_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(
    jax.jit, compiler_options=_QUICKLY if jax.config.read("jax_disable_most_optimizations") else None
)
"""For programs that run once, on a few numbers. Most of their time is compilation."""


_CLASSES = {
    jax_rnnt.rnnt_loss: jax_rnnt.RNNTLoss,
    jax_rnnt.monotonic_rnnt_loss: jax_rnnt.MonotonicRNNTLoss,
    jax_rnnt.multiblank_rnnt_loss: jax_rnnt.MultiblankRNNTLoss,
    jax_rnnt.tdt_loss: jax_rnnt.TDTLoss,
    jax_rnnt.hat_loss: jax_rnnt.HATLoss,
}


@dataclasses.dataclass(frozen=True, eq=False)
class LossUnderTest:
    name: str
    call: Callable[..., jax.Array]
    oracle: Rnnt
    on: Regularisers = NONE
    width: int = V
    _known: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def options(self) -> dict:
        """The options that `call` gets: the fields of the definition, and the regularisers that are on."""
        own = {"fused_log_softmax" if k == "fused" else k: v for k, v in dataclasses.asdict(self.oracle).items()}
        if isinstance(self.oracle, Hat):
            del own["fused_log_softmax"]
        return own | {name: value for name, value in dataclasses.asdict(self.on).items() if value}

    def made(self, **options) -> jax_rnnt.Loss:
        """The loss as an object with its options."""
        return _CLASSES[self.call](**(self.options | {"implementation": QUICK} | options))

    @property
    def entries(self) -> int:
        """The number of entries of a node: K'."""
        durations = len(self.oracle.durations) if isinstance(self.oracle, Tdt) else 0
        return len(self.oracle.blanks(self.width)) + durations + 1

    def costs(self, logits, *rest, **options) -> jax.Array:
        return self.call(logits, *rest, **({"reduction": "none"} | self.options | options))

    def expected(self, *arrays, clamp: float = -1.0, nodes=None) -> tuple[np.ndarray, np.ndarray]:
        """Costs and gradients by the definition.

        The definition is slow and many tests need the same results, so they are kept. The caller gets copies, because
        tests change them.
        """
        given = arrays if nodes is None else (*arrays, nodes)
        key = (clamp, *((a.tobytes(), a.shape, a.dtype) for a in map(np.asarray, given)))
        if key not in self._known:
            self._known[key] = reference_losses.batch(self.oracle, *arrays, self.on, clamp, nodes)
        cost, gradient = self._known[key]
        return cost.copy(), gradient.copy()


RNNT = LossUnderTest("rnnt", jax_rnnt.rnnt_loss, Rnnt())
_MULTI = MultiBlank(big_blanks=(-2, -3), durations=(2, 4))
_TDT = Tdt(durations=(0, 1, 2, 4))
PLAIN = (
    LossUnderTest("monotonic", jax_rnnt.monotonic_rnnt_loss, Monotonic(blank=0)),
    LossUnderTest("multiblank", jax_rnnt.multiblank_rnnt_loss, _MULTI, Regularisers(sigma=0.05)),
    LossUnderTest("tdt", jax_rnnt.tdt_loss, _TDT, width=V + 4),
    LossUnderTest("hat", jax_rnnt.hat_loss, Hat()),
)
FASTEMIT = LossUnderTest("fastemit", jax_rnnt.rnnt_loss, Rnnt(), Regularisers(fastemit_lambda=0.7))
ENDS = LossUnderTest(
    "wildcard_ends", jax_rnnt.rnnt_loss, Rnnt(blank=0), Regularisers(wildcard="ends", wildcard_weight=-0.7, sigma=0.1)
)
ANYWHERE = LossUnderTest(
    "wildcard_anywhere", jax_rnnt.rnnt_loss, Rnnt(), Regularisers(wildcard="anywhere", wildcard_weight=-2.0)
)
STAR = LossUnderTest(
    "wildcard_star", jax_rnnt.rnnt_loss, Rnnt(), Regularisers(wildcard="star", wildcard_weight=-1.0, delay_penalty=0.1)
)
LOSSES = (*PLAIN, FASTEMIT, ENDS, ANYWHERE)
# These variants differ from LOSSES only in small arrays, so they are tested with the kernels alone.
VARIANTS = (
    STAR,
    LossUnderTest("monotonic_last_blank", jax_rnnt.monotonic_rnnt_loss, Monotonic(last_blank=True)),
    LossUnderTest("hat_blank_first", jax_rnnt.hat_loss, Hat(blank=0), Regularisers(delay_penalty=0.2)),
    LossUnderTest("delayed_and_lowered", jax_rnnt.rnnt_loss, Rnnt(), Regularisers(delay_penalty=0.3, sigma=0.1)),
    # Every loss has regularisers, and every loss but HAT has fused_log_softmax.
    LossUnderTest(
        "tdt_of_log_probs",
        jax_rnnt.tdt_loss,
        dataclasses.replace(_TDT, fused=False, blank=0),
        Regularisers(fastemit_lambda=0.5, delay_penalty=-0.2, sigma=0.05),
        V + 4,
    ),
    LossUnderTest(
        "multiblank_of_log_probs",
        jax_rnnt.multiblank_rnnt_loss,
        dataclasses.replace(_MULTI, fused=False),
        Regularisers(fastemit_lambda=0.5, delay_penalty=0.1),
    ),
    LossUnderTest(
        "monotonic_with_everything", jax_rnnt.monotonic_rnnt_loss, Monotonic(), Regularisers(0.5, 0.1, 0.2, "ends", 0.3)
    ),
    LossUnderTest("hat_with_everything", jax_rnnt.hat_loss, Hat(), Regularisers(0.5, 0.1, 0.2, "anywhere", -1.0)),
)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Named examples of one shape. ``batch[name]`` is the index of an example."""

    names: tuple[str, ...]
    logits: np.ndarray
    targets: np.ndarray
    logit_lengths: np.ndarray
    target_lengths: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.logits, self.targets, self.logit_lengths, self.target_lengths

    def __getitem__(self, name: str) -> int:
        return self.names.index(name)

    def without(self, mask: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(a[~mask] for a in self.arrays)


@functools.cache
def batch(loss: LossUnderTest) -> Batch:
    """A batch with every corner case, and with good examples among them."""
    rng = np.random.default_rng(5)
    blanks = loss.oracle.blanks(loss.width)
    examples: dict[str, tuple] = {}

    def add(name: str, frames: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = rng.normal(size=(T, U + 1, loss.width)), rng.integers(*LABELS, U).astype(np.int32)
        examples[name] = x, y, frames, labels
        return x, y

    for frames, labels in ((5, 3), (3, 2), (4, 1), (1, 1), (3, 3), (5, 0), (1, 0)):
        add(f"{frames}_frames_{labels}_labels", frames, labels)
    add("filler", 0, 0)
    add("labels_without_frames", 0, 2)
    add("more_labels_than_frames", 2, 3)
    add("no_blank", 5, 3)[0][..., list(blanks)] = -np.inf
    add("dead_node", 5, 3)[0][2, 1] = -np.inf
    for value in (-np.inf, -1e9):
        x, y = add(f"vocabulary_masked_by_{value:.0e}", 4, 3)
        unused = [v for v in range(loss.oracle.vocabulary(loss.width)) if v not in (*blanks, *y)]
        x[..., unused] = value
    x, y = add("nan_in_padding", 3, 1)
    x[3:], x[:, 2:], y[1:] = np.nan, np.nan, -100
    for name, column in (("label", 2), ("blank", blanks[0]), ("last", loss.width - 1)):
        for value in (np.nan, np.inf):
            add(f"{value}_in_{name}", T, 2)[0][0, 1, column] = value
    for frames, labels in ((T + 1, 2), (-1, 2), (3, U + 1), (3, -1), (2**31 - 1, 1), (4, -(2**31))):
        add(f"{frames}_frames_{labels}_labels_are_wrong", frames, labels)
    for label in (-1, -2, loss.oracle.vocabulary(loss.width), loss.width, 2**31 - 1, *blanks):
        add(f"label_{label}", 4, 2)[1][1] = label
    add("last_good", 5, 2)
    x, y, frames, labels = zip(*examples.values(), strict=True)
    integers = np.array(frames, np.int32), np.array(labels, np.int32)
    return Batch(tuple(examples), np.stack(x), np.stack(y), *integers)


@functools.cache
def _compiled(loss: LossUnderTest, implementation: str, clamp: float):
    def run(logits, targets, logit_lengths, target_lengths, cotangent):
        def costs(x):
            return loss.costs(x, targets, logit_lengths, target_lengths, clamp=clamp, implementation=implementation)

        cost, pull = jax.vjp(costs, logits)
        return cost, pull(cotangent.astype(cost.dtype))[0]

    return jit(run)


def evaluate(loss: LossUnderTest, implementation: str, dtype: str = "float64", clamp: float = -1.0, cotangent=None):
    """Costs and gradients of `batch(loss)` in float64, from one call."""
    arrays = batch(loss).arrays
    x = runner.rounded(arrays[0], dtype).astype(jnp.dtype(dtype))
    ct = np.ones(len(x)) if cotangent is None else cotangent
    cost, gradient = _compiled(loss, implementation, clamp)(x, *arrays[1:], ct)
    assert cost.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    return np.asarray(cost, np.float64), np.asarray(gradient).astype(np.float64)


def assert_matches(loss: LossUnderTest, cost, gradient, dtype: str = "float64", clamp: float = -1.0, cotangent=None):
    """Compares every example with the definition. An error message contains the example's name."""
    examples = batch(loss)
    x = runner.rounded(examples.logits, dtype)
    wanted_cost, wanted = loss.expected(x, *examples.arrays[1:], clamp=clamp)
    outside = runner.outside_lattice(x.shape, examples.logit_lengths, examples.target_lengths)
    for b, name in enumerate(examples.names):
        ct = 1.0 if cotangent is None else cotangent[b]
        if np.isnan(wanted_cost[b]):
            assert np.isnan(cost[b]), name
            assert ct == 0 or np.isnan(gradient[b]).any(-1)[np.isnan(wanted[b]).any(-1)].all(), name
            assert (np.isnan(gradient[b]) | (gradient[b] == 0)).all(), name
        else:
            allowed = tolerances.tolerance(dtype, runner.scale_of(x[b]), T + U, abs(min(wanted_cost[b], 1e3)))
            rtol, atol = allowed.gradient_rtol, allowed.gradient_atol * max(1.0, abs(ct))
            np.testing.assert_allclose(cost[b], wanted_cost[b], allowed.cost_rtol, allowed.cost_atol, err_msg=name)
            np.testing.assert_allclose(gradient[b], wanted[b] * ct, rtol, atol, err_msg=name)
        if ct == 0 or np.isposinf(wanted_cost[b]):
            assert (gradient[b] == 0).all(), name
        elif not np.isnan(wanted[b]).all():
            assert (gradient[b][outside[b]] == 0).all(), name

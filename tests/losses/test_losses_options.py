"""Reductions, weights, omega and loss objects: what is done with costs, and how options are given and refused."""

import dataclasses
import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference_losses
import table_joint
from losses import LossUnderTest
from reference_losses import Rnnt

import jax_rnnt

pytestmark = pytest.mark.once
BY_NAME = {loss.name: loss for loss in losses.LOSSES}
WEIGHTS = np.array([2.0, 0.25, 0.0, 1.0])  # multiplied by the numbers of labels, they have another sum
LENGTHS = np.array([5, 3, 6, 4], np.int32), np.array([3, 2, 2, 0], np.int32)  # the array has fewer than 6 frames


@functools.cache
def _arrays(width: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(width)
    return (
        rng.normal(size=(4, losses.T, losses.U + 1, width)),
        rng.integers(1, 5, (4, losses.U)).astype(np.int32),
        *LENGTHS,
    )


def _expected(costs: np.ndarray, u_b: np.ndarray, reduction: str, weights: np.ndarray | None):
    """The value by hand, and the factor of each example's gradient."""
    w = np.ones(4) if weights is None else weights
    by = {"sum": 1.0, "mean": w.sum(), "mean_volume": (w * u_b).sum()}[reduction]
    return (w * costs).sum() / by, w / by


@pytest.mark.parametrize("name", ["tdt", "hat"])
def test_reductions_weights_and_zero_infinity(name: str) -> None:
    """One example of the batch is NaN and has a weight of 0, or it has no path and `zero_infinity` is on."""
    loss = BY_NAME[name]
    logits, targets, t_b, u_b = _arrays(loss.width)
    lengths = {False: t_b, True: np.where(t_b > losses.T, 0, t_b)}
    costs, gradients = loss.expected(logits, targets, t_b, u_b)
    assert np.isnan(costs).tolist() == [False, False, True, False]
    assert np.isposinf(loss.expected(logits, targets, lengths[True], u_b)[0]).tolist() == np.isnan(costs).tolist()
    costs, gradients = np.nan_to_num(costs), np.nan_to_num(gradients)
    cases = [(r, w, z) for r in ("sum", "mean", "mean_volume") for w, z in ((WEIGHTS, False), (None, True))]

    @losses.jit
    def run(x):
        def of_case(x, reduction, weights, zero_infinity):
            options = {"reduction": reduction, "weights": weights, "zero_infinity": zero_infinity}
            return loss.costs(x, targets, lengths[zero_infinity], u_b, implementation=losses.QUICK, **options)

        def all_cases(x):
            return jnp.stack([of_case(x, *case) for case in cases])

        return all_cases(x), jax.jacrev(all_cases)(x)

    values, slopes = run(logits)
    for k, (reduction, weights, _) in enumerate(cases):
        value, factors = _expected(costs, LENGTHS[1], reduction, weights)
        np.testing.assert_allclose(values[k], value, rtol=1e-12, err_msg=str(cases[k]))
        np.testing.assert_allclose(
            slopes[k], factors[:, None, None, None] * gradients, atol=1e-13, err_msg=str(cases[k])
        )


def test_divisions_by_0_are_0() -> None:
    logits, *rest = np.zeros((2, 3, 1, 4)), np.zeros((2, 0), np.int32), np.array([3, 2]), np.array([0, 0])

    def losses_of(x):
        loss = functools.partial(jax_rnnt.rnnt_loss, x, *rest, implementation=losses.QUICK)
        return jnp.stack([loss(reduction="mean_volume"), loss(weights=np.zeros(2))])

    values, slopes = losses.jit(lambda x: (losses_of(x), jax.jacrev(losses_of)(x)))(logits)
    assert (values == 0).all()
    assert (slopes == 0).all()


def test_omega_chooses_the_loss_of_tokens_by_a_key() -> None:
    """Under jit the key is traced. Both losses occur, each with its own gradient."""
    x, *rest = _arrays(12)
    tdt = BY_NAME["tdt"].expected(x, *rest)
    tokens = reference_losses.batch(Rnnt(), x[..., : losses.V], *rest)
    of_tokens = tokens[0], np.pad(tokens[1], [(0, 0)] * 3 + [(0, 4)])
    options = {"durations": (0, 1, 2, 4), "reduction": "none", "implementation": losses.QUICK}

    @functools.partial(losses.jit, static_argnums=2)
    def run(x, key, omega):
        costs, pull = jax.vjp(lambda x: jax_rnnt.tdt_loss(x, *rest, omega=omega, key=key, **options), x)
        return costs, pull(jnp.ones_like(costs))[0]

    chosen = [bool(jax.random.bernoulli(jax.random.key(seed), 0.5)) for seed in range(6)]
    assert len(set(chosen)) == 2
    for omega, expected in ((0.5, chosen), (1.0, [True])):
        for seed, is_rnnt in enumerate(expected):
            costs, gradient = run(x, jax.random.key(seed), omega)
            for actual, wanted in zip((costs, gradient), of_tokens if is_rnnt else tdt, strict=True):
                np.testing.assert_allclose(actual[np.array([0, 1, 3])], wanted[[0, 1, 3]], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", losses.PLAIN, ids=lambda loss: loss.name)
def test_loss_object(loss: LossUnderTest) -> None:
    """The object is a value: equal options make it equal, jit takes it as static, and nothing in it can be changed."""
    options = loss.options | {"reduction": "sum"}
    made = loss.made(reduction="sum")
    same = loss.made(**{k: list(v) if isinstance(v, tuple) else v for k, v in reversed(options.items())})
    assert isinstance(made, jax_rnnt.Loss)
    assert made == same
    assert hash(made) == hash(same)
    assert dataclasses.replace(made, reduction="none") == loss.made(reduction="none") != made
    assert made != jax_rnnt.RNNTLoss(reduction="sum")
    assert eval(repr(made), vars(jax_rnnt).copy()) == made
    assert jax.tree.leaves(made) == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.reduction = "none"
    x, *rest = _arrays(loss.width)
    rest[1] = np.minimum(rest[1], losses.T)
    value = jax.jit(lambda made, x: made(x, *rest, weights=WEIGHTS), static_argnums=0)(made, x)
    np.testing.assert_allclose(value, (loss.expected(x, *rest)[0] * WEIGHTS).sum(), rtol=1e-12)
    for wrong in ("reducton", "weights", "key"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
            loss.made(**{wrong: "sum"})


@pytest.mark.parametrize("loss", losses.PLAIN, ids=lambda loss: loss.name)
def test_a_function_is_its_class_and_a_call_of_it(loss: LossUnderTest) -> None:
    """Both have the same options with the same defaults. The options that all losses share stand only in the class."""
    own = inspect.signature(loss.call).parameters
    options = inspect.signature(type(loss.made())).parameters
    arrays = ("logits", "targets", "logit_lengths", "target_lengths", "weights", "key", "options")
    assert {k: p.default for k, p in own.items() if k not in arrays}.items() <= {
        k: p.default for k, p in options.items()
    }.items()
    shared = typing.get_type_hints(jax_rnnt.core.loss.LossOptions).keys()
    assert options.keys() - own.keys() == shared
    assert list(own)[4:7] == list(options)[:3] == ["blank", "clamp", "reduction"]


def test_equal_numbers_of_other_types_make_equal_losses() -> None:
    made = jax_rnnt.TDTLoss(np.int64(0), jnp.float32(1), fused_log_softmax=np.True_, sigma=jnp.float32(0.5))
    assert made == jax_rnnt.TDTLoss(0, 1, sigma=0.5)
    assert hash(made) == hash(jax_rnnt.TDTLoss(0, 1, sigma=0.5))


def test_zero_infinity_leaves_nan() -> None:
    """A model that diverged must not look like one that has converged."""
    x, *rest = _arrays(losses.V)
    x = np.concatenate([x, np.full_like(x[:1], np.nan), x[:1]])
    targets, t_b, u_b = (np.concatenate([a, a[:1], a[:1]]) for a in rest)
    t_b[-1] = 0  # no path
    loss = jax_rnnt.RNNTLoss(reduction="none", zero_infinity=True)
    costs = loss(x, targets, t_b, u_b)
    assert np.isnan(costs).tolist() == [False, False, True, False, True, False]
    assert costs[-1] == 0


SCHEDULED = {
    "clamp": (jax_rnnt.RNNTLoss, {"fastemit_lambda": 0.7, "delay_penalty": 0.3, "sigma": 0.1}),
    "joint": (jax_rnnt.MonotonicRNNTLoss, {"delay_penalty": 0.3, "fastemit_lambda": 0.2}),
    "omega": (functools.partial(jax_rnnt.TDTLoss, durations=(0, 1, 2), omega=1.0), {"sigma": 0.05}),
    "wildcard": (
        functools.partial(jax_rnnt.HATLoss, wildcard="anywhere"),
        {"wildcard_weight": -0.7, "sigma": 0.1, "fastemit_lambda": 0.7},
    ),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_schedules_are_the_options(name: str) -> None:
    """A traced number in the call gives what the same number as an option gives, and one program serves all numbers."""
    make, options = SCHEDULED[name]
    clamp = 0.05 if name == "clamp" else -1.0
    x, *rest = _arrays(losses.V)
    rest[1] = np.minimum(rest[1], losses.T)
    key = jax.random.key(0)

    def value_and_gradient(loss, x, **scheduled):
        logits = table_joint.joint_logits(x) if name == "joint" else x
        return jax.value_and_grad(lambda x: loss(x, *rest, key=key, **scheduled), allow_int=True)(logits)

    static = losses.jit(
        functools.partial(value_and_gradient, make(clamp=clamp, implementation=losses.QUICK, **options))
    )
    plain = make(clamp=clamp, implementation=losses.QUICK)
    traced = losses.jit(functools.partial(value_and_gradient, plain))
    for ours, theirs in zip(jax.tree.leaves(traced(x, **options)), jax.tree.leaves(static(x)), strict=True):
        if jnp.issubdtype(ours.dtype, jnp.inexact):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    other = traced(x, **{name: 0.0 for name in options})[0]
    np.testing.assert_allclose(other, plain(x, *rest, key=key, **{name: 0 for name in options}), rtol=1e-12)
    assert traced._cache_size() == 1


def test_schedules_on_a_mesh() -> None:
    """Scalars are whole on every device, where the vocabulary is divided and where the batch is."""
    x, *rest = _arrays(losses.V)
    rest[1] = np.minimum(rest[1], losses.T)
    expected = jax_rnnt.RNNTLoss(delay_penalty=0.3)(x, *rest)
    for source, axis in ((x, "model"), (table_joint.joint_logits(x, batch_axis_names=("model",)), None)):
        loss = jax_rnnt.RNNTLoss(vocab_axis_name=axis)
        with jax.set_mesh(meshes.make_mesh(model=2)):
            value = jax.jit(lambda logits, penalty: loss(logits, *rest, delay_penalty=penalty))(source, 0.3)  # noqa: B023
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_schedules_that_a_loss_does_not_have() -> None:
    for option, why in (
        ({"wildcard_weight": 1.0}, "It needs a `wildcard`, and this RNNTLoss has none"),
        ({"reduction": "sum"}, r"Set it in the object: RNNTLoss\(reduction=...\)"),
        ({"lamda": 1.0}, "RNNTLoss has no such option"),
    ):
        with pytest.raises(TypeError, match=f"in the call of a loss object; fastemit_lambda, delay_pen.*{why}"):
            jax_rnnt.RNNTLoss()(*SHAPED, **option)
    with pytest.raises(ValueError, match=r"`sigma` must have shape \(\) \(a scalar\), got \(2,\)"):
        jax_rnnt.RNNTLoss()(*SHAPED, sigma=np.ones(2))


SHAPED = np.zeros((1, 2, 2, 6)), np.zeros((1, 1), np.int32), np.array([2]), np.array([1])
MULTI = {"big_blanks": (-2, -3), "durations": (2, 4)}
REFUSED = [
    (jax_rnnt.tdt_loss, {"durations": (0, 1, 1)}, ValueError, r"`durations` must be different.*\(0, 1, 1\)"),
    (jax_rnnt.tdt_loss, {"durations": (-1, 1)}, ValueError, r"`durations` must be.* at least 0.*\(-1, 1\)"),
    (jax_rnnt.tdt_loss, {"durations": (0,)}, ValueError, r"`durations` must be.* above 0.*\(0,\)"),
    (jax_rnnt.tdt_loss, {"durations": 3}, TypeError, r"`durations` must be a sequence of integers, such as \(1, 2\)"),
    (
        jax_rnnt.tdt_loss,
        {"durations": (0, 1, 2, 3, 4, 5)},
        ValueError,
        r"`logits` must have V \+ D .*6 `durations`.* 6",
    ),
    (jax_rnnt.tdt_loss, {"durations": (0, 1), "blank": 4}, ValueError, r"`blank` .*4"),
    (jax_rnnt.tdt_loss, {"omega": 0.1}, ValueError, r"`key` must be .*omega=0\.1"),
    (jax_rnnt.tdt_loss, {"omega": 0.1, "key": 0}, TypeError, r"`key` must be a JAX random key, such as .*, got 0"),
    (jax_rnnt.tdt_loss, {"omega": 1.5}, ValueError, r"`omega` must be a probability.*1\.5"),
    (jax_rnnt.tdt_loss, {"omega": "a"}, TypeError, r"`omega`"),
    (jax_rnnt.tdt_loss, {"wildcard": "ends"}, TypeError, "wildcard"),
    (jax_rnnt.multiblank_rnnt_loss, MULTI | {"durations": (2,)}, ValueError, r"`durations` .*2 `big_blanks`.* 1"),
    (
        jax_rnnt.multiblank_rnnt_loss,
        MULTI | {"durations": (2, 0)},
        ValueError,
        r"`durations` must be at least 1.*\(2, 0\)",
    ),
    (jax_rnnt.multiblank_rnnt_loss, MULTI | {"big_blanks": (-1, -2)}, ValueError, r"`big_blanks` must be different"),
    (jax_rnnt.multiblank_rnnt_loss, MULTI | {"big_blanks": (-2, 6)}, ValueError, r"`big_blanks.*6"),
    (jax_rnnt.multiblank_rnnt_loss, MULTI | {"big_blanks": (-2, "a")}, TypeError, "`big_blanks"),
    (jax_rnnt.hat_loss, {"blank": 2}, ValueError, r"`blank` of HAT must be the first or the last.*0 or 5.*got 2"),
    (jax_rnnt.hat_loss, {"fused_log_softmax": True}, TypeError, "fused_log_softmax"),
    (jax_rnnt.monotonic_rnnt_loss, {"last_blank": 1}, TypeError, "`last_blank`"),
    (
        jax_rnnt.rnnt_loss,
        {"wildcard": "start"},
        ValueError,
        "`wildcard` must be None, 'ends', 'anywhere' or 'star', got 'start'",
    ),
    (jax_rnnt.rnnt_loss, {"wildcard": "ends", "wildcard_weight": None}, TypeError, "`wildcard_weight`"),
    (jax_rnnt.rnnt_loss, {"fastemit_lambda": -0.1}, ValueError, r"`fastemit_lambda` must be at least 0, got -0\.1"),
    *(
        (jax_rnnt.hat_loss, {name: "a"}, TypeError, f"`{name}`")
        for name in ("sigma", "delay_penalty", "fastemit_lambda")
    ),
    (jax_rnnt.hat_loss, {"zero_infinity": 1}, TypeError, "`zero_infinity`"),
    (jax_rnnt.hat_loss, {"reduction": "volume"}, ValueError, "`reduction` must be one of .*mean_volume.*'volume'"),
    (jax_rnnt.hat_loss, {"weights": np.ones(2)}, ValueError, r"`weights`.*\(2,\)"),
    (jax_rnnt.hat_loss, {"weights": [None]}, TypeError, "`weights`"),
]


@pytest.mark.parametrize(("call", "options", "error", "message"), REFUSED)
def test_refusals_name_the_argument(call, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        jax.eval_shape(functools.partial(call, **options), *SHAPED)

"""Mistakes of the caller: the type of the error, and its text.

The text names the argument, what was expected and what came.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import T, U, V, lengths, random_batch

import jax_rnnt

B = 4
GOOD = {
    "logits": np.zeros((B, T, U + 1, V), np.float32),
    "targets": np.zeros((B, U), np.int32),
    "logit_lengths": lengths(5, 3, 4, 1),
    "target_lengths": lengths(3, 3, 1, 2),
}


def _of(shape: tuple[int, ...], dtype=np.int32) -> np.ndarray:
    return np.zeros(shape, dtype)


# case -> (the wrong argument, its value, the error, words of its text beside the name in backticks)
MISTAKES = {
    "logits_integer": ("logits", _of((B, T, U + 1, V)), TypeError, ["float32", "int32"]),
    "logits_rank_5": ("logits", _of((2, B, T, U + 1, V), np.float32), ValueError, ["4", "5", "jax.vmap"]),
    "logits_no_vocabulary": ("logits", _of((B, T, U + 1, 0), np.float32), ValueError, ["0"]),
    "targets_float": ("targets", _of((B, U), np.float32), TypeError, ["integer", "float32"]),
    "targets_rank": ("targets", _of((B,)), ValueError, ["2", "1"]),
    "targets_batch": ("targets", _of((B + 1, U)), ValueError, ["4", "5"]),
    "logit_lengths_float": ("logit_lengths", _of((B,), np.float32), TypeError, ["integer", "float32"]),
    "logit_lengths_batch": ("logit_lengths", _of((B - 1,)), ValueError, ["4", "3"]),
    "target_lengths_batch": ("target_lengths", _of((B + 2,)), ValueError, ["4", "6"]),
    "blank_too_large": ("blank", V, ValueError, ["-6", "6"]),
    "blank_too_small": ("blank", -V - 1, ValueError, ["-6", "-7"]),
    "blank_float": ("blank", 1.0, TypeError, ["integer", "1.0"]),
    "blank_bool": ("blank", True, TypeError, ["integer", "True", "bool"]),
    "clamp_string": ("clamp", "1", TypeError, ["number", "'1'", "str"]),
    "clamp_array": ("clamp", np.ones(2), TypeError, ["number", "float64", "(2,)"]),
    "clamp_nan": ("clamp", float("nan"), ValueError, ["number", "NaN"]),
    "fused_string": ("fused_log_softmax", "False", TypeError, ["True", "False", "'False'"]),
    "reduction_unknown": ("reduction", "batchmean", ValueError, ["none", "mean", "sum", "batchmean"]),
    "implementation_unknown": ("implementation", "cuda", ValueError, ["native", "lax", "cuda"]),
}


def _assert_says(message: str, argument: str, words: list[str]) -> None:
    assert f"`{argument}`" in message, message
    for word in words:
        found = re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.]\d)", message)
        assert found, f"{word!r} is not in: {message}"


def _calls() -> dict[str, Callable]:
    def function(**kwargs):
        return jax_rnnt.rnnt_loss(**kwargs)

    def jitted(**kwargs):
        arrays = {k: v for k, v in kwargs.items() if k in GOOD}
        options = {k: v for k, v in kwargs.items() if k not in GOOD}
        return jax.jit(lambda a: jax_rnnt.rnnt_loss(**a, **options))(arrays)

    return {"eager": function, "jit": jitted}


@pytest.mark.parametrize("call", _calls().values(), ids=_calls().keys())
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str, call: Callable) -> None:
    """The error comes at trace time: before anything runs, and also inside jit, where values are unknown."""
    argument, value, error, words = MISTAKES[name]
    with pytest.raises(error) as caught:
        call(**(GOOD | {argument: value}))
    _assert_says(str(caught.value), argument, words)


def test_numbers_of_other_types_are_no_mistake() -> None:
    expected = jax_rnnt.rnnt_loss(**GOOD, blank=2, clamp=1.0, fused_log_softmax=True)
    options = {"blank": np.int64(2), "clamp": np.float32(1), "fused_log_softmax": np.True_}
    assert jax_rnnt.rnnt_loss(**GOOD, **options) == expected
    assert jax_rnnt.rnnt_loss(**GOOD, blank=jnp.int32(2), clamp=np.array(1)) == expected
    assert jax_rnnt.RNNTLoss(**options)(**GOOD) == expected


@pytest.mark.parametrize("make", [lambda *options: jax_rnnt.rnnt_loss(*GOOD.values(), *options), jax_rnnt.RNNTLoss])
def test_a_reduction_in_the_place_of_clamp_gets_a_sentence_of_help(make: Callable) -> None:
    with pytest.raises(TypeError) as caught:
        make(0, "mean")
    _assert_says(str(caught.value), "clamp", ["'mean'", "6th", "torchaudio", "reduction='mean'"])


@pytest.mark.parametrize("argument", ["clamp", "blank", "fused_log_softmax"])
def test_traced_options_are_told_that_they_are_static(argument: str) -> None:
    value = {"clamp": 0.5, "blank": 1, "fused_log_softmax": False}[argument]

    def loss(value):
        return jax_rnnt.rnnt_loss(**GOOD, **{argument: value})

    with pytest.raises(TypeError) as caught:
        jax.jit(loss)(value)
    _assert_says(str(caught.value), argument, ["static", f"static_argnames='{argument}'", "closure"])
    assert jax.jit(jax_rnnt.rnnt_loss, static_argnames=argument)(**GOOD, **{argument: value}) == loss(value)


def test_traced_schedules_are_told_where_they_may_be_traced() -> None:
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda x: jax_rnnt.rnnt_loss(**GOOD, sigma=x))(0.5)
    _assert_says(
        str(caught.value), "sigma", ["static", "closure, or call a loss object", "RNNTLoss(...)(..., sigma=x)"]
    )


# Values that are not JAX arrays. The messages of NumPy and JAX would not name the argument.
NO_ARRAYS = {
    "objects": (np.array([[None, 1], [2, 3]]), "object"),
    "words": (np.array(["one", "two"]), "<U3"),
    "ragged": ([[1, 2], [3]], "[[1, 2], [3]]"),
    "none": (None, "NoneType"),
}


@pytest.mark.parametrize("argument", GOOD)
@pytest.mark.parametrize("name", NO_ARRAYS)
def test_no_array(name: str, argument: str) -> None:
    value, shown = NO_ARRAYS[name]
    calls = [jax_rnnt.rnnt_loss, jax.jit(lambda: jax_rnnt.rnnt_loss(**(GOOD | {argument: value})))]
    for call, arguments in zip(calls, (GOOD | {argument: value}, {}), strict=True):
        with pytest.raises(TypeError) as caught:
            call(**arguments)
        _assert_says(str(caught.value), argument, ["array of numbers", shown])
    with pytest.raises(TypeError, match=f"`{argument}`"):
        jax_rnnt.check_inputs(LOSS, **(GOOD | {argument: value}))
    if argument.endswith("lengths"):
        log_probs, others = _of((B, T, U + 1, 2), np.float32), {n: GOOD[n] for n in GOOD if n.endswith("lengths")}
        with pytest.raises(TypeError, match=f"`{argument}`"):
            jax_rnnt.lattice_cost(log_probs, **(others | {argument: value}))


def test_integers_too_large_for_any_dtype() -> None:
    with pytest.raises(ValueError, match="`logit_lengths`"):
        jax_rnnt.rnnt_loss(**(GOOD | {"logit_lengths": [5, 3, 4, 2**70]}))


def test_one_label_column_too_few_gets_a_sentence_of_help() -> None:
    """U is taken for U + 1: the joint ran without the start symbol, or the targets hold it."""
    with pytest.raises(ValueError, match=r"`logits`|`targets`") as caught:
        jax_rnnt.rnnt_loss(**(GOOD | {"logits": np.zeros((B, T, U, V), np.float32)}))
    message = str(caught.value)
    assert re.search(r"U \+ 1|U\+1", message), message
    assert str((B, T, U, V)) in message, message
    assert str((B, U)) in message, message
    assert "If the targets hold a start symbol, remove it" in message, message
    assert "predictor" in message, message


# --- check_inputs -----------------------------------------------------------------------------------------------------

LOSS = jax_rnnt.RNNTLoss()


def _inputs(**changes) -> dict:
    """Good arrays with single values changed: name=(index, value)."""
    arrays = {k: v.copy() for k, v in GOOD.items()}
    for name, (index, value) in changes.items():
        arrays[name][index] = value
    return arrays


BAD_VALUES = {
    "logit_length_negative": ({"logit_lengths": (2, -5)}, "logit_lengths", "2", "-5"),
    "logit_length_too_long": ({"logit_lengths": (1, T + 1)}, "logit_lengths", "1", str(T + 1)),
    "target_length_too_long": ({"target_lengths": (0, U + 4)}, "target_lengths", "0", str(U + 4)),
    "label_too_large": ({"targets": ((3, 1), 77)}, "targets", "3", "77"),
    "label_is_blank": ({"targets": ((1, 0), V - 1)}, "targets", "1", str(V - 1)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_check_inputs_names_the_bad_example(name: str) -> None:
    changes, argument, index, value = BAD_VALUES[name]
    with pytest.raises(ValueError, match=argument) as caught:
        jax_rnnt.check_inputs(LOSS, **_inputs(**changes))
    message = str(caught.value)
    assert re.search(rf"`{argument}\[{index}[\],]", message), f"the index {index} of `{argument}`: {message}"
    assert re.search(rf"(?<!\d){re.escape(value)}(?!\d)", message), message


def test_check_inputs_names_the_first_of_several() -> None:
    arrays = _inputs(targets=((1, 2), 99))
    arrays["targets"][3, 0] = 98
    with pytest.raises(ValueError, match=re.escape("`targets[1, 2]`")) as caught:
        jax_rnnt.check_inputs(LOSS, **arrays)
    assert "99" in str(caught.value)
    assert "98" not in str(caught.value)


def test_check_inputs_accepts_what_the_loss_accepts() -> None:
    """It accepts bad labels beyond U_b, filler rows, empty batches, device arrays and any integer type.

    It returns None.
    """
    arrays = _inputs(targets=((2, 1), V - 1), logit_lengths=(3, 0), target_lengths=(3, 0))
    arrays["targets"][3] = -9
    assert jax_rnnt.check_inputs(LOSS, **arrays) is None
    assert jax_rnnt.check_inputs(LOSS, **{k: jnp.asarray(v) for k, v in arrays.items()}) is None
    assert jax_rnnt.check_inputs(LOSS, **{k: v[:0] for k, v in arrays.items()}) is None
    wide = {k: v if k == "logits" else v.astype(np.int64) for k, v in arrays.items()}
    assert jax_rnnt.check_inputs(LOSS, **wide) is None
    small = _inputs() | {"targets": GOOD["targets"].astype(np.uint8)}
    assert jax_rnnt.check_inputs(LOSS, **small) is None


def test_check_inputs_inside_jit_says_that_it_cannot() -> None:
    with pytest.raises((TypeError, ValueError), match=r"check_inputs.*concrete"):
        jax.jit(lambda a: jax_rnnt.check_inputs(LOSS, **a))(GOOD)


# --- the two operations -----------------------------------------------------------------------------------------------

ARCS = {
    "labels_shape": ({"labels": _of((3,))}, ValueError, "`labels`"),
    "labels_float": ({"labels": _of((2, 3), np.float32)}, TypeError, "`labels`"),
    "logits_integer": ({"logits": _of((2, 3, 5))}, TypeError, "`logits`"),
    "logits_scalar": ({"logits": _of((), np.float32)}, ValueError, "`logits`"),
    "column_out_of_range": ({"columns": (0, 5)}, ValueError, r"`columns.*5"),
    "column_bool": ({"columns": (0, True)}, TypeError, r"`columns\[1\]`.*True"),
    "columns_integer": ({"columns": 0}, TypeError, "`columns`.*sequence.*got 0 of type int"),
    "logits_objects": ({"logits": np.array([None])}, TypeError, "`logits`.*object"),
    "implementation": ({"implementation": "gpu"}, ValueError, "`implementation`"),
}


@pytest.mark.parametrize("name", ARCS)
def test_arc_log_probs(name: str) -> None:
    change, error, match = ARCS[name]
    good = {"logits": _of((2, 3, 5), np.float32), "labels": _of((2, 3))}
    with pytest.raises(error, match=match):
        jax_rnnt.arc_log_probs(**(good | change))


LATTICE = {
    "rank": ({"log_probs": _of((B, T, 2), np.float32)}, ValueError, "`log_probs`"),
    "integer": ({"log_probs": _of((B, T, U + 1, 2))}, TypeError, "`log_probs`"),
    "number_of_moves": ({"moves": ((1, 0),)}, ValueError, r"`moves`.*2.*1"),
    "move_without_advance": ({"moves": ((1, 0), (0, 0))}, ValueError, r"`moves.*\(0, 0\)"),
    "move_backwards": ({"moves": ((1, 0), (-1, 2))}, ValueError, r"`moves.*-1"),
    "move_of_three": ({"moves": ((1, 0), (1, 2, 3))}, (TypeError, ValueError), "`moves"),
    "move_float": ({"moves": ((1, 0), (0.5, 1))}, TypeError, "`moves"),
    "lengths_batch": ({"logit_lengths": _of((B + 1,))}, ValueError, "`logit_lengths`.*4.*5"),
    "log_probs_ragged": ({"log_probs": [[1.0, 2.0], [3.0]]}, TypeError, "`log_probs`.*list"),
}


@pytest.mark.parametrize("name", LATTICE)
def test_lattice_cost(name: str) -> None:
    change, error, match = LATTICE[name]
    good = {"log_probs": _of((B, T, U + 1, 2), np.float32)} | {k: GOOD[k] for k in ("logit_lengths", "target_lengths")}
    with pytest.raises(error, match=match):
        jax_rnnt.lattice_cost(**(good | change))


def test_good_arguments_are_no_mistake() -> None:
    """The arguments that all tests above change must themselves pass. Otherwise these tests prove nothing."""
    logits, targets = random_batch("errors")
    assert np.isfinite(jax_rnnt.rnnt_loss(**(GOOD | {"logits": logits.astype(np.float32), "targets": targets})))
    assert jax_rnnt.check_inputs(LOSS, **GOOD) is None

"""Mistakes of the caller: the type of the error, and its text: the argument's name, what was expected, what came."""

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


# argument at fault -> (its bad value, error, what its text must hold beside the name in backticks)
MISTAKES = {
    "logits_integer": ("logits", _of((B, T, U + 1, V)), TypeError, ["float32", "int32"]),
    "logits_complex": ("logits", _of((B, T, U + 1, V), np.complex64), TypeError, ["float32", "complex64"]),
    "logits_bool": ("logits", _of((B, T, U + 1, V), bool), TypeError, ["float32", "bool"]),
    "logits_rank_3": ("logits", _of((B, T, V), np.float32), ValueError, ["4", "3"]),
    "logits_rank_5": ("logits", _of((2, B, T, U + 1, V), np.float32), ValueError, ["4", "5", "jax.vmap"]),
    "logits_no_vocabulary": ("logits", _of((B, T, U + 1, 0), np.float32), ValueError, ["0"]),
    "targets_float": ("targets", _of((B, U), np.float32), TypeError, ["integer", "float32"]),
    "targets_bool": ("targets", _of((B, U), bool), TypeError, ["integer", "bool"]),
    "targets_rank": ("targets", _of((B,)), ValueError, ["2", "1"]),
    "targets_flat": ("targets", _of((B * U,)), ValueError, ["2", "1"]),  # warp-transducer's layout
    "targets_batch": ("targets", _of((B + 1, U)), ValueError, ["4", "5"]),
    "targets_far_too_long": ("targets", _of((B, U + 7)), ValueError, ["4", "10"]),
    "logit_lengths_float": ("logit_lengths", _of((B,), np.float32), TypeError, ["integer", "float32"]),
    "logit_lengths_rank": ("logit_lengths", _of((B, 1)), ValueError, ["1", "2"]),
    "logit_lengths_batch": ("logit_lengths", _of((B - 1,)), ValueError, ["4", "3"]),
    "logit_lengths_scalar": ("logit_lengths", _of(()), ValueError, ["1", "0"]),
    "target_lengths_float": ("target_lengths", _of((B,), np.float64), TypeError, ["integer", "float64"]),
    "target_lengths_rank": ("target_lengths", _of((B, 1)), ValueError, ["1", "2"]),
    "target_lengths_batch": ("target_lengths", _of((B + 2,)), ValueError, ["4", "6"]),
    "blank_too_large": ("blank", V, ValueError, ["-6", "6"]),
    "blank_too_small": ("blank", -V - 1, ValueError, ["-6", "-7"]),
    "blank_float": ("blank", 1.0, TypeError, ["integer", "1.0"]),
    "blank_array": ("blank", np.zeros(2, np.int32), TypeError, ["integer"]),
    "reduction_unknown": ("reduction", "batchmean", ValueError, ["none", "mean", "sum", "batchmean"]),
    "reduction_none": ("reduction", None, ValueError, ["none", "mean", "sum", "None"]),
    "implementation_unknown": ("implementation", "cuda", ValueError, ["native", "scan", "cuda"]),
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
    """At trace time: before anything runs, and also inside jit, where values are not known."""
    argument, value, error, words = MISTAKES[name]
    with pytest.raises(error) as caught:
        call(**(GOOD | {argument: value}))
    _assert_says(str(caught.value), argument, words)


@pytest.mark.parametrize("name", [n for n, m in MISTAKES.items() if m[0] in ("blank", "reduction", "implementation")])
def test_mistake_in_the_loss_object(name: str) -> None:
    argument, value, error, words = MISTAKES[name]
    with pytest.raises(error) as caught:
        jax_rnnt.RNNTLoss(**{argument: value})(**GOOD)
    _assert_says(str(caught.value), argument, words)


def test_one_label_column_too_few_gets_a_sentence_of_help() -> None:
    """U against U + 1: the joint was run without the start symbol."""
    with pytest.raises(ValueError, match=r"`logits`|`targets`") as caught:
        jax_rnnt.rnnt_loss(**(GOOD | {"logits": np.zeros((B, T, U, V), np.float32)}))
    message = str(caught.value)
    assert re.search(r"U \+ 1|U\+1", message), message
    assert str((B, T, U, V)) in message, message
    assert str((B, U)) in message, message
    assert "start" in message, message


@pytest.mark.parametrize("argument", ["clamp"])
@pytest.mark.parametrize("value", ["big", None])
def test_clamp_that_is_no_number(argument: str, value: object) -> None:
    with pytest.raises(TypeError):
        jax_rnnt.rnnt_loss(**(GOOD | {argument: value}))


# --- check_inputs -----------------------------------------------------------------------------------------------------


def _inputs(**changes) -> dict:
    """Good arrays with single values changed: name=(index, value)."""
    arrays = {k: v.copy() for k, v in GOOD.items()}
    for name, (index, value) in changes.items():
        arrays[name][index] = value
    return arrays


BAD_VALUES = {
    "logit_length_negative": ({"logit_lengths": (2, -5)}, "logit_lengths", "2", "-5"),
    "logit_length_too_long": ({"logit_lengths": (1, T + 1)}, "logit_lengths", "1", str(T + 1)),
    "target_length_negative": ({"target_lengths": (3, -1)}, "target_lengths", "3", "-1"),
    "target_length_too_long": ({"target_lengths": (0, U + 4)}, "target_lengths", "0", str(U + 4)),
    "label_negative": ({"targets": ((1, 2), -2)}, "targets", "1", "-2"),
    "label_too_large": ({"targets": ((3, 1), 77)}, "targets", "3", "77"),
    "label_is_blank": ({"targets": ((1, 0), V - 1)}, "targets", "1", str(V - 1)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_check_inputs_names_the_bad_example(name: str) -> None:
    changes, argument, index, value = BAD_VALUES[name]
    with pytest.raises(ValueError, match=argument) as caught:
        jax_rnnt.check_inputs(**_inputs(**changes))
    message = str(caught.value)
    assert re.search(rf"`{argument}\[{index}[\],]", message), f"the index {index} of `{argument}`: {message}"
    assert re.search(rf"(?<!\d){re.escape(value)}(?!\d)", message), message


def test_check_inputs_names_the_first_of_several() -> None:
    arrays = _inputs(targets=((1, 2), 99))
    arrays["targets"][3, 0] = 98
    with pytest.raises(ValueError, match=re.escape("`targets[1, 2]`")) as caught:
        jax_rnnt.check_inputs(**arrays)
    assert "99" in str(caught.value)
    assert "98" not in str(caught.value)


def test_check_inputs_explains_blank_in_targets() -> None:
    with pytest.raises(ValueError, match="must not contain blank"):
        jax_rnnt.check_inputs(**_inputs(targets=((1, 0), 2)), blank=2)
    with pytest.raises(ValueError, match="must not contain blank"):
        jax_rnnt.check_inputs(**_inputs(targets=((1, 0), V - 2)), blank=-2)


def test_check_inputs_accepts_what_the_loss_accepts() -> None:
    """Bad labels beyond U_b, filler rows, empty batches, device arrays, any integer type; and it returns nothing."""
    arrays = _inputs(targets=((2, 1), V - 1), logit_lengths=(3, 0), target_lengths=(3, 0))
    arrays["targets"][3] = -9
    assert jax_rnnt.check_inputs(**arrays) is None
    assert jax_rnnt.check_inputs(**{k: jnp.asarray(v) for k, v in arrays.items()}) is None
    assert jax_rnnt.check_inputs(**{k: v[:0] for k, v in arrays.items()}) is None
    wide = {k: v if k == "logits" else v.astype(np.int64) for k, v in arrays.items()}
    assert jax_rnnt.check_inputs(**wide) is None
    small = _inputs() | {"targets": GOOD["targets"].astype(np.uint8)}
    assert jax_rnnt.check_inputs(**small) is None


def test_check_inputs_checks_types_and_shapes_too() -> None:
    with pytest.raises(ValueError, match="`target_lengths`"):
        jax_rnnt.check_inputs(**(GOOD | {"target_lengths": _of((B + 2,))}))
    with pytest.raises(TypeError, match="`targets`"):
        jax_rnnt.check_inputs(**(GOOD | {"targets": _of((B, U), np.float32)}))


def test_check_inputs_inside_jit_says_that_it_cannot() -> None:
    with pytest.raises((TypeError, ValueError), match=r"check_inputs.*concrete"):
        jax.jit(lambda a: jax_rnnt.check_inputs(**a))(GOOD)


# --- the two operations -----------------------------------------------------------------------------------------------

ARCS = {
    "labels_shape": ({"labels": _of((3,))}, ValueError, "`labels`"),
    "labels_float": ({"labels": _of((2, 3), np.float32)}, TypeError, "`labels`"),
    "logits_integer": ({"logits": _of((2, 3, 5))}, TypeError, "`logits`"),
    "logits_scalar": ({"logits": _of((), np.float32)}, ValueError, "`logits`"),
    "column_out_of_range": ({"columns": (0, 5)}, ValueError, r"`columns.*5"),
    "column_float": ({"columns": (0.5,)}, TypeError, r"`columns.*0\.5"),
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
    "lengths_float": ({"target_lengths": _of((B,), np.float32)}, TypeError, "`target_lengths`"),
}


@pytest.mark.parametrize("name", LATTICE)
def test_lattice_cost(name: str) -> None:
    change, error, match = LATTICE[name]
    good = {"log_probs": _of((B, T, U + 1, 2), np.float32)} | {k: GOOD[k] for k in ("logit_lengths", "target_lengths")}
    with pytest.raises(error, match=match):
        jax_rnnt.lattice_cost(**(good | change))


def test_good_arguments_are_no_mistake() -> None:
    """The base that all of the above vary must itself pass, or they prove nothing."""
    logits, targets = random_batch("errors")
    assert np.isfinite(jax_rnnt.rnnt_loss(**(GOOD | {"logits": logits.astype(np.float32), "targets": targets})))
    assert jax_rnnt.check_inputs(**GOOD) is None

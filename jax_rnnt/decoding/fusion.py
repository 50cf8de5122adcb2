"""Scores from outside of the model that a decoder adds to labels: language models, lists of phrases, grammars."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.decoding.hypothesis_rows import flat, repeated, unflat, where_needed
from jax_rnnt.decoding.model_calls import Predictor, shape_of, with_state

Final = Callable[[Any, Any], Array]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "state", "weight"], meta_fields=["step", "final"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Fusion:
    r"""Scores that a decoder adds to the arcs of labels (shallow fusion). Arcs without a label keep their scores.

    .. math:: \mathrm{score}(y | \ldots) = \log p(y | \ldots) + \sum_i w_i \, s_i(y | y_1, \ldots, y_u)

    A decoder calls ``step`` as it calls the predictor: first with the start symbol (the blank, unless the decoder has
    ``start``), then with each label that was emitted. Its scores are those of the next label. The rows of a call are
    hypotheses of any utterances, in any order. So what differs between utterances stands in ``state``. For a phrase
    list per utterance, put all lists into ``params``, and the number of the utterance's list into ``state``.

    A fusion is a pytree: its arrays and its weight may change from call to call, and nothing is compiled again. Two
    fusions are equal only if they are the same object.

    Args:
      step: ``step(params, state, label) -> (state, scores)`` for R rows: ``label [R]`` int32, ``state`` a pytree of
        ``[R, ...]``, ``scores [R, V]`` floating. Entries of blanks are not read. A score of -inf closes a label.
      params: a pytree, which both functions get. Leaves that are not arrays must be hashable.
      state: the state before the start symbol, a pytree of ``[B, ...]``, or of ``[1, ...]`` if all utterances begin
        with the same. None: there is no state.
      weight: w, a number or an array of shape ().
      final: ``final(params, state) -> scores [R]``, or None. ``weight`` times these scores is added to the scores of
        the hypotheses that the decoder returns, such as the probability that a sentence ends here. The state has seen
        all labels. The search itself does not read these scores. For audio that comes in pieces they are added
        whenever hypotheses are asked for.

    References:
      Gulcehre et al., On using monolingual corpora in neural machine translation, 2015 (arXiv:1503.03535).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> bigram = jnp.log(jnp.full((4, 4), 0.1).at[2, 3].set(0.9))  # after 2 often comes 3
      >>> fusion = jax_rnnt.decoding.Fusion(lambda params, state, label: (state, params[label]), bigram, weight=0.5)
      >>> frames = jnp.log(jnp.array([[[0.1, 0.2, 0.6, 0.1], [0.1, 0.2, 0.4, 0.3]]]))  # B = 1, T = 2, V = 4
      >>> model = (
      ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
      ...     lambda params, state, label: (state, label),
      ...     lambda params, encoded, predicted: encoded,
      ... )
      >>> decode = lambda **options: jax_rnnt.decoding.greedy_decode(
      ...     *model, None, None, frames, jnp.array([2]), **options
      ... )
      >>> decode().labels, decode(fusion=fusion).labels
      (Array([[2, 2]], dtype=int32), Array([[2, 3]], dtype=int32))
    """

    step: Predictor
    params: Any = None
    state: Any = None
    weight: ArrayLike = 1.0
    final: Final | None = None


def checked(fusion: Fusion | Sequence[Fusion] | None) -> tuple[Fusion, ...]:
    """``fusion`` as a tuple."""
    if fusion is None:
        return ()
    each = (fusion,) if isinstance(fusion, Fusion) else tuple(fusion) if isinstance(fusion, Sequence) else ()
    if not all(isinstance(one, Fusion) for one in each) or (not each and not isinstance(fusion, Sequence)):
        raise TypeError(f"`fusion` must be a Fusion, or a sequence of them, got {checks.described(fusion)}.")
    for one in each:
        if not callable(one.step):
            raise TypeError(f"`Fusion.step` must be a function, got {checks.described(one.step)}.")
        if one.final is not None and not callable(one.final):
            raise TypeError(f"`Fusion.final` must be a function or None, got {checks.described(one.final)}.")
        if not isinstance(one.weight, Array | np.ndarray):
            checks.number("Fusion.weight", one.weight)
        elif one.weight.shape != ():
            raise ValueError(f"`Fusion.weight` must have shape (), got {one.weight.shape}.")
    return each


def with_arrays(fusions: tuple[Fusion, ...]) -> tuple[Fusion, ...]:
    """``fusions`` whose weights are arrays, so that programs do not depend on them."""
    return tuple(dataclasses.replace(one, weight=_array(one.weight)) for one in fusions)


def _array(weight: ArrayLike) -> Array | np.ndarray:
    return weight if isinstance(weight, Array) else np.asarray(weight, float)


def begun(fusions: tuple[Fusion, ...], batch: int, n: int) -> tuple[Any, ...]:
    """The states before the start symbol, ``[B, N, ...]``."""

    def of_leaf(x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        if x.ndim < 1 or (x.shape[0] != batch and x.shape[0] != 1):
            raise ValueError(f"`Fusion.state` must hold arrays [B, ...] with B = {batch}, or [1, ...], got {x.shape}.")
        return jnp.broadcast_to(x, (batch, *x.shape[1:]))

    return repeated(jax.tree.map(of_leaf, tuple(one.state for one in fusions)), n)


def advanced(
    fusions: tuple[Fusion, ...], states: tuple[Any, ...], label: Array, scores: Array
) -> tuple[tuple[Any, ...], Array]:
    """The states after ``label [R]``, and ``scores [R, V]`` with what the fusions add to the next labels."""
    after = []
    for one, state in zip(fusions, states, strict=True):
        state, extra = with_state("Fusion.step", "scores", one.step, one.params, state, label)
        if getattr(extra, "shape", None) != scores.shape:
            raise ValueError(
                f"`Fusion.step` must return scores [R, V] = {scores.shape}, got {shape_of(extra)}. V counts the blank "
                "and all labels, but no durations: it is `vocab_size` of a PhraseBoost and len(`labels`) of an NgramLM."
            )
        checks.floating("scores", extra)
        after.append(state)
        scores += _weighted(one, extra, scores.dtype)
    return tuple(after), scores


def final_scores(
    fusions: tuple[Fusion, ...], states: tuple[Any, ...], label: Array, waits: Array, dtype: np.dtype
) -> Array | None:
    """What the fusions add to hypotheses ``[B, N]`` that end; None if they add nothing.

    Where ``waits``, the states have yet to see ``label``.
    """
    total = None
    for one, state in zip(fusions, states, strict=True):
        if one.final is None:
            continue

        def seen(rows: tuple[Any, Array], one: Fusion = one) -> Any:
            return with_state("Fusion.step", "scores", one.step, one.params, *rows)[0]

        scores = one.final(one.params, where_needed(seen, flat(waits), flat((state, label)), flat(state)))
        if getattr(scores, "shape", None) != (label.size,):
            rows = f"R = {label.size} rows"
            raise ValueError(f"`Fusion.final` must return scores [R] for {rows}, got {shape_of(scores)}.")
        checks.floating("scores", scores)
        weighted = unflat(_weighted(one, scores, dtype), label.shape)
        total = weighted if total is None else total + weighted
    return total


def _weighted(one: Fusion, scores: Array, dtype: np.dtype) -> Array:
    """``weight`` times ``scores``. What is closed stays closed, also if the weight is 0 or less."""
    weight = jnp.asarray(one.weight).astype(dtype)
    scores = scores.astype(dtype)
    return jnp.where(scores == -jnp.inf, -jnp.inf, weight * scores)

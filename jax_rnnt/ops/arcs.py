"""Operation 1: log-probabilities of the arcs that leave a node, from one row of logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops import lax_arcs
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import Window, resolve_columns, resolve_window
from jax_rnnt.ops.masking import scaled
from jax_rnnt.xla.primitive import Implementation, Operation, check_implementation


@dataclasses.dataclass(frozen=True)
class ArcParameters:
    """The static parameters of operation 1."""

    columns: tuple[int, ...]
    vocabulary: int
    window: Window
    implementation: Implementation

    def asdict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _rows_ndim(logits, *_) -> int:
    return logits.ndim - 1


def _per_row(logits, *_, columns: tuple[int, ...], **__) -> list[jax.ShapeDtypeStruct]:
    rows, dtype = logits.shape[:-1], compute_dtype(logits.dtype)
    return [jax.ShapeDtypeStruct((*rows, len(columns) + 1), dtype), jax.ShapeDtypeStruct((*rows, 2), dtype)]


def _per_entry(logits, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(logits.shape, logits.dtype)]


def _on_tpus(lax_form: Callable[..., list[Array]]) -> dict[str, Callable[..., list[Array]]]:
    return {"tpu": functools.partial(lax_form, fuses=True)}


forward = Operation(
    "arcs_forward", _per_row, lax_arcs.arcs_forward, _rows_ndim, lax_forms=_on_tpus(lax_arcs.arcs_forward)
)
backward = Operation(
    "arcs_backward",
    _per_entry,
    lax_arcs.arcs_backward,
    _rows_ndim,
    in_place=1,
    lax_forms=_on_tpus(lax_arcs.arcs_backward),
)
_tangent = Operation(
    "arcs_tangent",
    _per_row,
    lax_arcs.arcs_tangent,
    _rows_ndim,
    has_kernel=False,
    lax_forms=_on_tpus(lax_arcs.arcs_tangent),
)


def _forward_jvp(primals, tangents, **parameters):
    logits, labels = primals
    log_probs, norm = forward(logits, labels, **parameters)
    return [log_probs, norm], _tangent(tangents[0], logits, labels, norm, **parameters)


def _tangent_transpose(cotangents, _, logits, labels, norm, **parameters):
    ct_log_probs, ct_norm = cotangents
    result = None
    if ct_log_probs is not None:
        (result,) = backward(logits, labels, norm, ct_log_probs, clipped=False, **parameters)
    first, stop = parameters["window"]
    if ct_norm is not None and first < stop:
        # Only second derivatives come here, through the norm that `backward` reads. Its top counts as a constant.
        p = lax_arcs.softmax(logits, labels, norm, parameters["vocabulary"], (first, stop))
        through_norm = scaled(p, by=ct_norm[..., 1:]).astype(logits.dtype)
        result = through_norm if result is None else result + through_norm
    return result, None, None, None


forward.def_jvp(_forward_jvp)
_tangent.def_transpose(_tangent_transpose)


def arc_log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    columns: Sequence[int] = (-1,),
    *,
    window: tuple[int, int] | None = None,
    implementation: Implementation = None,
) -> Array:
    r"""Log-probabilities of a node's arcs, picked from a row of logits and normalised in the same pass.

    .. math:: y_{n,k} = x_{n,c_k} - \log \sum_v e^{x_{n,v}}, \qquad
              y_{n,K-1} = x_{n,\ell_n} - \log \sum_v e^{x_{n,v}}

    A ``window`` restricts the sum to some entries of the row. An entry outside of it is the logit itself.

    The gradient with respect to the logits is computed from the logits and the norm. It is the only array of the
    size of the logits that is kept or written.

    Args:
      logits: ``[..., V]``, float16, bfloat16, float32 or float64. Entries of -inf are masked out.
      labels: ``[...]``, any integer type. In [0, V): the row's own label. -1: no label leaves this node, its entry is
        -inf. -2: padding: the row is not read (NaN in it does no harm), its entries are -inf and its gradient is 0.
        Any other value: the row and its gradient are NaN.
      columns: static integers, the vocabulary entries that every row has an arc for (blank; big blanks). Negative
        numbers count from the end.
      window: static integers (first, stop): only the entries ``logits[..., first:stop]`` are normalised. None: the
        whole row. (0, 0): nothing, because ``logits`` are log-probabilities already; then only the picked entries are
        read and have a gradient. Columns and labels may lie inside and outside.
      implementation: None chooses by platform; "native" insists on the compiled kernel; "lax" is the ``lax`` form.
        There are no Pallas kernels for it, so "pallas", which :func:`lattice_cost` has, means None here.

    Returns:
      ``[..., K]`` with ``K = len(columns) + 1``: the static columns in their order, then the label. float64 for float64
      logits, float32 otherwise. A row whose window holds NaN or +inf is NaN; the entries in a window of -inf alone are
      -inf. If the cotangents of all arcs of a row are 0, the row has a gradient of 0, even if it holds NaN.

    Raises:
      TypeError: if ``logits`` is not floating, ``labels`` not integer, or ``columns`` and ``window`` not integers.
      ValueError: if the shapes do not match, a column or ``window`` is outside the vocabulary, or ``implementation`` is
        unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
      >>> jnp.exp(jax_rnnt.arc_log_probs(logits, jnp.array([2, -1]), columns=(0,))).round(3)
      Array([[0.5 , 0.25],
             [0.2 , 0.  ]], dtype=float32)
    """
    check_implementation(implementation)
    logits, labels = checks.as_array("logits", logits), checks.as_integers("labels", labels)
    checks.floating("logits", logits)
    checks.integer("labels", labels)
    if logits.ndim < 1:
        raise ValueError(f"`logits` must have shape [..., V], got a scalar of shape {logits.shape}.")
    checks.shape("labels", labels, logits.shape[:-1], "logits.shape[:-1]")
    columns = resolve_columns(columns, logits.shape[-1], "columns")
    labels = checks.to_int32(labels)
    parameters = ArcParameters(columns, logits.shape[-1], resolve_window(window, logits.shape[-1]), implementation)
    return forward(logits, labels, **parameters.asdict())[0]

"""What every loss checks at its door: the four arrays of a batch and the options."""

from typing import Literal, get_args

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.ops import checks
from jax_rnnt.ops.labels import static_index
from jax_rnnt.xla import sharding
from jax_rnnt.xla.primitive import check_implementation

Reduction = Literal["none", "mean", "sum"]
_REDUCTIONS = get_args(Reduction)


def check_options(
    blank: object, clamp: object, reduction: object, fused_log_softmax: object, implementation: object
) -> None:
    """What can be said of the options without the arrays; the range of ``blank`` depends on the vocabulary."""
    static_index("blank", blank)
    hint = ""
    if isinstance(clamp, str) and clamp in _REDUCTIONS:
        hint = (
            " The 6th positional argument of the loss is `clamp`, as in torchaudio, and `reduction` comes after it: "
            f"write reduction={clamp!r}."
        )
    checks.number("clamp", clamp, hint)
    if not isinstance(reduction, str) or reduction not in _REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {_REDUCTIONS}, got {reduction!r}.")
    checks.boolean("fused_log_softmax", fused_log_softmax)
    check_implementation(implementation)


def checked_arrays(
    logits: ArrayLike, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """The four arrays ``[B, T, U+1, V], [B, U], [B], [B]``, the small ones divided over the batch as the logits are."""
    x = checks.as_array("logits", logits)
    labels = checks.as_integers("targets", targets)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    checks.loss_arguments(x, labels, t_b, u_b)
    return x, sharding.follow_batch(labels, x), sharding.follow_batch(t_b, x), sharding.follow_batch(u_b, x)

"""Which distributions a row of logits holds, for each loss, and how they are cut out of the row."""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.labels import NO_LABEL, Window


@dataclasses.dataclass(frozen=True)
class Distributions:
    """The distributions of a row, as static values.

    Each of ``windows`` is a softmax of its entries. Labels are in the first one. ``gate``, if there is one, is an entry
    outside of the window: its sigmoid is the probability that nothing is drawn from the window.
    """

    windows: tuple[Window, ...]
    gate: int | None = None

    @property
    def number(self) -> int:
        return len(self.windows) + (self.gate is not None)

    def parts(self, rows: Array, labels: Array, classes: tuple[int, ...] | None) -> list[Array]:
        """Rows ``[N, n]`` whose softmaxes are the distributions: first the gate, if there is one, then the windows.

        With ``classes`` the first window keeps the entries of these columns and of ``labels [N]``, and the sum of all
        its other entries is one entry more.
        """
        parts = [rows if window == (0, rows.shape[1]) else rows[:, slice(*window)] for window in self.windows]
        if classes is not None:
            first, stop = self.windows[0]
            inside = tuple(c - first for c in classes if first <= c < stop)
            parts[0] = _collapsed(parts[0], jnp.where(labels < 0, NO_LABEL, labels - first), inside)
        if self.gate is None:
            return parts
        blank = rows[:, self.gate]
        return [jnp.stack([blank, jnp.zeros_like(blank)], axis=1), *parts]


def _collapsed(x: Array, labels: Array, columns: tuple[int, ...]) -> Array:
    """The entries of ``x [N, V]`` at ``columns`` and at the label (-inf without one), then the log-sum of the rest.

    All are relative to the maximum of the row: a softmax does not see it, and the sum keeps its digits.
    """
    x = x - _finite(lax.stop_gradient(jnp.max(x, axis=1, keepdims=True)))
    entry = lax.broadcasted_iota(labels.dtype, x.shape, 1)
    is_label = entry == labels[:, None]
    is_other = ~is_label
    for column in columns:
        is_other &= entry != column
    of_label = jnp.sum(jnp.where(is_label, x, 0), axis=1)
    rest = jnp.where(is_other, x, -jnp.inf)
    top = _finite(lax.stop_gradient(jnp.max(rest, axis=1)))
    total = jnp.sum(jnp.where(is_other, jnp.exp(rest - top[:, None]), 0), axis=1)
    log_sum = jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1, total)) + top)
    return jnp.stack([*(x[:, c] for c in columns), jnp.where(labels < 0, -jnp.inf, of_label), log_sum], axis=1)


def _finite(top: Array) -> Array:
    return jnp.where(top == -jnp.inf, 0, top)

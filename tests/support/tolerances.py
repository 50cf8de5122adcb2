"""How far a result may be from the oracle, and why. Only this file sets tolerances.

The oracle gets the logits as the library sees them, rounded to their dtype. So the error that remains is the library's
own.

* Arithmetic. The library computes f16, bf16 and f32 logits in f32 or better, and f64 logits in f64. A log-probability
  x - log_norm has a few rounding errors of the size of x: eps * scale, with scale = max |x|. The rounding of the input
  itself is as large, so no stable algorithm promises more. A cost adds up at most T + U log-probabilities. A posterior
  is the exponential of such a sum, so the same number bounds its relative error, and the gradient is at most 1 in size.
  Errors of both signs partly cancel. So the tolerance of gradients grows only with the square root of T + U, and FACTOR
  covers errors that are worse than the average.
* The oracle. Its recursion is in logarithms, so its own error is eps of f64 times the size of the cost.
* Result. Costs are returned in f32 (in f64 for f64 logits), and gradients in the dtype of the logits. This rounding has
  an error of half a unit in the last place.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

FACTOR = 4.0

# Lattices of more than a thousand frames have absolute tolerances instead. If the library lost digits in alpha + beta -
# loglik, the error would be 2e-3 at T = 800. These tolerances catch such an error.
LONG_GRADIENT_ATOL = 1e-4
LONG_COST_RTOL = 1e-6

# An implementation may have at most this many times the error that the lax form has in the same dtype.
DTYPE_MARGIN = 3.0

# For central differences of an f64 function of size 10 with step 1e-5. The truncation error is step^2, and cancellation
# has an error of 1e-16 * 10 / step.
FINITE_STEP = 1e-5
FINITE_ATOL = 2e-8


@dataclass(frozen=True)
class Tolerance:
    cost_rtol: float
    cost_atol: float
    gradient_rtol: float
    gradient_atol: float


def compute_eps(dtype: str) -> float:
    return float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)


def result_eps(dtype: str) -> float:
    return float(jnp.finfo(dtype).eps)


def tolerance(dtype: str, scale: float, steps: int, cost: float = 0.0) -> Tolerance:
    """The tolerance for logits of `dtype` and paths of `steps` = T + U arcs.

    `scale` is the largest entry that matters.
    """
    unit = FACTOR * compute_eps(dtype) * max(1.0, scale)
    oracle = FACTOR * float(np.finfo(np.float64).eps) * cost
    return Tolerance(
        cost_rtol=FACTOR * compute_eps(dtype),
        cost_atol=unit * max(1, steps),
        gradient_rtol=0.51 * result_eps(dtype),
        gradient_atol=unit * max(1, steps) ** 0.5 + oracle,
    )

"""How far a result may be from the oracle, and why: the only place where a tolerance is set.

The oracle is given the logits as the library sees them, rounded to their dtype, so the error left is the library's own.

* Arithmetic. f16, bf16 and f32 logits are computed in f32 or better, f64 in f64. A log-probability x - log_norm carries
  a few roundings of the size of x: eps * scale, with scale = max |x|. This is also what the input's own rounding is
  worth, so no stable algorithm promises more. A cost adds at most T + U of them up; a posterior is the exponential of
  such a sum, so the same count bounds its relative error, and the gradient is at most 1 in size. Errors of either
  sign average out: the square root of T + U is allowed for gradients, and FACTOR covers what is worse than average.
* The oracle. Its recursion is in logarithms, so it is itself off by eps of f64 times the size of the cost.
* Result. Costs come back in f32 (f64 for f64), gradients in the dtype of the logits: half a unit in the last place.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

FACTOR = 4.0

# Lattices of more than a thousand frames are held to absolute numbers instead (issue 2): losing alpha + beta - loglik
# to cancellation costs 2e-3 at T = 800, which these catch.
LONG_GRADIENT_ATOL = 1e-4
LONG_COST_RTOL = 1e-6

# Against a reference of the same dtype: within this many times the lax form's error.
DTYPE_MARGIN = 3.0

# Central differences of an f64 function of size 10, step 1e-5: truncation step^2, cancellation 1e-16 * 10 / step.
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
    """For logits of `dtype` with entries up to `scale` in size that matter, and paths of `steps` = T + U arcs."""
    unit = FACTOR * compute_eps(dtype) * max(1.0, scale)
    oracle = FACTOR * float(np.finfo(np.float64).eps) * cost
    return Tolerance(
        cost_rtol=FACTOR * compute_eps(dtype),
        cost_atol=unit * max(1, steps),
        gradient_rtol=0.51 * result_eps(dtype),
        gradient_atol=unit * max(1, steps) ** 0.5 + oracle,
    )

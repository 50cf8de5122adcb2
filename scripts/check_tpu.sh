#!/bin/bash
# What can be known of TPUs without one: the programs that libtpu compiles for them, and the values of TPUs' `lax` forms,
# which run on the CPU here.
#
#   scripts/check_tpu.sh [PYTHON]
#
# PYTHON has jax_rnnt, what its tests need, and libtpu: `pip install ".[test,tpu-test]"`. Google's terms apply to libtpu
# (the "Google Cloud Platform Terms of Service", says its page on PyPI). Nothing of the library needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
export JAX_PLATFORMS=cpu  # else JAX looks for a TPU
"$python" -c "import libtpu"  # without it all these tests are skipped
"$python" -P -m pytest --quiet -n auto --dist worksteal --full tests/tpu
JAX_RNNT_LAX_FORMS_OF=tpu "$python" -P -m pytest --quiet -n auto --dist worksteal \
  tests/ops/test_{arcs,lattice}.py tests/losses/test_{gradients,masks}.py

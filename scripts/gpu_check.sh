#!/bin/bash
# Builds jax_rnnt from source on a machine with a GPU, and checks and times the CUDA kernels there. It needs no network,
# but nvcc, cmake, nanobind, scikit-build-core and jax with CUDA must be installed. It passes its arguments to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m venv --system-site-packages "$work/venv"
# shellcheck disable=SC1091
source "$work/venv/bin/activate"
CMAKE_ARGS="-DJAX_RNNT_CUDA=ON -DJAX_RNNT_CUDA_ARCHITECTURES=native ${CMAKE_ARGS:-}" \
  python -m pip install --quiet --no-deps --no-build-isolation --no-index .
python -P -c "import jax, jax_rnnt; print(jax.devices(), jax_rnnt.build_info())"
if python -c "import pytest" 2>/dev/null; then
  python -P -m pytest --noconftest -p no:cacheprovider tests/gpu "$@"
else
  python -P tests/gpu/without_pytest.py
fi
PYTHONPATH=benchmarks python -P benchmarks/gpu.py

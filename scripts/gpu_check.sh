#!/bin/bash
# Checks and times jax_rnnt on a machine with a GPU, in about ten minutes and without a network:
#
#     scripts/gpu_check.sh [WHEEL] [-- OPTIONS OF PYTEST]
#
# It takes a wheel that was built with CUDA, or builds for this GPU. That needs nvcc, cmake, nanobind and
# scikit-build-core. jax with CUDA and jax_rnnt[test] without jax_rnnt must be installed. The timings are those of the
# tables in docs/cuda.md, and come last.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
  wheel=$1
  shift
fi
[ "${1:-}" != -- ] || shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m venv --system-site-packages "$work/venv"
# shellcheck disable=SC1091
source "$work/venv/bin/activate"
install=(python -m pip install --quiet --no-deps --no-index)
if [ -n "$wheel" ]; then
  "${install[@]}" --force-reinstall "$wheel"
else
  CMAKE_ARGS="-DJAX_RNNT_CUDA=ON -DJAX_RNNT_CUDA_ARCHITECTURES=native ${CMAKE_ARGS:-}" \
    "${install[@]}" --no-build-isolation .
fi
python -P -c "import jax, jax_rnnt; print(jax.devices(), jax_rnnt.build_info())"
failed=0
JAX_RNNT_REQUIRE_NATIVE=1 python -P -m pytest --quiet --platform cuda -n 8 --quick -p no:cacheprovider "$@" || failed=$?
export PYTHONPATH=benchmarks XLA_PYTHON_CLIENT_PREALLOCATE=false
python -P benchmarks/gpu.py --rounds 10
python -P benchmarks/gpu_joint.py --rounds 5
python -P benchmarks/decoding.py --rounds 3 --shape 32x250x1024x640x4
exit "$failed"

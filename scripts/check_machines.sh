#!/bin/bash
# Runs the tests of values, gradients and lattices on the kernels with one processor, and with pools of 1 and 3
# threads. tests/ops/test_machines.py has batches that are large enough for threads to share them.
set -euo pipefail
cd "$(dirname "$0")/../tests"

one_processor="import os, pytest, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
sys.exit(pytest.main(sys.argv[1:]))"

tests=(--quiet -p no:cacheprovider -k "not lax" losses/test_values.py losses/test_gradients.py ops/test_lattice.py)
python -c "$one_processor" "${tests[@]}" &
runs=($!)
for threads in 1 3; do
  NPROC=$threads python -m pytest "${tests[@]}" &  # XLA reads NPROC before it counts processors
  runs+=($!)
done
for run in "${runs[@]}"; do wait "$run"; done

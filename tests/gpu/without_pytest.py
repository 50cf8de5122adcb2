"""Runs test_gpu.py where pytest is not installed. It replaces the parts of pytest that test_gpu.py uses."""

import inspect
import itertools
import pathlib
import sys
import traceback
import types

import jax  # noqa: F401  (before the replacement, because modules of jax look for the real pytest)


def parametrize(names, values):
    def mark(function):
        of_function = [dict(zip([n.strip() for n in names.split(",")], v if "," in names else (v,))) for v in values]  # noqa: B905
        function.cases = [{**a, **b} for a, b in itertools.product(getattr(function, "cases", [{}]), of_function)]
        return function

    return mark


def main() -> int:
    pytest = types.ModuleType("pytest")
    pytest.mark = types.SimpleNamespace(parametrize=parametrize, skipif=lambda condition, reason: (condition, reason))
    sys.modules["pytest"] = pytest
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import test_gpu

    for condition, reason in test_gpu.pytestmark:
        if condition:
            print(f"skipped: {reason}")
            return 1
    failed = passed = 0
    for name, function in inspect.getmembers(test_gpu, inspect.isfunction):
        for case in getattr(function, "cases", [{}]) if name.startswith("test_") else ():
            try:
                function(**case)
                passed += 1
            except Exception:
                failed += 1
                print(f"FAILED {name} {case}")
                traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

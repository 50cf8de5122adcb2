"""The compiled programs of TDT and HAT: the layout of their rows costs no copy of the logits."""

import math
import re

import jax
import jax.numpy as jnp
import losses
import pytest
from losses import LossUnderTest

from jax_rnnt.xla import native

SHAPE = 2, 24, 9, 1024
NODES = math.prod(SHAPE[:-1])
ROWS = [loss for loss in (*losses.LOSSES, *losses.VARIANTS) if loss.name in ("tdt", "hat", "hat_blank_first")]


@pytest.fixture(autouse=True)
def kernels() -> None:
    if not native.native_available():
        pytest.skip("the compiled module is not usable")


@pytest.mark.parametrize("loss", ROWS, ids=lambda loss: loss.name)
def test_nothing_but_the_gradient_has_the_size_of_the_logits(loss: LossUnderTest) -> None:
    kinds = [(SHAPE, "float32"), ((SHAPE[0], SHAPE[2] - 1), "int32"), ((SHAPE[0],), "int32"), ((SHAPE[0],), "int32")]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.dtype(kind)) for shape, kind in kinds]

    def total(*arrays):
        return loss.costs(*arrays, reduction="sum", implementation="native")

    compiled = jax.jit(jax.value_and_grad(total)).lower(*arrays).compile()
    large = set()
    for dimensions, operation in re.findall(r"= f\d+\[([\d,]+)\]\S* ([\w-]+)\(", compiled.as_text()):
        size = math.prod(int(d) for d in dimensions.split(","))
        if size >= NODES * (SHAPE[-1] - 16):  # TDT's tokens and HAT's labels are a little less than a row
            large.add(operation)
    assert large <= {"parameter", "get-tuple-element", "custom-call", "bitcast"}
    assert large & {"parameter"}
    numbers = len(loss.oracle.moves) + loss.entries + 2
    assert compiled.memory_analysis().temp_size_in_bytes <= 8 * numbers * NODES

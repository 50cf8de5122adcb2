"""What a loss says where the vocabulary cannot be divided as the caller asks. Derivatives: losses/test_refusals.py."""

import functools

import jax
import losses
import meshes
import pytest
from meshes import V


def _mesh():
    return meshes.make_mesh(data=2, model=4)


def test_unknown_axis_is_named() -> None:
    call = functools.partial(meshes.total(losses.QUICK), *meshes.batch(), vocab_axis_name="vocabulary")
    with pytest.raises(ValueError, match=r"'vocabulary'.*shard_map.*set_mesh"):
        call()
    with jax.set_mesh(_mesh()), pytest.raises(ValueError, match=r"'vocabulary'.*\('data', 'model'\)"):
        jax.jit(lambda: call())()


def test_vocabulary_that_does_not_divide_is_said() -> None:
    mesh = meshes.make_mesh(data=1, model=8)
    logits, *rest = meshes.batch()
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="V = 23, and the mesh has 8 devices"):
        jax.jit(functools.partial(meshes.total(losses.QUICK), vocab_axis_name="model"))(logits[..., :-1], *rest)


def test_blank_outside_the_whole_vocabulary_is_said() -> None:
    """The valid range is that of the whole vocabulary, not of one device's part."""
    call = functools.partial(meshes.total(losses.QUICK), *meshes.batch(), blank=V, vocab_axis_name="model")
    with jax.set_mesh(_mesh()), pytest.raises(ValueError, match=rf"`blank`.*{V}"):
        call()

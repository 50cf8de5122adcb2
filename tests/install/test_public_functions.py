"""Every public function of arrays gives the same however it runs: mapped, and on every mesh.

Without jit test_compilations.py calls many of them, and docstrings the others.

To add a public function, add a row to FUNCTIONS, or its name to OTHERS if it does not compute with arrays of a batch.
"""

import functools
import inspect
import typing

import decoding_support as support
import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from cases import random_batch
from fusions import fusions
from jax.sharding import AxisType
from losses import jit
from meshes import P

import jax_rnnt
from jax_rnnt import alignment, decoding

pytestmark = pytest.mark.once

B, T, U, V = 8, 3, 2, 4
QUICK = {"implementation": losses.QUICK}
RNNT = jax_rnnt.RNNTLoss(blank=0, **QUICK)
DECODED = jax_rnnt.RNNTLoss(blank=0), support.predictor, lambda params, encoded, predicted: encoded + predicted
OTHERS = {
    *("AdditiveLogits", "HATLoss", "JointLogits", "Loss", "MonotonicRNNTLoss", "MultiblankRNNTLoss"),
    *("RNNTLoss", "TDTLoss", "BestPath", "Lattice", "DecoderState", "Fusion", "Hypotheses"),  # classes
    *("NgramLM", "PhraseBoost", "Word"),
    *("alignment", "decoding", "__version__", "build_info", "ffi_targets"),
    *("check_inputs", "debug_inputs", "plot_alignment", "plot_lattice", "words", "ctm"),  # on the host
    "additive_joint",  # makes a network
}


def of_loss(call, **options):
    return lambda params, logits, targets, *lengths: call(
        logits, targets, *lengths, reduction="none", **({"blank": 0} | QUICK | options)
    )


def of_arcs(call, **options):
    return lambda params, logits, targets, *lengths: call(logits[..., :2], *lengths, **options)


def of_nodes(params, logits, targets, t_b, u_b):
    return jax_rnnt.node_labels(targets, t_b, u_b, logits.shape, (0,)).labels


def of_two_models(call):
    return lambda params, logits, *batch: call(RNNT, logits, 2 * logits, *batch, reduction="none")


def of_packed(params, logits, targets, t_b, u_b):
    """The rows of a device depend on the others there, but the costs do not."""
    rows, lookups = jax_rnnt.PackedLogits.pack(logits[:, :, 0], logits[:, 0], t_b, u_b, logits.shape[0] * T * (U + 1))
    source = jax_rnnt.PackedLogits(rows + lookups, t_b, u_b, num_frames=T, num_labels=U)
    return jax_rnnt.rnnt_loss(source, targets, t_b, u_b, blank=0, reduction="none", **QUICK)


def of_pruned(params, logits, targets, t_b, u_b):
    ranges = jax_rnnt.PrunedLogits.best_ranges(jnp.abs(logits[..., :2]), t_b, u_b, 2)
    return jax_rnnt.PrunedLogits.prune(logits[:, :, 0], logits[:, 0], ranges, 2)


def of_decoder(call, **options):
    """With fusions and confidence. It runs the decoder of the same name."""

    def decode(params, logits, targets, t_b, u_b):
        more = {"labels_per_frame": 2, "fusion": fusions(V, t_b % 2), "confidence": True} | options
        return call(*DECODED, params, 0 * t_b, logits[:, :, 0], t_b, **more)

    return decode


def of_distance(params, logits, targets, t_b, u_b):
    return decoding.edit_distance(jnp.argmax(logits[:, :, 0], axis=-1), targets, t_b, u_b)


GREEDY = of_decoder(decoding.greedy_decode)
BEAM = of_decoder(decoding.beam_decode, beam=2)
FUNCTIONS = {
    "rnnt_loss": of_loss(jax_rnnt.rnnt_loss),
    "monotonic_rnnt_loss": of_loss(jax_rnnt.monotonic_rnnt_loss),
    "multiblank_rnnt_loss": of_loss(jax_rnnt.multiblank_rnnt_loss, big_blanks=(1,), durations=(2,)),
    "tdt_loss": of_loss(jax_rnnt.tdt_loss, durations=(1,)),
    "hat_loss": of_loss(jax_rnnt.hat_loss),
    "distillation_loss": of_two_models(jax_rnnt.distillation_loss),
    "consistency_loss": of_two_models(jax_rnnt.consistency_loss),
    "arc_log_probs": lambda params, logits, *_: jax_rnnt.arc_log_probs(
        logits, jnp.argmax(logits, axis=-1).astype(jnp.int32), (0,), **QUICK
    ),
    "node_labels": of_nodes,
    "lattice_cost": of_arcs(jax_rnnt.lattice_cost, **QUICK),
    "lattice_posteriors": of_arcs(jax_rnnt.lattice_posteriors, **QUICK),
    "lattice_best_path": of_arcs(alignment.lattice_best_path, **QUICK),
    "PackedLogits": of_packed,
    "PrunedLogits": of_pruned,
    "lengths_from_paddings": lambda params, logits, targets, t_b, u_b: jax_rnnt.lengths_from_paddings(
        (jnp.arange(T, dtype=jnp.int32)[None] >= t_b[:, None]).astype(jnp.float32)
    ),
    "best_alignment": lambda params, *batch: alignment.best_alignment(RNNT, *batch),
    "loss_lattice": lambda params, *batch: alignment.loss_lattice(RNNT, *batch).arcs,
    "emission_times": lambda params, logits, *_: alignment.emission_times(jnp.abs(logits[..., :2])),
    "expected_delay": lambda params, logits, targets, *_: alignment.expected_delay(logits[:, 0, :2, 0], targets),
    "alignment_entropy": lambda params, logits, *_: alignment.alignment_entropy(jax.nn.sigmoid(logits[..., :2])),
    "greedy_decode": GREEDY,
    "GreedyDecoder": GREEDY,
    "beam_decode": BEAM,
    "BeamDecoder": BEAM,
    "edit_distance": of_distance,
    "mwer_loss": lambda params, logits, targets, *_: decoding.mwer_loss(
        logits[:, 0, :2, 0], targets, where=targets > 1, reduction="none"
    ),
}


def test_every_public_name_is_in_the_table():
    public = {*jax_rnnt.__all__, *alignment.__all__, *decoding.__all__}
    assert public == FUNCTIONS.keys() | OTHERS
    assert not FUNCTIONS.keys() & OTHERS


def test_signatures_are_short():
    """``help`` and an editor show a type by its name, such as ArrayLike, and not by the union that it stands for."""
    for module in (jax_rnnt, alignment, decoding):
        for name in module.__all__:
            if callable(getattr(module, name)):
                signature = str(inspect.signature(getattr(module, name)))
                assert not [long for long in ("Union[", "Literal[", "jaxlib", "collections") if long in signature], name


def test_implementation_is_one_of_its_names():
    operations = jax_rnnt.arc_log_probs, jax_rnnt.lattice_cost, jax_rnnt.lattice_posteriors, alignment.lattice_best_path
    for operation in (jax_rnnt.RNNTLoss, *operations):
        names = typing.get_type_hints(operation)["implementation"]
        assert names == typing.Literal["native", "lax", "pallas"] | None


@functools.cache
def arrays():
    logits, targets = random_batch("public", B, T, U, V, 0)
    t_b, u_b = np.array([3, 3, 2, 3, 3, 2, 3, 3], np.int32), np.array([2, 1, 1, 0, 2, 2, 1, 2], np.int32)
    return np.random.default_rng(0).normal(size=(support.STATES, V)), logits, np.maximum(targets, 2), t_b, u_b


def mapped(function, mesh):
    return jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), *(P("data"),) * 4), out_specs=P("data")))


def placed(mesh):
    params, *batch = arrays()
    return meshes.put(mesh, params), *(meshes.put(mesh, x, "data") for x in batch)


def one_by_one(function):
    of_one = jax.vmap(function, (None, 0, 0, 0, 0))
    params, *batch = arrays()
    return jax.tree.map(lambda x: x[:, 0], jit(of_one)(params, *(x[:, None] for x in batch)))


def on_mesh(kind, function):
    mesh = meshes.make_mesh(kind, data=4, model=2)
    with jax.set_mesh(mesh):
        return jit(function)(*placed(mesh))


WAYS = {
    "vmap": one_by_one,
    "shard_map": lambda function: mapped(function, meshes.make_mesh(data=8))(*arrays()),
    "automatic": functools.partial(on_mesh, AxisType.Auto),
    "explicit": functools.partial(on_mesh, AxisType.Explicit),
}
REFUSALS = {("PackedLogits", "explicit"): "each device packs its own utterances"}
ALONE = {function: name for name, function in reversed(FUNCTIONS.items())}  # some names share a program


@pytest.mark.full(way="automatic", name=["beam_decode", "greedy_decode"])
@pytest.mark.full(way=["shard_map", "vmap"], name="beam_decode")
@pytest.mark.full(way="explicit", name="greedy_decode")
@pytest.mark.full(
    way=["automatic", "vmap", "shard_map"], name=[name for name in jax_rnnt.__all__ if name.endswith("_loss")]
)
@pytest.mark.full(way=["automatic", "vmap", "shard_map"], name=["arc_log_probs", "lattice_cost", "lattice_posteriors"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ALONE.values())
def test_public_functions_run_in_every_way(name, way):
    if (name, way) in REFUSALS:
        with pytest.raises(TypeError, match=REFUSALS[name, way]):
            WAYS[way](FUNCTIONS[name])
        return
    wanted, found = on_one_device(name), WAYS[way](FUNCTIONS[name])
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-10, atol=1e-12)


@functools.cache
def on_one_device(name):
    return jit(FUNCTIONS[name])(*arrays())

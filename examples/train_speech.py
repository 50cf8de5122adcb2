"""Trains a transducer on speech: `python examples/train_speech.py`.

By default on spoken digits that espeak-ng synthesises on the spot, evaluated on voices that the training never heard;
with `--data DIR` on a LibriSpeech-style folder. Writes checkpoints, metrics.json, picture.png and, in heldout.ctm, the
words that it recognised with their times and confidences, to `--out`.

`--joint` says whether the logits of all nodes are made at once (dense), a tile of nodes at a time (fused), or those of
the nodes that are not padding (packed). It recognises by the loss that it trained with.

`--devices 8` divides each batch over 8 devices (on a CPU it makes them), `--devices 8 --mesh data=4,model=2` the
vocabulary of the joint network over 2 of them as well. The losses are those of one device.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from rich.console import Console
from rich.progress import track
from speech_data import SAMPLE_RATE, Arrays, Batches, Utterance, hold_out_speakers, read_corpus
from speech_digits import synthesise
from speech_loss import JOINTS, LOSSES, SHORTEST, Objective, batch_loss, choose
from speech_mesh import parse_mesh, sharding, use_devices
from speech_model import Sizes, Transducer
from speech_problems import Problems, UserError, console, write_whole
from speech_report import draw, word_error_rate

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs a traceback of each error that it also raises
LOG_EVERY = 10  # steps between looks at the loss: a look waits for the device


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if int(text) > 0:
            return int(text)
        raise ValueError  # argparse says which option and what it got

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def option(name: str, default: Any, text: str, type: Any = positive, shown: str = "%(default)s", **more: Any):
        parser.add_argument(name, default=default, help=f"{text} (default: {shown})", type=type, **more)

    option("--data", None, "LibriSpeech-style folder to train on", Path, "synthesised digits")
    option("--heldout-data", None, "folder to evaluate on", Path, "a tenth of the speakers of --data")
    option("--out", Path("runs/digits"), "folder for everything that is written", Path)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    option("--seed", 0, "of all that is drawn", int)
    option("--steps", 400, "of training, with those before --resume, which may train longer")
    option("--batch-size", 32, "utterances, on all devices together")
    option("--devices", None, "to divide the work over", shown="the product of --mesh")
    axes = "data=N (each batch), model=N (the vocabulary), or both, as data=4,model=2"
    option("--mesh", "model=1", f"what the devices divide: {axes}", str, metavar="AXES")
    frames = "monotonic has frames of half the length, since it emits at most one character per frame"
    option("--loss", "rnnt", f"pruned: a simple loss says on which nodes rnnt works; {frames}", str, choices=LOSSES)
    option("--joint", "dense", "see above", str, choices=JOINTS)
    option("--learning-rate", 2e-3, "the highest of its schedule", float)
    option("--width", Sizes().width, f"of the conformer; a multiple of {Sizes().heads}")
    option("--layers", Sizes().layers, "of the conformer")
    option("--buckets", 3, "padded shapes; each is compiled once")
    option("--max-seconds", 20, "longer utterances are skipped")
    option("--train-utterances", 3000, "of synthesised digits")
    option("--heldout-utterances", 240, "of synthesised digits")
    option("--evaluate-every", 100, "steps")
    option("--checkpoint-every", 100, "steps")
    args = parser.parse_args(argv)
    args.warmup = min(100, args.steps // 5)
    return args


def load_data(args: argparse.Namespace, objective: Objective, problems: Problems) -> dict[str, list[Utterance]]:
    data, heldout_data = args.data, args.heldout_data
    if data is None:
        folder = args.out / f"digits-{args.train_utterances}-{args.heldout_utterances}-seed{args.seed}"
        data, heldout_data = synthesise(folder, args.train_utterances, args.heldout_utterances, args.seed)
    samples = range(SHORTEST, args.max_seconds * SAMPLE_RATE + 1)
    training = read_corpus(data, samples, problems)
    if heldout_data is None:
        training, heldout = hold_out_speakers(training, args.seed)
    else:
        heldout = read_corpus(heldout_data, samples, problems)
    possible = []
    for utterance in training:
        labels, frames = len(utterance.text), objective.frames(utterance.samples)
        if labels <= objective.most_labels * frames:
            possible.append(utterance)
        else:  # it has no path, and would cost +inf
            problems.skip(utterance.path, "too fast", f"{labels} characters in {frames} frames")
    if not possible:
        raise UserError(f"{data}: every utterance has more characters than --loss {args.loss} can emit in its frames")
    return {"training": possible, "heldout": heldout}


def make_model(args: argparse.Namespace, objective: Objective) -> tuple[Transducer, nnx.Optimizer]:
    model = Transducer(Sizes(width=args.width, layers=args.layers), nnx.Rngs(args.seed), objective)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, args.warmup, decay_steps=args.steps)
    rule = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-3))
    return model, nnx.Optimizer(model, rule, wrt=nnx.Param)


@functools.partial(nnx.jit, static_argnames="nodes")
def train_step(model: Transducer, optimizer: nnx.Optimizer, arrays: Arrays, key, warmth, nodes=None) -> jax.Array:
    of_weights = functools.partial(batch_loss, nodes=nodes, warmth=warmth)
    loss, gradients = nnx.value_and_grad(of_weights)(model, arrays, nnx.Rngs(dropout=key))
    optimizer.update(model, gradients)
    return loss


def most_nodes(bucket: Sequence[Utterance], size: int, objective: Objective) -> int:
    """The most nodes that the lattices of a batch of so many utterances have."""
    return sum(sorted(objective.frames(u.samples) * (len(u.text) + 1) for u in bucket)[-size:])


def train(
    args: argparse.Namespace, model: Transducer, optimizer: nnx.Optimizer, batches: Batches, done: int
) -> Iterator[tuple[int, jax.Array, list[Utterance]]]:
    """Runs the steps that are left: yields number, loss and utterances of each step."""
    key, objective = jax.random.key(args.seed), model.objective
    for step, batch in zip(range(done + 1, args.steps + 1), batches.training(args.seed, done), strict=False):
        # The key of a step depends on its number alone, so a resumed run draws the same numbers as an unbroken one.
        step_key, warmth = jax.random.fold_in(key, step), np.float32(min(1, step / max(1, args.warmup)))
        nodes = most_nodes(batch.bucket, batches.size, objective) if objective.joint == "packed" else None
        yield step, train_step(model, optimizer, batch.arrays, step_key, warmth, nodes=nodes), batch.utterances


def check_losses(window: Sequence[tuple[int, jax.Array, list[Utterance]]]) -> list[float]:
    """The losses of some steps as numbers; one that is not finite is an error that names the batch."""
    for step, loss, utterances in window:
        if not np.isfinite(loss):
            paths = ", ".join(str(utterance.path) for utterance in utterances)
            raise UserError(f"the loss of step {step} is {loss}; --resume continues before it. Its batch: {paths}")
    return [float(loss) for _, loss, _ in window]


@contextlib.contextmanager
def _sentence(text: str) -> Iterator[None]:
    """Of any error: what orbax raises depends on the file and on what is wrong with it."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{text}: {str(error).rsplit(': ', 1)[-1].split(' [')[0]}") from error


def open_checkpoints(folder: Path) -> ocp.CheckpointManager:
    """The newest two checkpoints of a run. `save` waits until its file is written, so an error belongs to its step."""
    folder.mkdir(exist_ok=True)  # orbax would take a file of this name until it writes
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def save(manager: ocp.CheckpointManager, modules: Any, settings: dict, history: dict, step: int) -> None:
    run = ocp.args.JsonSave({"settings": settings, "history": history})
    unwritten = f"{manager.directory}: step {step} can't be written; --resume continues after {manager.latest_step()}"
    with _sentence(unwritten):
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(nnx.state(modules)), run=run))


def restore(manager: ocp.CheckpointManager, modules: Any, settings: dict) -> dict:
    """Puts the newest checkpoint into `modules` and returns its history. Of the settings, "steps" may have grown."""
    step = manager.latest_step()
    if step is None:
        raise UserError(f"{manager.directory}: no checkpoint to resume from")
    unreadable = f"{manager.directory / str(step)} can't be read; without this folder --resume takes the one before it"
    with _sentence(unreadable):
        run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    for name, new in settings.items():
        old = run["settings"].get(name)
        if old != new and not (name == "steps" and old < new):
            raise UserError(f"{manager.directory} can't be continued: its {name} was {old!r} and is {new!r}")
    abstract = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.state(modules)))
    with _sentence(unreadable):
        nnx.update(modules, manager.restore(step, args=ocp.args.Composite(state=abstract))["state"])
    return run["history"]


def run(args: argparse.Namespace, objective: Objective, axes: dict[str, int]) -> None:
    started = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    with open_checkpoints(args.out / "checkpoints") as manager:
        if manager.latest_step() is not None and not args.resume:
            raise UserError(f"{manager.directory} is of an earlier run: give --resume to continue it, or another --out")
        problems = Problems(args.out / "skipped.txt")
        data = load_data(args, objective, problems)
        voices = {name: {utterance.speaker for utterance in part} for name, part in data.items()}
        for name, part in data.items():
            seconds = sum(utterance.samples for utterance in part) / SAMPLE_RATE
            console.print(f"{name}: {len(part)} utterances, {len(voices[name])} voices, {seconds:.0f} s of audio")
        if both := sorted(set.intersection(*voices.values())):
            console.print(f"note: {len(both)} voices are in both: {', '.join(both[:5])}")
        training, heldout = (Batches(part, args.buckets, args.batch_size, problems) for part in data.values())

        model, _ = modules = make_model(args, objective)
        nnx.update(modules, jax.device_put(nnx.state(modules), sharding()))
        names = "seed", "steps", "batch_size", "learning_rate", "width", "layers", "buckets", "loss"
        settings = {name: getattr(args, name) for name in names}
        texts = "\n".join(f"{u.id} {u.samples} {u.text}" for u in data["training"])
        settings["training data"] = hashlib.sha256(texts.encode()).hexdigest()
        history: dict[str, list] = {"losses": [], "error_rates": []}
        if args.resume:
            history = restore(manager, modules, settings)
            console.print(f"resumed after step {len(history['losses'])}")

        window, done = [], len(history["losses"])
        for step, *one in track(train(args, *modules, training, done), "training", args.steps - done, console=console):
            window.append((step, *one))
            every = LOG_EVERY, args.evaluate_every, args.checkpoint_every
            look, evaluate, checkpoint = (step % interval == 0 or step == args.steps for interval in every)
            if look or evaluate or checkpoint:
                history["losses"] += check_losses(window)
                window.clear()
            if evaluate:
                loss = np.mean(history["losses"][-LOG_EVERY:])
                rate = word_error_rate(model, heldout, args.out / "heldout.ctm")
                history["error_rates"].append((step, rate))
                console.print(f"step {step}: loss {loss:.3f}, WER on held-out voices {rate:.2%}")
            if checkpoint:
                save(manager, modules, settings, history, step)

    draw(args.out / "picture.png", history, model, heldout)
    metrics = history | {
        "wer": history["error_rates"][-1][1],
        "seconds": time.perf_counter() - started,
        "utterances": {name: len(part) for name, part in data.items()},
        "skipped": Counter(problems.kinds.values()),
        "settings": settings | {"joint": args.joint, "mesh": axes},
    }
    write_whole(args.out / "metrics.json", lambda file: file.write_text(json.dumps(metrics, indent=1)))
    done = f"{args.steps} steps and {metrics['seconds']:.0f} s; skipped: {problems}; results are in {args.out}"
    console.print(f"WER {metrics['wer']:.2%} on held-out voices after {done}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        if args.width % Sizes().heads:
            raise UserError(
                f"--width is {args.width}; it needs to be a multiple of the {Sizes().heads} attention heads"
            )
        if args.heldout_data and not args.data:
            raise UserError("--heldout-data needs --data: synthesised digits have held-out voices of their own")
        axes = parse_mesh(args.mesh, args.devices)
        objective = choose(args.loss, args.joint, axes)
        with use_devices(axes):
            run(args, objective, axes)
    except (UserError, OSError) as error:
        # Reading turns its own OSErrors into problems, so what arrives here is about --out.
        sentence = f"{error.filename or args.out}: {error.strerror or error}" if isinstance(error, OSError) else error
        Console(stderr=True, markup=False, soft_wrap=True).print(f"error: {sentence}", style="red")
        return 2
    except KeyboardInterrupt:
        sys.exit("interrupted: --resume continues from the newest checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())

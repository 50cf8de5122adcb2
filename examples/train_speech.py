"""Trains a transducer on speech: `python examples/train_speech.py`.

By default on spoken digits that espeak-ng synthesises on the spot, evaluated on voices that the training never heard;
with `--data DIR` on a LibriSpeech-style folder. Writes checkpoints, metrics.json, picture.png and, in heldout.ctm, the
words that it recognised with their times, to `--out`.

`--loss` chooses one of the library's losses, `--joint` whether the logits of all nodes are made at once (dense), a tile
of nodes at a time (fused), or those of the nodes that are not padding (packed). It recognises by what it trained with.

`--devices 8` divides each batch over 8 devices (on a CPU it makes them), `--devices 8 --mesh data=4,model=2` the
vocabulary of the joint network over 2 of them as well. The losses are those of one device.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    import jax
    import jiwer
    import numpy as np
    import optax
    from flax import nnx
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from speech_alignment import accuracy, align, word_start_errors
    from speech_batches import Arrays, Batches, Bucket, make_buckets, on_device
    from speech_checkpoints import Checkpoints
    from speech_corpus import Utterance, ctm_lines, hold_out_speakers, read_corpus, word_starts
    from speech_decode import recognise
    from speech_features import SAMPLE_RATE
    from speech_loss import batch_loss
    from speech_mesh import DATA, parse_mesh, replicate, use_devices
    from speech_model import SHORTEST, Sizes, Transducer, encoder_frames
    from speech_objective import JOINTS, LOSSES, Objective
    from speech_problems import Problem, ProblemLog, UserError, whole_file
    from speech_report import draw
    from speech_synth import synthesise
except ModuleNotFoundError as missing:
    sys.exit(f'train_speech.py needs {missing.name}: pip install ".[examples]" in the folder of the source')

LOG_EVERY = 10  # steps between looks at the loss: a look waits for the device


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="LibriSpeech-style folder to train on (default: synthesised digits)")
    parser.add_argument(
        "--heldout-data", type=Path, help="folder to evaluate on (default: a tenth of --data's speakers)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder for everything that is written")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=positive, default=400)
    parser.add_argument("--batch-size", type=positive, default=32, help="utterances, on all devices together")
    parser.add_argument("--devices", type=positive, help="to divide the work over (default: the product of --mesh)")
    parser.add_argument(
        "--mesh",
        default=DATA,
        metavar="AXES",
        help="what the devices divide: data (each batch), model (the vocabulary), or both, as data,model or"
        " data=4,model=2; an axis without a number gets the devices that are left (default: %(default)s)",
    )
    parser.add_argument(
        "--loss",
        choices=LOSSES,
        default="rnnt",
        help="pruned: a simple loss says on which nodes rnnt works; monotonic has frames of half the length, since it"
        " emits at most one character a frame (default: %(default)s)",
    )
    parser.add_argument("--joint", choices=JOINTS, default="dense", help="see above (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--width", type=positive, default=Sizes.width, help="of the conformer; a multiple of its heads")
    parser.add_argument("--layers", type=positive, default=Sizes.layers)
    parser.add_argument("--buckets", type=positive, default=3, help="padded shapes; each is compiled once")
    parser.add_argument("--max-seconds", type=positive, default=20, help="longer utterances are skipped")
    parser.add_argument("--train-utterances", type=positive, default=3000, help="of synthesised digits")
    parser.add_argument("--heldout-utterances", type=positive, default=240, help="of synthesised digits")
    parser.add_argument("--evaluate-every", type=positive, default=100, help="steps")
    parser.add_argument("--checkpoint-every", type=positive, default=100, help="steps")
    return parser.parse_args(argv)


class Data(NamedTuple):
    training: list[Utterance]
    heldout: list[Utterance]
    heldout_word_starts: dict[str, list[float]]  # the true ones, in seconds, by utterance, as far as they are known


def load_data(args: argparse.Namespace, objective: Objective, report: ProblemLog) -> Data:
    """Utterances without a path are left out of the training, where they cost +inf."""
    data, heldout_data = args.data, args.heldout_data
    if data is None:
        name = f"digits-{args.train_utterances}-{args.heldout_utterances}-seed{args.seed}"
        data, heldout_data = synthesise(args.out / name, args.train_utterances, args.heldout_utterances, args.seed)
    samples = range(SHORTEST, args.max_seconds * SAMPLE_RATE + 1)
    training = read_corpus(data, samples, report)
    if heldout_data is None:
        training, heldout = hold_out_speakers(training, args.seed)
    else:
        heldout = read_corpus(heldout_data, samples, report)
    possible = []
    for utterance in training:
        frames = encoder_frames(utterance.samples, objective.stack)
        if len(utterance.text) <= objective.most_labels(frames):
            possible.append(utterance)
        else:
            report(Problem(utterance.path, "too fast", f"{len(utterance.text)} characters in {frames} frames"))
    if not possible:
        raise UserError(f"{data}: every utterance has more characters than --loss {args.loss} can emit in its frames")
    return Data(possible, heldout, word_starts(heldout_data or data))


def warmup_steps(args: argparse.Namespace) -> int:
    return min(100, args.steps // 5)


def make_optimizer(model: Transducer, args: argparse.Namespace) -> nnx.Optimizer:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, args.learning_rate, warmup_steps=warmup_steps(args), decay_steps=args.steps
    )
    return nnx.Optimizer(
        model, optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-3)), wrt=nnx.Param
    )


@functools.partial(nnx.jit, static_argnames="nodes")
def train_step(
    model: Transducer,
    optimizer: nnx.Optimizer,
    arrays: Arrays[jax.Array],
    key: jax.Array,
    warmth: jax.Array,
    nodes: int | None,
) -> jax.Array:
    loss, gradients = nnx.value_and_grad(functools.partial(batch_loss, nodes=nodes, warmth=warmth))(
        model, arrays, nnx.Rngs(dropout=key)
    )
    optimizer.update(model, gradients)
    return loss


def word_error_rate(model: Transducer, batches: Batches, ctm: Path) -> float:
    """Writes what was recognised to `ctm`."""
    found = [one for batch in batches.once() for one in recognise(model, batch)]
    if not found:
        raise UserError("no held-out utterance could be read: see the problems above")
    with whole_file(ctm) as unfinished:
        unfinished.write_text("".join(line for one in found for line in ctm_lines(one.utterance.id, one.words)))
    return jiwer.wer([one.utterance.text for one in found], [one.text for one in found])


def most_nodes(bucket: Bucket, size: int, stack: int) -> int:
    """Nodes of the lattices of any batch of so many utterances."""
    nodes = (encoder_frames(utterance.samples, stack) * (len(utterance.text) + 1) for utterance in bucket.utterances)
    return sum(sorted(nodes)[-size:])


def check_losses(window: list[tuple[jax.Array, list[Utterance]]], first_step: int) -> list[float]:
    """The losses of some steps as numbers; one that is not finite is an error that names the batch."""
    losses = [float(loss) for loss, _ in window]
    for step, (loss, (_, utterances)) in enumerate(zip(losses, window, strict=True), first_step):
        if not np.isfinite(loss):
            paths = ", ".join(str(utterance.path) for utterance in utterances)
            raise UserError(f"the loss of step {step} is {loss}; --resume continues before it. Its batch: {paths}")
    return losses


def train(
    args: argparse.Namespace,
    model: Transducer,
    optimizer: nnx.Optimizer,
    training: Batches,
    heldout: Batches,
    history: dict[str, Any],
    save: Callable[[int], None],
    console: Console,
) -> None:
    """Steps from where `history` ends to `args.steps`, and appends to it."""
    key = jax.random.key(args.seed)
    done = len(history["losses"])
    latest = history["losses"][-1] if done else float("nan")
    window: list[tuple[jax.Array, list[Utterance]]] = []
    objective = model.objective
    packed = training.buckets if objective.joint == "packed" else ()
    nodes = {bucket: most_nodes(bucket, training.size, objective.stack) for bucket in packed}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:.0f} utterances/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=args.steps, completed=done, loss=latest, rate=0.0)
        clock = time.perf_counter()
        for step, batch in zip(range(done + 1, args.steps + 1), training.training(args.seed, done), strict=False):
            # The key of a step depends on its number alone, so that a resumed run draws what it would have drawn.
            step_key, warmth = jax.random.fold_in(key, step), np.float32(min(1, step / max(1, warmup_steps(args))))
            loss = train_step(
                model, optimizer, on_device(batch.arrays), step_key, warmth, nodes=nodes.get(batch.bucket)
            )
            window.append((loss, batch.utterances))
            evaluate = step % args.evaluate_every == 0 or step == args.steps
            checkpoint = step % args.checkpoint_every == 0 or step == args.steps
            if not (evaluate or checkpoint or step % LOG_EVERY == 0):
                continue
            losses = check_losses(window, step + 1 - len(window))
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            utterances = sum(len(members) for _, members in window)
            history["losses"] += losses
            history["utterances"] += utterances
            history["seconds"] += seconds
            window.clear()
            progress.update(task, completed=step, loss=np.mean(losses), rate=utterances / seconds)
            if evaluate:
                history["error_rates"].append((step, word_error_rate(model, heldout, args.out / "heldout.ctm")))
                rate = history["error_rates"][-1][1]
                console.print(f"step {step}: loss {np.mean(losses):.3f}, WER on held-out voices {rate:.2%}")
            if checkpoint:
                save(step)
            clock = time.perf_counter()


def draw_picture(
    args: argparse.Namespace, model: Transducer, heldout: Batches, history: dict[str, Any], console: Console
) -> None:
    """The picture of the run, with the longest utterance of a middling batch. Prints the words of that one."""
    plan = heldout.plan(seed=None)
    loaded = (heldout.load(bucket, members) for bucket, members in plan[len(plan) // 2 :] + plan[: len(plan) // 2])
    batch = next(batch for batch in loaded if batch.utterances)
    row = max(range(len(batch.utterances)), key=lambda r: batch.arrays.label_lengths[r])
    found = recognise(model, batch)[row]
    timed = "  ".join(f"{word.text} {word.start:.2f}-{word.end:.2f}" for word in found.words)
    console.print(f"{found.utterance.id}, in seconds: {timed}", markup=False, highlight=False, soft_wrap=True)
    alignment = align(model, batch)[row]
    draw(args.out / "picture.png", history["losses"], history["error_rates"], model, alignment, found)


def settings_of(args: argparse.Namespace, training: Sequence[Utterance]) -> dict[str, Any]:
    """What has to be the same when a run is continued."""
    names = ("seed", "steps", "batch_size", "learning_rate", "width", "layers", "buckets", "loss")
    digest = hashlib.sha256("\n".join(f"{u.id} {u.samples} {u.text}" for u in training).encode()).hexdigest()
    return {name: getattr(args, name) for name in names} | {
        "training data": f"{len(training)} utterances, sha256 {digest[:16]}"
    }


def report_alignment(
    model: Transducer, heldout: Batches, starts: dict[str, list[float]], console: Console
) -> dict[str, dict[str, float]]:
    """Prints and returns how near to the truth the aligned words begin, where the truth is known."""
    errors = word_start_errors(model, heldout.once(), starts) if starts else {}
    found = {name: accuracy(of_words) for name, of_words in errors.items() if len(of_words)}
    for name, of in found.items():
        console.print(
            f"word starts by {name}: {of['mean absolute']:.0f} ms off on average, {of['median']:+.0f} in the median;"
            f" {of['within 50 ms']:.0%} within 50 ms, {of['within 100 ms']:.0%} within 100 ms",
            soft_wrap=True,
        )
    return found


def run(args: argparse.Namespace, objective: Objective, axes: dict[str, int], console: Console) -> None:
    started = time.perf_counter()
    if args.width % Sizes.heads:
        raise UserError(f"--width is {args.width}; it needs to be a multiple of {Sizes.heads}, the attention heads")
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(args.out / "checkpoints")
    if checkpoints.latest_step is not None and not args.resume:
        raise UserError(
            f"{checkpoints.folder} holds step {checkpoints.latest_step} of an earlier run:"
            " give --resume to continue it, or another --out"
        )

    problems = ProblemLog(args.out / "skipped.txt", console)
    data = load_data(args, objective, problems)
    parts = data.training, data.heldout
    settings = settings_of(args, data.training)
    voices = [sorted({utterance.speaker for utterance in part}) for part in parts]
    for name, part, speakers in zip(("training", "held out"), parts, voices, strict=True):
        seconds = sum(utterance.samples for utterance in part) / SAMPLE_RATE
        console.print(f"{name}: {len(part)} utterances, {len(speakers)} voices, {seconds:.0f} s of audio")
    if both := set(voices[0]) & set(voices[1]):
        console.print(f"note: {len(both)} voices are in both: {', '.join(sorted(both)[:5])}", markup=False)
    training, heldout = (
        Batches(make_buckets(part, args.buckets), args.batch_size, problems, axes[DATA]) for part in parts
    )
    prepared = time.perf_counter()

    model = Transducer(Sizes(width=args.width, layers=args.layers), nnx.Rngs(args.seed), objective)
    optimizer = make_optimizer(model, args)
    replicate(model, optimizer)
    history: dict[str, Any] = {"losses": [], "error_rates": [], "utterances": 0, "seconds": 0.0}
    with contextlib.closing(checkpoints):
        if args.resume:
            history = checkpoints.restore(model, optimizer, settings)
            console.print(f"resumed after step {len(history['losses'])}")

        def save(step: int) -> None:
            checkpoints.save(step, model, optimizer, settings, history)

        train(args, model, optimizer, training, heldout, history, save, console)
    draw_picture(args, model, heldout, history, console)
    alignment = report_alignment(model, heldout, data.heldout_word_starts, console)

    total = time.perf_counter() - started
    metrics = {
        "wer": history["error_rates"][-1][1],
        "error_rates": history["error_rates"],
        "losses": history["losses"],
        "seconds": {"data": prepared - started, "training": history["seconds"], "total": total},
        "utterances_per_second": history["utterances"] / history["seconds"],
        "utterances": {"training": len(data.training), "heldout": len(data.heldout)},
        "heldout_voices": voices[1],
        "skipped": dict(problems.counts),
        "word starts in ms": alignment,
        "settings": settings,
        "joint": args.joint,
        "mesh": axes,
    }
    with whole_file(args.out / "metrics.json") as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=1))
    console.print(
        f"WER {metrics['wer']:.2%} on held-out voices after {args.steps} steps and {total:.0f} s;"
        f" skipped: {dict(problems.counts) or 'nothing'};"
        f" {', '.join(str(args.out / name) for name in ('picture.png', 'metrics.json', 'heldout.ctm'))}",
        markup=False,
        soft_wrap=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    console = Console()
    try:
        axes = parse_mesh(args.mesh, args.devices)
        objective = Objective(args.loss, args.joint)
        objective.check(args.mesh, axes)
        with use_devices(axes):
            run(args, objective, axes, console)
    except (UserError, OSError) as error:
        # Reading turns its own OSErrors into named problems, so what arrives here is about --out.
        sentence = f"{error.filename or args.out}: {error.strerror or error}" if isinstance(error, OSError) else error
        Console(stderr=True).print(f"error: {sentence}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted: --resume continues from the newest checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

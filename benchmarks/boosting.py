"""Measures what a list of phrases does for names that a model has never seen: `python benchmarks/boosting.py RUN`.

RUN is the `--out` of `examples/train_speech.py` on its synthesised digits. The script goes on training that model on
invented words. Then voices that the training never heard say other invented words, the names, among words of the
training. They are decoded with and without the list of the names. `--steps` is the length of the training.
"""

import argparse
import os
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import optax
from flax import nnx
from word_starts import trained

import speech_data  # isort: skip
import speech_digits  # isort: skip
import speech_loss  # isort: skip
import speech_model  # isort: skip
import speech_problems  # isort: skip
import train_speech  # isort: skip

import jax_rnnt

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
WORDS, NAMES, TRAINING, TEST = 300, 30, 2500, 480
BEAM, BATCH = 8, 24
SCORES = (0.0, 0.5, 1.0, 1.5, 2.0)


def invented(count: int) -> list[str]:
    """Words of two or three syllables, in an order that says nothing."""
    draws, words = random.Random(0), set()
    while len(words) < count:
        syllables = (draws.choice(CONSONANTS) + draws.choice(VOWELS) for _ in range(draws.randint(2, 3)))
        words.add("".join(syllables))
    return draws.sample(sorted(words), count)


def spoken(folder: Path, words: list[str], train: int, held_out: int) -> list[speech_data.Utterance]:
    """Utterances of one or two of `words`, of training voices or of held-out ones."""
    speech_digits.DIGITS = tuple(words)
    roots = speech_digits.synthesise(folder, train, held_out, seed=0)
    problems = speech_problems.Problems(Path(os.devnull))
    samples = range(speech_loss.SHORTEST, 20 * speech_data.SAMPLE_RATE)
    utterances = speech_data.read_corpus(roots[0] if train else roots[1], samples, problems)
    return [utterance for utterance in utterances if len(utterance.text.split()) <= 2]


def batches(utterances: list[speech_data.Utterance]) -> speech_data.Batches:
    return speech_data.Batches(utterances, 1, BATCH, speech_problems.Problems(Path(os.devnull)))


def train(model: speech_model.Transducer, utterances: list[speech_data.Utterance], steps: int) -> None:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 20, decay_steps=steps)
    rule = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-3))
    optimizer, key = nnx.Optimizer(model, rule, wrt=nnx.Param), jax.random.key(0)
    for step, batch in zip(range(steps), batches(utterances).training(0, 0), strict=False):
        loss = train_speech.train_step(model, optimizer, batch.arrays, jax.random.fold_in(key, step), np.float32(1))
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss:.2f}", flush=True)


@nnx.jit
def decode(model, arrays, boost):
    def predictor(model, context, label):
        context = jnp.concatenate([context[:, 1:], label[:, None]], axis=1)
        return context, model.predict(context)

    def joint(model, frame, prediction):
        return model.join(frame, prediction)

    frames, lengths = model.encode(arrays.audio, arrays.samples)
    start = jnp.full((len(frames), speech_model.CONTEXT), speech_data.BLANK, jnp.int32)
    loss = model.objective.loss
    return jax_rnnt.decoding.beam_decode(
        loss, predictor, joint, model, start, frames, lengths, beam=BEAM, fusion=boost, confidence=True
    )


def measure(model, utterances, names: list[str], score: float) -> str:
    """How many of the names and of the other words are recognised, and how often a name is put where none was said."""
    alphabet = speech_data.ALPHABET
    labels = [[alphabet.index(character) for character in name] for name in names]
    boost = jax_rnnt.decoding.PhraseBoost.from_phrases(labels, len(alphabet), score=score)
    said, heard = [], []
    for batch in batches(utterances).once():
        found = decode(model, batch.arrays, boost)
        each = jax_rnnt.decoding.words(found, alphabet, frame_seconds=0.04, separator=" ")
        for utterance, (best, *_) in zip(batch.utterances, each, strict=False):
            said.append(utterance.text)
            heard.append(" ".join(word.text for word in best) or "-")
    compared = jiwer.process_words(said, heard)
    right, total, wrong = {True: 0, False: 0}, {True: 0, False: 0}, 0
    for wanted, got, chunks in zip(compared.references, compared.hypotheses, compared.alignments, strict=True):
        for word in wanted:
            total[word in names] += 1
        wrong += sum(word in names for word in got)
        for chunk in chunks:
            if chunk.type == "equal":
                for word in wanted[chunk.ref_start_idx : chunk.ref_end_idx]:
                    right[word in names] += 1
    return (
        f"score {score}: {right[True]} of {total[True]} names, {right[False]} of {total[False]} other words, "
        f"{wrong - right[True]} names where others were said"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    _, model = trained(args.run)
    words = invented(WORDS + NAMES)
    lexicon, names = words[:WORDS], words[WORDS:]
    train(model, spoken(args.run / "words", lexicon, TRAINING, 0), args.steps)
    test = spoken(args.run / "names", lexicon + names * (WORDS // NAMES), 0, TEST)  # every other word is a name
    for score in SCORES:
        print(measure(model, test, names, score), flush=True)


if __name__ == "__main__":
    main()

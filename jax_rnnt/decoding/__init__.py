"""Decoding with models of any loss, and the training on its errors.

greedy_decode   the most probable arc at every step
beam_decode     the most probable label sequences, with their scores and times
GreedyDecoder   greedy_decode for audio that comes in pieces
BeamDecoder     beam_decode for audio that comes in pieces
Fusion          a language model, or other scores of labels, for a decoder
NgramLM         a fusion with an n-gram model from an ARPA file
PhraseBoost     a fusion that prefers phrases
Hypotheses      what decoders return: labels, lengths, scores, times, durations
DecoderState    what decoders keep between two pieces
words           their words, with times and confidences
Word            one of them
ctm             words as lines of a CTM file
edit_distance   how many labels are wrong
mwer_loss       the expected errors of the best hypotheses, to train on
"""

from jax_rnnt.decoding.beam import BeamDecoder, beam_decode
from jax_rnnt.decoding.edit_distance import edit_distance
from jax_rnnt.decoding.fusion import Fusion
from jax_rnnt.decoding.greedy import GreedyDecoder, greedy_decode
from jax_rnnt.decoding.hypotheses import DecoderState, Hypotheses
from jax_rnnt.decoding.mwer import mwer_loss
from jax_rnnt.decoding.ngram import NgramLM
from jax_rnnt.decoding.phrases import PhraseBoost
from jax_rnnt.decoding.words import Word, ctm, words

__all__ = [
    "BeamDecoder",
    "DecoderState",
    "Fusion",
    "GreedyDecoder",
    "Hypotheses",
    "NgramLM",
    "PhraseBoost",
    "Word",
    "beam_decode",
    "ctm",
    "edit_distance",
    "greedy_decode",
    "mwer_loss",
    "words",
]

"""The listener: a small audio-language model of our own, of Qwen2-Audio's class, that answers questions about scenes.

It is transformers' `Qwen2AudioForConditionalGeneration` and `Qwen2AudioProcessor` as they are, only small and with a
vocabulary of words: what is trained here loads anywhere. The encoder first learns to say of every audio token what is
heard in it, which scenes know, and then goes on doing so while the language model learns to answer.

A second listener hears with a real ear: the encoder of a Whisper model, frozen. Only its adapter and its language
model learn, from timelines that the ear heard once.
"""

from .batches import Batch, audio_tokens, frame_targets, log_mel, make_batch, mask_features, thinned
from .ear import give_ear, hear, hears_timelines, join_ear, make_ear_model, make_ear_processor, save_without_ear
from .ear_training import EarSettings, EarTraining, right_answers
from .evaluate import answers, blind, evaluate, held_out_sets, kinds, silenced
from .examination import Examination, summary
from .forward import answer_logits, encode, encode_windows
from .heard import read_heard, write_heard
from .learning import ListenerTraining, Settings
from .model import make_model, make_processor, prompt

__all__ = [
    "Batch",
    "EarSettings",
    "EarTraining",
    "Examination",
    "ListenerTraining",
    "Settings",
    "answer_logits",
    "answers",
    "audio_tokens",
    "blind",
    "encode",
    "encode_windows",
    "evaluate",
    "frame_targets",
    "give_ear",
    "hear",
    "hears_timelines",
    "held_out_sets",
    "join_ear",
    "kinds",
    "log_mel",
    "make_batch",
    "make_ear_model",
    "make_ear_processor",
    "make_model",
    "make_processor",
    "mask_features",
    "prompt",
    "read_heard",
    "right_answers",
    "save_without_ear",
    "silenced",
    "summary",
    "thinned",
    "write_heard",
]

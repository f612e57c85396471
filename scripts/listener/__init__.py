"""The listener: a small audio-language model of our own, of Qwen2-Audio's class, that answers questions about scenes.

It is transformers' `Qwen2AudioForConditionalGeneration` and `Qwen2AudioProcessor` as they are, only small and with a
vocabulary of words: what is trained here loads anywhere. The encoder first learns to say of every audio token what is
heard in it, which scenes know, and then goes on doing so while the language model learns to answer.
"""

from .batches import Batch, audio_tokens, frame_targets, log_mel, make_batch, mask_features, thinned
from .evaluate import answers, blind, evaluate, silenced
from .forward import answer_logits, encode, encode_windows
from .learning import ListenerTraining, Settings
from .model import make_model, make_processor, prompt

__all__ = [
    "Batch",
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
    "log_mel",
    "make_batch",
    "make_model",
    "make_processor",
    "mask_features",
    "prompt",
    "silenced",
    "thinned",
]

"""The listener: a small audio-language model of our own, of Qwen2-Audio's class, that answers questions about scenes.

It is transformers' `Qwen2AudioForConditionalGeneration` and `Qwen2AudioProcessor` as they are, only small and with a
vocabulary of words: what is trained here loads anywhere. The encoder first learns to say of every audio token what is
heard in it, which scenes know, and then goes on doing so while the language model learns to answer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from ..audio import SAMPLE_RATE
from ..data.scenes import DIGITS, KINDS, MOST_DIGITS, SOUNDS, Recordings, Scene, make_scene

SECONDS = 10
TOKEN_SECONDS = 0.04
"""An audio token: four frames of 10 ms."""

_SPECIAL = ("<|pad|>", "<|eos|>", "<|unk|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
_WORDS = ("which", "digits", ",", "in", "order", "?", "what", "was", "heard", "first", "the", "or", "how", "many")
_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
_IGNORED = -100
_HEARD = list(SOUNDS.values())
_HEADS = (len(DIGITS) + 1, len(_HEARD), MOST_DIGITS + 2, 2)


def prompt(question: str) -> str:
    """What the processor takes as `text` for a question about one clip."""
    return f"<|audio_bos|><|AUDIO|><|audio_eos|> {question}"


def make_processor(mels: int = 64) -> Qwen2AudioProcessor:
    """Words to ids, and 16 kHz clips of up to ten seconds to (mels, 1000) log-mel features."""
    words = dict.fromkeys((*_SPECIAL, *_WORDS, *DIGITS, *_HEARD))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        unk_token="<|unk|>",
        additional_special_tokens=list(_SPECIAL[3:]),
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    extractor = WhisperFeatureExtractor(
        feature_size=mels, chunk_length=SECONDS, sampling_rate=SAMPLE_RATE, return_attention_mask=True
    )
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=_CHAT)


def make_model(
    processor: Qwen2AudioProcessor,
    *,
    width: int = 128,
    audio_heads: int = 4,
    text_heads: int = 4,
    audio_layers: int = 4,
    text_layers: int = 3,
    dropout: float = 0.0,
    seed: int = 0,
) -> Qwen2AudioForConditionalGeneration:
    """An untrained listener.

    width: of both halves. dropout: in the encoder, while it trains.
    """
    tokenizer = processor.tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    # transformers' own 0.02 is for widths in the thousands: at this one it leaves hardly any signal to begin with.
    scale = 0.9 / math.sqrt(width)
    audio = {
        "model_type": "qwen2_audio_encoder",
        "d_model": width,
        "encoder_layers": audio_layers,
        "encoder_attention_heads": audio_heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": processor.feature_extractor.feature_size,
        "max_source_positions": SECONDS * 50,
        "initializer_range": scale,
        "dropout": dropout,
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_heads,
        "num_key_value_heads": text_heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "initializer_range": scale,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        **ids,
    }
    torch.manual_seed(seed)
    config = Qwen2AudioConfig(
        audio_config=audio, text_config=text, audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    )
    model = Qwen2AudioForConditionalGeneration(config)
    _prepare(model.model.audio_tower)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=MOST_DIGITS + 4, **ids)
    return model


@torch.no_grad()
def _prepare(tower: Any) -> None:
    """Have an encoder begin as a dilated convolution: from random weights it needs far longer to hear digits.

    Sinusoids fill the first dimensions only, as many as a head has, and nothing else is written there. A rotation of
    them is a shift in time: queries turned by a head's shift, and keys as they are, attend to what was so many
    positions ago. All but the last layer begin so, with shifts of 1, 3, … positions (20 ms), doubled by each layer. All
    weights are free to become something else.
    """
    size = tower.layers[0].self_attn.head_dim
    rates = torch.exp(-math.log(160) / (size // 2 - 1) * torch.arange(size // 2))
    angles = torch.arange(tower.max_source_positions)[:, None] * rates
    tower.embed_positions.weight.zero_()
    tower.embed_positions.weight[:, :size] = 2 * torch.cat((angles.sin(), angles.cos()), dim=1)
    tower.conv1.weight.mul_(3)
    tower.conv2.weight.mul_(1.5)
    for written in (tower.conv2, *(part for layer in tower.layers for part in (layer.self_attn.out_proj, layer.fc2))):
        written.weight[:size] = 0
    for i, layer in enumerate(tower.layers[:-1]):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.2)
        for head in range(attention.num_heads):
            rows = slice(head * size, (head + 1) * size)
            shift = (2 * head + 1 - attention.num_heads) * 2**i
            attention.k_proj.weight[rows, :size] = 2.5 * torch.eye(size)
            attention.q_proj.weight[rows, :size] = 2.5 * _rotation(rates * shift)


def _rotation(angles: Tensor) -> Tensor:
    """(2n, 2n) that takes the sines and cosines of n angles to those of the angles plus `angles`, (n,)."""
    sin, cos = angles.sin().diag(), angles.cos().diag()
    return torch.cat((torch.cat((cos, sin), dim=1), torch.cat((-sin, cos), dim=1)))


def log_mel(extractor: WhisperFeatureExtractor, waveforms: Sequence[np.ndarray]) -> Tensor:
    """(clips, mels, 1000) as the extractor makes them, at half of its time."""
    padded = torch.zeros(len(waveforms), extractor.n_samples)
    for row, waveform in zip(padded, waveforms):
        row[: len(waveform)] = torch.from_numpy(waveform[: extractor.n_samples])
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(padded, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)[..., :-1]
    power = torch.from_numpy(extractor.mel_filters).float().T @ torch.view_as_real(spectrum).square().sum(-1)
    level = power.clamp(min=1e-10).log10()
    return (torch.maximum(level, level.amax((1, 2), keepdim=True) - 8) + 4) / 4


def audio_tokens(samples: int) -> tuple[int, int]:
    """How many encoder positions, and after pooling audio tokens, are real in a clip of so many samples."""
    positions = (math.ceil(samples / (SAMPLE_RATE // 100)) - 1) // 2 + 1
    return positions, (positions - 2) // 2 + 1


def frame_targets(scene: Scene, tokens: int = SECONDS * 25) -> Tensor:
    """(tokens, 4) int64, of each audio token: the digit (10: none), the sound, the how-manyth digit (0: none; 5: any
    later one), and whether the second sound has begun. −100 where the clip has ended."""
    real = min(tokens, audio_tokens(len(scene.waveform))[1])
    times = (torch.arange(real) + 0.5) * TOKEN_SECONDS
    targets = torch.full((tokens, 4), _IGNORED)
    targets[:real, 0], targets[:real, 2] = len(DIGITS), 0
    for i, event in enumerate(scene.digits):
        said = (times >= event.start) & (times < event.end)
        targets[:real, 0][said], targets[:real, 2][said] = DIGITS.index(event.word), min(i, MOST_DIGITS) + 1
    second = times >= scene.sounds[1].start
    words = torch.tensor([_HEARD.index(event.word) for event in scene.sounds])
    targets[:real, 1], targets[:real, 3] = words[second.long()], second.long()
    return targets


@dataclass(frozen=True)
class Batch:
    """Scenes with all their questions: the sound once, and after it each question with its answer.

    No question sees another, and each stands at the positions at which it would stand alone: the answers are those of
    one prompt per question, at a third of the work.

    `features`: (scenes, mels, 1000); `lengths`: (scenes,) real encoder positions; `ids`, `positions`, `labels`,
    `question`: (scenes, length), labels −100 but for answers, `question` 0 for the sound, 1 … for the questions and
    −1 for filler; `frames`: (scenes, 250, 4), see `frame_targets`. `read`: (scenes, length) booleans, False for what
    the language model does not get to read; None where it reads all.
    """

    features: Tensor
    lengths: Tensor
    ids: Tensor
    positions: Tensor
    labels: Tensor
    question: Tensor
    frames: Tensor
    read: Tensor | None = None


def make_batch(processor: Qwen2AudioProcessor, scenes: Sequence[Scene]) -> Batch:
    rows = [_row(processor.tokenizer, scene) for scene in scenes]
    length = max(len(row) for row in rows)
    filler = np.array([processor.tokenizer.pad_token_id, 0, _IGNORED, -1])
    table = np.stack([np.concatenate((row, np.tile(filler, (length - len(row), 1)))) for row in rows])
    ids, positions, labels, question = torch.from_numpy(table).unbind(-1)
    return Batch(
        features=log_mel(processor.feature_extractor, [scene.waveform for scene in scenes]),
        lengths=torch.tensor([audio_tokens(len(scene.waveform))[0] for scene in scenes]),
        ids=ids,
        positions=positions,
        labels=labels,
        question=question,
        frames=torch.stack([frame_targets(scene) for scene in scenes]),
    )


def _row(tokenizer: Any, scene: Scene) -> np.ndarray:
    """(length, 4): id, position, label, question."""
    audio = "<|AUDIO|>" * audio_tokens(len(scene.waveform))[1]
    sound = tokenizer(f"<|audio_bos|>{audio}<|audio_eos|>").input_ids
    rows = [(token, i, _IGNORED, 0) for i, token in enumerate(sound)]
    for number, question in enumerate(scene.questions, 1):
        asked = tokenizer(question.text).input_ids
        answer = [*tokenizer(question.answer).input_ids, tokenizer.eos_token_id]
        # The last word of the question predicts the first of the answer, and the end is predicted, not read.
        read, labels = asked + answer[:-1], [_IGNORED] * (len(asked) - 1) + answer
        rows += [(token, len(sound) + i, label, number) for i, (token, label) in enumerate(zip(read, labels))]
    return np.array(rows)


def thinned(batch: Batch, audio_token: int, rng: np.random.Generator, least: float = 0.1) -> Batch:
    """The batch with only some of each sound's tokens read: each with a probability that is drawn for its scene from
    `least` to 1. In three scenes of four what follows closes up over the gaps.

    A language model that has only met whole sounds takes a sound of half the tokens for another one. Large ones have
    met sounds of every length and pace; this one meets gaps, at random, so that no method of choosing is favoured but
    the random one.
    """
    heard = batch.ids == audio_token
    share = torch.from_numpy(rng.uniform(least, 1.0, (len(heard), 1)))
    read = (torch.from_numpy(rng.random(heard.shape)) < share) | ~heard
    gone = (~read).long().cumsum(dim=1)
    closed = torch.from_numpy(rng.random((len(heard), 1)) < 0.75)
    return replace(batch, read=read, positions=batch.positions - gone * closed)


def mask_features(features: Tensor, rng: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779) on (scenes, mels, frames): in each, two bands of up to 8 channels and three
    stretches of up to 80 ms take the clip's mean."""
    features = features.clone()
    for clip in features:
        mean = clip.mean()
        for axis, count, widest in ((0, 2, 8), (1, 3, 8)):
            for _ in range(count):
                width = int(rng.integers(widest + 1))
                clip.narrow(axis, int(rng.integers(clip.shape[axis] - width + 1)), width).fill_(mean)
    return features


def encode(model: Qwen2AudioForConditionalGeneration, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
    """(scenes, 250, width) audio tokens; `dtype` of the attention mask."""
    padding = torch.arange(SECONDS * 50) >= batch.lengths[:, None]
    mask = torch.zeros(padding.shape, dtype=dtype).masked_fill_(padding, torch.finfo(dtype).min)
    return model.model.audio_tower(batch.features, attention_mask=mask[:, None, None]).last_hidden_state


def encode_windows(model: Qwen2AudioForConditionalGeneration, batch: Batch, windows: int = 5) -> Tensor:
    """As `encode`, but no position attends beyond its window (2 s): half of the work, and digits are learnt sooner."""
    tower = model.model.audio_tower
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(batch.features)))).transpose(1, 2) + tower.embed_positions.weight
    clips, positions, width = hidden.shape
    hidden = hidden.reshape(clips * windows, positions // windows, width)
    for layer in tower.layers:
        hidden = layer(hidden, None)
    return tower.layer_norm(hidden.reshape(clips, positions // 2, 2, width).mean(2))


def answer_logits(
    model: Qwen2AudioForConditionalGeneration, batch: Batch, tokens: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(answer words, vocabulary) where `batch.labels` has a word, from the tokens of `encode`."""
    embedded = model.get_input_embeddings()(batch.ids)
    heard = batch.ids == model.config.audio_token_id
    real = torch.arange(tokens.shape[1]) < heard.sum(1, keepdim=True)
    audio = model.model.multi_modal_projector(tokens)[real].to(embedded.dtype)
    embedded = embedded.masked_scatter(heard[..., None], audio)
    question = batch.question
    order = torch.arange(question.shape[1])
    seen = (order[:, None] >= order) & ((question[:, :, None] == question[:, None]) | (question[:, None] == 0))
    if batch.read is not None:
        # Each still sees itself: a row without anything to see would be no numbers.
        seen = (seen & batch.read[:, None]) | torch.eye(len(order), dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=mask[:, None], position_ids=batch.positions, use_cache=False
    )
    return model.lm_head(out.last_hidden_state[batch.labels != _IGNORED])


@dataclass(frozen=True)
class Settings:
    """How a listener is trained.

    `local`: for so many of the `steps` the encoder is trained alone, in windows; `warmup`: from then to here alone, but
    on the whole clip; `ramp`: steps over which the learning rate rises, of the encoder from the start and of the
    language model after the warm-up; `crowded`: the share of crowded scenes before the warm-up ends;
    `frame_weight`: of the frames' loss beside the answers'; `average`: decay of the running
    average of the weights, which is what is kept; `bfloat16`: under autocast. `thinned`: after the `steps`, so many in
    which the language model alone learns, from the averaged weights on, to answer about `thinned` sounds;
    `thinned_lr`: their peak learning rate.
    """

    steps: int = 3200
    local: int = 1200
    warmup: int = 1600
    batch: int = 16
    peak_lr: float = 1.2e-3
    ramp: int = 200
    weight_decay: float = 0.05
    crowded: float = 0.8
    frame_weight: float = 0.3
    average: float = 0.99
    bfloat16: bool = True
    seed: int = 0
    thinned: int = 900
    thinned_lr: float = 6e-4

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.steps + self.thinned


class ListenerTraining:
    """A training that can be stopped after any step and goes on from `state()` as if it had not been.

    Scenes, masks and dropout are functions of the seed and the step.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        recordings: Recordings,
        settings: Settings,
    ) -> None:
        # Plain attention: under bfloat16 on a CPU the backward of SDPA takes half as long again.
        model.set_attn_implementation("eager")
        self.model, self.processor, self.recordings, self.settings = model, processor, recordings, settings
        torch.manual_seed(settings.seed)
        self.heads = nn.Linear(model.model.audio_tower.config.d_model, sum(_HEADS))
        # That no digit is spoken is soon learnt, and then most of the frames.
        self.digit_weight = torch.tensor([1.0] * len(DIGITS) + [0.3])
        self.averaged = [parameter.detach().clone() for parameter in model.parameters()]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=settings.peak_lr, betas=(0.9, 0.98))
        self.done = 0

    def _groups(self) -> list[dict[str, Any]]:
        tower = self.model.model.audio_tower
        hearing = [*tower.parameters(), *self.heads.parameters()]
        known = {id(parameter) for parameter in hearing}
        speaking = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        return [
            {
                "params": [p for p in part if p.requires_grad and (p.ndim > 1) == decayed],
                "weight_decay": self.settings.weight_decay * decayed,
                "begin": begin,
            }
            for part, begin in ((hearing, 0), (speaking, self.settings.warmup))
            for decayed in (True, False)
        ]

    def _begin_thinning(self) -> None:
        """From the averaged weights on, with an encoder that stays as it is."""
        with torch.no_grad():
            for parameter, averaged in zip(self.model.parameters(), self.averaged):
                parameter.copy_(averaged)
        for parameter in (*self.model.model.audio_tower.parameters(), *self.heads.parameters()):
            parameter.requires_grad_(False)
            parameter.grad = None  # an old gradient would count in the norm that is clipped
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": learning, "begin": self.settings.steps}],
            lr=self.settings.thinned_lr,
            betas=(0.9, 0.98),
            weight_decay=self.settings.weight_decay,
        )

    def batch(self, step: int) -> Batch:
        """The scenes of a step, varied, and masked or thinned."""
        settings, warming = self.settings, step < self.settings.warmup
        rng = np.random.default_rng((settings.seed, 1, step))
        scenes = []
        for i in range(settings.batch):
            crowded, index = warming and rng.random() < settings.crowded, step * settings.batch + i
            scenes.append(make_scene(self.recordings, settings.seed, index, vary=True, crowded=crowded))
        batch = make_batch(self.processor, [_answerable(scene) for scene in scenes] if warming else scenes)
        if warming:
            batch = replace(batch, frames=torch.stack([frame_targets(scene) for scene in scenes]))
        if step >= settings.steps:
            return thinned(batch, self.model.config.audio_token_id, rng)
        return replace(batch, features=mask_features(batch.features, rng))

    def step(self, batch: Batch | None = None) -> dict[str, float]:
        """One update. batch: that of this step, where it was made ahead. Returns the losses."""
        settings, step = self.settings, self.done
        batch = self.batch(step) if batch is None else batch
        torch.manual_seed(settings.seed * 1_000_003 + step)
        if step == settings.steps:
            self._begin_thinning()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(step, group["begin"])
        if step >= settings.steps:
            losses = {"answer": self._answer_loss(batch)}
        else:
            losses = self.losses(batch, local=step < settings.local, answers=step >= settings.warmup)
        total = sum(losses[name] * (settings.frame_weight if name != "answer" else 1.0) for name in losses)
        assert isinstance(total, Tensor)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        self.done += 1
        decay = min(settings.average, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, list(self.model.parameters()), 1 - decay)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, batch: Batch, *, local: bool = False, answers: bool = True) -> dict[str, Tensor]:
        """Cross-entropies: `digit`, `sound`, `ordinal` and `place` of the frames, and `answer`.

        local: in windows, in which the latter two frames' targets cannot be known, and are left out.
        """
        dtype = self._dtype
        with self._autocast():
            tokens = encode_windows(self.model, batch) if local else encode(self.model, batch, dtype)
            guesses = self.heads(tokens).float().split(_HEADS, dim=-1)
            said = answer_logits(self.model, batch, tokens, dtype).float() if answers else None
        names = ("digit", "sound") if local else ("digit", "sound", "ordinal", "place")
        weights = (self.digit_weight, None, None, None)
        losses = {
            name: F.cross_entropy(guess.transpose(1, 2), target, weight, ignore_index=_IGNORED)
            for name, guess, target, weight in zip(names, guesses, batch.frames.unbind(-1), weights)
        }
        if said is not None:
            losses["answer"] = F.cross_entropy(said, batch.labels[batch.labels != _IGNORED])
        return losses

    def _answer_loss(self, batch: Batch) -> Tensor:
        """Of the language model alone."""
        with self._autocast():
            with torch.no_grad():
                tokens = encode(self.model, batch, self._dtype)
            said = answer_logits(self.model, batch, tokens, self._dtype).float()
        return F.cross_entropy(said, batch.labels[batch.labels != _IGNORED])

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.settings.bfloat16 else torch.float32

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", self._dtype) if self.settings.bfloat16 else contextlib.nullcontext()

    def _lr(self, step: int, begin: int) -> float:
        """A ramp from `begin` on, under one cosine over all steps, and under another over those with thinned sounds."""
        settings = self.settings
        if step >= settings.steps:
            done = step - settings.steps
            rise = min(1.0, (done + 1) / 50)
            return settings.thinned_lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / settings.thinned)))
        rise = min(1.0, max(0, step - begin + 1) / settings.ramp)
        return settings.peak_lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))

    def result(self) -> Qwen2AudioForConditionalGeneration:
        """The model with the averaged weights; the training goes on with its own."""
        model = type(self.model)(self.model.config)
        model.load_state_dict(self.model.state_dict())
        model.generation_config = self.model.generation_config
        with torch.no_grad():
            for parameter, averaged in zip(model.parameters(), self.averaged):
                parameter.copy_(averaged)
        return model.eval()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "settings": asdict(self.settings),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises `ValueError` where the state is of other settings."""
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"the state to resume is of {state['settings']}, not of {self.settings}; finish that, or start anew"
            )
        self.averaged, self.done = state["averaged"], state["done"]
        if self.done > self.settings.steps:
            self._begin_thinning()
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])


def _answerable(scene: Scene) -> Scene:
    """A crowded scene's questions are not asked, but need words to be laid out."""
    return replace(scene, digits=scene.digits[:MOST_DIGITS])


@torch.no_grad()
def answers(
    model: Any, processor: Qwen2AudioProcessor, waveforms: Sequence[np.ndarray], questions: Sequence[str], batch: int
) -> list[str]:
    """What the model generates for each pair of a clip and a question, `batch` of them at a time."""
    said: list[str] = []
    for at in range(0, len(questions), batch):
        inputs = processor(
            text=[prompt(question) for question in questions[at : at + batch]],
            audio=list(waveforms[at : at + batch]),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding=True,
        )
        written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return said


def evaluate(
    model: Any, processor: Qwen2AudioProcessor, scenes: Sequence[Scene], batch_size: int = 20
) -> dict[str, list[bool]]:
    """Kind of question → whether each scene's answer is right, word for word."""
    right: dict[str, list[bool]] = {}
    for i, kind in enumerate(KINDS):
        asked = [scene.questions[i] for scene in scenes]
        said = answers(model, processor, [scene.waveform for scene in scenes], [q.text for q in asked], batch_size)
        right[kind] = [text == question.answer for text, question in zip(said, asked)]
    return right


def silenced(scenes: Sequence[Scene]) -> list[Scene]:
    """The same questions about silence of the same length."""
    return [replace(scene, waveform=np.zeros_like(scene.waveform)) for scene in scenes]


def blind(scenes: Sequence[Scene]) -> dict[str, float]:
    """The best that one fixed answer can do on these scenes, as shares of them. Of "first" it is the better of naming
    always the one mentioned first, and always the other."""
    first = float(np.mean([scene.sounds[0].word == scene.mentioned[0] for scene in scenes]))
    shares = {"first": max(first, 1 - first)}
    for i, kind in enumerate(KINDS):
        if kind != "first":
            said = [scene.questions[i].answer for scene in scenes]
            shares[kind] = max(said.count(text) for text in set(said)) / len(said)
    return {kind: shares[kind] for kind in KINDS}

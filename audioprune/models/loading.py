"""Loading of a model from a hub id, a folder, or an authors' weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.audio_spectrogram_transformer import ASTFeatureExtractor
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file

from ..audio.extensions import EXTENSIONS
from ..audio.extractor import AudioMAEFeatureExtractor
from ..audio.features import LogMel
from ..audio.front_end import FrontEnd
from ..audio.waveform_features import WaveformFeatures
from ..audio.whisper_features import WhisperFeatures
from . import audiomae
from .ast import AST_CLASSES
from .front_ends import check_length, log_mel_of
from .sources import EMBEDDED, resolve
from .state import CheckpointError, check_keys, check_overrides, reading
from .weights import load_weights


def load(source: str | Path, *, pooling: str | None = None, **config: Any) -> PreTrainedModel:
    """Load an audio classifier, in evaluation mode and float32.

    Args:
        source: a hub id (`"MIT/ast-finetuned-audioset-16-16-0.442"`), a folder in transformers' format, a weight file
            of AST, AudioMAE (pre-trained, fine-tuned, timm's layout) or the TopK authors, or `"esc10"`, the model that
            ships with audioprune.
        pooling: for an AST, "cls" (its own) or "mean" (AST-MP).
        **config: values that replace those of the model's config, such as num_labels, max_length (frames of 10 ms),
            num_attention_heads (an authors' file does not contain it; the default is width / 64).

    Raises `CheckpointError` if a file is damaged, has another layout, or has missing or unknown keys, and
    `FileNotFoundError` if a path does not exist.
    """
    if pooling not in (None, *AST_CLASSES):
        raise ValueError(f"pooling is {pooling!r}; an AST pools by 'cls' or 'mean'")
    path = resolve(source)
    if isinstance(path, Path) and path.is_file():
        if path.suffix.lower() in EXTENSIONS:
            raise CheckpointError(f"{path}: a sound by its name, not a model; read sounds with audioprune.load_audio")
        return load_weights(path, pooling=pooling, **config)
    if is_language_model(source):
        raise CheckpointError(
            f"{source}: an audio-language model, which answers questions and has no labels; use `audioprune ask`, or "
            "load it with transformers and prune it the same way"
        )
    return _load_pretrained(path, pooling, config)


def load_features(source: str | Path, model: PreTrainedModel) -> FrontEnd:
    """Load the front end of a model, with the settings of its extractor: `LogMel` of an AST or AudioMAE,
    `WhisperFeatures` of a Whisper, `WaveformFeatures` of a Wav2Vec2, HuBERT, Data2VecAudio or UniSpeech.

    Raises `ValueError` for a model that takes anything else, and for one over waveforms without its extractor.
    """
    if model.config.model_type != "whisper":
        return load_log_mel(source, model) if _is_spectrogram_model(model) else load_waveforms(source)
    frames, bins = 2 * model.config.max_source_positions, model.config.num_mel_bins
    front = load_whisper_features(source)
    if front.shape != (bins, frames):
        raise ValueError(
            f"{source}: its extractor makes {front.shape[0]} × {front.shape[1]} features, but its model takes {bins} × "
            f"{frames}; save them together"
        )
    return front


def load_waveforms(source: str | Path) -> WaveformFeatures:
    """Load the front end of a model over waveforms, from its extractor: whether the model was trained on normalised
    waveforms is written there alone.

    Raises `ValueError` if the extractor is missing or of another kind.
    """
    path = resolve(source)
    if isinstance(path, Path) and not any((path / name).is_file() for name in EXTRACTOR_FILES):
        raise ValueError(
            f"{source}: no preprocessor_config.json in this folder, so it is unknown what makes the model's input; "
            "save its feature extractor beside it (extractor.save_pretrained)"
        )
    with reading(source, what="its extractor "):
        extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
    if not isinstance(extractor, Wav2Vec2FeatureExtractor):
        raise ValueError(
            f"{source}: its extractor {type(extractor).__name__} makes neither log-mel spectrograms of a fixed length "
            "nor waveforms; prune it in Python (audioprune.prune), with inputs from its own extractor"
        )
    return WaveformFeatures(extractor)


def _is_spectrogram_model(model: PreTrainedModel) -> bool:
    """Whether a model takes log-mel spectrograms of a fixed length, as an AST or an AudioMAE does."""
    return all(getattr(model.config, name, None) is not None for name in ("max_length", "num_mel_bins"))


def load_whisper_features(source: str | Path) -> WhisperFeatures:
    """Load the front end of a Whisper."""
    path = resolve(source)
    with reading(source, what="its extractor "):
        return WhisperFeatures(load_whisper_extractor(path, WhisperConfig.from_pretrained(path)))


def load_whisper_extractor(path: str | Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    """Load the extractor of a Whisper; if its folder has none, one of as many seconds and mel channels as its config
    says."""
    if isinstance(path, Path) and not any((path / name).is_file() for name in EXTRACTOR_FILES):
        return WhisperFeatureExtractor(config.num_mel_bins, chunk_length=2 * config.max_source_positions // 100)
    return WhisperFeatureExtractor.from_pretrained(path)


def load_log_mel(source: str | Path, model: PreTrainedModel) -> LogMel:
    """Load the front end of an AST or an AudioMAE, with the settings of its extractor if it has one.

    A stock AST's extractor keeps its own padding (0.0). A weight file without an extractor gets AudioSet's mean and
    std, the clip's minimum as padding, and the model's length.
    """
    extractor = load_extractor(source, model)
    with reading(source, what="its extractor "):
        front = log_mel_of(extractor)
    check_length(str(source), front, model)
    return front


def load_extractor(source: str | Path, model: PreTrainedModel) -> AudioMAEFeatureExtractor | ASTFeatureExtractor:
    """Load the extractor of a model; if it has none, ours with AudioSet's mean and std.

    Raises `ValueError` if the model does not take log-mel spectrograms of a fixed length.
    """
    if not _is_spectrogram_model(model):
        raise ValueError(
            f"{source}: {type(model).__name__} does not take log-mel spectrograms of a fixed length, as an AST or an "
            "AudioMAE does; prune it in Python (audioprune.prune), with inputs from its own extractor"
        )
    config: Any = model.config
    length, bins = config.max_length, config.num_mel_bins
    path = resolve(source)
    if isinstance(path, Path) and not (path / "preprocessor_config.json").exists():
        return AudioMAEFeatureExtractor(length, num_mel_bins=bins)
    with reading(source, what="its extractor "):
        extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
    if not isinstance(extractor, AudioMAEFeatureExtractor | ASTFeatureExtractor):
        raise ValueError(
            f"{source}: its extractor {type(extractor).__name__} does not make Kaldi's log-mel spectrograms; prune it "
            "in Python (audioprune.prune)"
        )
    return extractor


MOST_LAYERS = 1000
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
TRANSCRIBERS = ("WhisperForConditionalGeneration", "WhisperModel")


def is_language_model(source: str | Path) -> bool:
    """Whether a source is an audio-language model, by its config. False if there is no readable config."""
    return str(_raw_config(source).get("model_type")) in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def is_transcriber(source: str | Path) -> bool:
    """Whether a source is a Whisper with its decoder, by its config. False if there is no readable config."""
    return has_decoder(_raw_config(source))


def _raw_config(source: str | Path) -> dict[str, Any]:
    """Content of a model's config.json; {} if it cannot be read, which loading tells."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(resolve(source))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def has_decoder(raw_config: dict[str, Any]) -> bool:
    """Whether a config is of a Whisper with its decoder."""
    kinds = raw_config.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else TRANSCRIBERS[0]
    return raw_config.get("model_type") == "whisper" and kind in TRANSCRIBERS


def _load_pretrained(path: str | Path, pooling: str | None, config: dict[str, Any]) -> PreTrainedModel:
    if isinstance(path, Path) and not (path / "config.json").exists():
        raise FileNotFoundError(
            f"{path}: no config.json in this folder; give a model in transformers' format or a file"
        )
    with reading(path, _remedy(path)):
        raw_config, _ = PreTrainedConfig.get_config_dict(path)
        if raw_config.get("model_type", "timm_wrapper") == "timm_wrapper":
            # timm's folders also have a config.json, but of another kind; only their weights are used here.
            return load_weights(Path(str(cached_file(path, "model.safetensors"))), pooling=pooling, **config)
        settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _check_head(path, settings)
        _check_depth(path, settings)
    is_ast = settings.model_type == "audio-spectrogram-transformer"
    if pooling is not None and not is_ast:
        raise ValueError(f"{path}: its model_type is {settings.model_type}, but pooling={pooling!r} is for an AST")
    loader: Any = AutoModelForAudioClassification
    if is_ast:
        # transformers renames the keys of older checkpoints only for its own class, so AST-MP is made from that.
        loader = AST_CLASSES["cls"]
    elif settings.model_type == audiomae.AudioMAEConfig.model_type:
        loader = audiomae.AudioMAEForAudioClassification
    check_overrides(str(path), config, settings)
    pre_trained = raw_config.get("architectures") == ["AudioMAEForPreTraining"]
    if pre_trained and "num_labels" not in config:
        raise CheckpointError(f"{path}: pre-trained without a head; give the number of labels with num_labels=")
    new_head = pre_trained or ("num_labels" in config and config["num_labels"] != settings.num_labels)
    with reading(path, _remedy(path)):
        model: Any
        model, report = loader.from_pretrained(
            path,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with a remedy
            **config,
        )
    # A pre-trained file also contains a decoder, and a norm that the classifier replaces with its own.
    allowed = ("classifier.", "fc_norm.") if pre_trained else ("classifier.",) if new_head else ("\0",)
    leftovers = ("decoder.", "norm.") if pre_trained else ("\0",)
    missing = [key for key in report["missing_keys"] if not key.startswith(allowed)]
    check_keys(str(path), missing, [key for key in report["unexpected_keys"] if not key.startswith(leftovers)])
    # With a new head, transformers would also replace other tensors of the wrong shape, even the whole network.
    resized = sorted(str(entry[0]) for entry in report["mismatched_keys"] if not str(entry[0]).startswith(allowed))
    if resized:
        raise CheckpointError(_misfit(path, resized, list(config)))
    if is_ast:
        model = _as_pooled(model, str(pooling or getattr(settings, "pooling", "cls")))
        model.classifier.layernorm.eps = getattr(settings, "classifier_layer_norm_eps", model.config.layer_norm_eps)
    return model.eval()


def _as_pooled(model: Any, pooling: str) -> Any:
    """AST with the given pooling, also in its config."""
    model.config.pooling = pooling
    if type(model) is AST_CLASSES[pooling]:
        return model
    pooled = AST_CLASSES[pooling](model.config)
    pooled.load_state_dict(model.state_dict())
    return pooled


def _misfit(path: str | Path, keys: list[str], overrides: list[str]) -> str:
    first = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
    wrong = f"{path}: {len(keys)} tensors do not have the shape in the config ({first})"
    if not overrides:
        return f"{wrong}; config.json and weights come from different models: download or save them together"
    return (
        f"{wrong}. The length and shape of a model in transformers' format are fixed, so leave out "
        f"{', '.join(overrides)}; only an authors' weight file can be read with other lengths"
    )


def _remedy(path: str | Path) -> str:
    if isinstance(path, str):
        return f"give {EMBEDDED} (shipped), a local folder or weight file, or the id of a model on the hub"
    return "download or save it again"


def _check_depth(path: str | Path, settings: PreTrainedConfig) -> None:
    """Raise `CheckpointError` for more layers than any model has: to build them would take for ever."""
    for name in ("num_hidden_layers", "encoder_layers", "decoder_layers"):
        layers = getattr(settings, name, None)
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise CheckpointError(
                f"{path}: {name} is {layers:.3g} in its config, more than any model has; save it again"
            )


def _check_head(path: str | Path, settings: PreTrainedConfig) -> None:
    """Raise `CheckpointError` if a model does not classify clips, because transformers would add a random head."""
    name = next(iter(settings.architectures or []), "")
    if name.endswith(("ForCTC", "ForAudioFrameClassification")):
        raise CheckpointError(
            f"{path}: {name} has an output for every frame, but pruned frames have none; give a model with a sequence "
            "classification head"
        )
    ours = audiomae.AudioMAEConfig.model_type
    if settings.model_type != ours and type(settings) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        raise CheckpointError(
            f"{path}: its model_type is {settings.model_type}, which has no audio classifier; use AST, AudioMAE, "
            "Whisper, Wav2Vec2, HuBERT, Data2VecAudio or UniSpeech"
        )

"""AudioMAE in transformers' form, and loading folders."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    ASTFeatureExtractor,
    ASTForAudioClassification,
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
)

import audioprune as ap
from audioprune.models.ast import ASTMeanPooledForAudioClassification
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEModel, sincos_positions

from .families import ast, audiomae


@torch.no_grad()
def test_auto_classes_and_round_trip(tmp_path, spectrogram) -> None:
    model = audiomae(id2label={0: "a", 1: "b"}, num_labels=2).eval()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AudioMAEConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), AudioMAEModel)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert isinstance(again, AudioMAEForAudioClassification)
    assert torch.equal(again(spectrogram).logits, model(spectrogram).logits)
    assert torch.equal(ap.load(tmp_path)(spectrogram).logits, model(spectrogram).logits)
    assert ap.load(tmp_path).config.id2label == {0: "a", 1: "b"}


def test_positions_are_fixed_and_time_major() -> None:
    config = AudioMAEConfig(hidden_size=64, max_length=128)
    table = sincos_positions(config)[0, 1:].reshape(8, 8, 64)
    frequency, time = table[..., :32], table[..., 32:]
    assert torch.equal(frequency[0], frequency[5])
    assert torch.equal(time[:, 0], time[:, 6])
    assert "audiomae.embeddings.position_embeddings" not in dict(audiomae().named_parameters())
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(AudioMAEConfig(hidden_size=30))


def test_outputs_are_transformers_outputs(spectrogram) -> None:
    model = audiomae().eval()
    output = model(spectrogram, labels=torch.tensor([0, 1, 2]), output_hidden_states=True)
    assert output.loss.ndim == 0
    assert len(output.hidden_states) == 5
    assert isinstance(model(spectrogram, return_dict=False), tuple)
    with pytest.raises(ValueError, match="input_values are missing"):
        model()


def test_missing_and_unknown_keys_of_a_folder_are_listed(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    audiomae().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["stray"] = state.pop("fc_norm.bias")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ap.CheckpointError, match=r"lacks 1 keys \(fc_norm.bias\); has unknown 1 keys \(stray\)"):
        ap.load(tmp_path)


def test_a_truncated_folder(tmp_path) -> None:
    audiomae().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ap.CheckpointError, match="cannot be loaded"):
        ap.load(tmp_path)


def test_new_head_for_a_folder(tmp_path) -> None:
    audiomae().save_pretrained(tmp_path)
    assert ap.load(tmp_path, num_labels=5).classifier.out_features == 5
    with pytest.raises(ap.CheckpointError, match="1 tensors do not have the shape.*position_embeddings"):
        ap.load(tmp_path, num_labels=5, max_length=64)
    with pytest.raises(ValueError, match="has no num_label; did you mean num_labels"):
        ap.load(tmp_path, num_label=5)


def test_the_pooling_that_was_asked_for_is_saved(tmp_path) -> None:
    ast(ASTMeanPooledForAudioClassification).save_pretrained(tmp_path / "mean")
    ap.load(tmp_path / "mean", pooling="cls").save_pretrained(tmp_path / "cls")
    assert type(ap.load(tmp_path / "cls")) is ASTForAudioClassification
    assert type(ap.load(tmp_path / "mean")) is ASTMeanPooledForAudioClassification


def test_a_stock_folder_with_older_keys_loads_mean_pooled_too(tmp_path, spectrogram) -> None:
    """transformers saves a stock AST under its older key names and renames them for its own class only."""
    model = ast().eval()
    model.save_pretrained(tmp_path)
    pooled = ap.load(tmp_path, pooling="mean")
    assert type(pooled) is ASTMeanPooledForAudioClassification
    tokens = model.audio_spectrogram_transformer(spectrogram).last_hidden_state
    assert torch.allclose(pooled(spectrogram).logits, model.classifier(tokens[:, 2:].mean(1)), atol=1e-5)


def test_the_shipped_models_name_wins_over_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "esc10").mkdir()
    assert ap.load("esc10").config.num_hidden_layers == 12
    with pytest.raises(FileNotFoundError, match="no config.json"):
        ap.load("./esc10")


def test_front_ends(tmp_path) -> None:
    """A stock AST keeps its extractor's padding; a folder without an extractor gets AudioSet's numbers."""
    model = ast()
    model.save_pretrained(tmp_path)
    bare = ap.load_features(tmp_path, model)
    assert (bare.max_length, bare.padding, bare.mean) == (128, "minimum", ap.PRESETS["audioset"].mean)
    ASTFeatureExtractor(max_length=128).save_pretrained(tmp_path)
    stock = ap.load_features(tmp_path, model)
    assert (stock.max_length, stock.padding) == (128, 0.0)
    ASTFeatureExtractor(max_length=1024).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="makes 1024 frames, but its model takes 128"):
        ap.load_features(tmp_path, model)


def test_a_hub_id_that_cannot_be_reached_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the same error as without a network
    with pytest.raises(ap.CheckpointError, match="nobody/nothing: cannot be loaded"):
        ap.load("nobody/nothing")


def test_a_mistyped_folder_does_not_wait_for_the_hub(monkeypatch, tmp_path) -> None:
    asked = []

    def unreachable(*words: object, **options: object) -> None:
        asked.append(options["timeout"])
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "my-ast").mkdir(parents=True)
    said = r"chekpoints/my-ats: no such file or folder here, and the hub cannot be reached \(ConnectionError\)"
    with pytest.raises(FileNotFoundError, match=rf"{said}.*did you mean checkpoints/my-ast\?"):
        ap.load("chekpoints/my-ats")
    assert asked == [10]
    with pytest.raises(FileNotFoundError, match=r"\./chekpoints: no such file or folder; did you mean checkpoints\?"):
        ap.load("./chekpoints")


@torch.no_grad()
def test_the_shipped_model(spectrogram) -> None:
    model = ap.load("esc10")
    front = ap.load_features("esc10", model)
    assert model.config.num_hidden_layers == 12
    assert len(model.config.id2label) == 10
    assert front.max_length == model.config.max_length == 512
    assert model.dtype == torch.float32

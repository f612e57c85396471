"""Weight files in the authors' layouts, made here from random tensors, and files that are none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import audioprune as ap
from audioprune.models.ast import ASTMeanPooledForAudioClassification

WIDTH, DEPTH, MLP = 64, 2, 128


def vit(prefix: str = "", patches: int = 64, special: int = 1) -> dict[str, torch.Tensor]:
    """timm's keys of a small ViT."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    state = {
        "cls_token": tensor(1, 1, WIDTH),
        "pos_embed": tensor(1, patches + special, WIDTH),
        "patch_embed.proj.weight": tensor(WIDTH, 1, 16, 16),
        "patch_embed.proj.bias": tensor(WIDTH),
    }
    for i in range(DEPTH):
        for name, out, into in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", MLP, WIDTH),
            ("mlp.fc2", WIDTH, MLP),
        ):
            state |= {f"blocks.{i}.{name}.weight": tensor(out, into), f"blocks.{i}.{name}.bias": tensor(out)}
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{name}.weight": tensor(WIDTH) + 1, f"blocks.{i}.{name}.bias": tensor(WIDTH)}
    return {prefix + key: value for key, value in state.items()}


def audiomae_fine_tuned(**kwargs) -> dict[str, torch.Tensor]:
    head = {"head.weight": torch.randn(7, WIDTH), "head.bias": torch.randn(7)}
    return vit(**kwargs) | head | {"fc_norm.weight": torch.ones(WIDTH), "fc_norm.bias": torch.zeros(WIDTH)}


def ast(patches: int = 64) -> dict[str, torch.Tensor]:
    state = vit("v.", patches, special=2)
    state |= {
        "v.dist_token": torch.randn(1, 1, WIDTH),
        "v.norm.weight": torch.ones(WIDTH),
        "v.norm.bias": torch.zeros(WIDTH),
    }
    state |= {"v.head.weight": torch.zeros(1000, WIDTH), "v.head.bias": torch.zeros(1000)}
    state |= {"v.head_dist.weight": torch.zeros(1000, WIDTH), "v.head_dist.bias": torch.zeros(1000)}
    state |= {"mlp_head.0.weight": torch.ones(WIDTH), "mlp_head.0.bias": torch.zeros(WIDTH)}
    state |= {"mlp_head.1.weight": torch.randn(7, WIDTH), "mlp_head.1.bias": torch.randn(7)}
    return {f"module.{key}": value for key, value in state.items()}


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_audiomae_fine_tuned(tmp_path) -> None:
    state = audiomae_fine_tuned()
    model = ap.load(save(tmp_path / "a.pth", {"model": state, "epoch": 1}))
    assert type(model).__name__ == "AudioMAEForAudioClassification"
    assert (model.config.max_length, model.config.num_labels, model.config.num_attention_heads) == (128, 7, 1)
    layer = model.audiomae.layers[1]
    assert torch.equal(layer.attention.k_proj.weight, state["blocks.1.attn.qkv.weight"][WIDTH : 2 * WIDTH])
    assert not model.training
    assert ap.load(tmp_path / "a.pth", num_attention_heads=4).config.num_attention_heads == 4


def test_audiomae_pre_trained_gets_a_new_head(tmp_path) -> None:
    leftovers = {
        "mask_token": torch.zeros(1),
        "decoder_embed.weight": torch.zeros(2, 2),
        "norm.weight": torch.ones(WIDTH),
    }
    content = {"model": vit(patches=512) | leftovers, "args": argparse.Namespace(lr=1e-3), "epoch": 32}
    path = save(tmp_path / "pretrained.pth", content)
    with pytest.raises(ap.CheckpointError, match="load it with num_labels"):
        ap.load(path)
    model = ap.load(path, num_labels=50, max_length=512)
    assert model.classifier.out_features == 50
    assert model.config.max_length == 512


def test_shorter_positions_are_cut_as_the_authors_cut_them(tmp_path) -> None:
    """ESC-50 gets the original times 0–3, 8–11, 16–19 … of a file for ten seconds."""
    state = audiomae_fine_tuned(patches=512)
    state["pos_embed"] = torch.arange(513.0)[None, :, None].expand(1, 513, WIDTH).contiguous()
    model = ap.load(save(tmp_path / "a.pth", state), max_length=512)
    numbers = model.audiomae.embeddings.position_embeddings[0, 1:, 0] - 1
    times = (numbers // 8).reshape(32, 8)
    assert (times == times[:, :1]).all()
    assert times[:, 0].tolist() == [8 * (i // 4) + i % 4 for i in range(32)]
    with pytest.raises(ap.CheckpointError, match="64 time columns, but max_length needs 128"):
        ap.load(tmp_path / "a.pth", max_length=2048)


def test_timm_layout_as_a_file_and_as_a_folder(tmp_path) -> None:
    state = audiomae_fine_tuned()
    save_file(state, tmp_path / "model.safetensors")
    model = ap.load(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base", "pretrained_cfg": {}}))
    again = ap.load(tmp_path)
    x = torch.randn(1, 128, 128)
    assert torch.equal(model(x).logits, again(x).logits)


def test_a_norm_before_pooling_is_another_architecture(tmp_path) -> None:
    state = {k.replace("fc_norm", "norm"): v for k, v in audiomae_fine_tuned().items()}
    with pytest.raises(ap.CheckpointError, match="lacks 2 keys.*fc_norm.*unknown 2 keys.*norm.bias"):
        ap.load(save(tmp_path / "a.pth", state))


@pytest.mark.parametrize(
    ("patches", "stride", "length"), [(64, 16, 128), (512, 16, 1024), (256, 16, 512), (1212, 10, 1024), (144, 10, 128)]
)
def test_ast_geometry_is_read_off_the_positions(tmp_path, patches: int, stride: int, length: int) -> None:
    model = ap.load(save(tmp_path / "a.pth", ast(patches)))
    config = model.config
    assert (config.time_stride, config.frequency_stride, config.max_length) == (stride, stride, length)
    assert model(torch.randn(1, length, 128)).logits.shape == (1, 7)
    assert model.classifier.layernorm.eps == 1e-5
    assert model.audio_spectrogram_transformer.layernorm.eps == 1e-6


def test_ast_shorter_positions_are_the_middle(tmp_path) -> None:
    state = ast(512)
    state["module.v.pos_embed"] = torch.arange(514.0)[None, :, None].expand(1, 514, WIDTH).contiguous()
    model = ap.load(save(tmp_path / "a.pth", state), max_length=512)
    numbers = model.audio_spectrogram_transformer.embeddings.position_embeddings[0, :, 0]
    assert numbers[:2].tolist() == [0, 1]
    assert (numbers[2:34] - 2).tolist() == list(range(16, 48))


def test_ast_mean_pooled_and_converted(tmp_path) -> None:
    path = save(tmp_path / "a.pth", ast())
    cls, mean = ap.load(path), ap.load(path, pooling="mean")
    x = torch.randn(2, 128, 128)
    tokens = cls.audio_spectrogram_transformer(x).last_hidden_state
    assert torch.allclose(mean(x).logits, cls.classifier(tokens[:, 2:].mean(1)), atol=1e-5)
    for model in (cls, mean):
        model.save_pretrained(tmp_path / "folder")
        again = ap.load(tmp_path / "folder")
        assert type(again) is type(model)
        assert torch.equal(again(x).logits, model(x).logits)
    assert isinstance(ap.load(tmp_path / "folder"), ASTMeanPooledForAudioClassification)


def test_unknown_and_missing_keys_are_listed(tmp_path) -> None:
    state = audiomae_fine_tuned()
    del state["blocks.1.mlp.fc1.bias"], state["fc_norm.weight"]
    state["adapter.weight"] = torch.zeros(2)
    with pytest.raises(ap.CheckpointError) as error:
        ap.load(save(tmp_path / "a.pth", state))
    for part in ("lacks 2 keys", "audiomae.layers.1.mlp.fc1.bias", "fc_norm.weight", "unknown 1 keys (adapter.weight)"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.mlp.fc1.bias"])
def test_files_without_the_tensors_that_tell_the_shape(tmp_path, name: str) -> None:
    state = audiomae_fine_tuned()
    del state[name]
    with pytest.raises(ap.CheckpointError, match=rf"a.pth: lacks 1 keys \({name}\)"):
        ap.load(save(tmp_path / "a.pth", state))


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_nothing_but_tensors_is_unpickled(tmp_path, capsys) -> None:
    with pytest.raises(ap.CheckpointError, match="contains more than tensors"):
        ap.load(save(tmp_path / "evil.pth", {"model": audiomae_fine_tuned(), "extra": Evil()}))
    assert "never" not in capsys.readouterr().out


def test_damaged_and_foreign_files(tmp_path) -> None:
    whole = save(tmp_path / "a.pth", audiomae_fine_tuned()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    save(tmp_path / "list.pth", [1, 2])
    save(tmp_path / "resnet.pth", {"conv1.weight": torch.zeros(2)})
    for name, kind, message in [
        ("cut.pth", ap.CheckpointError, "truncated"),
        ("cut.safetensors", ap.CheckpointError, "truncated"),
        ("text.pth", ap.CheckpointError, "not a checkpoint"),
        ("empty.pth", ap.CheckpointError, "not a checkpoint"),
        ("list.pth", ap.CheckpointError, "no state dict"),
        ("resnet.pth", ap.CheckpointError, "neither AST.*conv1.weight"),
        ("none.pth", FileNotFoundError, "no such file"),
        ("folder", FileNotFoundError, "no config.json"),
    ]:
        with pytest.raises(kind, match=message) as error:
            ap.load(tmp_path / name)
        assert name in str(error.value)


def test_ambiguous_geometry_is_settled_by_the_length_or_refused(tmp_path) -> None:
    path = save(tmp_path / "a.pth", ast(360))
    assert ap.load(path, max_length=306).config.time_stride == 10
    assert ap.load(path, max_length=720).config.time_stride == 16
    assert ap.load(path, time_stride=10, frequency_stride=10).config.max_length == 306
    with pytest.raises(ap.CheckpointError, match="stride 16 and 720 frames or stride 10 and 306 frames"):
        ap.load(path)


@pytest.mark.parametrize("make", [audiomae_fine_tuned, ast])
def test_a_head_for_other_labels_is_drawn_anew(make, tmp_path) -> None:
    path = save(tmp_path / "a.pth", make())
    own, other = ap.load(path), ap.load(path, num_labels=50)
    head = other.classifier if isinstance(other.classifier, torch.nn.Linear) else other.classifier.dense
    assert head.out_features == 50
    mine, others = own.state_dict(), other.state_dict()
    assert all(torch.equal(mine[k], others[k]) for k in mine if not k.startswith("classifier."))


def test_wrong_wishes(tmp_path) -> None:
    path = save(tmp_path / "a.pth", audiomae_fine_tuned())
    with pytest.raises(ValueError, match="has no num_heads"):
        ap.load(path, num_heads=4)
    with pytest.raises(ValueError, match="did you mean num_attention_heads"):
        ap.load(path, num_attention_head=4)
    with pytest.raises(ValueError, match="does not divide the width 64"):
        ap.load(path, num_attention_heads=3)
    with pytest.raises(ap.CheckpointError, match="mean-pooled"):
        ap.load(path, pooling="cls")
    with pytest.raises(ValueError, match="'cls' or 'mean'"):
        ap.load(path, pooling="max")
    with pytest.raises(ap.CheckpointError, match="fit neither stride 16 nor 10"):
        ap.load(save(tmp_path / "b.pth", ast(61)))

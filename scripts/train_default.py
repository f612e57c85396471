"""Train a small AudioMAE or AST on ESC-10, folds 1–4: the model that ships with the package.

    python scripts/train_default.py --data PATH/TO/esc10 --family audiomae --out runs/audiomae

The data folder holds `manifest.csv` (columns path, label, fold) and the clips. Fold 5 is never read. The weights that
are saved are the last epoch's moving average: no epoch is chosen. A run that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import ASTConfig, ASTForAudioClassification

from audioprune.audio import load_audio
from audioprune.features import PRESETS, LogMel
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForAudioClassification

PRESET = PRESETS["esc50"]


def read(data: Path, folds: set[str]) -> tuple[Tensor, Tensor, list[str]]:
    """Normalised log-mel (clips, frames, mels), labels (clips,), and the label names of the whole manifest."""
    with open(data / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    rows = [row for row in rows if row["fold"] in folds]
    front = LogMel.preset("esc50")
    clips = [front(load_audio(data / row["path"]).waveform)[0] for row in rows]
    return torch.stack(clips), torch.tensor([names.index(row["label"]) for row in rows]), names


def build(family: str, names: list[str], width: int, depth: int) -> nn.Module:
    shape = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-6,
        "max_length": PRESET.max_length,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if family == "audiomae":
        return AudioMAEForAudioClassification(AudioMAEConfig(**shape))
    model = ASTForAudioClassification(ASTConfig(frequency_stride=16, time_stride=16, **shape))
    embeddings = model.audio_spectrogram_transformer.embeddings
    for parameter in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
        nn.init.trunc_normal_(parameter, std=0.02)
    return model


class PatchDropout:
    """Forward hook on the embeddings: in training, a random share of the patches never enters the model."""

    def __init__(self, specials: int, keep: float) -> None:
        self.specials, self.keep = specials, keep

    def __call__(self, module: nn.Module, _: tuple, tokens: Tensor) -> Tensor:
        if not module.training:
            return tokens
        special, patches = tokens[:, : self.specials], tokens[:, self.specials :]
        kept = torch.rand(patches.shape[:2]).argsort(1)[:, : round(self.keep * patches.shape[1])]
        return torch.cat((special, patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))), 1)


def augment(x: Tensor, y: Tensor, classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Roll in time, gain, mixup of the energies, SpecAugment. (batch, frames, mels) and soft labels."""
    scale = 2 * PRESET.std
    batch, frames, mels = x.shape
    x = torch.stack([row.roll(int(torch.randint(frames, ())), 0) for row in x])
    x = x + (torch.rand(batch, 1, 1) - 0.5) * 4.0 / scale
    target = nn.functional.one_hot(y, classes).float()
    mix = torch.distributions.Beta(alpha, alpha).sample((batch, 1, 1)).clamp(1e-4, 1 - 1e-4)
    mix = torch.where(torch.rand(batch, 1, 1) < 0.5, mix, torch.ones(()) - 1e-6)
    other = torch.randperm(batch)
    x = torch.logaddexp(x * scale + mix.log(), x[other] * scale + (1 - mix).log()) / scale
    target = mix[:, 0] * target + (1 - mix[:, 0]) * target[other]
    for size, width, axis in ((frames, 96, 1), (mels, 24, 2)):
        start, length = torch.rand(batch, 1) * size, torch.rand(batch, 1) * width
        position = torch.arange(size)
        hidden = (position >= start) & (position < start + length)
        x = x.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None, :], 0.0)
    return x, target


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return 1e-6 + 0.5 * (peak - 1e-6) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    named = list(model.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or "token" in n or "position" in n]
    decayed = [p for n, p in named if not (p.ndim < 2 or "token" in n or "position" in n)]
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=("audiomae", "ast"), default="audiomae")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--patch-keep", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    x, y, names = read(args.data, {"1", "2", "3", "4"})
    model = build(args.family, names, args.width, args.depth)
    encoder = getattr(model, model.base_model_prefix)
    encoder.embeddings.register_forward_hook(PatchDropout(1 if args.family == "audiomae" else 2, args.patch_keep))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=args.lr, betas=(0.9, 0.95))
    steps = len(x) // args.batch_size
    args.out.mkdir(parents=True, exist_ok=True)
    state_file, epoch = args.out / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        epoch = state["epoch"]
        print(f"resuming after epoch {epoch}", flush=True)

    while epoch < args.epochs:
        model.train()
        began, losses = time.perf_counter(), []
        for i, batch in enumerate(torch.randperm(len(x)).split(args.batch_size)[:steps]):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * steps + i, args.epochs * steps, 10 * steps, args.lr)
            inputs, target = augment(x[batch], y[batch], len(names), alpha=0.8)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(inputs).logits
            loss = nn.functional.cross_entropy(logits.float(), target, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            losses.append(loss.item())
        epoch += 1
        if epoch % 5 == 0 or epoch == args.epochs:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "epoch": epoch, "rng": torch.get_rng_state()}, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
        print(f"epoch {epoch} loss {sum(losses) / steps:.4f} {time.perf_counter() - began:.1f} s", flush=True)

    final = average.module.eval()
    final.half().save_pretrained(args.out)
    AudioMAEFeatureExtractor.of(LogMel.preset("esc50")).save_pretrained(args.out)
    print(f"saved {args.out}", flush=True)


if __name__ == "__main__":
    main()

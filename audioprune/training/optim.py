"""Optimizers and learning-rate schedules of the recipes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from ..adapters.blocks.adapter import find_blocks
from .recipe import LearningRate, Optimizer, Recipe


def depth_of(model: nn.Module) -> dict[str, int]:
    """Depth of each parameter by name: 0 for the embeddings, i + 1 for block i (0-based), D + 1 after the blocks."""
    adapter = find_blocks(model)
    owner = {id(p): 0 for module in adapter.embeddings for p in module.parameters()}
    for i, layer in enumerate(adapter.layers):
        owner |= {id(p): i + 1 for p in layer.parameters()}
    last = len(adapter.layers) + 1
    return {name: owner.get(id(parameter), last) for name, parameter in model.named_parameters()}


def exempt_from_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter has no weight decay: biases, norms, tokens and positions."""
    return parameter.ndim < 2 or name.endswith(("_token", "position_embeddings"))


def parameter_groups(model: nn.Module, settings: Optimizer, lr: float) -> list[dict[str, Any]]:
    """Parameter groups by depth (layer-wise learning-rate decay, as in BEiT) and by weight decay."""
    depths = depth_of(model)
    last = max(depths.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        free = settings.name == "adamw" and exempt_from_decay(name, parameter)
        group = {
            "params": [],
            "lr": lr * settings.layer_decay ** (last - depths[name]),
            "weight_decay": 0.0 if free else settings.weight_decay,
        }
        key = depths[name] if settings.layer_decay < 1 else 0, free
        groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())


def make_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    settings = recipe.optimizer
    kind = {"adamw": optim.AdamW, "adam": optim.Adam}[settings.name]
    return kind(parameter_groups(model, settings, recipe.peak_lr), lr=recipe.peak_lr, betas=settings.betas)


def factor(step: int, total: int, per_epoch: float, peak: float, settings: LearningRate) -> float:
    """Learning rate at an iteration, relative to the peak.

    Args:
        step: the iteration, 0-based.
        total: number of iterations of the run.
        per_epoch: iterations per epoch.
        peak: peak learning rate.
        settings: the recipe's schedule.
    """
    warmup = max(settings.warmup_steps, round(settings.warmup_epochs * per_epoch))
    if step < warmup:
        return (step + 1) / warmup
    if settings.name == "step":
        late = math.floor(step / per_epoch) - settings.start
        return settings.factor ** (late // settings.every + 1) if late >= 0 else 1.0
    low = settings.min_lr / peak
    done = (step - warmup) / max(1, total - warmup)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_scheduler(optimizer: optim.Optimizer, recipe: Recipe, total: int) -> LambdaLR:
    """Learning-rate scheduler that steps at every iteration of a run of `total` iterations."""
    per_epoch = total / recipe.epochs
    return LambdaLR(optimizer, lambda step: factor(step, total, per_epoch, recipe.peak_lr, recipe.learning_rate))

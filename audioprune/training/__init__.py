"""Training with pruning on transformers' Trainer: recipes, the shrink schedule, pre-training, sweeps, evaluation.

`ShrinkSchedule` works with any Trainer. The rest needs the `train` extra: `pip install 'audioprune[train]'`.
"""

from .schedule import ShrinkSchedule, shrink

__all__ = ["ShrinkSchedule", "shrink"]

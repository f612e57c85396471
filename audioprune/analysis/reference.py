"""The paper's own numbers: Token Pruning in Audio Transformers (Lee & Lee, arXiv 2504.01690), table by table.

All models are ViT-B with 12 blocks, fine-tuned for each keep rate, pruned after the attention of blocks 4, 7 and 10.
Shares are in percent, as printed.
"""

from __future__ import annotations

SOURCE = "arXiv 2504.01690"
LINK = "https://arxiv.org/abs/2504.01690"

SETS = ("SPC-2", "ESC-50", "VoxCeleb-1", "AS-20K")
_NAMES = {
    "speechcommands": "SPC-2",
    "speechcommandsv2": "SPC-2",
    "spc2": "SPC-2",
    "esc50": "ESC-50",
    "voxceleb1": "VoxCeleb-1",
    "audioset": "AS-20K",
    "audioset20k": "AS-20K",
    "as20k": "AS-20K",
}

RATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Keep rates of Tables 1, 4 (without the first) and 7."""
THREE_RATES = (0.9, 0.7, 0.5)
"""Keep rates of Tables 2, 3 and 5."""

TAU = {"SPC-2": -0.65, "ESC-50": -0.65, "VoxCeleb-1": -1.25, "AS-20K": -1.0}
SIGNAL_SHARE = {"SPC-2": 63, "ESC-50": 81, "VoxCeleb-1": 65, "AS-20K": 90}
"""Share of signal patches in percent, from the caption of Fig. 4."""

# Table 1, by keep rate: top-1 accuracy in percent (for AS-20K the mAP, also in percent), and multiply-accumulates in
# billions.
SCORES = {
    "SPC-2": (97.95, 97.79, 97.67, 97.64, 97.59, 97.28),
    "ESC-50": (94.30, 93.90, 93.55, 93.50, 93.75, 93.40),
    "VoxCeleb-1": (94.26, 94.28, 94.24, 93.90, 92.87, 91.32),
    "AS-20K": (37.2, 36.6, 36.2, 35.7, 35.2, 34.4),
}
GMACS = {
    "SPC-2": (5.61, 4.93, 4.30, 3.72, 3.27, 2.81),
    "ESC-50": (23.11, 20.02, 17.29, 15.02, 13.05, 11.37),
    "VoxCeleb-1": (48.57, 41.79, 36.04, 31.12, 27.12, 23.65),
    "AS-20K": (48.57, 41.79, 36.04, 31.12, 27.12, 23.65),
}

# Table 7: clips a second on an RTX 4090, by keep rate.
CLIPS_PER_SECOND = {
    "SPC-2": (2625, 2982, 3307, 3702, 4251, 4650),
    "ESC-50": (639, 740, 851, 970, 1112, 1247),
    "VoxCeleb-1": (270, 314, 370, 431, 489, 554),
    "AS-20K": (269, 317, 359, 428, 493, 544),
}

Rows = tuple[tuple[float, ...], ...]

# Table 2, AudioMAE-TopK: by pruning location, then by keep rate.
A: dict[str, Rows] = {
    "SPC-2": ((60.0, 46.8, 33.1), (60.5, 47.1, 33.0), (60.0, 47.6, 33.1)),
    "ESC-50": ((74.9, 58.4, 41.6), (74.8, 58.2, 41.5), (75.1, 58.6, 41.5)),
    "VoxCeleb-1": ((60.0, 46.7, 33.3), (60.0, 46.7, 33.3), (60.0, 46.8, 33.4)),
    "AS-20K": ((83.5, 65.0, 46.4), (83.5, 65.1, 46.3), (83.6, 65.1, 46.3)),
}
B: dict[str, Rows] = {
    "SPC-2": ((90.7, 70.4, 50.0), (82.8, 50.0, 25.0), (75.0, 36.0, 12.5)),
    "ESC-50": ((90.3, 70.5, 50.2), (81.3, 49.3, 25.1), (73.6, 34.8, 12.5)),
    "VoxCeleb-1": ((90.1, 70.1, 50.0), (81.1, 49.2, 25.0), (73.1, 34.6, 12.5)),
    "AS-20K": ((90.0, 70.1, 50.0), (81.0, 49.2, 25.0), (73.0, 34.5, 12.5)),
}

# Table 3: Γ by group of blocks (1–4, 5–7, 8–10), then by keep rate.
GAMMA_SIGNAL: dict[str, Rows] = {
    "SPC-2": ((1.31, 1.12, 1.11), (5.29, 1.82, 1.47), (13.03, 4.10, 2.17)),
    "ESC-50": ((1.15, 1.11, 1.11), (1.84, 1.58, 1.45), (2.60, 1.86, 1.73)),
    "VoxCeleb-1": ((1.38, 1.27, 1.22), (2.86, 1.96, 1.42), (11.31, 5.51, 3.03)),
    "AS-20K": ((1.17, 1.13, 1.13), (1.60, 1.41, 1.35), (2.58, 2.04, 1.88)),
}
GAMMA_BACKGROUND: dict[str, Rows] = {
    "SPC-2": ((1.30, 1.11, 1.11), (5.28, 1.82, 1.46), (13.14, 4.05, 2.13)),
    "ESC-50": ((1.13, 1.12, 1.10), (1.75, 1.51, 1.52), (2.54, 2.04, 1.83)),
    "VoxCeleb-1": ((1.38, 1.30, 1.28), (2.89, 2.14, 1.52), (10.99, 5.40, 3.20)),
    "AS-20K": ((1.12, 1.09, 1.11), (1.52, 1.33, 1.20), (2.00, 1.60, 1.98)),
}

# Table 4: top-1 accuracy in percent, by keep rate from 0.9 on.
PERTURBATION = {
    "SPC-2": {
        "baseline": (97.79, 97.67, 97.64, 97.59, 97.28),
        "I": (97.74, 97.33, 95.87, 89.47, 83.30),
        "II": (97.69, 97.14, 96.78, 95.85, 94.76),
        "III": (97.27, 93.88, 92.98, 92.60, 92.66),
    },
    "ESC-50": {
        "baseline": (93.90, 93.55, 93.50, 93.75, 93.40),
        "I": (93.40, 92.90, 93.10, 91.30, 76.40),
        "II": (93.85, 93.45, 93.50, 92.90, 90.95),
        "III": (93.35, 93.20, 92.85, 92.50, 91.85),
    },
}

# Table 5, ranked by CLS attention: model → data set → top-1, and A and B as in Table 2.
CLS_TOP1 = {
    "AudioMAE": {"SPC-2": (97.7, 97.5, 97.1), "ESC-50": (90.2, 88.0, 83.3)},
    "AST": {"SPC-2": (97.2, 97.0, 97.0), "ESC-50": (94.7, 94.9, 94.5)},
}
CLS_A: dict[str, dict[str, Rows]] = {
    "AudioMAE": {
        "SPC-2": ((60.0, 46.5, 33.1), (60.1, 47.1, 33.2), (60.0, 47.6, 33.2)),
        "ESC-50": ((74.9, 58.3, 41.4), (74.7, 58.0, 41.4), (75.1, 58.6, 41.4)),
    },
    "AST": {
        "SPC-2": ((65.2, 57.9, 47.2), (67.8, 65.0, 48.7), (72.6, 67.7, 49.3)),
        "ESC-50": ((75.9, 60.6, 44.3), (76.6, 62.4, 46.9), (76.5, 62.7, 47.0)),
    },
}
CLS_B: dict[str, dict[str, Rows]] = {
    "AudioMAE": {
        "SPC-2": ((90.6, 70.3, 50.0), (82.9, 50.0, 25.0), (75.0, 35.9, 12.5)),
        "ESC-50": ((90.3, 70.0, 49.9), (81.2, 49.0, 24.8), (73.4, 34.6, 12.4)),
    },
    "AST": {
        "SPC-2": ((99.0, 88.6, 73.3), (93.5, 70.7, 38.3), (91.6, 52.7, 19.6)),
        "ESC-50": ((92.5, 76.3, 58.4), (85.3, 57.9, 33.7), (76.5, 41.0, 17.5)),
    },
}


def paper_set(data: str) -> str | None:
    """The paper's name of a data set; None if the paper does not use it."""
    return _NAMES.get("".join(letter for letter in data.lower() if letter.isalnum()))


def nearest(data: str) -> tuple[str, ...]:
    """The paper's data set of this name, or its two most similar ones, nearest first: speech for digits and voices."""
    own = paper_set(data)
    if own is not None:
        return (own,)
    return ("SPC-2", "ESC-50") if data.lower().startswith(("fsdd", "digits", "vox")) else ("ESC-50", "SPC-2")


def at(rates: tuple[float, ...], numbers: tuple[float, ...], rate: float) -> float | None:
    """The number at a keep rate; None if the paper has not measured it."""
    return dict(zip(rates, numbers, strict=True)).get(round(rate, 6))

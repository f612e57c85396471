"""HTML bars of tokens, multiply-accumulates and milliseconds."""

from __future__ import annotations

from ..timing import Ratio
from .answer import Comparison, Prediction

MOST_NUMBERED = 16
"""Most blocks for which every column of the tokens has a number."""


def bars(comparison: Comparison) -> str:
    """Three panels, with the classes of page.css. All texts are our own, so none needs escaping."""
    full, pruned = comparison.unpruned, comparison.pruned
    panels = [
        _panel("Tokens that leave each block", _columns(full.tokens, pruned.tokens)),
        _panel(
            "Multiply-accumulates of this clip",
            _pair(full.macs, pruned.macs, magnitude(full.macs), f"{magnitude(pruned.macs)} · {_share(full, pruned)}"),
        ),
        _panel(
            "Milliseconds of this clip",
            _pair(
                full.milliseconds,
                pruned.milliseconds,
                duration(full.milliseconds),
                f"{duration(pruned.milliseconds)} · {faster(comparison.speed_up)}",
            ),
        ),
    ]
    return f'<div class="ap-bars">{_legend()}{"".join(panels)}</div>'


def magnitude(macs: int) -> str:
    """Number with three digits and its unit: 803 M, 51.5 G."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= 0.9995 * unit:
            return f"{float(f'{macs / unit:.3g}'):g} {name}"
    return str(macs)


def duration(milliseconds: float) -> str:
    return f"{milliseconds:.{2 if milliseconds < 10 else 1}f} ms"


def faster(ratio: Ratio) -> str:
    """Speed-up as text, with its interval; none where the measurement is not sure, or tells no difference."""
    if not ratio.is_sure:
        return "speed not sure, the machine is busy"
    if ratio.low <= 1 <= ratio.high:
        return "no difference"
    if ratio > 1:
        return f"{ratio:.2f}× faster ({ratio.low:.2f}–{ratio.high:.2f})"
    return f"{1 / ratio:.2f}× slower ({1 / ratio.high:.2f}–{1 / ratio.low:.2f})"


def _share(full: Prediction, pruned: Prediction) -> str:
    return f"{100 * pruned.macs / full.macs:.0f} %"


def _legend() -> str:
    return (
        '<div class="ap-legend"><span class="ap-key ap-full"></span>without pruning'
        '<span class="ap-key ap-pruned"></span>with pruning</div>'
    )


def _panel(title: str, inside: str) -> str:
    return f'<div class="ap-panel"><div class="ap-title">{title}</div>{inside}</div>'


def _columns(full: tuple[int, ...], pruned: tuple[int, ...]) -> str:
    columns = []
    for block, (all_, some) in enumerate(zip(full, pruned, strict=True), start=1):
        numbered = len(full) <= MOST_NUMBERED or block in (1, len(full))
        number, name = (some, block) if numbered else ("", "")
        columns.append(
            f'<div class="ap-column" title="block {block}: {some} of {all_} tokens">'
            f'<div>{number}</div><div class="ap-well"><div class="ap-some" style="height:{100 * some / all_:.1f}%">'
            f'</div></div><div class="ap-block">{name}</div></div>'
        )
    return f'<div class="ap-columns">{"".join(columns)}</div>'


def _pair(full: float, pruned: float, full_text: str, pruned_text: str) -> str:
    most = max(full, pruned)
    return "".join(
        f'<div class="ap-row"><div class="ap-track"><div class="ap-bar {kind}" style="width:{100 * value / most:.1f}%">'
        f'</div></div><div class="ap-number">{text}</div></div>'
        for kind, value, text in (("ap-full", full, full_text), ("ap-pruned", pruned, pruned_text))
    )

"""Tables that compare our numbers with the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import reference as paper
from .question import Finding, Table

Values = Mapping[str, Any]
Cell = Any


def comparison_note(data: str) -> str:
    """Sentence that says which numbers of the paper are compared."""
    own, alike = paper.paper_set(data), " and ".join(paper.nearest(data))
    if own is not None:
        return f"The paper's numbers ({paper.SOURCE}) are those of {own}."
    return (
        f"The paper ({paper.SOURCE}) has no numbers for {data}. Ours are compared with the nearest, those of {alike}. "
        "They come from other sounds and another model: expect the same direction, not the same size."
    )


def comparison_table(name: str, answer: Finding, data: str, score: str = "attention") -> Table | None:
    """Table of our numbers and the paper's for a question; None if the paper or we have no such numbers.

    Args:
        name: name of the question.
        answer: its finding.
        data: name of the data set.
        score: the score that ranked the tokens.
    """
    if not answer.values or name not in _TABLES:
        return None
    build, which = _TABLES[name]
    which = "Table 5" if score == "cls" and name in ("retained_signal", "ranking") else which
    own = paper.paper_set(data)
    content = build(answer.values, paper.nearest(data), score)
    if content is None:
        return None
    columns, rows = content
    nearest = "" if own else "; the paper does not use these sounds, so its nearest are shown"
    caption = f"Ours and the paper's {which} ({paper.SOURCE}: ViT-B, fine-tuned for each keep rate{nearest})."
    return Table(f"{name}_and_paper", caption, tuple(columns), tuple(rows))


TableContent = tuple[Sequence[str], Sequence[tuple[Cell, ...]]]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _survey(values: Values, sets: Sequence[str], score: str) -> TableContent:
    tau = ("τ", values["tau"], *(paper.TAU[one] for one in sets))
    share = ("signal patches, %", _percent(values["signal_share"]), *(float(paper.SIGNAL_SHARE[one]) for one in sets))
    return ("", "ours", *sets), (tau, share)


def _retained(values: Values, sets: Sequence[str], score: str) -> TableContent | None:
    columns_of: list[tuple[str, paper.Rows, paper.Rows]] = [(one, paper.A[one], paper.B[one]) for one in sets]
    if score == "cls":
        models = ((model, one) for one in sets[:1] for model in paper.CLS_A if one in paper.CLS_A[model])
        columns_of = [(f"{model} {one}", paper.CLS_A[model][one], paper.CLS_B[model][one]) for model, one in models]
    if not columns_of:
        return None
    columns = ["keep rate", "stage"]
    for ratio in ("A", "B"):
        columns += [f"{ratio} ours, %", *(f"{ratio} {name}, %" for name, _, _ in columns_of)]

    def rows() -> Iterator[tuple[Cell, ...]]:
        for rate, entry in sorted(
            ((float(rate), entry) for rate, entry in values["rates"].items()), reverse=True, key=_first
        ):
            for stage in range(len(entry["layers"])):
                cells: list[Cell] = [rate, stage + 1]
                for i, ratio in enumerate(("a", "b")):
                    cells.append(_percent(entry[ratio]["mean"][stage]))
                    cells += [_located(tables[i], stage, rate) for _, *tables in columns_of]
                yield tuple(cells)

    return columns, list(rows())


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def _located(rows: paper.Rows, place: int, rate: float) -> float | None:
    """The paper's number at a pruning location, counted from 0."""
    return paper.at(paper.THREE_RATES, rows[place], rate) if place < len(rows) else None


def _gamma(values: Values, sets: Sequence[str], score: str) -> TableContent | None:
    kinds = (("signal", paper.GAMMA_SIGNAL), ("background", paper.GAMMA_BACKGROUND))
    columns = ["keep rate", "group"]
    for kind, _ in kinds:
        columns += [f"{kind}: ours, pooled", f"{kind}: ours", *(f"{kind}: {one}" for one in sets)]
    rows = []
    for rate, entry in sorted(
        ((float(rate), entry) for rate, entry in values["rates"].items()), reverse=True, key=_first
    ):
        for group in range(len(entry["stages"])):
            cells: list[Cell] = [rate, f"G{group + 1}"]
            for i, (_, numbers) in enumerate(kinds):
                cells += [entry["pooled"][i][group], entry["Gamma"]["mean"][i][group]]
                cells += [_located(numbers[one], group, rate) for one in sets]
            rows.append(tuple(cells))
    return columns, rows


def _perturbation(values: Values, sets: Sequence[str], score: str) -> TableContent | None:
    sets = [one for one in sets if one in paper.PERTURBATION]
    if not sets:
        return None
    metric = values["metric"]
    rows = []
    for entry in values["rates"]:
        for test, result in entry["tests"].items():
            theirs = (paper.at(paper.RATES[1:], paper.PERTURBATION[one][test], entry["keep_rate"]) for one in sets)
            label = test if test == "baseline" else f"test {test}"
            rows.append((entry["keep_rate"], label, _percent(result["score"]["mean"]), *theirs))
    return ("keep rate", "test", f"ours: {metric}, %", *(f"{one}: accuracy, %" for one in sets)), rows


_COSTS: dict[str, tuple[Mapping[str, tuple[float, ...]], float]] = {
    "score, %": (paper.SCORES, 0.0),
    "MACs, %": (paper.GMACS, 100.0),
    "times as fast": (paper.CLIPS_PER_SECOND, 1.0),
}
"""Part → the paper's numbers, and a factor for them after division by the unpruned model's; 0: they are not changed."""


def _tradeoff(values: Values, sets: Sequence[str], score: str) -> TableContent:
    columns = ["keep rate", *(f"{who}: {part}" for part in _COSTS for who in ("ours", *sets))]
    rows = []
    for entry in values["rates"]:
        rate = entry["keep_rate"]
        ours = (_percent(entry["score"]["mean"]), _percent(entry["macs_share"]), entry["speed_up"])
        cells: list[Cell] = [rate]
        for own, (numbers, relative) in zip(ours, _COSTS.values(), strict=True):
            cells.append(own)
            for one in sets:
                theirs = paper.at(paper.RATES, numbers[one], rate)
                cells.append(theirs if not relative or theirs is None else relative * theirs / numbers[one][0])
        rows.append(tuple(cells))
    return columns, rows


def _ranking(values: Values, sets: Sequence[str], score: str) -> TableContent | None:
    """Content of the ranking table. The paper ranked by attention (Table 1) and by the CLS token (Table 5)."""
    sets = [one for one in sets if one in paper.CLS_TOP1["AudioMAE"]]
    if "cls" not in values["rates"][0]["scores"] or not sets:
        return None
    rows = []
    for entry in values["rates"]:
        for name in ("attention", "cls"):
            theirs = [_ranked(name, one, entry["keep_rate"]) for one in sets]
            rows.append((entry["keep_rate"], name, _percent(entry["scores"][name]["score"]["mean"]), *theirs))
    return ("keep rate", "ranked by", f"ours: {values['metric']}, %", *(f"AudioMAE {one}, %" for one in sets)), rows


def _ranked(name: str, data: str, rate: float) -> float | None:
    if name == "attention":
        return paper.at(paper.RATES, paper.SCORES[data], rate)
    return paper.at(paper.THREE_RATES, paper.CLS_TOP1["AudioMAE"][data], rate)


_TABLES: dict[str, tuple[Callable[[Values, Sequence[str], str], TableContent | None], str]] = {
    "survey": (_survey, "Fig. 4"),
    "retained_signal": (_retained, "Table 2"),
    "attention_ratio": (_gamma, "Table 3"),
    "tradeoff": (_tradeoff, "Tables 1 and 7"),
    "ranking": (_ranking, "Tables 1 and 5"),
    "perturbation": (_perturbation, "Table 4"),
}

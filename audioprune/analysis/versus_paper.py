"""Tables of our numbers beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import reference as paper
from .question import Answer, Table

Values = Mapping[str, Any]
Cell = Any


def note(data: str) -> str:
    """What the paper's numbers are for such a data set."""
    own, alike = paper.paper_set(data), " and ".join(paper.nearest(data))
    if own is not None:
        return f"The paper's numbers ({paper.SOURCE}) are those of {own}."
    return (
        f"The paper ({paper.SOURCE}) has no numbers for {data}: beside ours stand, as the nearest, those of {alike}. "
        "They are of other sounds and another model: expect the same direction, not the same size."
    )


def beside(name: str, answer: Answer, data: str, score: str = "attention") -> Table | None:
    """Our numbers and the paper's of a question; None where the paper has no such numbers or we have none.

    name: of the question. data: name of the data set. score: by which tokens were ranked.
    """
    if not answer.values or name not in _TABLES:
        return None
    build, which = _TABLES[name]
    which = "Table 5" if score == "cls" and name in ("retained_signal", "ranking") else which
    own = paper.paper_set(data)
    found = build(answer.values, paper.nearest(data), score)
    if found is None:
        return None
    columns, rows = found
    where = "" if own else "; the paper has not these sounds, and its nearest are shown"
    caption = f"Ours beside the paper's {which} ({paper.SOURCE}: ViT-B, fine-tuned for each keep rate{where})."
    return Table(f"{name}_and_paper", caption, tuple(columns), tuple(rows))


Built = tuple[Sequence[str], Sequence[tuple[Cell, ...]]]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _survey(values: Values, sets: Sequence[str], score: str) -> Built:
    tau = ("τ", values["tau"], *(paper.TAU[one] for one in sets))
    share = ("signal patches, %", _percent(values["signal_share"]), *(float(paper.SIGNAL_SHARE[one]) for one in sets))
    return ("", "ours", *sets), (tau, share)


def _retained(values: Values, sets: Sequence[str], score: str) -> Built | None:
    of: list[tuple[str, paper.Rows, paper.Rows]] = [(one, paper.A[one], paper.B[one]) for one in sets]
    if score == "cls":
        models = ((model, one) for one in sets[:1] for model in paper.CLS_A if one in paper.CLS_A[model])
        of = [(f"{model} {one}", paper.CLS_A[model][one], paper.CLS_B[model][one]) for model, one in models]
    if not of:
        return None
    columns = ["keep rate", "stage"]
    for ratio in ("A", "B"):
        columns += [f"{ratio} ours, %", *(f"{ratio} {name}, %" for name, _, _ in of)]

    def rows() -> Iterator[tuple[Cell, ...]]:
        for rate, found in sorted(
            ((float(rate), of) for rate, of in values["rates"].items()), reverse=True, key=_first
        ):
            for stage in range(len(found["layers"])):
                cells: list[Cell] = [rate, stage + 1]
                for i, ratio in enumerate(("a", "b")):
                    cells.append(_percent(found[ratio]["mean"][stage]))
                    cells += [_located(tables[i], stage, rate) for _, *tables in of]
                yield tuple(cells)

    return columns, list(rows())


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def _located(rows: paper.Rows, place: int, rate: float) -> float | None:
    """The paper's number at a pruning location, counted from 0."""
    return paper.at(paper.THREE_RATES, rows[place], rate) if place < len(rows) else None


def _gamma(values: Values, sets: Sequence[str], score: str) -> Built | None:
    kinds = (("signal", paper.GAMMA_SIGNAL), ("background", paper.GAMMA_BACKGROUND))
    columns = ["keep rate", "group"]
    for kind, _ in kinds:
        columns += [f"{kind}: ours", *(f"{kind}: {one}" for one in sets)]
    rows = []
    for rate, found in sorted(((float(rate), of) for rate, of in values["rates"].items()), reverse=True, key=_first):
        for group in range(len(found["stages"])):
            cells: list[Cell] = [rate, f"G{group + 1}"]
            for i, (_, numbers) in enumerate(kinds):
                cells.append(found["Gamma"]["mean"][i][group])
                cells += [_located(numbers[one], group, rate) for one in sets]
            rows.append(tuple(cells))
    return columns, rows


def _perturbation(values: Values, sets: Sequence[str], score: str) -> Built | None:
    sets = [one for one in sets if one in paper.PERTURBATION]
    if not sets:
        return None
    metric = values["metric"]
    rows = []
    for found in values["rates"]:
        for test, of in found["tests"].items():
            theirs = (paper.at(paper.RATES[1:], paper.PERTURBATION[one][test], found["keep_rate"]) for one in sets)
            label = test if test == "baseline" else f"test {test}"
            rows.append((found["keep_rate"], label, _percent(of["score"]["mean"]), *theirs))
    return ("keep rate", "test", f"ours: {metric}, %", *(f"{one}: accuracy, %" for one in sets)), rows


_COSTS: dict[str, tuple[Mapping[str, tuple[float, ...]], float]] = {
    "score, %": (paper.SCORES, 0.0),
    "MACs, %": (paper.GMACS, 100.0),
    "times as fast": (paper.CLIPS_PER_SECOND, 1.0),
}
"""Part → the paper's numbers, and by what they are multiplied once divided by the unpruned model's; 0: as they are."""


def _tradeoff(values: Values, sets: Sequence[str], score: str) -> Built:
    columns = ["keep rate", *(f"{who}: {part}" for part in _COSTS for who in ("ours", *sets))]
    rows = []
    for found in values["rates"]:
        rate = found["keep_rate"]
        ours = (_percent(found["score"]["mean"]), _percent(found["macs_share"]), found["speed_up"])
        cells: list[Cell] = [rate]
        for own, (numbers, relative) in zip(ours, _COSTS.values(), strict=True):
            cells.append(own)
            for one in sets:
                theirs = paper.at(paper.RATES, numbers[one], rate)
                cells.append(theirs if not relative or theirs is None else relative * theirs / numbers[one][0])
        rows.append(tuple(cells))
    return columns, rows


def _ranking(values: Values, sets: Sequence[str], score: str) -> Built | None:
    """The paper ranked by attention (Table 1) and by the CLS token (Table 5)."""
    sets = [one for one in sets if one in paper.CLS_TOP1["AudioMAE"]]
    if "cls" not in values["rates"][0]["scores"] or not sets:
        return None
    rows = []
    for found in values["rates"]:
        for name in ("attention", "cls"):
            theirs = [_ranked(name, one, found["keep_rate"]) for one in sets]
            rows.append((found["keep_rate"], name, _percent(found["scores"][name]["score"]["mean"]), *theirs))
    return ("keep rate", "ranked by", f"ours: {values['metric']}, %", *(f"AudioMAE {one}, %" for one in sets)), rows


def _ranked(name: str, data: str, rate: float) -> float | None:
    if name == "attention":
        return paper.at(paper.RATES, paper.SCORES[data], rate)
    return paper.at(paper.THREE_RATES, paper.CLS_TOP1["AudioMAE"][data], rate)


_TABLES: dict[str, tuple[Callable[[Values, Sequence[str], str], Built | None], str]] = {
    "survey": (_survey, "Fig. 4"),
    "retained_signal": (_retained, "Table 2"),
    "attention_ratio": (_gamma, "Table 3"),
    "tradeoff": (_tradeoff, "Tables 1 and 7"),
    "ranking": (_ranking, "Tables 1 and 5"),
    "perturbation": (_perturbation, "Table 4"),
}

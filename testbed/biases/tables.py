"""Tables of the study: means with intervals, differences in pairs, claims, ranks, and the choice of a mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from singleinsert.evaluate.bootstrap import FEWEST, Interval, bootstrap, paired, pareto_front

from .measures import CLASS_WORD, DRAWN, Means
from .references import BIASES, SCENES

Rows = Mapping[str, Mapping[str, Means]]
MEASURES = ("U", "E", "V", "D", "K", "identity", "O", "S", "SA", "NSD", "TA", "inside")
SHOWN = ("U", "V", "D", "K", "identity", "O", "S", "SA", "NSD", "TA", "inside")
LESS_IS_BETTER = ("U", "E")
TWINS = (("SA", "identity"), ("SA", "K"), ("NSD", "E"), ("TA", "O"))
"""The paper's measures, and the exact ones of the same thing."""


def bias_of(reference: str) -> str:
    return reference.partition("-")[0]


def biases_in(rows: Rows) -> list[str]:
    found = {bias_of(concept) for concepts in rows.values() for concept in concepts}
    return [bias for bias in (*BIASES, SCENES) if bias in found]


def shared(rows: Rows, names: Sequence[str], biases: Sequence[str]) -> list[str]:
    """References of these biases that all of the rows have, so that comparisons are in pairs."""
    sets = [{c for c in rows[name] if bias_of(c) in biases} for name in names if rows.get(name)]
    return sorted(set.intersection(*sets)) if sets else []


def values(rows: Rows, name: str, concepts: Sequence[str], measure: str) -> list[float]:
    return [rows[name][c][measure] for c in concepts if measure in rows[name].get(c, {})]


def cell(rows: Rows, name: str, concepts: Sequence[str], measure: str) -> Interval | None:
    """The mean over references and its interval; None where it was not measured."""
    found = values(rows, name, concepts, measure)
    return bootstrap(found) if found else None


def difference(rows: Rows, of: str, against: str, concepts: Sequence[str], measure: str) -> Interval | None:
    """``of`` minus ``against``, in pairs."""
    both = [c for c in concepts if all(measure in rows.get(name, {}).get(c, {}) for name in (of, against))]
    if not both:
        return None
    return paired(*([rows[name][c][measure] for c in both] for name in (of, against)))


def text_table(rows: Rows, order: Sequence[str], labels: Mapping[str, str]) -> str:
    """All biases, for a terminal."""
    return "\n\n".join(f"{bias}\n{markdown(rows, order, labels, bias)}" for bias in biases_in(rows))


def markdown(rows: Rows, order: Sequence[str], labels: Mapping[str, str], bias: str) -> str:
    """One bias: a line per row over the references that all trained rows have, each mean with its interval; first the
    rows of nothing trained."""
    trained = [name for name in order if any(c.startswith(f"{bias}-") for c in rows[name])]
    concepts = shared(rows, trained, [bias])
    lines = [f"| {len(concepts)} references | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name in (DRAWN, CLASS_WORD, *trained):
        if not any(c in rows[name] for c in concepts):
            continue
        cells = [_shown(cell(rows, name, concepts, measure)) for measure in SHOWN]
        lines.append(f"| {labels.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.is_told else "")


# the choice of a mode

SIMPLEST = ("O2", "O1", "O4", "O3", "O5")
"""Of modes that do not differ beyond chance, the first is taken."""
DECIDING = ("tied", "pose", "expression")


@dataclass(frozen=True)
class Choice:
    """``mode``: the one to take, "" where nothing can be said. ``lines``: why, a line for each mode."""

    mode: str
    lines: tuple[str, ...]


def choose_mode(rows: Rows, base: str = "off") -> Choice:
    """The mode with the lowest undesired rate over :data:`DECIDING` among those that lose neither identity nor
    obedience beyond chance against no description; of those that do not differ from it beyond chance, the simplest."""
    modes = [mode for mode in SIMPLEST if rows.get(mode)]
    concepts = shared(rows, [base, *modes], DECIDING) if modes and rows.get(base) else []
    if not concepts:
        return Choice("", ("nothing to choose from",))
    counts = Counter(map(bias_of, concepts))
    if few := [f"{counts[bias]} of {bias}" for bias in DECIDING if counts[bias] < FEWEST]:
        return Choice("", (f"too few references to choose by: {', '.join(few)}",))
    lines, fit = [], {}
    plain = float(np.mean(values(rows, base, concepts, "U")))
    for mode in modes:
        lost = {}
        for measure in ("identity", "O"):
            found = difference(rows, mode, base, concepts, measure)
            lost[measure] = found is not None and found.side < 0
        rate = float(np.mean(values(rows, mode, concepts, "U")))
        worse = [measure for measure, is_lost in lost.items() if is_lost]
        if not worse:
            fit[mode] = rate
        share = f", {rate / plain:.2f} of no description's" if plain else ""
        lines.append(f"{mode}: U {rate:.3f}{share}" + (f"; loses {' and '.join(worse)}" if worse else ""))
    if not fit:
        return Choice("off", (*lines, "each loses identity or obedience: none is taken"))
    best = min(fit, key=lambda mode: fit[mode])
    equal = [mode for mode in fit if not _beyond(difference(rows, mode, best, concepts, "U"))]
    return Choice(next(mode for mode in SIMPLEST if mode in equal), tuple(lines))


def _beyond(found: Interval | None) -> bool:
    return found is not None and found.side != 0


# claims


@dataclass(frozen=True)
class Claim:
    """``of`` is above (``up``) or below ``against`` in ``measure``, says the paper in ``where``."""

    says: str
    where: str
    measure: str
    of: str
    against: str
    up: bool = True


CLAIMS: Mapping[str, tuple[Claim, ...]] = {
    "cases": (
        Claim("naming other things raises non-subject disentanglement", "E.3", "NSD", "case2", "case1"),
        Claim("their details raise it further", "E.3", "NSD", "case3", "case2"),
        Claim("naming other things raises text alignment", "E.3", "TA", "case2", "case1"),
        Claim("their details raise it further", "E.3", "TA", "case3", "case2"),
        Claim("the subject's details cost subject alignment", "E.3", "SA", "case4", "case3", False),
        Claim("case 4 has the best text alignment", "E.3", "TA", "case4", "case3"),
        Claim("case 4 disentangles less than case 3", "E.3", "NSD", "case4", "case3", False),
        Claim("the same, judged: naming other things", "", "U", "case2", "case1", False),
        Claim("the same, judged: their details", "", "U", "case3", "case2", False),
        Claim("the same, judged: the subject's details", "", "K", "case4", "case3", False),
    ),
    "qualities": (
        Claim("GPT-4 above LLaVA", "E.4", "TA", "gpt4", "llava"),
        Claim("GPT-4 above BLIP-2", "E.4", "TA", "gpt4", "blip2"),
        Claim("GPT-4 above LLaVA", "E.4", "SA", "gpt4", "llava"),
        Claim("GPT-4 above BLIP-2", "E.4", "SA", "gpt4", "blip2"),
        Claim("GPT-4 above LLaVA", "E.4", "NSD", "gpt4", "llava"),
        Claim("GPT-4 above BLIP-2", "E.4", "NSD", "gpt4", "blip2"),
        Claim("the same, judged: against LLaVA", "", "U", "gpt4", "llava", False),
        Claim("the same, judged: against BLIP-2", "", "U", "gpt4", "blip2", False),
    ),
    "methods": tuple(
        Claim(f"{name} with SID: {what}", "Fig. 8, 9", measure, f"{name}-sid", name, up)
        for name in ("ti", "db", "db-lora", "cd", "svd", "si")
        for measure, what, up in (("NSD", "disentangles more", True), ("TA", "obeys more", True),
                                  ("SA", "with one picture subject alignment falls", False))
    ),
}  # fmt: skip
"""By part."""


def verdict(rows: Rows, claim: Claim, concepts: Sequence[str]) -> tuple[Interval | None, str]:
    """The paired difference, and: holds, does not hold, not beyond chance (as or against the claim), not measured."""
    found = difference(rows, claim.of, claim.against, concepts, claim.measure)
    if found is None:
        return None, "not measured"
    if not found.is_told:
        return found, "too few to say"
    as_claimed = (found.mean > 0) == claim.up
    if not _beyond(found):
        return found, f"not beyond chance ({'as' if as_claimed else 'against the'} claimed)"
    return found, "holds" if as_claimed else "does not hold"


def claims_table(rows: Rows, part: str, biases: Sequence[str]) -> str:
    """Each claim of a part over the references of ``biases`` together."""
    lines = ["| the paper's | where | measure | difference here | |", "|---|---|---|---|---|"]
    for claim in CLAIMS.get(part, ()):
        concepts = shared(rows, [claim.of, claim.against], biases) if {claim.of, claim.against} <= rows.keys() else []
        found, said = verdict(rows, claim, concepts)
        shown = "" if found is None else found.signed
        arrow = "\u2191" if claim.up else "\u2193"
        lines.append(f"| {claim.says} | {claim.where} | {claim.measure} {arrow} | {shown} | {said} |")
    return "\n".join(lines)


def pareto_lines(rows: Rows, names: Sequence[str], biases: Sequence[str]) -> Iterator[str]:
    """Which rows no other beats in both of a plane's measures: the paper's planes, and the exact one."""
    concepts = shared(rows, names, biases)
    for x, y in (("NSD", "SA"), ("TA", "SA"), ("E", "K")):
        points = []
        for name in names:
            a, b = (values(rows, name, concepts, measure) for measure in (x, y))
            if a and b:
                sign = -1 if x in LESS_IS_BETTER else 1
                points.append((name, (sign * float(np.mean(a)), float(np.mean(b)))))
        if points:
            best = [points[k][0] for k in pareto_front([point for _, point in points])]
            told = "all" if all(name.endswith("-sid") for name in best) else "not all"
            yield f"{y} against {x}: best are {', '.join(best)} ({told} of them with descriptions)"


# ranks


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, equal values sharing the mean of their ranks; nan for fewer than three, or where one is constant."""
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(data: Sequence[float]) -> np.ndarray:
    array = np.asarray(data, dtype=np.float64)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def correlations(rows: Rows, names: Sequence[str]) -> str:
    """How the paper's measures order what the exact ones order: over the rows' means of a bias (which row is better?),
    and over single references within a row (which concept is?). E counts downwards."""
    lines = ["| paper's | exact | " + " | ".join(biases_in(rows)) + " |", "|---" * (2 + len(biases_in(rows))) + "|"]
    for ours, exact in TWINS:
        cells = []
        for bias in biases_in(rows):
            trained = [name for name in names if any(c.startswith(f"{bias}-") for c in rows.get(name, {}))]
            concepts = shared(rows, trained, [bias])
            sign = -1 if exact in LESS_IS_BETTER else 1
            by_row, singles = [], []
            for name in trained:
                both = [c for c in concepts if {ours, exact} <= rows[name][c].keys()]
                pairs = [(rows[name][c][ours], sign * rows[name][c][exact]) for c in both]
                if pairs:
                    by_row.append((float(np.mean([p[0] for p in pairs])), float(np.mean([p[1] for p in pairs]))))
                    singles.append(rank_correlation([p[0] for p in pairs], [p[1] for p in pairs]))
            over_rows = rank_correlation([p[0] for p in by_row], [p[1] for p in by_row])
            within = float(np.nanmean(singles)) if np.isfinite(singles).any() else float("nan")
            cells.append(f"{_number(over_rows)}, {_number(within)}")
        lines.append(f"| {ours} | {exact} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.2f}"

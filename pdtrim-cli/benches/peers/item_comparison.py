"""What `pdtrim eval` and lm-eval say of the same items, side by side.

An item is a dictionary: `doc` is its place in the data, `loglikelihoods` the scores of its choices (of a text: the one
score of the whole), and whatever else is known of it is one of FACTS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Iterator

from peer_io import aligned

Item = dict[str, Any]
Scores = dict[str, Any]  # by lm-eval's names: "acc,none", "acc_stderr,none"

FACTS = ("gold", "greedy", "acc", "acc_norm", "words", "bytes")  # have to be equal where both sides say them
TOKENS_PER_TOLERANCE = 1000  # a text's score is a sum over thousands of tokens: it may differ by a tolerance for each
PERPLEXITY_DIFFERENCE = 1e-4  # relative
HEADINGS = ("task", "items", "scores", "mean diff.", "largest", "beyond", "metric", "pdtrim", "lm-eval", "same")


def our_item(line: dict[str, Any]) -> Item:
    """A line of pdtrim's log of items. Texts, and single continuations, have one `loglikelihood`."""
    alone = {"loglikelihoods": [line["loglikelihood"]]} if "loglikelihood" in line else {}
    greedy = {"greedy": [line["greedy"]]} if isinstance(line.get("greedy"), bool) else {}
    return {**line, **alone, **greedy}


def their_item(sample: dict[str, Any]) -> Item:
    """One of lm-eval's logged samples; `asked` is what it gave to the model."""
    responses = [first_and_second(response) for response in sample["filtered_resps"]]
    item = {"doc": sample["doc_id"], "asked": sample["arguments"]}
    item["loglikelihoods"] = [float(score) for score, _ in responses]
    if all(greedy is not None for _, greedy in responses):
        item["greedy"] = [bool(greedy) for _, greedy in responses]
    if isinstance(sample["target"], int):
        item["gold"] = sample["target"]
    item |= {name: sample[name] for name in ("acc", "acc_norm") if name in sample}
    counts = {"words": "word_perplexity", "bytes": "byte_perplexity"}  # each a pair of log-likelihood and count
    return item | {name: sample[metric][1] for name, metric in counts.items() if metric in sample}


def first_and_second(response: Any) -> tuple[float, bool | None]:
    """A rolling score comes alone, others with whether greedy decoding gives the continuation."""
    return tuple(response) if isinstance(response, (list, tuple)) else (response, None)


@dataclass(frozen=True)
class Metric:
    """A metric on both sides; None where a side does not have it."""

    name: str
    ours: float | None
    theirs: float | None
    our_stderr: float | None
    their_stderr: float | None

    def is_same(self) -> bool:
        """Equal, a perplexity nearly so; standard errors equal to the four digits that are printed.

        Perplexities have none there, or a bootstrap's: only ours is shown.
        """
        closeness = {"rel_tol": PERPLEXITY_DIFFERENCE} if self.is_of_text() else {"rel_tol": 0.0, "abs_tol": 1e-12}
        values = (self.ours, self.theirs)
        if None in values or not math.isclose(*values, **closeness):
            return False
        return self.is_of_text() or digits(self.our_stderr) == digits(self.their_stderr)

    def is_of_text(self) -> bool:
        return self.name.endswith("perplexity") or self.name == "bits_per_byte"

    def cells(self) -> tuple[str, str, str, str]:
        ours, theirs = shown(self.ours, self.our_stderr), shown(self.theirs, self.their_stderr)
        return self.name, ours, theirs, "yes" if self.is_same() else "NO"


def accuracies(scores: Scores) -> dict[str, float]:
    """`acc`, and `acc_norm` where the task has it."""
    return {name: scores[f"{name},none"] for name in ("acc", "acc_norm") if f"{name},none" in scores}


def digits(value: float | None) -> str:
    return "N/A" if value is None else f"{value:.4f}"


def shown(value: float | None, stderr: float | None) -> str:
    return digits(value) + ("" if stderr is None else f" ± {stderr:.4f}")


@dataclass
class Comparison:
    """One task on both sides."""

    task: str
    items: int
    differences: list[float]  # of the log-likelihoods, absolute
    beyond: list[Item] = field(default_factory=list)  # items with a difference above the tolerance
    facts: list[Item] = field(default_factory=list)  # items of which the sides say something else
    metrics: list[Metric] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # why the items cannot be compared

    def is_same(self) -> bool:
        found = (self.beyond, self.facts, self.problems)
        return not any(found) and all(metric.is_same() for metric in self.metrics)

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "same": self.is_same(),
            "items": self.items,
            "loglikelihoods": len(self.differences),
            "mean_difference": fmean(self.differences) if self.differences else None,
            "largest_difference": max(self.differences, default=None),
            "metrics": [{**vars(metric), "same": metric.is_same()} for metric in self.metrics],
            "beyond": self.beyond,
            "facts": self.facts,
            "problems": self.problems,
        }


def compare(task: str, ours: list[Item], theirs: list[Item], scores: tuple[Scores, Scores], limit: float) -> Comparison:
    """Item by item; `limit` is how far two log-likelihoods may lie apart."""
    found = Comparison(task, len(theirs), [], metrics=metrics(*scores))
    if [item["doc"] for item in ours] != [item["doc"] for item in theirs]:
        found.problems.append(f"pdtrim scored {len(ours)} items, lm-eval {len(theirs)}, or others")
        return found
    for our, their in zip(ours, theirs, strict=True):
        compare_item(found, our, their, limit)
    return found


def compare_item(found: Comparison, ours: Item, theirs: Item, limit: float) -> None:
    pairs = (ours["loglikelihoods"], theirs["loglikelihoods"])
    if len(pairs[0]) != len(pairs[1]):
        found.problems.append(f"item {ours['doc']}: pdtrim has {len(pairs[0])} scores, lm-eval {len(pairs[1])}")
        return
    differences = [abs(our - their) for our, their in zip(*pairs, strict=True)]
    found.differences += differences
    allowed = limit * max(1.0, ours.get("tokens", 0) / TOKENS_PER_TOLERANCE)
    if "words" in theirs and "words" not in ours:
        found.problems.append(f"item {ours['doc']}: lm-eval scored a whole text, pdtrim counts no words")
    where = {"doc": ours["doc"], "asked": theirs.get("asked")}
    if not max(differences) <= allowed:  # a score that is not a number is beyond as well
        found.beyond.append({**where, "pdtrim": pairs[0], "lm_eval": pairs[1], "largest_difference": max(differences)})
    for name in FACTS:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            found.facts.append({**where, "name": name, "pdtrim": ours[name], "lm_eval": theirs[name]})


def metrics(ours: Scores, theirs: Scores) -> list[Metric]:
    """lm-eval's metrics, with ours of the same names."""
    names = [key for key, value in theirs.items() if key.endswith(",none") and "_stderr," not in key]
    return [metric(key.removesuffix(",none"), ours, theirs) for key in names]


def metric(name: str, ours: Scores, theirs: Scores) -> Metric:
    keys = (f"{name},none", f"{name}_stderr,none")
    return Metric(name, *(number(side.get(key)) for key in keys for side in (ours, theirs)))


def number(value: Any) -> float | None:
    """A missing standard error is "N/A" with lm-eval and left out with us."""
    return None if value is None or value == "N/A" else float(value)


def table(comparisons: list[Comparison]) -> str:
    """A row per metric, and below the items that differ."""
    rows = [HEADINGS, *(row for comparison in comparisons for row in table_rows(comparison))]
    remarks = [remark for comparison in comparisons for remark in table_remarks(comparison)]
    return "\n".join([*aligned(rows), *([""] if remarks else []), *remarks])


def table_rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    found = comparison.differences
    numbers = (f"{fmean(found):.2e}", f"{max(found):.2e}") if found else ("", "")
    head = (comparison.task, str(comparison.items), str(len(found)), *numbers, str(len(comparison.beyond)))
    for metric in comparison.metrics:
        yield (*head, *metric.cells())
        head = ("",) * len(head)


def table_remarks(comparison: Comparison) -> Iterator[str]:
    task = comparison.task
    yield from (f"{task}: {problem}" for problem in comparison.problems)
    for item in comparison.beyond:
        ours, theirs = (", ".join(f"{score:.4f}" for score in item[side]) for side in ("pdtrim", "lm_eval"))
        yield f"{task} item {item['doc']}: log-likelihoods {ours}; lm-eval {theirs}"
    for item in comparison.facts:
        yield f"{task} item {item['doc']}: {item['name']} {item['pdtrim']}; lm-eval {item['lm_eval']}"

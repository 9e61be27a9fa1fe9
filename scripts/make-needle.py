#!/usr/bin/env python3
"""Writes datasets/data/needle.jsonl: a code word hidden at some depth in two passages of our own held-out prose."""

import json
from pathlib import Path

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
PLACES = ["Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Prague", "Havana", "Geneva", "Boston"]
WORDS = ["marble", "lantern", "violin", "copper", "falcon", "ginger", "harbor", "pencil", "velvet", "walnut"]
DEPTHS = [0.1, 0.3, 0.5, 0.7, 0.9]
ITEMS = 20


def item(number: int, passages: list[str]) -> dict[str, object]:
    """The code word stands after the sentence that ends nearest to the item's depth."""
    first, step = number % len(passages), 1 + number // len(passages)
    text = passages[first] + "\n\n" + passages[(first + step) % len(passages)]
    place, word = PLACES[number % len(PLACES)], WORDS[(3 * number + number // len(PLACES)) % len(WORDS)]
    depth = DEPTHS[(number + number // len(DEPTHS)) % len(DEPTHS)]
    ends = [at + 2 for at in range(len(text)) if text.startswith(". ", at)]
    at = min(ends, key=lambda end: abs(end - depth * len(text)))
    text = f"{text[:at]}The code word of {place} is {word}. {text[at:]}"
    return {"id": f"needle-{number + 1:03}", "text": text, "place": place, "word": word, "depth": depth}


def main() -> None:
    passages = [line for line in (DATASETS / "calibration/heldout.txt").read_text().splitlines() if line.strip()]
    lines = [json.dumps(item(number, passages)) + "\n" for number in range(ITEMS)]
    (DATASETS / "data/needle.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""corpus.py: fixtures for formatters, as JSON lines: texts that separate languages from each other.

Half of a text is drawn from characters that some language counts, trims, escapes or splits in its own way.
"""

import json
import random

HARD = [
    "\t", "\n", "\r\n", "\r", " ", "\0", "\x0b", "\x0c", "\x1b[31m", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\xad", "\u1680",
    "\u180e", "\u2000", "\u200a", "\u200b", "\u2028", "\u2029", "\u202e", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff",
    "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "é", "e\u0301", "ß", "İ", "ǆ", "Ω", "日本", "مرحبا",
    "👍", "👩\u200d👩\u200d👧", "🇩🇪", "'", '"', "`", "\\", "\\n", "\\u0041", "{}", "{0}", "%s", "$1", "$&", "<|im_end|>", "</s>",
    "### Response:\n", "### Input:\n", "null", "undefined", "None",
]  # fmt: skip
WORDS = "the route of a query to an agent which answers it quickly or not at all".split()


def text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.08:
        return ""
    if kind < 0.16:
        return "".join(rng.choice(HARD[:28]) for _ in range(rng.randint(1, 4)))
    if kind < 0.2:
        return "".join(rng.choice(HARD) for _ in range(rng.randint(500, 3000)))
    return " ".join(rng.choice(HARD if rng.random() < 0.5 else WORDS) for _ in range(rng.randint(1, 30)))


def example(rng: random.Random, number: int) -> dict:
    lineage = {
        "span_ids": [f"{number:016x}"],
        "trace_id": f"{number:032x}",
        "session_id": rng.choice([None, "s", ""]),
        "annotation_names": ["approval"][: rng.randint(0, 1)],
    }
    both = {"instruction": text(rng), "input": text(rng), "lineage": lineage}
    match rng.randint(0, 3):
        case 0:
            return {"Preference": both | {"chosen": text(rng), "rejected": text(rng)}}
        case 1:
            names = ("anchor", "positive", "negative")
            return {"Triplet": {name: text(rng) for name in names} | {"lineage": lineage}}
        case _:
            return {"Instruction": both | {"output": text(rng), "corrected": rng.random() < 0.5}}


def main() -> None:
    rng = random.Random(5)
    config = {"agent_type": "routing", "settings": []}
    for batch in range(12):
        examples = [example(rng, 100 * batch + index) for index in range(rng.choice([1, 2, 60]))]
        print(json.dumps({"name": f"batch {batch}", "config": config, "examples": examples}))
    for key in ("template", "a`b\u2028"):
        settings = config | {"settings": [[key, "x"], ["second", "y"]]}
        print(json.dumps({"name": f"setting {key!r}", "config": settings, "examples": []}))


if __name__ == "__main__":
    main()

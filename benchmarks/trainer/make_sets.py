#!/usr/bin/env python3
"""Writes the three training sets of the trainer's benchmarks: sft.jsonl, dpo.jsonl, triplets.jsonl.

    python3 benchmarks/trainer/make_sets.py OUT_DIR [--seed 29]

500 routing prompts with their agent; 300 with a wrong agent too; 1,000 triplets of a question, the recording that it is
about and another one. Every prompt starts with the same instruction. Standard library only; the same seed gives the same
bytes.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_routing_set as routing

# Shorter than the routing set's: 130 tokens of SmolLM2 with the lines around it, so that a batch of 4 is 2.6 times its
# unique tokens. Longer instructions would flatter whoever computes them once.
PURPOSES = {
    "video_search_agent": "moments in camera clips",
    "image_search_agent": "stills and photos",
    "document_search_agent": "passages",
    "summary_agent": "short versions",
    "translation_agent": "languages",
    "entity_extraction_agent": "fields of texts",
    "report_agent": "figures, charts",
    "calendar_agent": "meetings, rooms",
    "support_agent": "broken things",
    "alert_agent": "notifications",
}
INSTRUCTION = "Route the following query to the appropriate agent. Answer with the agent's name only.\nAgents:\n" + "\n".join(
    f"- {agent}: {purpose}" for agent, purpose in PURPOSES.items()
)
CLOSINGS = [
    "", ", thanks", ", before noon if you can manage", "; the audit team is waiting for it", " - {person} asked for it again",
    ", in the same form as {time}", " because the review of {topic} is due soon", ", and keep it to what is in the archive",
]

QUESTIONS = [
    "when was {thing} at {place}?",
    "recordings of {thing} from {time}",
    "show {thing} near {place} {time}",
    "did {person} meet {thing} at {place}",
]
RECORDINGS = [
    "{device}, clip {number}: {thing} crosses the picture at {place}, recorded {time}; {person} is seen in the background.",
    "Guard's log {number}, {time}: {thing} at {place}, reported by {person} and closed without further action.",
    "Transcript {number}: {person} describes {thing} seen {time} at {place} and asks about {topic}.",
]


def prompts(count, rng):
    """Different prompts, each with the agent that it is for."""
    for query, agent in routing.queries(count, rng):
        query += fill(rng.choice(CLOSINGS), rng)
        yield f"### Instruction:\n{INSTRUCTION}\n### Input:\n{query}\n### Response:\n", agent


def fill(template, rng, **fixed):
    words = {name: rng.choice(words) for name, words in routing.FILLERS.items()}
    return template.format(**{**words, "number": rng.randint(100, 999), **fixed})


def triplet(rng):
    thing, other = rng.sample(routing.THINGS, 2)
    place, time = rng.choice(routing.PLACES), rng.choice(routing.TIMES)
    return {
        "anchor": fill(rng.choice(QUESTIONS), rng, thing=thing, place=place, time=time),
        "positive": fill(rng.choice(RECORDINGS), rng, thing=thing, place=place, time=time),
        "negative": fill(rng.choice(RECORDINGS), rng, thing=other),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=29)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    routed = list(prompts(800, rng))
    others = {agent: [other for other in PURPOSES if other != agent] for agent in PURPOSES}
    sets = {
        "sft": [{"prompt": prompt, "completion": agent} for prompt, agent in routed[:500]],
        "dpo": [{"prompt": prompt, "chosen": agent, "rejected": rng.choice(others[agent])} for prompt, agent in routed[500:]],
        "triplets": [triplet(rng) for _ in range(1000)],
    }
    for name, rows in sets.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes agent_corpus.jsonl: generic agent text on which the quick start's base model is trained from scratch.

The base learns the words, the instruction format, and to route with common agent names; the tenant's names and its
division of work are in its telemetry only. Standard library only; the same seed gives the same bytes.
"""

import argparse
import json
import random
from pathlib import Path

from make_telemetry import AGENTS
from phrases import INTENTS, query, slots

GENERIC = {"video": "video_search_agent", "audio": "audio_analysis_agent", "image": "image_search_agent",
           "document": "document_agent", "summary": "summarizer_agent", "weather": "weather_agent",
           "calendar": "calendar_agent", "code": "code_agent", "travel": "travel_agent", "chat": "general_agent"}
ROUTING = ["Route the following query to the appropriate agent", "Route the query", "Which agent should answer this?",
           "Choose the agent for the request below", "Pick one agent for this message"]
# Houses that name their agents by rooms and desks, so that such words are in the vocabulary.
ROOMS = ["desk", "office", "library", "workshop", "studio", "room", "agent", "team"]
ROOM_WORDS = {"video": ["film", "clip", "reel"], "audio": ["sound", "voice", "music"], "image": ["photo", "picture"],
              "document": ["paper", "records", "file"], "summary": ["briefing", "digest"], "weather": ["sky", "storm"],
              "calendar": ["diary", "date"], "code": ["script", "repair"], "travel": ["route", "journey"],
              "chat": ["help", "front"]}
PROFILES = {"video": "frame_search", "audio": "speech_search", "image": "picture_search", "document": "page_search",
            "summary": "text_search", "weather": "web_search", "calendar": "no_search", "code": "code_search",
            "travel": "map_search", "chat": "no_search"}
REPLIES = ["you are welcome", "I can find things, read files and plan your day", "I am an assistant for the {team} team",
           "{who} is at {where}", "ask {who} about {thing}", "{thing} is at {where}", "that was {when}"]
SENTENCES = ["{who} {does} {thing} at {where} {when}", "the {team} team moved {thing} to {where}",
             "{when} {who} wrote to the {team} team about {thing}", "{thing} was seen near {where} {when}"]


def alpaca(instruction, text, response):
    return f"### Instruction:\n{instruction}\n### Input:\n{text}\n### Response:\n{response}"


def routing(rng):
    intent = rng.choice(list(INTENTS))
    return alpaca(rng.choice(ROUTING), query(rng, intent, 0.2), GENERIC[intent])


def routing_from_list(rng):
    """The agents are listed, under names that change from line to line."""
    names = {intent: room_name(rng, words) for intent, words in ROOM_WORDS.items()}
    intent, *others = rng.sample(list(INTENTS), 4)
    listed = [names[each] for each in (intent, *others)]
    rng.shuffle(listed)
    instruction = f"{rng.choice(ROUTING)}\nAgents: {', '.join(listed)}"
    return alpaca(instruction, query(rng, intent, 0.1), names[intent])


def room_name(rng, words):
    """A made-up agent name that is none of the tenant's."""
    while (name := f"{rng.choice(words)}_{rng.choice(ROOMS)}") in AGENTS:
        pass
    return name


def entities(rng):
    chosen = slots(rng)
    text = rng.choice(SENTENCES).format(**chosen)
    found = [f"{kind}: {chosen[key]}" for kind, key in (("person", "who"), ("thing", "thing"), ("place", "where"),
                                                        ("time", "when"), ("team", "team")) if chosen[key] in text]
    return alpaca("Extract the entities from the following query", text, "; ".join(found))


def profile(rng):
    intent = rng.choice(list(INTENTS))
    return alpaca("Select the most suitable profile for the following query", query(rng, intent, 0.2), PROFILES[intent])


def summary(rng):
    chosen = slots(rng)
    first, second = (template.format(**chosen) for template in rng.sample(SENTENCES, 2))
    return alpaca("Summarise the following notes in a few words", f"{first}. {second}.", f"{chosen['thing']}, {chosen['when']}")


def chat(rng):
    return alpaca("Answer the following message", query(rng, "chat", 0.2), rng.choice(REPLIES).format(**slots(rng)))


def sentence(rng):
    return ". ".join(rng.choice(SENTENCES).format(**slots(rng)) for _ in range(rng.randint(2, 4))) + "."


KINDS = [(routing, 40), (routing_from_list, 15), (entities, 15), (profile, 10), (summary, 8), (chat, 6), (sentence, 6)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--lines", type=int, default=24_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "agent_corpus.jsonl")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds, weights = zip(*KINDS)
    with options.out.open("w", encoding="utf-8") as out:
        for kind in rng.choices(kinds, weights, k=options.lines):
            out.write(json.dumps({"text": kind(rng)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

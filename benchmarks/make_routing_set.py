#!/usr/bin/env python3
"""Writes the telemetry of a made-up routing agent: one approved span a line, for benchmarks.

    python3 benchmarks/make_routing_set.py routing.jsonl [--examples 500] [--seed 17]
    python3 benchmarks/make_routing_set.py --instruction      # the instruction that lists the agents

Standard library only; the same arguments give the same bytes. Queries are all different, agents equally frequent.
"""

import argparse
import json
import random
import sys
from datetime import datetime, timedelta, timezone

# For each agent: what it is for, templates, and what fills them. A word alone never gives the agent away:
# cameras, invoices and meetings turn up in several agents' queries.
PLACES = ["the north gate", "dock 4", "the lobby", "car park B", "the loading bay", "the server room", "hall 2", "the roof terrace"]
PEOPLE = ["Ines Duarte", "Tomasz Lis", "Mei Tanaka", "Olu Adeyemi", "Freya Holm", "Rashid Khan", "Lucía Vega", "Jonas Weber"]
TIMES = ["last night", "this morning", "on Tuesday", "between 14:00 and 15:30", "over the weekend", "since Monday", "in March", "an hour ago"]
THINGS = ["a red forklift", "two cyclists", "a white van", "someone in a yellow vest", "an open door", "a dropped pallet", "a stray dog", "a delivery robot"]
TOPICS = ["the parental leave policy", "fire drills", "travel expenses", "the badge system", "remote work", "data retention", "overtime pay", "visitor parking"]
METRICS = ["energy use", "door openings", "delivery delays", "invoice totals", "support tickets", "footfall", "machine downtime", "overtime hours"]
DEVICES = ["camera 12", "the badge reader", "printer 3", "the conference phone", "the thermostat", "scanner 7", "the gate motor", "the label printer"]
LANGUAGES = ["German", "Portuguese", "Japanese", "Polish", "Arabic", "Finnish", "Korean", "Swahili"]
DOCUMENTS = ["the supplier contract", "the incident report", "the invoice from Holm AS", "the meeting minutes", "the tender", "the audit letter", "the safety manual", "the lease"]
FIELDS = ["dates", "amounts", "names and roles", "addresses", "part numbers", "deadlines", "phone numbers", "signatories"]

AGENTS = {
    "video_search_agent": ("finds moments in camera recordings", [
        "show me {thing} at {place} {time}", "find footage of {thing} near {place}", "when did {thing} pass {place}?",
        "pull the clip with {thing} {time}", "did the cameras catch {thing} at {place} {time}?"]),
    "image_search_agent": ("finds still pictures and photos", [
        "photos of {thing}", "find a picture where {thing} is next to {place}", "any stills of {place} with {thing}?",
        "get me the best image of {thing} for a slide", "look for snapshots of {place} taken {time}"]),
    "document_search_agent": ("finds passages in written documents", [
        "where is {topic} written down?", "which page of {document} mentions {topic}?", "find the paragraph on {topic} in {document}",
        "look up what {document} says about {topic}", "I need the file that covers {topic}"]),
    "summary_agent": ("shortens a text or a meeting", [
        "give me the gist of {document}", "sum up {document} in three bullets", "what were the main points {time} in the talk on {topic}?",
        "tl;dr of {document}, please, for {person}", "condense the notes taken {time} on {topic}"]),
    "translation_agent": ("puts text into another language", [
        "put {document} into {language}", "how do you say '{topic}' in {language}?", "{person} needs {document} in {language}",
        "render the notice about {topic} in {language}", "make a {language} version of the mail on {topic}"]),
    "entity_extraction_agent": ("pulls structured fields out of a text", [
        "list all {field} in {document}", "pull the {field} out of {document} as JSON", "which {field} occur in the mail from {person}?",
        "get {field} from {document} into a table", "extract {field} from what {person} sent {time}"]),
    "report_agent": ("computes figures and draws charts", [
        "chart {metric} by week", "how did {metric} at {place} change {time}?", "compare {metric} for {place} and car park A",
        "average {metric} per day {time}", "plot {metric} against footfall for {person}"]),
    "calendar_agent": ("books and moves meetings and rooms", [
        "book hall 2 with {person} about {topic}", "move my meeting with {person} to Thursday", "when is {person} free to talk about {topic}?",
        "cancel what I have with {person} {time}", "find a slot for {person} and me at {place}"]),
    "support_agent": ("fixes broken equipment and accounts", [
        "{device} is not working {time}", "{device} at {place} keeps restarting", "how do I reset {device}?",
        "open a ticket: {device} makes a noise", "{person} cannot log in to {device}"]),
    "alert_agent": ("sets up notifications for later events", [
        "tell me as soon as {thing} shows up at {place}", "warn {person} if {metric} goes above normal",
        "ping me whenever {device} goes offline", "let {person} know next time {thing} is seen", "notify security when {place} is empty"]),
}
FILLERS = {"place": PLACES, "person": PEOPLE, "time": TIMES, "thing": THINGS, "topic": TOPICS, "metric": METRICS,
           "device": DEVICES, "language": LANGUAGES, "document": DOCUMENTS, "field": FIELDS}
OPENINGS = ["", "", "", "", "please ", "hi, ", "quick one: ", "can you help? "]


def instruction():
    agents = "\n".join(f"- {name}: {purpose}" for name, (purpose, _) in AGENTS.items())
    return f"Route the following query to the appropriate agent. Answer with the agent's name only.\nAgents:\n{agents}"


def queries(count, rng):
    """`count` different (query, agent) pairs in random order; agents differ in frequency by one at most."""
    seen, pairs = set(), []
    names = list(AGENTS)
    while len(pairs) < count:
        agent = names[len(pairs) % len(names)]
        template = rng.choice(AGENTS[agent][1])
        query = rng.choice(OPENINGS) + template.format(**{name: rng.choice(words) for name, words in FILLERS.items()})
        if query not in seen:
            seen.add(query)
            pairs.append((query, agent))
    rng.shuffle(pairs)
    return pairs


def spans(count, seed):
    rng = random.Random(seed)
    hex_id = lambda n_bytes: f"{rng.getrandbits(8 * n_bytes):0{2 * n_bytes}x}"
    clock = datetime(2025, 3, 3, 8, 0, tzinfo=timezone.utc)
    session, left = None, 0
    for query, agent in queries(count, rng):
        if left == 0:  # a session is one to three queries
            session, left = f"session-{hex_id(6)}", rng.randint(1, 3)
        left -= 1
        clock += timedelta(milliseconds=rng.randint(5_000, 400_000))
        end = clock + timedelta(milliseconds=rng.randint(80, 900))
        reviewed = end + timedelta(seconds=rng.randint(600, 90_000))
        yield {
            "name": "RoutingAgent.route",
            "context": {"trace_id": hex_id(16), "span_id": hex_id(8)},
            "parent_id": None,
            "span_kind": "AGENT",
            "status_code": "OK",
            "start_time": iso(clock),
            "end_time": iso(end),
            "attributes": {
                "openinference.span.kind": "AGENT",
                "input.value": query,
                "output.value": agent,
                "session.id": session,
            },
            "annotations": [{
                "name": "human_approval",
                "annotator_kind": "HUMAN",
                "result": {"label": "approved", "score": 1.0},
                "identifier": "reviewer",
                "metadata": {},
                "created_at": iso(reviewed),
                "updated_at": iso(reviewed),
            }],
        }


def iso(moment):
    return moment.isoformat(timespec="milliseconds")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--instruction", action="store_true", help="print the instruction and stop")
    args = parser.parse_args()
    if args.instruction:
        print(instruction())
    elif args.out and 0 < args.examples <= 5000:
        with open(args.out, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(span, ensure_ascii=False) + "\n" for span in spans(args.examples, args.seed))
    else:
        sys.exit("give the file to write and 1 to 5000 --examples")


if __name__ == "__main__":
    main()

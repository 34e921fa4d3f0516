#!/usr/bin/env python3
"""Writes telemetry.jsonl: some weeks of a routing agent's spans and of people's verdicts on them, dirt included.

Spans and annotations are in the shape of Phoenix's REST API, spans first, then annotations, as two exports of it
one after the other. Standard library only; the same seed gives the same bytes.
"""

import argparse
import json
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

from phrases import INTENTS, THINGS, query

# The tenant's own agents. Two names are common ones, the others no base model has seen, and two agents serve two intents.
AGENT_OF = {"video": "clip_library", "audio": "clip_library", "image": "photo_library", "document": "records_office",
            "summary": "briefing_desk", "weather": "weather_agent", "calendar": "calendar_agent", "code": "workshop",
            "travel": "front_desk", "chat": "front_desk"}
AGENTS = sorted(set(AGENT_OF.values()))
REVIEWERS = ["alice@example.com", "bruno@example.com", "chen@example.com"]
APPROVING_LABELS = ["approved"] * 12 + ["Approved ", "correct", "👍"]
HARD = 0.15
START = datetime(2026, 3, 2, 7, 0, tzinfo=timezone.utc)


class Telemetry:
    """Spans and annotations, one request (a trace) after the other."""

    def __init__(self, seed):
        self.rng, self.now, self.spans, self.annotations = random.Random(seed), START, [], []
        self.session, self.left_in_session, self.asked = None, 0, set()

    def hex(self, digits):
        return f"{self.rng.getrandbits(4 * digits):0{digits}x}"

    def span(self, trace, parent, name, kind, start, seconds, attributes, status="OK"):
        span_id = self.hex(16)
        end = start + timedelta(seconds=seconds)
        self.spans.append({"name": name, "context": {"trace_id": trace, "span_id": span_id}, "span_kind": kind,
                           "parent_id": parent, "start_time": start.isoformat(), "end_time": end.isoformat(),
                           "status_code": status, "attributes": attributes})
        return span_id

    def request(self, intent, text=None, output=None, status="OK", extra=None):
        """One trace: the request, the routing agent, its model call. Returns the routing span's id, query and answer."""
        rng = self.rng
        if self.left_in_session == 0:
            self.session, self.left_in_session = f"session-{self.hex(6)}", rng.choice([1, 1, 2, 2, 3])
        self.left_in_session -= 1
        self.now += timedelta(seconds=rng.randint(60, 4000))
        while text is None or text in self.asked:
            text = query(rng, intent, HARD)
        self.asked.add(text)
        output = AGENT_OF[intent] if output is None else output
        trace, session, start = self.hex(32), {"session.id": self.session}, self.now
        root = self.span(trace, None, "assistant.request", "CHAIN", start, 2.5, {"input.value": text, **session})
        attributes = {"agent.name": "routing_agent", "input.value": text, **session, **(extra or {})}
        if status == "OK":
            attributes["output.value"] = output
        routing = self.span(trace, root, "RoutingAgent.route", "AGENT", start + timedelta(milliseconds=40), 0.6,
                            attributes, status)
        if rng.random() < 0.5:
            self.span(trace, routing, "llm.completion", "LLM", start + timedelta(milliseconds=60), 0.5,
                      {"llm.model_name": "assistant-base", "input.value": text, "output.value": output}, status)
        return routing, text, output

    def annotate(self, span, name="human_approval", kind="HUMAN", label=None, score=None, explanation=None, metadata=None,
                 hours=5.0, reviewer=None):
        """An annotation that is made this many hours after the present request."""
        at = (self.now + timedelta(hours=hours)).isoformat()
        self.annotations.append({"span_id": span, "name": name, "annotator_kind": kind,
                                 "result": {"label": label, "score": score, "explanation": explanation},
                                 "metadata": metadata or {}, "identifier": reviewer or self.rng.choice(REVIEWERS),
                                 "created_at": at, "updated_at": at})

    def approve(self, span, **more):
        self.annotate(span, label=self.rng.choice(APPROVING_LABELS), score=1.0, **more)

    def reject(self, span, **more):
        self.annotate(span, label="rejected", score=0.0, **more)

    def wrong(self, intent):
        return self.rng.choice([agent for agent in AGENTS if agent != AGENT_OF[intent]])

    # The cases, one method each; `intent` is what the request is about.

    def approved(self, intent):
        self.approve(self.request(intent)[0])

    def approved_twice(self, intent):
        """The same query again, in another trace: a duplicate."""
        span, text, _ = self.request(intent)
        self.approve(span)
        self.asked.remove(text)
        self.approve(self.request(intent, text=text)[0])

    def rejected(self, intent):
        self.reject(self.request(intent, output=self.wrong(intent))[0], explanation="wrong agent")

    def corrected(self, intent):
        span = self.request(intent, output=self.wrong(intent))[0]
        self.reject(span, metadata={"corrected_output": AGENT_OF[intent]}, explanation="should have gone elsewhere")

    def rejected_then_right(self, intent):
        """A wrong answer and a right one to the same query: a preference pair."""
        span, text, _ = self.request(intent, output=self.wrong(intent))
        self.reject(span)
        self.asked.remove(text)
        self.approve(self.request(intent, text=text)[0])

    def contradicted(self, intent):
        """Approved with another answer before the catalogue of agents changed: the newer one counts."""
        span, text, _ = self.request(intent, output=self.wrong(intent))
        self.approve(span)
        self.asked.remove(text)
        self.approve(self.request(intent, text=text)[0])

    def reviewed_twice(self, intent):
        """Two reviewers disagree: the later verdict counts."""
        span = self.request(intent)[0]
        self.reject(span, reviewer=REVIEWERS[0], hours=4)
        self.approve(span, reviewer=REVIEWERS[1], hours=30)

    def score_only(self, intent):
        """A score without a label is no verdict: nobody said what 1.0 means."""
        self.annotate(self.request(intent, output=self.wrong(intent))[0], score=1.0)

    def judged_by_model(self, intent):
        span = self.request(intent, output=self.wrong(intent))[0]
        self.annotate(span, name="llm_judge", kind="LLM", label="correct", score=0.95, reviewer="judge-small")

    def unseen(self, intent):
        self.request(intent)

    def failed(self, intent):
        self.approve(self.request(intent, status="ERROR")[0])

    def empty_input(self, intent):
        self.approve(self.request(intent, text=" " * (1 + len(self.asked) % 7))[0])

    def empty_output(self, intent):
        self.approve(self.request(intent, output="")[0])

    def evaluation(self, intent):
        """A span of our own evaluation of an adapter: never training data."""
        self.approve(self.request(intent, output=self.wrong(intent), extra={"tunesmith.evaluation": "sft_routing"})[0])

    def other_agent(self, intent):
        """An agent whose name merely looks like routing's, and another one, both approved."""
        trace, thing = self.hex(32), self.rng.choice(THINGS)
        attributes = {"input.value": f"where is {thing}", "output.value": json.dumps({"entities": [thing]})}
        for name in ("EntityExtractionAgent.extract", "PrefetchRoutingAgent.routes"):
            self.approve(self.span(trace, None, name, "AGENT", self.now, 0.3, attributes))

    def lines(self):
        return self.spans + self.annotations


# How often each case happens. Fewer than 20 preference pairs come of it, so that SFT is the method.
CASES = {"approved": 280, "approved_twice": 9, "rejected": 55, "corrected": 9, "rejected_then_right": 4,
         "contradicted": 3, "reviewed_twice": 4, "score_only": 6, "judged_by_model": 8, "unseen": 12, "failed": 6,
         "empty_input": 2, "empty_output": 3, "evaluation": 2, "other_agent": 12}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "telemetry.jsonl")
    options = parser.parse_args()
    telemetry = Telemetry(options.seed)
    cases = [case for case, count in CASES.items() for _ in range(count)]
    telemetry.rng.shuffle(cases)
    intents = list(INTENTS)
    for i, case in enumerate(cases):
        getattr(telemetry, case)(intents[i % len(intents)])
    with options.out.open("w", encoding="utf-8") as out:
        for line in telemetry.lines():
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

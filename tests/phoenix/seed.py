"""seed.py --url URL [--project NAME] [--spans N] [--seed N] [--later] [--key KEY]: a project as people leave it.

Spans of a router, a profile selector, an entity extractor and a search, over OTLP/HTTP, and what people and judges said
of them, over REST: every case that the extraction rules tell apart, in random company, and near misses of each. The
same seed gives the same spans. --later adds what comes after a first sync: verdicts on old spans and a few new spans,
which began before all others. Prints as JSON what was sent.
"""

import argparse
import json
import random
import sys
import time

import httpx
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, set_span_in_context

FIRST_START_NS = 1_790_000_000 * 10**9  # any time; all spans start at different ones
EXPORT_BATCH = 256
ANNOTATION_BATCH = 500
READABLE_WITHIN_S = 600

TOPICS = [
    "robots playing soccer",
    "the climate summit",
    "how a jet engine starts",
    "glacier retreat",
    "sourdough care",
    "wind turbine repair",
    "the metro at rush hour",
    "coral bleaching",
    "chess openings",
    "la tour Eiffel à minuit",
    "東京の天気",
    "مرحبا بالعالم",
    "a cat 🐈 opening a door",
    'quotes " and back\\slashes',
    "tabs\tand\nlines",
]
AGENTS = ["video_search_agent", "text_search_agent", "image_search_agent", "summarizer_agent", "weather_agent"]
PROFILES = ["video_frames", "video_chunks", "text_dense", "image_dense"]
APPROVING = ["approved", "Approve", " ACCEPTED ", "correct", "Good", "thumbs_up", "Thumbs-Up", "👍", "✅"]
REJECTING = ["rejected", "Reject", " DECLINED ", "incorrect", "Wrong", "bad", "thumbs_down", "Thumbs-Down", "👎", "❌"]
UNKNOWN = ["wrong_routing", "not approved", "approved!", "👍👍", "maybe", "ok"]
CORRECTION_KEYS = ["corrected_output", "correction", "corrected_response", "expected_output", "response"]

# name, and attributes: what is the agent's by its attribute, exact name or suffix, and what only looks like it.
MATCHING = {
    "routing": ("routing_agent", "RoutingAgent.route"),
    "profile_selection": ("profile_selection_agent", "ProfileSelectionAgent.select_profiles"),
    "entity_extraction": ("entity_extraction_agent", "EntityExtractionAgent.extract"),
    "search": ("search_agent", "SearchAgent.search"),
}


def names_of(agent):
    exact, suffix = MATCHING[agent]
    matching = [
        (exact, {}),
        (suffix, {}),
        (f"service.{suffix}", {}),
        (f"service/v2/{suffix}", {}),
        ("whatever", {"agent.name": exact}),
    ]
    near = [
        (f"My{suffix}", {}),
        (f"{suffix}s", {}),
        (f"{suffix}.retry", {}),
        (suffix.lower(), {}),
        (f"{exact}_v2", {}),
        (f"the {exact}", {}),
        (f"service.{exact}", {}),
        ("whatever", {"agent.name": f"{exact}_v2"}),
        ("whatever", {"agent.name": exact.upper()}),
        ("whatever", {"agent.names": [exact]}),
        ("whatever", {"agent.name": [exact]}),
    ]
    if agent == "search":
        matching += [("search_service.search", {}), ("retriever", {"openinference.span.kind": "RETRIEVER"})]
        near += [("research_service.search", {}), ("retriever", {"openinference.span.kind": "TOOL"})]
    return matching, near


class SeededIds(IdGenerator):
    def __init__(self, seed):
        self.random = random.Random(f"ids {seed}")

    def generate_span_id(self):
        return self.random.getrandbits(64) or 1

    def generate_trace_id(self):
        return self.random.getrandbits(128) or 1


class Kept(SpanProcessor):
    def __init__(self):
        self.spans = []

    def on_end(self, span):
        self.spans.append(span)


class Seeder:
    def __init__(self, args):
        self.random = random.Random(f"seed {args.seed} {args.later}")
        self.kept = Kept()
        provider = TracerProvider(
            resource=Resource.create({"openinference.project.name": args.project}),
            id_generator=SeededIds(f"{args.project} {args.seed} {args.later}"),
            span_limits=SpanLimits(max_span_attributes=1024),
        )
        provider.add_span_processor(self.kept)
        self.tracer = provider.get_tracer("seed")
        # Rounds of annotations, as later ones replace earlier ones; Phoenix's times are whole seconds.
        self.annotations = [[], []]
        self.document_annotations = [[], []]
        # What comes later began earlier: arrival is what a sync has to go by.
        self.n_spans = -10_000 if args.later else 0
        self.project = args.project

    # Spans.

    def span(self, name, attributes, parent=None, failed=False):
        self.n_spans += 1
        start = FIRST_START_NS + self.n_spans * 10**9 + self.random.randrange(10**9)
        context = set_span_in_context(NonRecordingSpan(parent)) if parent else None
        attributes = {"openinference.span.kind": "AGENT", **attributes}
        span = self.tracer.start_span(name, context=context, start_time=start, attributes=attributes)
        span.set_status(Status(StatusCode.ERROR, "timed out") if failed else Status(StatusCode.OK))
        span.end(start + self.random.randrange(10**6, 10**9))
        return span.get_span_context()

    def conversation(self, n_turns):
        """A session of several turns, each a trace with a root."""
        session = f"{self.project}-{self.random.getrandbits(40):010x}"  # Phoenix's session ids are unique in a server
        self.topic = f"{self.random.choice(TOPICS)} {self.n_spans}"
        for _ in range(n_turns):
            root = {"openinference.span.kind": "CHAIN", "session.id": session, "input.value": self.question()}
            yield self.span("request", root), {"session.id": session}

    def question(self):
        """Mostly one that only this conversation asks: else all would hang together, and none could be held out."""
        if self.random.random() < 0.02:
            return f"find {self.random.choice(TOPICS)}"
        return f"{self.random.choice(['find', 'what about', 'any news on'])} {self.topic}"

    def input(self):
        """`input.value` as agents write it."""
        query = self.question()
        shapes = [
            lambda: query,
            lambda: json.dumps({"query": query}, ensure_ascii=False),
            lambda: json.dumps({"query": {"text": query, "top_k": 3}, "user": None}),
            lambda: json.dumps({"question": query}),
            lambda: json.dumps([query]),
            lambda: f"  {query}\n",
            lambda: query.replace(" ", "  "),
            lambda: self.random.choice([self.n_spans, self.n_spans + 0.5, 42, True]),
            lambda: "",
            lambda: " \n ",
            lambda: None,
            lambda: '{"query": null}',
            lambda: '{"query": 1.50}',
            lambda: '{"query": "cut off',
        ]
        weights = [20, 6, 2, 1, 1, 3, 2, 1, 1, 1, 1, 1, 1, 1]
        return self.random.choices(shapes, weights)[0]()

    def answer_span(self, agent, answers, parent=None, extra=None):
        """A span of the agent or, now and then, one that only looks like it; with what was said of it."""
        matching, near = names_of(agent)
        name, attributes = self.random.choice(matching if self.random.random() < 0.88 else near)
        attributes = {**attributes, **(extra or {})}
        value = self.input()
        if value is not None:
            attributes["input.value"] = value
        elif self.random.random() < 0.5:
            attributes["input.value.query"] = self.question()
        answer = self.random.choice(answers)
        shapes = [
            answer,
            json.dumps({"agent": answer, "confidence": 0.5}),
            f" {answer} ",
            "",
            None,
            3.5,
            '{"agent": null}',
        ]
        output = self.random.choices(shapes, [20, 5, 2, 1, 1, 1, 1])[0]
        if output is not None:
            attributes["output.value"] = output
        attributes |= self.own_run()
        span = self.span(name, attributes, parent, failed=self.random.random() < 0.03)
        # A correction may be what was answered already.
        said = answer if output is None else str(output)
        self.random.choice(self.REVIEWS)(self, span, said, self.random.choice(answers))
        if self.random.random() < 0.1:
            self.random.choice(self.REVIEWS)(self, span, said, self.random.choice(answers))

    def own_run(self):
        marks = [{"tunesmith.run": "r1"}, {"tunesmith.run.id": "r1"}, {"tunesmith.evaluation": True}]
        near = [{"tunesmith.runner": "r1"}, {"my.tunesmith.run": "r1"}]
        kind = self.random.random()
        return self.random.choice(marks) if kind < 0.03 else self.random.choice(near) if kind < 0.05 else {}

    # What is said of answers.

    def say(
        self,
        span,
        label=None,
        score=None,
        explanation=None,
        metadata=None,
        *,
        name="human_approval",
        kind="HUMAN",
        by="",
        round=0,
    ):
        result = {"label": label, "score": score, "explanation": explanation}
        self.annotations[round].append(
            {
                "span_id": format(span.span_id, "016x"),
                "name": name,
                "annotator_kind": kind,
                "identifier": by,
                "result": {key: value for key, value in result.items() if value is not None},
                "metadata": metadata or {},
            }
        )

    def approve(self, span, *_, **how):
        self.say(span, self.random.choice(APPROVING), self.random.choice([None, 1.0, 0.0]), **how)

    def reject(self, span, *_, **how):
        self.say(span, self.random.choice(REJECTING), self.random.choice([None, 1.0, 0.0]), **how)

    def correct(self, span, _said, better, **how):
        label = self.random.choice(["corrected", "rejected", "approved", "wrong_routing", None])
        self.say(span, label, metadata={self.random.choice(CORRECTION_KEYS): better, "reviewer": "a"}, **how)

    def correct_by_two_keys(self, span, said, better):
        one, other = self.random.sample(CORRECTION_KEYS, 2)
        self.say(span, "corrected", metadata={one: better, other: self.random.choice([said, "other_agent", " "])})

    def correct_into_itself(self, span, said, _):
        label = self.random.choice(["approved", "rejected", "corrected", None])
        self.say(span, label, metadata={self.random.choice(CORRECTION_KEYS): f"{said} "})

    def correct_blankly(self, span, *_):
        label = self.random.choice(["approved", "rejected", "corrected"])
        self.say(span, label, metadata={self.random.choice(CORRECTION_KEYS): self.random.choice(["", "  ", None])})

    def correct_by_other_types(self, span, _, better):
        values = [7, 2.5, True, [better], [7, better], {"agent": better}, {"agents": [better, "é"]}, {}, []]
        values += [json.dumps({"agent": better}), json.dumps({"agent": ""})]
        self.say(span, "corrected", metadata={"correction": self.random.choice(values)})

    def correct_in_explanation(self, span, said, better, **how):
        label = self.random.choice(["corrected", "Fix ", "rejected", "approved"])
        self.say(span, label, explanation=self.random.choice([better, better, said, " "]), **how)

    def score_only(self, span, *_):
        name = self.random.choice(["human_approval", "quality", "quality"])
        self.say(span, score=self.random.choice([0.0, 0.29, 0.3, 0.5, 0.8, 1.0]), name=name)

    def score_beside_label(self, span, *_):
        self.say(span, self.random.choice(["approved", "rejected", "high", ""]), 0.9, name="quality")

    def unknown_label(self, span, *_):
        self.say(span, self.random.choice(UNKNOWN), 1.0)

    def blank_label(self, span, *_):
        self.say(span, self.random.choice(["", "  "]), self.random.choice([None, 1.0]))

    def machine(self, span, said, better, **how):
        how = {"kind": self.random.choice(["LLM", "CODE"]), **how}
        self.random.choice([self.approve, self.reject, self.correct])(span, said, better, **how)

    def other_name(self, span, said, better):
        how = {"name": self.random.choice(["review", "reviews", "Human_Approval", "human_approval_2"])}
        self.random.choice([self.approve, self.reject, self.correct])(span, said, better, **how)

    def conflict(self, span, said, better):
        ways = [self.approve, self.reject, self.correct]
        self.random.choice(ways)(span, said, better)
        self.random.choice(ways)(span, said, better, name="review")

    def machine_against_human(self, span, said, better):
        self.conflict(span, said, better)
        self.machine(span, said, better, by="judge", name=self.random.choice(["human_approval", "review", "judge"]))

    def two_reviewers(self, span, said, better):
        """In one request, so at the same time as Phoenix tells it; the second is the newer one."""
        first, second = self.random.choice(
            [
                (self.approve, self.reject),
                (self.reject, self.approve),
                (self.reject, self.correct),
                (self.correct, self.approve),
            ]
        )
        first(span, said, better, by="alice@example.com")
        second(span, said, better, by="bob@example.com")

    def second_thoughts(self, span, said, better):
        ways = [self.approve, self.reject, self.correct, self.unknown_label]
        self.random.choice(ways[:3])(span, said, better, by="alice@example.com")
        self.random.choice(ways[:3])(span, said, better, by="alice@example.com", round=1)

    def another_opinion(self, span, said, better):
        ways = [self.approve, self.reject, self.correct]
        self.random.choice(ways)(span, said, better, by="alice@example.com")
        self.random.choice(ways)(span, said, better, by="bob@example.com", round=1)

    def refreshed_opinion(self, span, said, better):
        """The first reviewer speaks again, and so last."""
        self.reject(span, by="alice@example.com")
        self.approve(span, by="bob@example.com")
        self.random.choice([self.approve, self.correct])(span, said, better, by="alice@example.com", round=1)

    def silence(self, *_):
        pass

    # Verdicts are the most frequent, as pairs across spans need many.
    REVIEWS = [
        *[approve] * 5,
        *[reject] * 5,
        *[correct] * 5,
        silence,
        correct_by_two_keys,
        correct_into_itself,
        correct_blankly,
        correct_by_other_types,
        correct_in_explanation,
        score_only,
        score_beside_label,
        unknown_label,
        blank_label,
        machine,
        other_name,
        conflict,
        machine_against_human,
        two_reviewers,
        second_thoughts,
        another_opinion,
        refreshed_opinion,
    ]

    # Searches, and what is said of documents.

    def search_span(self, parent=None, extra=None):
        matching, near = names_of("search")
        name, attributes = self.random.choice(matching if self.random.random() < 0.9 else near)
        modality = self.random.choices(
            [{"modality": m} for m in ["video", "image", "text", "TEXT", "audio", ["text"]]] + [{}],
            [6, 6, 6, 1, 1, 1, 1],
        )[0]
        query = self.random.choices([self.question(), "", " ", 42], [20, 1, 1, 1])[0]
        n_documents = self.random.choice([0, 1, 2, 4, 4, 6, 12])
        attributes = {**attributes, **modality, **self.own_run(), **(extra or {}), "input.value": query}
        ids = [f"doc-{self.random.randrange(40)}" for _ in range(n_documents)]
        for i, document_id in enumerate(ids):
            prefix = f"retrieval.documents.{i}.document."
            contents = [f"A page on {self.random.choice(TOPICS)}, part {self.random.randrange(4)}", "", " ", 1984]
            attributes[f"{prefix}content"] = self.random.choices(contents, [20, 1, 1, 1])[0]
            if self.random.random() < 0.9:
                attributes[f"{prefix}id"] = document_id
            if self.random.random() < 0.9:
                attributes[f"{prefix}score"] = self.random.choice([round(0.95 - 0.1 * i, 3), 1, 0])
        if n_documents and self.random.random() < 0.5:
            clicked = self.random.randrange(n_documents)
            several = [clicked, self.random.randrange(20)]
            clicks = [clicked, several, ids[clicked], [ids[clicked], "doc-999"], "", str(clicked), 2.0]
            attributes["search.clicked_documents"] = self.random.choices(clicks, [5, 5, 5, 5, 1, 1, 1])[0]
        span = self.span(name, attributes, parent, failed=self.random.random() < 0.03)
        for position in range(n_documents):
            self.judge_document(span, position)

    def judge_document(self, span, position):
        def say(label=None, score=None, name="relevance", kind="HUMAN", round=0, metadata=None):
            result = {key: value for key, value in (("label", label), ("score", score)) if value is not None}
            self.document_annotations[round].append(
                {
                    "span_id": format(span.span_id, "016x"),
                    "document_position": position,
                    "name": name,
                    "annotator_kind": kind,
                    "result": result,
                    "metadata": metadata or {},
                }
            )

        word = self.random.choice
        relevant, irrelevant = (
            ["relevant", " Relevant", "approved", "👍"],
            ["irrelevant", "not_relevant", "Unrelated", "bad"],
        )
        cases = [
            lambda: None,
            lambda: say(word(relevant)),
            lambda: say(word(irrelevant)),
            lambda: say(word(relevant), kind="LLM"),
            lambda: say(word(irrelevant), kind=word(["LLM", "CODE"])),
            lambda: say(word(relevant), name="human_approval"),
            lambda: (say(word(relevant)), say(word(irrelevant), name="human_approval")),
            lambda: (say(word(relevant)), say(word(irrelevant), name="review")),
            lambda: say("unrelated to anything", 1.0),
            lambda: say(score=word([0.0, 0.5, 1.0])),
            lambda: say(None, word([None, 0.0, 1.0]) or 1.0, name="click", kind=word(["HUMAN", "CODE"])),
            lambda: say("clicked", word([None, 0.0, 1.0]), name="click", kind="CODE"),
            lambda: (say(word(irrelevant)), say("clicked", name="click")),
            lambda: (say(word(relevant)), say(word(irrelevant), round=1)),
            lambda: (say(word(irrelevant), kind="LLM"), say(word(relevant), name="human_approval", round=1)),
            lambda: say("corrected", metadata={"correction": "another document"}),
        ]
        self.random.choices(cases, [24, 3, 3] + [1] * 13)[0]()

    # All of it.

    def project_of(self, n_spans):
        while self.n_spans < n_spans:
            for root, common in self.conversation(self.random.choice([1, 1, 2, 4])):
                for _ in range(10):  # more routing spans than a batch of the extractor has
                    self.answer_span("routing", AGENTS, root, common)
                self.answer_span("profile_selection", PROFILES, root, common)
                self.answer_span(
                    "entity_extraction", ["[]", '[{"text": "Marie"}]', '[{"text": "Paris"}]'], root, common
                )
                for _ in range(2):
                    self.search_span(root, common)

    def afterthoughts(self, old_spans):
        """Late verdicts on old spans, and a few new spans."""
        routed = [span for span in old_spans if span["name"].endswith("RoutingAgent.route")]
        for span in routed[:5]:
            self.approve(SpanContext(1, int(span["context"]["span_id"], 16), is_remote=True), by="late@example.com")
        self.project_of(self.n_spans + 1)


class Server:
    def __init__(self, url, key):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=120)
        self.exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces", headers=headers, timeout=60)

    def spans(self, project):
        """All that can be read, in the order of their arrival."""
        found, cursor = [], None
        while True:
            query = {"limit": 1000, "order": "asc"} | ({"cursor": cursor} if cursor else {})
            answer = self.http.get(f"/v1/projects/{project}/spans", params=query)
            if answer.status_code == 404:
                return found
            page = answer.raise_for_status().json()
            found += page["data"]
            cursor = page["next_cursor"]
            if not cursor:
                return found

    def send_spans(self, project, spans):
        """Phoenix stores spans after it has answered, and annotations only of spans that are stored."""
        for i in range(0, len(spans), EXPORT_BATCH):
            # Refused while its queue is full.
            while self.exporter.export(spans[i : i + EXPORT_BATCH]) is not SpanExportResult.SUCCESS:
                time.sleep(1)
        missing = {format(span.context.span_id, "016x") for span in spans}
        deadline = time.monotonic() + READABLE_WITHIN_S
        while missing := missing - {span["context"]["span_id"] for span in self.spans(project)}:
            if time.monotonic() > deadline:
                sys.exit(f"{len(missing)} of {len(spans)} spans cannot be read after {READABLE_WITHIN_S} s")
            time.sleep(2)

    def send_annotations(self, path, annotations):
        for i in range(0, len(annotations), ANNOTATION_BATCH):
            body = {"data": annotations[i : i + ANNOTATION_BATCH]}
            answer = self.http.post(f"/v1/{path}", params={"sync": "true"}, json=body)
            if answer.status_code != 200:
                sys.exit(f"{path}: {answer.status_code} {answer.text[:500]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--project", default="acme")
    parser.add_argument("--spans", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--later", action="store_true")
    parser.add_argument("--key", help="the server's API key")
    args = parser.parse_args()
    seeder, server = Seeder(args), Server(args.url, args.key)
    if args.later:
        seeder.afterthoughts(server.spans(args.project))
    else:
        seeder.project_of(args.spans)
    server.send_spans(args.project, seeder.kept.spans)
    for round in (0, 1):
        server.send_annotations("span_annotations", seeder.annotations[round])
        server.send_annotations("document_annotations", seeder.document_annotations[round])
        time.sleep(1.1)  # so that the next round is newer by Phoenix's clock of whole seconds
    annotations = sum(map(len, seeder.annotations + seeder.document_annotations))
    print(json.dumps({"spans": len(seeder.kept.spans), "annotations_sent": annotations}))


if __name__ == "__main__":
    main()

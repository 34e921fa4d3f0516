"""oracle.py --url URL [--project NAME] [--key KEY] [--config FILE]: what examples a Phoenix project gives.

Reads the project by Phoenix's own client (and GraphQL, as documents' annotations have no other way) and applies the
rules of plugins/README.md on its own: it shares no line with tunesmith. Prints as JSON, per agent, what
`tunesmith analyze --json` prints of it, and under `records` the examples themselves.
"""

import argparse
import base64
import json
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import httpx
from phoenix.client import Client

# Agent, model type and modality of each row that is compared.
AGENTS = [
    ("routing", "llm", None),
    ("profile_selection", "llm", None),
    ("entity_extraction", "llm", None),
    ("search", "embedding", "video"),
    ("search", "embedding", "image"),
    ("search", "embedding", "text"),
    ("search", "embedding", None),
]

# Attribute values, exact names, suffixes.
MATCH = {
    "routing": ([("agent.name", "routing_agent")], ["routing_agent"], ["RoutingAgent.route"]),
    "profile_selection": (
        [("agent.name", "profile_selection_agent")],
        ["profile_selection_agent"],
        ["ProfileSelectionAgent.select_profiles"],
    ),
    "entity_extraction": (
        [("agent.name", "entity_extraction_agent")],
        ["entity_extraction_agent"],
        ["EntityExtractionAgent.extract"],
    ),
    "search": (
        [("agent.name", "search_agent"), ("openinference.span.kind", "RETRIEVER")],
        ["search_agent"],
        ["SearchAgent.search", "search_service.search"],
    ),
}
OWN = ["tunesmith.run", "tunesmith.evaluation", "tunesmith.item"]
APPROVED = "approved approve accepted correct good thumbs_up thumbs-up 👍 ✅".split()
REJECTED = "rejected reject declined incorrect wrong bad thumbs_down thumbs-down 👎 ❌".split()
CORRECTION_KEYS = ["corrected_output", "correction", "corrected_response", "expected_output", "response"]


# The server.


@dataclass
class Project:
    spans: list = field(default_factory=list)
    of_span: dict = field(default_factory=lambda: defaultdict(list))  # by span id
    of_document: dict = field(default_factory=lambda: defaultdict(list))  # by span id and position


@dataclass
class Annotation:
    name: str
    kind: str
    label: str  # in lower case, without blanks around it; empty for none
    score: float | None
    explanation: str
    metadata: dict
    # Update and creation, and the order of arrival: Phoenix tells most times in whole seconds.
    age: tuple


def read(url, project, key=None):
    found = Project()
    client = Client(base_url=url, api_key=key)
    found.spans = client.spans.get_spans(project_identifier=project, limit=10**9, timeout=60)
    found.spans.sort(key=lambda span: span["start_time"])
    annotations = client.spans.get_span_annotations(
        spans=found.spans, project_identifier=project, exclude_annotation_names=[], timeout=60
    )
    for it in annotations:
        result = it.get("result") or {}
        found.of_span[it["span_id"]].append(
            annotation(it, result, it["annotator_kind"], it["created_at"], it["updated_at"])
        )
    headers = {"authorization": f"Bearer {key}"} if key else {}
    for span_id, it in document_annotations(httpx.Client(base_url=url, headers=headers, timeout=60), project):
        of_document = found.of_document[span_id, it["documentPosition"]]
        of_document.append(annotation(it, it, it["annotatorKind"], it["createdAt"], it["updatedAt"]))
    return found


def annotation(it, result, kind, created, updated):
    arrival = int(base64.b64decode(it["id"]).decode().rpartition(":")[2])
    label = (result.get("label") or "").strip().lower()
    explanation = result.get("explanation") or ""
    age = (updated, created, arrival)
    return Annotation(it["name"], kind, label, result.get("score"), explanation, it["metadata"] or {}, age)


def document_annotations(http, project):
    projects = http.get("/v1/projects", params={"limit": 1000}).raise_for_status().json()["data"]
    variables = {"id": next(it["id"] for it in projects if it["name"] == project), "after": None}
    query = """query($id: ID!, $after: String) { node(id: $id) { ... on Project { spans(first: 500, after: $after) {
        pageInfo { endCursor hasNextPage }
        edges { node { spanId documentEvaluations {
            id name label score explanation annotatorKind documentPosition metadata createdAt updatedAt } } } } } } }"""
    while True:
        answer = http.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
        page = answer["data"]["node"]["spans"]
        for edge in page["edges"]:
            for it in edge["node"]["documentEvaluations"]:
                yield edge["node"]["spanId"], it
        if not page["pageInfo"]["hasNextPage"]:
            return
        variables["after"] = page["pageInfo"]["endCursor"]


# The rules.


class Rules:
    def __init__(self, config, documents=False):
        given, settings = (
            config.get("extraction", {}),
            config.get("plugins", {}).get("settings", {}).get("extractor", {}),
        )
        self.names = given.get("annotation_names", ["human_approval"])
        self.kinds = given.get("annotator_kinds", ["HUMAN"])
        self.approved, self.rejected = set(APPROVED), set(REJECTED)
        self.correction_keys = CORRECTION_KEYS
        self.explaining_labels = given.get("explanation_correction_labels", [])
        self.score_rules = {rule["annotation_name"]: rule for rule in given.get("score_rules", [])}
        self.input_key, self.output_key = settings.get("input_key"), settings.get("output_key")
        self.max_pairs = settings.get("max_pairs_per_span", 4)
        self.negatives, self.min_score = settings.get("negatives", 3), settings.get("min_score")
        if documents:  # the words for relevance count, too, and nothing corrects a document
            self.names = self.names + ["relevance"]
            self.approved |= {"relevant"}
            self.rejected |= {"irrelevant", "not_relevant", "unrelated"}
            self.correction_keys, self.explaining_labels, self.output_key = [], [], None

    def standing(self, annotations):
        """The newest of each name, of those that count."""
        newest = {}
        for it in sorted(annotations, key=lambda it: it.age):
            if it.kind in self.kinds and (it.name in self.names or it.name in self.score_rules):
                newest[it.name] = it
        return list(newest.values())

    def opinion(self, it, output):
        """`True`, `False`, a correction, or `None`."""
        correction = self.correction(it)
        if correction and correction != output:
            return correction
        judgement = self.judgement(it)
        return True if correction and judgement is None else judgement

    def judgement(self, it):
        if it.label:
            is_word = it.name in self.names
            return (
                True
                if is_word and it.label in self.approved
                else False
                if is_word and it.label in self.rejected
                else None
            )
        rule = self.score_rules.get(it.name)
        if rule is None or it.score is None:
            return None
        approves, rejects = it.score >= rule["approve_at_least"], it.score < rule["reject_below"]
        return True if approves else False if rejects else None

    def correction(self, it):
        if it.name not in self.names:
            return ""
        given = [written(it.metadata.get(key)) for key in self.correction_keys]
        if it.label in self.explaining_labels:
            given.append(it.explanation)
        return next(filter(None, (json_field(each, self.output_key) for each in given)), "")

    def verdict(self, annotations, output):
        """Of the first annotator kind that has one: `True`, `False`, a correction, "conflict" in a list, or `None`."""
        standing = self.standing(annotations)
        for kind in self.kinds:
            of_kind = [(it.age, self.opinion(it, output)) for it in standing if it.kind == kind]
            opinions = [opinion for _, opinion in of_kind]
            corrections = [(age, opinion) for age, opinion in of_kind if isinstance(opinion, str)]
            if True in opinions and False in opinions:
                return ["conflict"]
            if corrections:
                return max(corrections)[1]
            if True in opinions or False in opinions:
                return True in opinions
        return None


def text(value):
    """Of a scalar as JSON writes it; lists and objects have none."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else ""


def written(value):
    """What a person wrote as a correction: objects and lists that hold something are JSON."""
    if isinstance(value, (dict, list)) and value:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text(value)


def json_field(value, key):
    """The field of a JSON object as its agent wrote it, else the whole."""
    raw = raw_fields(value).get(key) if key else None
    if raw is None:
        return value.strip()
    parsed = json.loads(raw)
    return (parsed if isinstance(parsed, str) else "" if parsed is None else raw).strip()


def raw_fields(value):
    """The fields of a JSON object, each as it is written there."""
    try:
        if not isinstance(json.loads(value), dict):
            return {}
    except ValueError:
        return {}
    decoder, fields, at = json.JSONDecoder(), {}, value.index("{") + 1

    def skip(at):
        return at + len(value[at:]) - len(value[at:].lstrip(" \t\r\n,:"))

    while value[skip(at)] != "}":
        name, at = decoder.raw_decode(value, skip(at))
        start = skip(at)
        _, at = decoder.raw_decode(value, start)
        fields[name] = value[start:at]
    return fields


def span_text(span, name, key):
    attributes = span["attributes"]
    if name in attributes:
        return json_field(text(attributes[name]), key)
    return text(attributes.get(f"{name}.{key}")).strip() if key else ""


def matches(span, agent):
    attributes, names, suffixes = MATCH[agent]
    found = {**span["attributes"], "openinference.span.kind": span["span_kind"]}
    by_suffix = any(span["name"] == it or span["name"].endswith((f".{it}", f"/{it}")) for it in suffixes)
    return any(found.get(key) == value for key, value in attributes) or span["name"] in names or by_suffix


def exclusion(span):
    if any(key == own or key.startswith(f"{own}.") for key in span["attributes"] for own in OWN):
        return "own span"
    return "span failed" if span["status_code"] == "ERROR" else None


# Examples.


def analyze(project, config, agent, model_type, modality):
    """Spans, examples less the held-out ones, what is skipped, and the records."""
    spans = [span for span in project.spans if matches(span, agent)]
    skipped = Counter()
    if model_type == "llm":
        approved, pairs = answers(project, spans, Rules(config), skipped)
        approved = distinct(approved, lambda given, _: given, skipped)
        pairs = distinct(pairs, lambda given, *sides: (given, *sorted(sides)), skipped)
        kinds = {"approved_examples": approved, "preference_pairs": pairs, "triplets": []}
    else:
        triplets = searches(project, spans, config, modality, skipped)
        triplets = distinct(triplets, lambda query, *sides: (query, *sorted(sides)), skipped)
        kinds = {"approved_examples": [], "preference_pairs": [], "triplets": triplets}
    counts = {kind: len(records) - held_out(len(records)) for kind, records in kinds.items()}
    return {"spans": len(spans), "examples": counts, "skipped": dict(sorted(skipped.items())), "records": kinds}


def held_out(n):
    """A tenth, at least 5, at most a fifth."""
    return min(max(n - n * 9 // 10, 5), n // 5)


def distinct(examples, question, skipped):
    """Without repetitions and, of examples that contradict each other, with the newest. Each is (time, texts)."""
    newest = {}
    for time, texts in examples:
        # White space is no difference.
        content = tuple(" ".join(it.split()) for it in texts)
        newest[content] = max(time, newest.get(content, ""))
    by_question = defaultdict(list)
    for content, time in newest.items():
        by_question[question(*content)].append((time, content))
    skipped.update(
        {
            "duplicate of another example": len(examples) - len(newest),
            "contradicted by a newer example of the same input": len(newest) - len(by_question),
        }
    )
    for reason in [reason for reason, n in skipped.items() if n == 0]:
        del skipped[reason]
    return [max(candidates)[1] for candidates in by_question.values()]


def answers(project, spans, rules, skipped):
    """Approved examples and preference pairs, each with the time of its newest span."""
    approved, pairs, preferred, rejected = [], [], defaultdict(dict), []
    for span in spans:
        time, annotations = span["start_time"], project.of_span[span["context"]["span_id"]]
        given, output = (
            span_text(span, "input.value", rules.input_key),
            span_text(span, "output.value", rules.output_key),
        )
        verdict = rules.verdict(annotations, output)
        reason = (
            exclusion(span)
            or ("no verdict" if verdict is None else "conflicting verdicts" if verdict == ["conflict"] else None)
            or ("empty input" if not given else "empty output" if not output and isinstance(verdict, bool) else None)
        )
        if reason:
            skipped[reason] += 1
            continue
        if output and any(rules.correction(it) == output for it in rules.standing(annotations)):
            skipped["identical chosen and rejected"] += 1
        if verdict is False:
            rejected.append((time, given, output))
            continue
        chosen = output if verdict is True else verdict
        approved.append((time, (given, chosen)))
        preferred[given].setdefault(chosen, time)
        if verdict is not True and output:
            pairs.append((time, (given, chosen, output)))
    for time, given, output in rejected:
        others = [(chosen, at) for chosen, at in preferred[given].items() if chosen != output]
        if not preferred[given]:
            skipped["rejected without a preferred answer"] += 1
        if output in preferred[given]:
            skipped["identical chosen and rejected"] += 1
        if len(others) > rules.max_pairs:
            skipped["more pairs than max_pairs_per_span"] += 1
        pairs += [(max(time, at), (given, chosen, output)) for chosen, at in others[: rules.max_pairs]]
    return approved, pairs


def searches(project, spans, config, modality, skipped):
    """Triplets, each with the time of its span."""
    triplets, rules, settings = [], Rules(config, documents=True), Rules(config)
    for span in spans:
        query = span_text(span, "input.value", settings.input_key)
        of_other_modality = modality and text(span["attributes"].get("modality")).lower() != modality
        reason = exclusion(span) or ("other modality" if of_other_modality else "empty input" if not query else None)
        if reason:
            skipped[reason] += 1
            continue
        helped, irrelevant, ignored = [], [], []
        for position, content, document_id, score in documents(span):
            said = project.of_document[span["context"]["span_id"], position]
            verdict = rules.verdict([it for it in said if it.name != "click"], "")
            clicked = clicked_in(span["attributes"].get("search.clicked_documents"), position, document_id) or any(
                it.name == "click" and (it.score is None or it.score > 0) for it in said
            )
            if verdict == ["conflict"]:
                skipped["conflicting verdicts"] += 1
            elif verdict is True or (verdict is None and clicked):
                helped.append(content)
            elif verdict is False:
                irrelevant.append(content)
            elif rules.min_score is None or (score is not None and score >= rules.min_score):
                ignored.append(content)
        negatives = irrelevant or ignored[: rules.negatives]
        if not helped or not negatives:
            skipped["no irrelevant document" if helped else "no relevant document"] += 1
            continue
        for positive in helped:
            for negative in negatives:
                if positive == negative:
                    skipped["identical positive and negative"] += 1
                else:
                    triplets.append((span["start_time"], (query, positive, negative)))
    return triplets


def documents(span):
    """Position, content, id and score of the retrieved documents that have a text."""
    attributes, prefix = span["attributes"], "retrieval.documents."
    positions = {int(key.split(".")[2]) for key in attributes if key.startswith(prefix)}
    for position in sorted(positions):
        of_document = [attributes.get(f"{prefix}{position}.document.{name}") for name in ("content", "id", "score")]
        if text(of_document[0]).strip():
            yield position, text(of_document[0]).strip(), text(of_document[1]), of_document[2]


def clicked_in(clicks, position, document_id):
    """Whole numbers are positions, texts are ids."""
    listed = clicks if isinstance(clicks, list) else [clicks]
    return any(
        (isinstance(it, int) and it == position) or (isinstance(it, str) and it and it == document_id) for it in listed
    )


def load(config):
    if config is None:
        return {}
    with open(config, "rb") as file:
        return tomllib.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--project", default="acme")
    parser.add_argument("--key", help="the server's API key")
    parser.add_argument("--config", help="a tunesmith.toml; `[extraction]` and the extractor's settings are read")
    args = parser.parse_args()
    project, config = read(args.url, args.project, args.key), load(args.config)
    found = {" ".join(filter(None, row)): analyze(project, config, *row) for row in AGENTS}
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()

"""An extractor: annotated spans in, examples out. A span that a person approved is an example."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.extraction import Extraction as Extracted
from wit_world.exports.extraction import ExtractionConfig, Skipped
from wit_world.imports.types import (
    AttributeValue_Text,
    Example,
    Example_Instruction,
    InstructionExample,
    Lineage,
    MatchRule,
    ModelType,
    PluginError_Unsupported,
    Span,
)


class LeftOut(Exception):
    """Its text is the reason, a row of the run's table."""


class Extraction(exports.Extraction):
    def selection(self, config: ExtractionConfig) -> list[MatchRule]:
        return config.match_rules

    def extract(self, config: ExtractionConfig, spans: list[Span]) -> Extracted:
        if config.model_type == ModelType.EMBEDDING:
            raise Err(PluginError_Unsupported("it makes no triplets, which embedding models train on"))
        extracted = Extracted(examples=[], skipped=[])
        for span in spans:
            # Every span is an example or is left out with a reason: nothing is lost without a word.
            try:
                extracted.examples.append(example(config, span))
            except LeftOut as reason:
                extracted.skipped.append(Skipped(span.span_id, str(reason), None))
        return extracted


def example(config: ExtractionConfig, span: Span) -> Example:
    if any(attribute.key in config.own_span_attributes for attribute in span.attributes):
        raise LeftOut("own span")
    approved = {label.strip().lower() for label in config.verdicts.approved_labels}
    verdicts = [a.name for a in span.annotations if a.label is not None and a.label.strip().lower() in approved]
    if not verdicts:
        raise LeftOut("no approval")
    input, output = text(span, "input.value"), text(span, "output.value")
    if not input:
        raise LeftOut("empty input")
    if not output:
        raise LeftOut("empty output")
    lineage = Lineage([span.span_id], span.trace_id, text(span, "session.id"), verdicts[:1])
    return Example_Instruction(InstructionExample(config.instruction, input, output, False, lineage))


def text(span: Span, key: str) -> str | None:
    for attribute in span.attributes:
        if attribute.key == key and isinstance(attribute.value, AttributeValue_Text):
            return attribute.value.value.strip() or None
    return None

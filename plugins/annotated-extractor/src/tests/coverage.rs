use std::collections::HashSet;

use crate::extraction::{Extraction, ExtractionConfig};
use crate::fixtures::{attribute, config, correcting, extract, label, named, on_document, scored, span};
use crate::types::{
    Annotation, AnnotatorKind, Attribute, AttributeValue, Example, Lineage, ModelType, Span, SpanStatus,
};

/// SplitMix64: enough for choosing among a handful.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn annotation(&mut self) -> Annotation {
        let text = self.pick(&["approved", "rejected", "relevant", "irrelevant", "corrected", "unsure", ""]);
        let mut annotation = named(self.pick(&["approval", "tone", "click", "relevance"]), label(text));
        if self.below(4) == 0 {
            annotation = correcting(self.pick(&["a", "b", " "]), annotation);
        }
        annotation.score = [None, scored(1.0).score, Some(f64::NAN)][self.below(3)];
        annotation.explanation = [None, Some("a".to_string())][self.below(2)].clone();
        annotation.annotator_kind = [AnnotatorKind::Human, AnnotatorKind::Llm][self.below(2)];
        annotation.updated_at_ns = self.below(3) as u64;
        annotation
    }

    fn span(&mut self, id: usize) -> Span {
        let annotations = (0..self.below(4)).map(|_| self.annotation()).collect();
        let mut span =
            span(&format!("s{id}"), self.pick(&["q", "q ", "p", ""]), self.pick(&["a", "b", "c", ""]), annotations);
        span.document_annotations =
            (0..self.below(8)).map(|_| on_document(self.below(4) as u32, self.annotation())).collect();
        for i in 0..self.below(4) {
            let key = format!("retrieval.documents.{i}.document.content");
            span.attributes.push(attribute(&key, self.pick(&["x", "y", "z", ""])));
        }
        if self.below(3) == 0 {
            let value = AttributeValue::Integers(vec![self.below(4) as i64]);
            span.attributes.push(Attribute { key: "search.clicked_documents".into(), value });
        }
        match self.below(20) {
            0 => span.status = SpanStatus::Error,
            1 => span.name = "agent.reroute".into(),
            2 => span.attributes.push(attribute("tunesmith.run.id", "r")),
            _ => {}
        }
        span
    }
}

fn lineage(example: &Example) -> &Lineage {
    match example {
        Example::Instruction(example) => &example.lineage,
        Example::Preference(pair) => &pair.lineage,
        Example::Triplet(triplet) => &triplet.lineage,
    }
}

fn assert_covers(spans: &[Span], extraction: &Extraction) {
    let leads = extraction.examples.iter().map(|example| lineage(example).span_ids[0].as_str());
    let skipped = extraction.skipped.iter().map(|skipped| skipped.span_id.as_str());
    let named: HashSet<&str> = leads.chain(skipped).collect();
    let given: HashSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    assert_eq!(named, given);
}

fn check_random_batches(model_type: ModelType) {
    let mut random = Random(7);
    let (mut n_examples, mut n_reasons) = (0, HashSet::new());
    for _ in 0..500 {
        let spans: Vec<Span> = (0..random.below(12)).map(|id| random.span(id)).collect();
        let extraction = extract(ExtractionConfig { model_type, ..config() }, spans.clone());
        assert_covers(&spans, &extraction);
        n_examples += extraction.examples.len();
        n_reasons.extend(extraction.skipped.iter().map(|skipped| skipped.reason.clone()));
        for example in &extraction.examples {
            let (left, right) = match example {
                Example::Instruction(example) => (&example.input, &example.output),
                Example::Preference(pair) => (&pair.chosen, &pair.rejected),
                Example::Triplet(triplet) => (&triplet.positive, &triplet.negative),
            };
            assert!(!left.is_empty() && !right.is_empty(), "{example:?}");
            assert!(left != right || matches!(example, Example::Instruction(_)), "{example:?}");
        }
    }
    // The batches must reach every branch, or the test says little.
    assert!(n_examples > 100, "{n_examples}");
    let n_known = match model_type {
        ModelType::Llm => 9,
        ModelType::Embedding => 8,
    };
    assert_eq!(n_reasons.len(), n_known, "{n_reasons:?}");
}

#[test]
fn every_span_leads_an_example_or_is_skipped() {
    check_random_batches(ModelType::Llm);
}

#[test]
fn every_search_span_leads_a_triplet_or_is_skipped() {
    check_random_batches(ModelType::Embedding);
}

#[test]
fn empty_batch_is_an_empty_extraction() {
    let extraction = extract(config(), vec![]);
    assert!(extraction.examples.is_empty() && extraction.skipped.is_empty());
}

use std::collections::BTreeMap;

use plugin_settings::Settings;

use crate::extraction::VerdictRules;
use crate::text::{attribute, scalar};
use crate::types::{AttributeValue, Span};
use crate::verdict::{Judge, Verdict};

/// One retrieved document, with what people made of it.
#[derive(Default)]
pub(crate) struct Document {
    /// Its rank, from 0 on.
    pub(crate) position: u32,
    pub(crate) text: String,
    pub(crate) score: Option<f64>,
    id: String,
    relevant: Option<bool>,
    clicked: bool,
    /// Annotations of different names contradict each other: the document is on neither side.
    pub(crate) disputed: bool,
    /// Of the annotations that decided.
    pub(crate) names: Vec<String>,
}

impl Document {
    /// A word outweighs a click.
    pub(crate) fn helped(&self) -> bool {
        !self.disputed && self.relevant.unwrap_or(self.clicked)
    }

    pub(crate) fn is_irrelevant(&self) -> bool {
        self.relevant == Some(false)
    }

    /// Shown, and nobody cared.
    pub(crate) fn is_ignored(&self) -> bool {
        !self.disputed && !self.clicked && self.relevant.is_none()
    }
}

/// Reads the documents of a search span.
pub(crate) struct Relevance<'a> {
    judge: Judge,
    click_attribute: &'a str,
    click_annotation: &'a str,
}

impl<'a> Relevance<'a> {
    /// The operator's verdict rules hold for documents too, widened by the usual words for relevance.
    pub(crate) fn new(verdicts: &VerdictRules, settings: &Settings<'a>) -> Self {
        let mut rules =
            VerdictRules { correction_keys: vec![], explanation_correction_labels: vec![], ..verdicts.clone() };
        if !rules.annotation_names.is_empty() {
            rules.annotation_names.extend(settings.list("relevance_annotations", "relevance"));
        }
        rules.approved_labels.extend(settings.list("relevant_labels", "relevant"));
        rules.rejected_labels.extend(settings.list("irrelevant_labels", "irrelevant,not_relevant,unrelated"));
        Self {
            judge: Judge::new(rules, None),
            click_attribute: settings.text("click_attribute").unwrap_or("search.clicked_documents"),
            click_annotation: settings.text("click_annotation").unwrap_or("click"),
        }
    }

    /// The documents that have a text, by rank.
    pub(crate) fn documents(&self, span: &Span) -> Vec<Document> {
        let mut documents = retrieved(span);
        documents.retain(|document| !document.text.is_empty());
        let clicks = attribute(&span.attributes, self.click_attribute);
        for document in &mut documents {
            document.clicked = clicks.is_some_and(|clicks| clicked_in(clicks, document));
            self.read_annotations(span, document);
        }
        documents
    }

    fn read_annotations(&self, span: &Span, document: &mut Document) {
        let of_document = span.document_annotations.iter().filter(|it| it.position == document.position);
        let (clicks, words): (Vec<_>, Vec<_>) =
            of_document.map(|it| &it.annotation).partition(|annotation| annotation.name == self.click_annotation);
        match self.judge.verdict(words.into_iter(), "") {
            Verdict::Approved { names } => (document.relevant, document.names) = (Some(true), names),
            Verdict::Rejected { names } => (document.relevant, document.names) = (Some(false), names),
            Verdict::Conflicting { .. } => document.disputed = true,
            Verdict::Corrected { .. } | Verdict::Missing => {}
        }
        // Clicks are facts, not judgements: whoever reports one counts.
        if clicks.iter().any(|click| click.score.is_none_or(|score| score > 0.0)) {
            document.clicked = true;
            if document.relevant.is_none() {
                document.names.push(self.click_annotation.to_string());
            }
        }
    }
}

/// `retrieval.documents.N.document.{content, id, score}`.
fn retrieved(span: &Span) -> Vec<Document> {
    let mut documents: BTreeMap<u32, Document> = BTreeMap::new();
    for attribute in &span.attributes {
        let Some(rest) = attribute.key.strip_prefix("retrieval.documents.") else { continue };
        let Some((position, field)) = rest.split_once('.') else { continue };
        let Ok(position) = position.parse() else { continue };
        let document = documents.entry(position).or_insert_with(|| Document { position, ..Document::default() });
        let text = || scalar(&attribute.value).unwrap_or_default();
        match field {
            "document.content" => document.text = text().trim().to_string(),
            "document.id" => document.id = text(),
            "document.score" => document.score = number(&attribute.value),
            _ => {}
        }
    }
    documents.into_values().collect()
}

fn number(value: &AttributeValue) -> Option<f64> {
    match value {
        AttributeValue::Number(number) => Some(*number),
        // Ranks and counts, far below 2^53.
        AttributeValue::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// Numbers are positions, texts are document ids.
fn clicked_in(clicks: &AttributeValue, document: &Document) -> bool {
    let position = i64::from(document.position);
    match clicks {
        AttributeValue::Integer(clicked) => *clicked == position,
        AttributeValue::Integers(clicked) => clicked.contains(&position),
        AttributeValue::Text(clicked) => !clicked.is_empty() && *clicked == document.id,
        AttributeValue::Texts(clicked) => !document.id.is_empty() && clicked.contains(&document.id),
        _ => false,
    }
}

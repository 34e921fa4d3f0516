//! Triplets for embedding models: a query with a document that helped and one that did not.

use plugin_settings::Settings;

use crate::answers::skipped;
use crate::extraction::{Extraction, ExtractionConfig, Skipped};
use crate::matching;
use crate::text::{attribute, input, lineage, scalar};
use crate::types::{Example, Span, Triplet};

mod documents;
mod negatives;

use documents::{Document, Relevance};
use negatives::Negatives;

/// `modality` keeps the spans whose `modality_attribute` says so; `relevance_annotations`, `relevant_labels` and
/// `irrelevant_labels` (comma-separated) count for documents besides the verdict rules; `click_attribute` holds
/// positions or ids of clicked documents, and annotations named `click_annotation` are clicks too; `strategy`,
/// `negatives`, `min_score` and `seed` choose negatives where no document is explicitly irrelevant.
pub(crate) const SETTINGS: &[&str] = &[
    "modality",
    "modality_attribute",
    "relevance_annotations",
    "relevant_labels",
    "irrelevant_labels",
    "click_attribute",
    "click_annotation",
    "strategy",
    "negatives",
    "min_score",
    "seed",
];

pub(crate) fn extract(config: &ExtractionConfig, settings: &Settings, spans: &[Span]) -> Result<Extraction, String> {
    let search = Search::new(config, settings)?;
    let mut extraction = Extraction { examples: Vec::new(), skipped: Vec::new() };
    for span in spans {
        match search.exclusion(config, span) {
            Some(reason) => extraction.skipped.push(skipped(span, reason)),
            None => search.triplets(span, input(span, settings), &mut extraction),
        }
    }
    Ok(extraction)
}

/// The settings, read.
pub(crate) struct Search<'a> {
    /// Attribute and value.
    modality: Option<(&'a str, &'a str)>,
    relevance: Relevance<'a>,
    negatives: Negatives,
}

impl<'a> Search<'a> {
    pub(crate) fn new(config: &ExtractionConfig, settings: &Settings<'a>) -> Result<Self, String> {
        let modality = settings.text("modality");
        if let Some(unknown) = modality.filter(|modality| !["video", "image", "text"].contains(modality)) {
            return Err(format!("setting `modality` is `{unknown}`; give `video`, `image` or `text`"));
        }
        let modality_attribute = settings.text("modality_attribute").unwrap_or("modality");
        Ok(Self {
            modality: modality.map(|modality| (modality_attribute, modality)),
            relevance: Relevance::new(&config.verdicts, settings),
            negatives: Negatives::new(settings)?,
        })
    }

    fn exclusion(&self, config: &ExtractionConfig, span: &Span) -> Option<&'static str> {
        let has_modality = |(key, modality): (&str, &str)| {
            attribute(&span.attributes, key).and_then(scalar).is_some_and(|value| value.eq_ignore_ascii_case(modality))
        };
        matching::exclusion(config, span).or(match self.modality {
            Some(modality) if !has_modality(modality) => Some("other modality"),
            _ => None,
        })
    }

    /// Every helpful document with every chosen negative.
    fn triplets(&self, span: &Span, query: String, extraction: &mut Extraction) {
        if query.is_empty() {
            return extraction.skipped.push(skipped(span, "empty input"));
        }
        let documents = self.relevance.documents(span);
        for document in documents.iter().filter(|document| document.disputed) {
            let warning =
                format!("Skipping conflicting verdicts for document {} of span {}", document.position, span.span_id);
            let disputed = Skipped { warning: Some(warning), ..skipped(span, "conflicting verdicts") };
            extraction.skipped.push(disputed);
        }
        let positives: Vec<&Document> = documents.iter().filter(|document| document.helped()).collect();
        if positives.is_empty() {
            return extraction.skipped.push(skipped(span, "no relevant document"));
        }
        let negatives = self.negatives.choose(&span.span_id, &documents);
        if negatives.is_empty() {
            return extraction.skipped.push(skipped(span, "no irrelevant document"));
        }
        for positive in positives {
            for negative in &negatives {
                if positive.text == negative.text {
                    let warning = format!("Skipping identical pair for span {}", span.span_id);
                    let reason = "identical positive and negative";
                    extraction.skipped.push(Skipped { warning: Some(warning), ..skipped(span, reason) });
                    continue;
                }
                let mut names = positive.names.clone();
                names.extend(negative.names.iter().filter(|name| !positive.names.contains(name)).cloned());
                extraction.examples.push(Example::Triplet(Triplet {
                    anchor: query.clone(),
                    positive: positive.text.clone(),
                    negative: negative.text.clone(),
                    lineage: lineage(&[span], names),
                }));
            }
        }
    }
}

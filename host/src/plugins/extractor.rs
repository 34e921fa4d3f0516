//! Extractor plugins: annotated spans in, examples out.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::admission::incompatible;
use super::allowance::Want;
use super::bindings::extraction::{Extraction, ExtractionConfig};
use super::bindings::extractor::ExtractorPre;
use super::bindings::types::{MatchRule, Span};
use super::engine::PluginEngine;
use super::error::{CallSite, PluginError};
use super::limits::CallState;
use super::manifest::PluginKind;
use super::registry::PluginPackage;
use super::{PluginIdentity, invalid};
use crate::dataset::lineage;

/// An admitted extractor.
pub struct Extractor {
    identity: PluginIdentity,
    gets_settings: bool,
    engine: Arc<PluginEngine>,
    instance: ExtractorPre<CallState>,
}

impl Extractor {
    /// Compiles and checks `package`.
    ///
    /// # Errors
    /// What [`PluginError`] has for a component that does not fit.
    pub fn load(engine: &Arc<PluginEngine>, package: &PluginPackage) -> Result<Self, PluginError> {
        let instance = ExtractorPre::new(engine.admit(package, PluginKind::Extractor)?)
            .map_err(|error| incompatible(&package.manifest.name, &error))?;
        let gets_settings = package.allowance.wants.contains(&Want::Settings);
        Ok(Self { identity: package.into(), gets_settings, engine: engine.clone(), instance })
    }

    /// What `run.json` says of it.
    pub fn identity(&self) -> &PluginIdentity {
        &self.identity
    }

    /// Which spans the plugin wants to see.
    ///
    /// # Errors
    /// [`PluginError::Call`].
    pub fn selection(&self, config: &ExtractionConfig) -> Result<Vec<MatchRule>, PluginError> {
        let config = self.permitted(config);
        self.engine.call(self.site("selection", None), |store| {
            self.instance.instantiate(&mut *store)?.tunesmith_plugin_extraction().call_selection(store, &config)
        })
    }

    /// The examples of one batch of spans; `batch` counts from 1 and is for messages.
    ///
    /// # Errors
    /// [`PluginError::Call`]; also where an example names a span that was not in the batch, or a span is neither
    /// the lead of an example nor skipped with a reason.
    pub fn extract(&self, config: &ExtractionConfig, spans: &[Span], batch: usize) -> Result<Extraction, PluginError> {
        let config = self.permitted(config);
        let extraction = self.engine.call(self.site("extract", Some(batch)), |store| {
            self.instance.instantiate(&mut *store)?.tunesmith_plugin_extraction().call_extract(store, &config, spans)
        })?;
        check(&extraction, spans).map_err(|what| invalid(self.site("extract", Some(batch)), what))?;
        Ok(extraction)
    }

    /// `config`, without the settings where the plugin gets none.
    fn permitted<'a>(&self, config: &'a ExtractionConfig) -> Cow<'a, ExtractionConfig> {
        match self.gets_settings || config.settings.is_empty() {
            true => Cow::Borrowed(config),
            false => Cow::Owned(ExtractionConfig { settings: Vec::new(), ..config.clone() }),
        }
    }

    fn site(&self, function: &'static str, batch: Option<usize>) -> CallSite {
        CallSite { plugin: self.identity.name.clone(), function, batch }
    }
}

fn check(extraction: &Extraction, spans: &[Span]) -> Result<(), String> {
    let known: HashSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut accounted = HashSet::with_capacity(spans.len());
    for example in &extraction.examples {
        let ids = &lineage(example).span_ids;
        accounted.insert(ids.first().ok_or("an example without a span id in its lineage")?.as_str());
        if let Some(unknown) = ids.iter().find(|id| !known.contains(id.as_str())) {
            return Err(format!("an example names the span `{unknown}`, which is not in the batch"));
        }
    }
    for skipped in &extraction.skipped {
        if !known.contains(skipped.span_id.as_str()) {
            return Err(format!("the skipped span `{}` is not in the batch", skipped.span_id));
        }
        accounted.insert(&skipped.span_id);
    }
    match spans.iter().find(|span| !accounted.contains(span.span_id.as_str())) {
        Some(lost) => Err(format!("the span `{}` is neither in an example nor skipped with a reason", lost.span_id)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bindings::extraction::Skipped;
    use super::super::bindings::types::{Example, InstructionExample, Lineage, SpanKind, SpanStatus};
    use super::*;

    fn span(id: &str) -> Span {
        Span {
            span_id: id.into(),
            trace_id: String::new(),
            parent_id: None,
            name: String::new(),
            kind: SpanKind::Agent,
            status: SpanStatus::Ok,
            start_time_ns: 0,
            end_time_ns: 0,
            attributes: vec![],
            annotations: vec![],
            document_annotations: vec![],
        }
    }

    fn example(ids: &[&str]) -> Example {
        let lineage = Lineage {
            span_ids: ids.iter().map(|id| id.to_string()).collect(),
            trace_id: String::new(),
            session_id: None,
            annotation_names: vec![],
        };
        Example::Instruction(InstructionExample {
            instruction: "i".into(),
            input: "q".into(),
            output: "a".into(),
            corrected: false,
            lineage,
        })
    }

    #[test]
    fn a_span_that_vanishes_without_a_reason_is_invalid_output() {
        let extraction = Extraction { examples: vec![example(&["a"])], skipped: vec![] };
        assert_eq!(
            check(&extraction, &[span("a"), span("b")]),
            Err("the span `b` is neither in an example nor skipped with a reason".into())
        );
        let skipped = Skipped { span_id: "b".into(), reason: "no verdict".into(), warning: None };
        let extraction = Extraction { skipped: vec![skipped], ..extraction };
        assert_eq!(check(&extraction, &[span("a"), span("b")]), Ok(()));
    }

    #[test]
    fn an_example_with_invented_lineage_is_invalid_output() {
        let extraction = Extraction { examples: vec![example(&["a", "x"])], skipped: vec![] };
        assert_eq!(
            check(&extraction, &[span("a")]),
            Err("an example names the span `x`, which is not in the batch".into())
        );
        let extraction = Extraction { examples: vec![example(&[])], skipped: vec![] };
        assert!(check(&extraction, &[]).is_err());
    }
}

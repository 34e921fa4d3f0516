//! Extractor plugins: annotated spans in, examples out.

use std::collections::HashSet;
use std::sync::Arc;

use super::admission::incompatible;
use super::admitted::Admitted;
use super::bindings::extraction::{Extraction, ExtractionConfig};
use super::bindings::extractor::ExtractorPre;
use super::bindings::types::{MatchRule, Span};
use super::cost::Costs;
use super::engine::PluginEngine;
use super::error::{Fault, PluginError};
use super::limits::{CallState, Limits};
use super::manifest::PluginKind;
use super::registry::PluginPackage;
use super::text::{make_plain, plain};
use super::{MAX_REASON_CHARS, PluginIdentity, failed};
use crate::dataset::lineage;

/// An admitted extractor.
pub struct Extractor {
    plugin: Admitted,
    instance: ExtractorPre<CallState>,
}

impl Extractor {
    /// Compiles and checks `package`.
    ///
    /// # Errors
    /// What [`PluginError`] has for a component that does not fit.
    pub fn load(engine: &Arc<PluginEngine>, package: &PluginPackage) -> Result<Self, PluginError> {
        let (plugin, instance) = engine.admit(package, PluginKind::Extractor)?;
        let instance = ExtractorPre::new(instance).map_err(|error| incompatible(&package.manifest.name, &error))?;
        Ok(Self { plugin, instance })
    }

    /// What `run.json` says of it.
    pub fn identity(&self) -> &PluginIdentity {
        &self.plugin.identity
    }

    /// What its calls took so far.
    pub fn costs(&self) -> Costs {
        self.plugin.costs()
    }

    /// Whose run it serves: errors and log lines name the tenant.
    pub fn for_tenant(mut self, tenant: &str) -> Self {
        self.plugin.tenant = Some(tenant.to_owned());
        self
    }

    /// Which spans the plugin wants to see.
    ///
    /// # Errors
    /// [`PluginError::Call`]; also where there are more than [`Limits::MATCH_RULES`].
    pub fn selection(&self, config: &ExtractionConfig) -> Result<Vec<MatchRule>, PluginError> {
        let site = self.plugin.site("selection", None);
        let config = self.plugin.permitted(config);
        let rules = self.plugin.call(&site, |store| {
            self.instance.instantiate(&mut *store)?.tunesmith_plugin_extraction().call_selection(store, &config)
        })?;
        if rules.len() > Limits::MATCH_RULES {
            let what = format!("{} match rules, more than {}", rules.len(), Limits::MATCH_RULES);
            return Err(failed(site, Fault::InvalidOutput { what }));
        }
        Ok(rules)
    }

    /// The examples of one batch of spans; `batch` counts from 1 and is for messages. Reasons and warnings are made fit
    /// to be printed.
    ///
    /// # Errors
    /// [`PluginError::Call`]; also where an example names a span that was not in the batch, or a span is neither
    /// the lead of an example nor skipped with a reason.
    pub fn extract(&self, config: &ExtractionConfig, spans: &[Span], batch: usize) -> Result<Extraction, PluginError> {
        let site = self.plugin.site("extract", Some(batch));
        let config = self.plugin.permitted(config);
        let mut extraction = self.plugin.call(&site, |store| {
            self.instance.instantiate(&mut *store)?.tunesmith_plugin_extraction().call_extract(store, &config, spans)
        })?;
        if let Err(fault) = check(&extraction, spans, self.plugin.limits.records(spans.len())) {
            return Err(failed(site, fault));
        }
        for skipped in &mut extraction.skipped {
            make_plain(&mut skipped.reason, MAX_REASON_CHARS);
            if let Some(warning) = &mut skipped.warning {
                make_plain(warning, MAX_WARNING_CHARS);
            }
        }
        Ok(extraction)
    }
}

/// Characters of a warning that are told.
const MAX_WARNING_CHARS: usize = 1000;
/// Characters of a span's id that are told; ours have 16.
const MAX_ID_CHARS: usize = 40;

fn check(extraction: &Extraction, spans: &[Span], limit: usize) -> Result<(), Fault> {
    for (what, given) in [("examples", extraction.examples.len()), ("skipped spans", extraction.skipped.len())] {
        if given > limit {
            return Err(Fault::Records { what, given, spans: spans.len(), limit });
        }
    }
    check_lineage(extraction, spans).map_err(|what| Fault::InvalidOutput { what })
}

fn check_lineage(extraction: &Extraction, spans: &[Span]) -> Result<(), String> {
    let known: HashSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut accounted = HashSet::with_capacity(spans.len());
    for example in &extraction.examples {
        let ids = &lineage(example).span_ids;
        accounted.insert(ids.first().ok_or("an example without a span id in its lineage")?.as_str());
        if let Some(unknown) = ids.iter().find(|id| !known.contains(id.as_str())) {
            let unknown = plain(unknown, MAX_ID_CHARS);
            return Err(format!("an example names the span `{unknown}`, which is not in the batch"));
        }
    }
    for skipped in &extraction.skipped {
        if !known.contains(skipped.span_id.as_str()) {
            let unknown = plain(&skipped.span_id, MAX_ID_CHARS);
            return Err(format!("the skipped span `{unknown}` is not in the batch"));
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
            check_lineage(&extraction, &[span("a"), span("b")]),
            Err("the span `b` is neither in an example nor skipped with a reason".into())
        );
        let skipped = Skipped { span_id: "b".into(), reason: "no verdict".into(), warning: None };
        let extraction = Extraction { skipped: vec![skipped], ..extraction };
        assert_eq!(check_lineage(&extraction, &[span("a"), span("b")]), Ok(()));
    }

    #[test]
    fn a_flood_of_examples_or_of_reasons_is_told_with_its_cap() {
        let extraction = Extraction { examples: vec![example(&["a"]); 3], skipped: vec![] };
        let error = check(&extraction, &[span("a")], 2).unwrap_err().to_string();
        assert!(error.starts_with("handed back 3 examples for 1 spans, more than its cap of 2; "), "{error}");
        let skipped = Skipped { span_id: "a".into(), reason: "r".into(), warning: None };
        let extraction = Extraction { examples: vec![], skipped: vec![skipped; 3] };
        assert_eq!(check(&extraction, &[span("a")], 3), Ok(()));
        assert!(check(&extraction, &[span("a")], 2).unwrap_err().to_string().contains("3 skipped spans"));
    }

    #[test]
    fn an_example_with_invented_lineage_is_invalid_output() {
        let extraction = Extraction { examples: vec![example(&["a", "x"])], skipped: vec![] };
        assert_eq!(
            check_lineage(&extraction, &[span("a")]),
            Err("an example names the span `x`, which is not in the batch".into())
        );
        let extraction = Extraction { examples: vec![example(&[])], skipped: vec![] };
        assert!(check_lineage(&extraction, &[]).is_err());
    }
}

//! Formatter plugins: examples in, training records out.

use std::sync::Arc;

use super::admission::incompatible;
use super::admitted::Admitted;
use super::bindings::formatter::FormatterPre;
use super::bindings::formatting::{Formatted, FormatterConfig, TrainingRecord};
use super::bindings::types::{self, Example};
use super::cost::Costs;
use super::engine::PluginEngine;
use super::error::{Fault, PluginError};
use super::limits::CallState;
use super::manifest::PluginKind;
use super::registry::PluginPackage;
use super::text::make_plain;
use super::{MAX_REASON_CHARS, PluginIdentity, failed};
use crate::dataset::lineage;

/// An admitted formatter.
pub struct Formatter {
    plugin: Admitted,
    instance: FormatterPre<CallState>,
}

impl Formatter {
    /// Most examples of one call: a fresh instance costs 20 us, so at 256 it is 0.1 us an example.
    pub const MAX_BATCH: usize = 256;

    /// Compiles and checks `package`.
    ///
    /// # Errors
    /// What [`PluginError`] has for a component that does not fit.
    pub fn load(engine: &Arc<PluginEngine>, package: &PluginPackage) -> Result<Self, PluginError> {
        let (plugin, instance) = engine.admit(package, PluginKind::Formatter)?;
        let instance = FormatterPre::new(instance).map_err(|error| incompatible(&package.manifest.name, &error))?;
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

    /// Formats examples, in order, batch by batch.
    ///
    /// # Errors
    /// That of the first batch which fails in [`Formatter::format_batch`].
    pub fn format(&self, config: &FormatterConfig, examples: &[Example]) -> Result<Vec<Formatted>, PluginError> {
        let mut formatted = Vec::with_capacity(examples.len());
        for (index, batch) in self.batches(examples).enumerate() {
            formatted.extend(self.format_batch(config, batch, index + 1)?);
        }
        Ok(formatted)
    }

    /// Cuts examples into batches of at most [`Formatter::MAX_BATCH`], or fewer where their text would not fit the
    /// output cap.
    pub fn batches<'a>(&self, examples: &'a [Example]) -> impl Iterator<Item = &'a [Example]> + use<'a> {
        // A record repeats its example's text and a template: half of the cap leaves room for both.
        batches(examples, self.plugin.limits.output_bytes / 2)
    }

    /// One result for each example of one batch; `batch` counts from 1 and is for messages. Reasons are made fit to be
    /// printed.
    ///
    /// # Errors
    /// [`PluginError::Call`]; also where there is not one result per example, or a response does not start on a
    /// character of its text.
    pub fn format_batch(
        &self,
        config: &FormatterConfig,
        examples: &[Example],
        batch: usize,
    ) -> Result<Vec<Formatted>, PluginError> {
        let site = self.plugin.site("format", Some(batch));
        let config = self.plugin.permitted(config);
        let results = self.plugin.call(&site, |store| {
            self.instance.instantiate(&mut *store)?.tunesmith_plugin_formatting().call_format(store, &config, examples)
        });
        let mut results = results.map_err(|error| naming_spans(error, examples))?;
        if let Err(what) = check(&results, examples) {
            return Err(failed(site, Fault::InvalidOutput { what }));
        }
        for result in &mut results {
            if let Formatted::Skipped(reason) = result {
                make_plain(reason, MAX_REASON_CHARS);
            }
        }
        Ok(results)
    }
}

/// Adds the spans behind an example that the plugin refused: from its place in a batch nobody finds it.
fn naming_spans(mut error: PluginError, examples: &[Example]) -> PluginError {
    if let PluginError::Call { fault: Fault::Plugin(types::PluginError::InvalidItem((index, why))), .. } = &mut error
        && let Some(example) = examples.get(*index as usize)
    {
        *why = format!("{why} (span `{}`)", lineage(example).span_ids.join("`, `"));
    }
    error
}

/// Cuts `examples` into runs of at most `MAX_BATCH` examples and `max_bytes` of text; never an empty one.
fn batches(examples: &[Example], max_bytes: usize) -> impl Iterator<Item = &[Example]> {
    let mut rest = examples;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(Formatter::MAX_BATCH).take_while(|example| {
            bytes += text_bytes(example);
            bytes <= max_bytes
        });
        let n = fitting.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(n);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

fn text_bytes(example: &Example) -> usize {
    match example {
        Example::Instruction(e) => e.instruction.len() + e.input.len() + e.output.len(),
        Example::Preference(p) => p.instruction.len() + p.input.len() + p.chosen.len() + p.rejected.len(),
        Example::Triplet(t) => t.anchor.len() + t.positive.len() + t.negative.len(),
    }
}

/// What the WIT promises of the list; whether a record suits the method is the data set's own check.
fn check(results: &[Formatted], examples: &[Example]) -> Result<(), String> {
    if results.len() != examples.len() {
        return Err(format!("{} results for {} examples", results.len(), examples.len()));
    }
    for (index, result) in results.iter().enumerate() {
        if let Formatted::Ready(TrainingRecord::Text(record)) = result
            && let Some(start) = record.response_start
            && !record.text.is_char_boundary(start as usize)
        {
            return Err(format!(
                "the response of result {index} starts at byte {start}, which is no character of its text of {} bytes",
                record.text.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bindings::formatting::TextRecord;
    use super::super::bindings::types::{InstructionExample, Lineage};
    use super::*;

    fn example(output: &str) -> Example {
        let lineage = Lineage { span_ids: vec![], trace_id: String::new(), session_id: None, annotation_names: vec![] };
        Example::Instruction(InstructionExample {
            instruction: String::new(),
            input: String::new(),
            output: output.into(),
            corrected: false,
            lineage,
        })
    }

    fn text(text: &str, response_start: u32) -> Formatted {
        Formatted::Ready(TrainingRecord::Text(TextRecord { text: text.into(), response_start: Some(response_start) }))
    }

    #[test]
    fn a_formatter_must_answer_every_example() {
        assert_eq!(check(&[text("ab", 1)], &[example("x"), example("y")]), Err("1 results for 2 examples".into()));
    }

    #[test]
    fn a_response_must_start_on_a_character_of_its_text() {
        assert_eq!(check(&[text("aé", 1)], &[example("x")]), Ok(()));
        for start in [2, 4] {
            let error = format!(
                "the response of result 0 starts at byte {start}, which is no character of its text of 3 bytes"
            );
            assert_eq!(check(&[text("aé", start)], &[example("x")]), Err(error));
        }
    }

    #[test]
    fn batches_are_bounded_in_examples_and_in_bytes_and_lose_nothing() {
        let many = vec![example("x"); 600];
        let sizes: Vec<_> = batches(&many, 1 << 20).map(<[_]>::len).collect();
        assert_eq!(sizes, [256, 256, 88]);
        let long = vec![example("12345"); 5];
        // Two fit 10 bytes; where not even one fits, one goes alone and the output cap decides.
        assert_eq!(batches(&long, 10).map(<[_]>::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(batches(&long, 1).count(), 5);
        assert_eq!(batches(&[], 1).count(), 0);
    }
}

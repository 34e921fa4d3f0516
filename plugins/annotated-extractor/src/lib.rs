//! The default extractor: spans that people judged or corrected become examples, and everything else has a reason.

mod answers;
mod matching;
mod search;
mod text;
mod verdict;

#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wit_bindgen::generate!({ world: "extractor", path: "../../wit", additional_derives: [PartialEq] });
}

use bindings::exports::tunesmith::plugin::extraction::{self, Extraction, ExtractionConfig, Guest};
use bindings::tunesmith::plugin::types::{self, MatchRule, ModelType, PluginError, Span};
use plugin_settings::Settings;

struct AnnotatedExtractor;

impl Guest for AnnotatedExtractor {
    fn selection(config: ExtractionConfig) -> Result<Vec<MatchRule>, PluginError> {
        validate(&config).map_err(PluginError::Configuration)?;
        Ok(config.match_rules)
    }

    fn extract(config: ExtractionConfig, spans: Vec<Span>) -> Result<Extraction, PluginError> {
        let settings = validate(&config).map_err(PluginError::Configuration)?;
        match config.model_type {
            ModelType::Llm => answers::extract(&config, &settings, &spans),
            ModelType::Embedding => search::extract(&config, &settings, &spans),
        }
        .map_err(PluginError::Configuration)
    }
}

bindings::export!(AnnotatedExtractor with_types_in bindings);

fn validate(config: &ExtractionConfig) -> Result<Settings<'_>, String> {
    matching::validate(&config.match_rules)?;
    verdict::validate(&config.verdicts)?;
    let settings = Settings::new(&config.settings, &[text::SETTINGS, answers::SETTINGS, search::SETTINGS].concat())?;
    answers::Limits::new(&settings)?;
    search::Search::new(config, &settings)?;
    Ok(settings)
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

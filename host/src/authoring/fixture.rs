//! Recorded calls: JSON lines of the WIT's records.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::AuthoringError;
use crate::plugins::PluginKind;
use crate::plugins::bindings::extraction::ExtractionConfig;
use crate::plugins::bindings::formatting::FormatterConfig;
use crate::plugins::bindings::selection_policy::{DatasetStatistics, PolicyConfig};
use crate::plugins::bindings::types::{Example, Span};

/// One call of a plugin, under a name.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// In tables and expectations.
    pub name: String,
    /// What is called, with what.
    pub call: Call,
}

/// The arguments of a call.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a handful of them, and matched on everywhere")]
pub enum Call {
    /// `extract`
    Extract(ExtractionConfig, Vec<Span>),
    /// `format`
    Format(FormatterConfig, Vec<Example>),
    /// `decide`
    Decide(PolicyConfig, DatasetStatistics),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extract {
    name: String,
    config: ExtractionConfig,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    name: String,
    config: FormatterConfig,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    name: String,
    config: PolicyConfig,
    statistics: DatasetStatistics,
}

/// The fixtures of a file of JSON lines, or of every `.jsonl` file of a folder in the order of their names.
///
/// # Errors
/// [`AuthoringError::Io`], [`AuthoringError::Fixture`] or [`AuthoringError::NoFixtures`].
pub fn read(path: &Path, kind: PluginKind) -> Result<Vec<Fixture>, AuthoringError> {
    let mut fixtures = Vec::new();
    for file in files(path)? {
        let text = fs::read_to_string(&file).map_err(AuthoringError::io("read", &file))?;
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            fixtures.push(parse(line, kind).map_err(|error| AuthoringError::Fixture {
                path: file.clone(),
                line: index + 1,
                kind,
                what: error.to_string(),
                arguments: match kind {
                    PluginKind::Extractor => "`spans`",
                    PluginKind::Formatter => "`examples`",
                    PluginKind::Policy => "`statistics`",
                },
            })?);
        }
    }
    if fixtures.is_empty() {
        return Err(AuthoringError::NoFixtures { path: path.to_owned() });
    }
    Ok(fixtures)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, AuthoringError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut files: Vec<_> =
        entries.map_err(AuthoringError::io("read", path))?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    Ok(files)
}

fn parse(line: &str, kind: PluginKind) -> serde_json::Result<Fixture> {
    fn from<T: DeserializeOwned>(line: &str) -> serde_json::Result<T> {
        serde_json::from_str(line)
    }
    Ok(match kind {
        PluginKind::Extractor => {
            let Extract { name, config, spans } = from(line)?;
            Fixture { name, call: Call::Extract(config, spans) }
        }
        PluginKind::Formatter => {
            let Format { name, config, examples } = from(line)?;
            Fixture { name, call: Call::Format(config, examples) }
        }
        PluginKind::Policy => {
            let Decide { name, config, statistics } = from(line)?;
            Fixture { name, call: Call::Decide(config, statistics) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"name":"a","config":{"min_sft_examples":1,"min_dpo_pairs":1,"min_triplets":1,"settings":[]},"statistics":{"agent_type":"routing","model_type":"Llm","approved_examples":5,"preference_pairs":0,"triplets":0}}"#;

    #[test]
    fn a_folder_gives_the_fixtures_of_its_files_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("b.jsonl"), LINE.replace("\"a\"", "\"second\"")).unwrap();
        fs::write(root.path().join("a.jsonl"), format!("{}\n\n", LINE.replace("\"a\"", "\"first\""))).unwrap();
        fs::write(root.path().join("notes.txt"), "nothing").unwrap();
        let names: Vec<_> =
            read(root.path(), PluginKind::Policy).unwrap().into_iter().map(|fixture| fixture.name).collect();
        assert_eq!(names, ["first", "second"]);
    }

    #[test]
    fn a_line_that_is_no_call_is_named_with_its_place_and_what_belongs_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("calls.jsonl");
        fs::write(&path, format!("{LINE}\n{}", LINE.replace("statistics", "stats"))).unwrap();
        let error = read(&path, PluginKind::Policy).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "`{}`, line 2, is no fixture of policy plugins: unknown field `stats`, expected one of `name`, `config`, \
                 `statistics`",
                path.display()
            )),
            "{error}"
        );
        assert!(error.ends_with("; each line is a JSON object with `name`, `config` and `statistics`"), "{error}");
    }

    #[test]
    fn a_file_without_a_fixture_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let error = read(root.path(), PluginKind::Policy).unwrap_err().to_string();
        assert!(error.starts_with("no fixture in `"), "{error}");
    }
}

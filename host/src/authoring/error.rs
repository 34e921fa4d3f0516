//! What can go wrong between an author and a plugin, before or beside the plugin itself.

use std::path::PathBuf;

use super::scaffold::Language;
use crate::plugins::PluginKind;

/// A fixture, an expectation or a scaffold that is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthoringError {
    /// A file or folder.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A line that is no call of the plugin's kind.
    #[error(
        "`{}`, line {line}, is no fixture of {kind} plugins: {what}; each line is a JSON object with `name`, `config` and {arguments}",
        path.display()
    )]
    Fixture {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The plugin's kind.
        kind: PluginKind,
        /// The parser's text.
        what: String,
        /// What a call of this kind takes beside its configuration.
        arguments: &'static str,
    },
    /// A folder or file without a fixture.
    #[error("no fixture in `{}`; name a file of JSON lines, or a folder of `.jsonl` files", path.display())]
    NoFixtures {
        /// The file or folder.
        path: PathBuf,
    },
    /// A line that is no expectation.
    #[error("`{}`, line {line}, is no expectation: {what}; write the file anew with `--update`", path.display())]
    Expectation {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The parser's text.
        what: String,
    },
    /// A component that is none of our kinds.
    #[error(
        "plugin `{plugin}` exports {found}, so that it is neither extractor, formatter nor policy; build it for one of these worlds of `wit/`"
    )]
    NoKind {
        /// The plugin.
        plugin: String,
        /// Its exports.
        found: String,
    },
    /// A folder that has something in it.
    #[error("`{}` is there and not empty; name another folder with `--dir`", path.display())]
    FolderTaken {
        /// The folder.
        path: PathBuf,
    },
    /// A name that could not be a crate's, a file's and a plugin's at once.
    #[error("`{name}` is no name for a plugin; use 1 to 64 of `a` to `z`, `0` to `9` and `-`, a letter first")]
    Name {
        /// What was given.
        name: String,
    },
    /// A language that has no template for a kind.
    #[error("there is no {kind} in {language} to start from; {kind} plugins can start in {known}")]
    NoTemplate {
        /// The kind.
        kind: PluginKind,
        /// The language.
        language: Language,
        /// Languages that have one.
        known: String,
    },
}

impl AuthoringError {
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

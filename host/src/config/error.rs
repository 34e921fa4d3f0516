//! What can be wrong with a configuration.

use std::path::{Path, PathBuf};

/// A configuration that no run can start from; always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not TOML, has an unknown key, or a value of another type.
    #[error("`{}`: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's text with line, column and excerpt, and the nearest known key.
        what: String,
    },
    /// A key without a default is not set.
    #[error("`{key}` is not set: {remedy}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How to set it.
        remedy: String,
    },
    /// A value makes no sense.
    #[error("`{key}` is {value}: {want}")]
    Invalid {
        /// The key, as in the file: `training.warmup_ratio`.
        key: &'static str,
        /// The value, quoted where it is text.
        value: String,
        /// What would make sense.
        want: String,
    },
    /// A plugin is named with a pin that is none.
    #[error("`{key}`: {want}")]
    Pin {
        /// `formatter`
        key: &'static str,
        /// What is wrong, and what would make sense.
        want: String,
    },
}

impl ConfigError {
    /// The parser's error, with the nearest known key where one is unknown.
    pub(crate) fn syntax(path: &Path, error: &toml::de::Error) -> Self {
        let mut what = error.to_string().trim_end().to_owned();
        if let Some(near) = nearest_key(error.message()) {
            what.push_str(&format!("\ndid you mean `{near}`?"));
        }
        Self::Syntax { path: path.to_owned(), what }
    }
}

/// serde names the unknown key and then all known ones, each in backticks.
fn nearest_key(message: &str) -> Option<&str> {
    let mut words = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    words
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_key_is_named_and_a_far_one_is_not() {
        let message = "unknown field `epoch`, expected one of `tenant_id`, `epochs`, `batch_size`";
        assert_eq!(nearest_key(message), Some("epochs"));
        assert_eq!(nearest_key("unknown field `zzz`, expected one of `tenant_id`, `epochs`"), None);
        assert_eq!(nearest_key("invalid type: string \"x\", expected u32"), None);
    }
}

//! `plugin.toml`: what a plugin says of itself.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::allowance::Want;
use super::error::PluginError;

/// The version of the WIT package `tunesmith:plugin` that this host speaks. Patches only add to it: a plugin that was
/// built against an earlier one of the same minor version loads as it is.
pub const WIT_VERSION: &str = "0.1.1";

/// What comes before the patch in [`WIT_VERSION`], and that.
const WIT_MINOR: &str = "0.1.";
const WIT_PATCH: u64 = 1;

/// In [`PluginManifest::agent_types`]: every agent type.
pub(super) const ANY_AGENT: &str = "*";

/// What a plugin does in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginKind {
    /// Annotated spans in, examples out.
    Extractor,
    /// Examples in, training records out.
    Formatter,
    /// Dataset statistics in, decision out.
    Policy,
}

impl PluginKind {
    /// The interface that a plugin of this kind exports.
    pub fn export(self) -> &'static str {
        match self {
            Self::Extractor => "tunesmith:plugin/extraction@0.1.1",
            Self::Formatter => "tunesmith:plugin/formatting@0.1.1",
            Self::Policy => "tunesmith:plugin/selection-policy@0.1.1",
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extractor => "extractor",
            Self::Formatter => "formatter",
            Self::Policy => "policy",
        })
    }
}

/// The contents of `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginManifest {
    /// The name in logs, errors and `run.json`.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// What it does.
    pub kind: PluginKind,
    /// The version of `tunesmith:plugin` it was built against: [`WIT_VERSION`].
    pub wit: String,
    /// One line for `plugins list`.
    pub description: String,
    /// Agent types that it serves; `*` is every one.
    pub agent_types: Vec<String>,
    /// What it asks of the host; nothing where it is left out.
    #[serde(default)]
    pub wants: BTreeSet<Want>,
}

impl PluginManifest {
    /// Parses the text of the manifest at `path`.
    ///
    /// # Errors
    /// [`PluginError::Manifest`] with the line, where the text is not TOML, a key is unknown or one is missing.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PluginError> {
        toml::from_str(text).map_err(|error| PluginError::Manifest {
            path: path.to_owned(),
            what: error.to_string().trim_end().to_owned(),
        })
    }

    /// Checks that the plugin can do what a run needs of it.
    ///
    /// # Errors
    /// [`PluginError::Incompatible`] for another kind, WIT package or agent type.
    pub fn check(&self, kind: PluginKind, agent_type: Option<&str>) -> Result<(), PluginError> {
        let unfit = |what| Err(PluginError::Incompatible { plugin: self.name.clone(), what });
        if self.kind != kind {
            return unfit(format!("its manifest says {}, but it is configured as the {kind}", self.kind));
        }
        let patch = self.wit.strip_prefix(WIT_MINOR).and_then(|patch| patch.parse::<u64>().ok());
        if patch.is_none_or(|patch| patch > WIT_PATCH) {
            let spoken = format!("{WIT_MINOR}0 to {WIT_VERSION}");
            return unfit(format!("it was built against WIT {}; this host speaks {spoken}: rebuild it", self.wit));
        }
        match agent_type {
            Some(agent) if !self.agent_types.iter().any(|known| known == agent || known == ANY_AGENT) => {
                unfit(format!("it serves the agent types `{}`, not `{agent}`", self.agent_types.join("`, `")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"a\"\nversion = \"1\"\nkind = \"formatter\"\nwit = \"0.1.0\"\n\
                        description = \"d\"\nagent_types = [\"routing\"]\n";

    #[test]
    fn an_unknown_manifest_key_is_an_error_that_names_it() {
        let text = format!("{TEXT}colour = 1\n");
        let error = PluginManifest::parse(&text, Path::new("p/plugin.toml")).unwrap_err().to_string();
        assert!(error.starts_with("`p/plugin.toml` is not a plugin manifest: "), "{error}");
        assert!(error.contains("line 7") && error.contains("unknown field `colour`"), "{error}");
    }

    #[test]
    fn a_plugin_of_another_kind_agent_or_wit_is_refused() {
        let manifest = PluginManifest::parse(TEXT, Path::new("plugin.toml")).unwrap();
        assert!(manifest.check(PluginKind::Formatter, Some("routing")).is_ok());
        let text = |kind, agent| manifest.check(kind, agent).unwrap_err().to_string();
        assert_eq!(
            text(PluginKind::Policy, None),
            "plugin `a` does not fit this run: its manifest says formatter, but it is configured as the policy"
        );
        assert_eq!(
            text(PluginKind::Formatter, Some("search")),
            "plugin `a` does not fit this run: it serves the agent types `routing`, not `search`"
        );
    }

    #[test]
    fn a_plugin_of_an_earlier_patch_of_the_wit_is_as_good_as_one_of_this() {
        let manifest = PluginManifest::parse(TEXT, Path::new("plugin.toml")).unwrap();
        let check =
            |wit: &str| PluginManifest { wit: wit.into(), ..manifest.clone() }.check(PluginKind::Formatter, None);
        assert_eq!(format!("{WIT_MINOR}{WIT_PATCH}"), WIT_VERSION);
        assert!(check("0.1.0").is_ok() && check(WIT_VERSION).is_ok());
        for other in ["0.1.2", "0.2.0", "0.0.9", "1.0.0", "0.1", "0.1.0-rc.1", ""] {
            assert_eq!(
                check(other).unwrap_err().to_string(),
                format!(
                    "plugin `a` does not fit this run: it was built against WIT {other}; this host speaks 0.1.0 to \
                     0.1.1: rebuild it"
                )
            );
        }
    }
}

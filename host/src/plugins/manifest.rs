//! `plugin.toml`: what a plugin says of itself.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::allowance::Want;
use super::error::PluginError;
use super::limit_settings::LimitSettings;

/// The version of the WIT package `tunesmith:plugin` that this host speaks. Patches only add to it: a plugin that was
/// built against an earlier one of the same minor version loads as it is.
pub const WIT_VERSION: &str = "0.1.1";

/// The manifest's file, beside the component.
pub(super) const MANIFEST: &str = "plugin.toml";

/// In [`PluginManifest::agent_types`]: every agent type.
pub(super) const ANY_AGENT: &str = "*";

/// What a plugin does in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Every one, in the order that a run calls them.
    pub const ALL: [Self; 3] = [Self::Extractor, Self::Formatter, Self::Policy];

    /// The word for it: in manifests, and as the configuration's key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Extractor => "extractor",
            Self::Formatter => "formatter",
            Self::Policy => "policy",
        }
    }

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
        f.write_str(self.name())
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
    /// The version of `tunesmith:plugin` it was built against.
    pub wit: String,
    /// One line for `plugins list`.
    pub description: String,
    /// Agent types that it serves; `*` is every one.
    pub agent_types: Vec<String>,
    /// What it asks of the host; nothing where it is left out.
    #[serde(default)]
    pub wants: BTreeSet<Want>,
    /// The limits that it asks for.
    #[serde(default)]
    pub limits: LimitSettings,
}

impl PluginManifest {
    /// Parses and checks the text of the manifest at `path`.
    ///
    /// # Errors
    /// [`PluginError::Manifest`] with the line, where the text is not TOML, a key is unknown or one is missing, and with
    /// the key where a value is not what it has to be.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PluginError> {
        let invalid = |what| PluginError::Manifest { path: path.to_owned(), what };
        let manifest: Self = toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
        manifest.check_values().map_err(invalid)?;
        Ok(manifest)
    }

    /// Names and versions are told in logs, paths and signatures, descriptions in tables: what could be mistaken for
    /// something else there is not let in.
    fn check_values(&self) -> Result<(), String> {
        let check = |key: &str, value: &str, fits: bool, want: &str| match fits {
            true => Ok(()),
            false => Err(format!("`{key}` is {value:?}: {want}")),
        };
        check("name", &self.name, is_name(&self.name), "use 1 to 64 of `a` to `z`, `0` to `9` and `-`")?;
        check("version", &self.version, is_version(&self.version), "give a version such as `1.2.0` or `1.2.0-beta.1`")?;
        let want = "give the version of `wit/` that it was built against, such as `0.1.0`";
        check("wit", &self.wit, parse_wit(&self.wit).is_some(), want)?;
        let line = !self.description.chars().any(char::is_control) && self.description.chars().count() <= 200;
        check("description", &self.description, line, "give one line of at most 200 characters")?;
        if self.agent_types.is_empty() {
            return Err("`agent_types` is empty: list the agent types that it serves, or `\"*\"` for all".to_owned());
        }
        for agent_type in &self.agent_types {
            let plain = agent_type.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            let fits = agent_type == ANY_AGENT || (plain && !agent_type.is_empty());
            check(
                "agent_types",
                agent_type,
                fits,
                "an agent type is letters, digits, `_`, `-` and `.`, or `*` for all",
            )?;
        }
        // What a 32-bit address reaches.
        if let Some(mib) = self.limits.memory_mib.filter(|mib| mib.get() > 4096) {
            return Err(format!("`limits.memory_mib` is {mib}: a component can't use more than 4096"));
        }
        Ok(())
    }

    /// Checks that the plugin can do what a run needs of it.
    ///
    /// # Errors
    /// [`PluginError::Incompatible`] for another kind, WIT package or agent type.
    pub fn check(&self, kind: PluginKind, agent_type: Option<&str>) -> Result<(), PluginError> {
        self.misfits(kind, agent_type).into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that keeps the plugin from doing what a run needs of it.
    pub(super) fn misfits(&self, kind: PluginKind, agent_type: Option<&str>) -> Vec<PluginError> {
        let mut misfits = Vec::new();
        if self.kind != kind {
            misfits.push(format!("its manifest says {}, but it is configured as the {kind}", self.kind));
        }
        misfits.extend(wit_misfit(&self.wit, WIT_VERSION));
        if let Some(agent) = agent_type
            && !self.agent_types.iter().any(|known| known == agent || known == ANY_AGENT)
        {
            misfits.push(format!("it serves the agent types `{}`, not `{agent}`", self.agent_types.join("`, `")));
        }
        misfits.into_iter().map(|what| PluginError::Incompatible { plugin: self.name.clone(), what }).collect()
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// One to three numbers, and whatever semantic versioning allows after them.
fn is_version(text: &str) -> bool {
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let rest_fits =
        rest.is_empty() || rest.len() > 1 && rest.chars().all(|c| c.is_ascii_alphanumeric() || "-+.".contains(c));
    text.len() <= 64 && numbers.split('.').all(number) && numbers.split('.').count() <= 3 && rest_fits
}

/// `0.1` or `0.1.0`; a patch that is not given fits every one.
fn parse_wit(text: &str) -> Option<(u32, u32, Option<u32>)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next().map_or(Some(None), |patch| patch.map(Some))?);
    parts.next().is_none().then_some(version)
}

/// Why a plugin that was built against one version can't run on a host of another. Within `0.x`, interfaces only ever
/// get more: an older plugin asks for nothing that is gone, a newer one may ask for what is not there yet.
fn wit_misfit(built: &str, host: &str) -> Option<String> {
    let (Some((major, minor, patch)), Some((host_major, host_minor, host_patch))) = (parse_wit(built), parse_wit(host))
    else {
        return Some(format!("its WIT version is `{built}`; this host speaks {host}: rebuild it"));
    };
    let remedy = match (major, minor).cmp(&(host_major, host_minor)) {
        std::cmp::Ordering::Equal if patch <= host_patch => return None,
        std::cmp::Ordering::Equal => "update tunesmith",
        std::cmp::Ordering::Greater => "update tunesmith, or rebuild it",
        std::cmp::Ordering::Less => "rebuild it",
    };
    Some(format!("it was built against WIT {built}; this host speaks {host}: {remedy}"))
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
        let old = PluginManifest { wit: "0.0.9".into(), ..manifest.clone() };
        assert!(old.check(PluginKind::Formatter, None).unwrap_err().to_string().contains("rebuild it"));
        assert_eq!(old.misfits(PluginKind::Policy, Some("search")).len(), 3);
    }

    #[test]
    fn a_plugin_runs_on_every_host_of_its_minor_version_that_is_no_older() {
        for built in ["0.1", "0.1.0", "0.1.1"] {
            assert_eq!(wit_misfit(built, "0.1.1"), None, "{built}");
        }
        let misfit = |built| wit_misfit(built, "0.1.1").unwrap();
        assert_eq!(misfit("0.1.2"), "it was built against WIT 0.1.2; this host speaks 0.1.1: update tunesmith");
        assert_eq!(
            misfit("0.2.0"),
            "it was built against WIT 0.2.0; this host speaks 0.1.1: update tunesmith, or rebuild it"
        );
        assert_eq!(misfit("0.0.9"), "it was built against WIT 0.0.9; this host speaks 0.1.1: rebuild it");
    }

    #[test]
    fn a_value_that_a_manifest_may_not_have_is_named_with_what_it_may() {
        let long = "x".repeat(65);
        let cases = [
            ("name = \"a\"", "name = \"Mine!\"", "`name` is \"Mine!\": use 1 to 64 of `a` to `z`, `0` to `9` and `-`"),
            ("name = \"a\"", "name = \"\"", "`name` is \"\": use 1 to 64 of `a` to `z`, `0` to `9` and `-`"),
            (
                "name = \"a\"",
                &format!("name = \"{long}\""),
                &format!("`name` is {long:?}: use 1 to 64 of `a` to `z`, `0` to `9` and `-`"),
            ),
            ("\"1\"", "\"new\"", "`version` is \"new\": give a version such as `1.2.0` or `1.2.0-beta.1`"),
            ("\"1\"", "\"1.2.3.4\"", "`version` is \"1.2.3.4\": give a version such as `1.2.0` or `1.2.0-beta.1`"),
            (
                "\"0.1.0\"",
                "\"one\"",
                "`wit` is \"one\": give the version of `wit/` that it was built against, such as `0.1.0`",
            ),
            ("\"d\"", "\"\\u001b[2J\"", "`description` is \"\\u{1b}[2J\": give one line of at most 200 characters"),
            ("[\"routing\"]", "[]", "`agent_types` is empty: list the agent types that it serves, or `\"*\"` for all"),
            (
                "[\"routing\"]",
                "[\"a/b\"]",
                "`agent_types` is \"a/b\": an agent type is letters, digits, `_`, `-` and `.`, or `*` for all",
            ),
            (
                "[\"routing\"]",
                "[\"*\"]\n[limits]\nmemory_mib = 5000",
                "`limits.memory_mib` is 5000: a component can't use more than 4096",
            ),
        ];
        for (from, to, want) in cases {
            let error = PluginManifest::parse(&TEXT.replacen(from, to, 1), Path::new("plugin.toml")).unwrap_err();
            assert_eq!(error.to_string(), format!("`plugin.toml` is not a plugin manifest: {want}"));
        }
        for version in ["1", "0.1", "1.2.3", "1.2.3-beta.1+5"] {
            assert!(is_version(version), "{version}");
        }
    }

    #[test]
    fn wants_and_limits_are_read_and_are_nothing_by_default() {
        let manifest = PluginManifest::parse(TEXT, Path::new("plugin.toml")).unwrap();
        assert_eq!((manifest.wants, manifest.limits), (BTreeSet::new(), LimitSettings::default()));
        let text = format!("{TEXT}wants = [\"wasi\", \"log\"]\n[limits]\ndeadline_ms = 20\n");
        let manifest = PluginManifest::parse(&text, Path::new("plugin.toml")).unwrap();
        assert_eq!(manifest.wants, BTreeSet::from([Want::Log, Want::Wasi]));
        assert_eq!(manifest.limits.deadline_ms.map(|ms| ms.get()), Some(20));
        let error =
            |more: &str| PluginManifest::parse(&format!("{TEXT}{more}"), Path::new("p")).unwrap_err().to_string();
        assert!(
            error("wants = [\"network\"]")
                .contains("unknown variant `network`, expected one of `log`, `settings`, `wasi`")
        );
        assert!(error("[limits]\nthreads = 2").contains("unknown field `threads`"));
        assert!(error("[limits]\ndeadline_ms = 0").contains("line 8"));
    }
}

//! Tenant and agent type to plugin: who decides, and what comes of it.
//!
//! [`Candidates::choose`] is the one place where it is decided whose setting counts, [`Resolution::inspect`] the one
//! where a plugin is admitted or refused, and what it gets is worked out. Runs and `plugins explain` both go through
//! them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::allowance::Allowance;
use super::error::PluginError;
use super::grants::PluginGrants;
use super::limit_settings::LimitSettings;
use super::manifest::PluginKind;
use super::reference::{PinnedRef, PluginRef};
use super::registry::{Found, PluginPackage};
use super::{Limits, trust};

/// The settings that may name the plugin of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// The kind.
    pub kind: PluginKind,
    /// The agent type that it would serve.
    pub agent_type: &'a str,
    /// A flag or a variable of the environment.
    pub command_line: Option<&'a str>,
    /// `[agents.<agent type>]` of the file.
    pub of_agent: Option<&'a str>,
    /// `[plugins]` of the file.
    pub of_all: Option<&'a str>,
    /// The file.
    pub file: Option<&'a Path>,
}

/// Which plugin it is, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Choice {
    /// The plugin.
    pub plugin: PinnedRef,
    /// Where it was decided.
    pub decided: Decided,
}

/// Where a plugin is decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Decided {
    /// By a flag.
    Flag {
        /// `--formatter`
        name: String,
    },
    /// By a variable of the environment.
    Environment {
        /// `TUNESMITH_FORMATTER`
        name: String,
    },
    /// By a key of the configuration file.
    File {
        /// The file.
        path: Option<PathBuf>,
        /// `agents.routing.formatter` or `plugins.formatter`
        key: String,
    },
    /// By nobody: it is the default.
    Default,
}

impl Candidates<'_> {
    /// A flag is for one run and wins; then the agent's own setting, the setting for all agents, and the default.
    ///
    /// # Errors
    /// What is wrong with a pin, and what to write.
    pub fn choose(&self) -> Result<Choice, String> {
        let kind = self.kind.name();
        let file = |key| Decided::File { path: self.file.map(Path::to_owned), key };
        let (text, decided) = match (self.command_line, self.of_agent, self.of_all) {
            (Some(text), ..) => (text, given(kind, text)),
            (None, Some(text), _) => (text, file(format!("agents.{}.{kind}", self.agent_type))),
            (None, None, Some(text)) => (text, file(format!("plugins.{kind}"))),
            (None, None, None) => (default_plugin(self.kind), Decided::Default),
        };
        Ok(Choice { plugin: text.parse()?, decided })
    }
}

/// A flag and its variable reach us as one value: where the variable has that value, it needed no flag.
fn given(kind: &str, text: &str) -> Decided {
    let name = format!("TUNESMITH_{}", kind.to_uppercase());
    match std::env::var(&name) {
        Ok(value) if value == text => Decided::Environment { name },
        _ => Decided::Flag { name: format!("--{kind}") },
    }
}

fn default_plugin(kind: PluginKind) -> &'static str {
    match kind {
        PluginKind::Extractor => "annotated-extractor",
        PluginKind::Formatter => "alpaca-formatter",
        PluginKind::Policy => "threshold-policy",
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { name } => write!(f, "flag {name}"),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::File { path: Some(path), key } => write!(f, "{key} in {}", path.display()),
            Self::File { path: None, key } => f.write_str(key),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plugin.fmt(f)
    }
}

impl Serialize for Choice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.plugin.serialize(serializer)
    }
}

/// One row of the table: which plugin serves, and everything that decides whether it may and what it gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resolution {
    /// What it is to do.
    pub kind: PluginKind,
    /// Which plugin.
    pub choice: Choice,
    /// For whom.
    pub tenant: String,
    /// For which agent; none where that is not known.
    pub agent_type: Option<String>,
    /// The keys of the settings that it would be given.
    pub settings: Vec<String>,
    /// The limits that the configuration sets.
    pub limits: LimitSettings,
    /// What the operator grants the tenant.
    pub grants: PluginGrants,
}

/// What a plugin is, and what keeps it from serving.
pub struct Inspection {
    /// What it is, and what it would get.
    pub package: PluginPackage,
    /// Everything that is wrong with it; nothing where it may serve.
    pub problems: Vec<PluginError>,
}

impl Resolution {
    /// A plugin that somebody runs for themselves: what it asks for, it gets.
    pub fn of(plugin: PluginRef, kind: PluginKind, agent_type: Option<&str>) -> Self {
        Self {
            kind,
            choice: Choice { plugin: PinnedRef { plugin, pin: None }, decided: Decided::Default },
            tenant: "default".to_owned(),
            agent_type: agent_type.map(str::to_owned),
            settings: Vec::new(),
            limits: LimitSettings::default(),
            grants: PluginGrants::default(),
        }
    }

    /// The plugin, where it may serve.
    ///
    /// # Errors
    /// As [`Resolution::inspect`], and the first of [`Inspection::problems`].
    pub fn package(&self) -> Result<PluginPackage, PluginError> {
        let Inspection { package, problems } = self.inspect()?;
        problems.into_iter().next().map_or(Ok(package), Err)
    }

    /// Reads the plugin, finds everything that is wrong with it and works out what it gets: of what it asks for, what
    /// is granted; limits as configured, else as asked for, else the default, and never above those granted.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], [`PluginError::Read`] and [`PluginError::Manifest`], where there is nothing to look at.
    pub fn inspect(&self) -> Result<Inspection, PluginError> {
        let Found { mut package, wrong_signature } = PluginPackage::read(&self.choice.plugin.plugin, self.kind)?;
        let wrongly_signed = wrong_signature.is_some();
        let mut problems: Vec<PluginError> = wrong_signature.into_iter().map(Into::into).collect();
        problems.extend(trust::problems(&package, wrongly_signed, self).into_iter().map(PluginError::from));
        problems.extend(package.manifest.misfits(self.kind, self.agent_type.as_deref()));
        let asked = self.limits.or(package.manifest.limits).over(Limits::default());
        package.allowance = Allowance {
            wants: package.manifest.wants.intersection(&self.grants.wants).copied().collect(),
            limits: self.grants.maxima().cap(asked),
        };
        Ok(Inspection { package, problems })
    }
}

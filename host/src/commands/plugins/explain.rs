//! `tunesmith plugins explain`: the resolution table of one tenant and agent type.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::commands::Answer;
use crate::config::RunConfig;
use crate::error::HostError;
use crate::plugins::{
    Decided, Extractor, Formatter, Inspection, Limits, PluginEngine, PluginError, PluginKind, PluginPackage, Policy,
    PublicKey, Resolution, Sha256Hex, WIT_VERSION, Want,
};
use crate::report;

#[derive(Serialize)]
struct Explanation<'a> {
    tenant_id: &'a str,
    agent_type: &'a str,
    /// What the host speaks.
    wit: &'static str,
    plugins: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    kind: PluginKind,
    /// As configured, without its pin.
    plugin: String,
    decided: Decided,
    pin: Option<Sha256Hex>,
    /// None where it could not be read.
    found: Option<Seen>,
    /// Everything that keeps it from serving.
    problems: Vec<String>,
}

/// What the plugin is, and what it gets.
#[derive(Serialize)]
struct Seen {
    name: String,
    version: String,
    wit: String,
    agent_types: Vec<String>,
    sha256: String,
    signer: Option<PublicKey>,
    wants: Wants,
    limits: Limits,
}

#[derive(Serialize)]
struct Wants {
    asked: BTreeSet<Want>,
    granted: BTreeSet<Want>,
}

pub(super) fn run(config: &RunConfig) -> Result<Answer, HostError> {
    let inspected = PluginKind::ALL.map(|kind| {
        let resolution = config.resolution(kind);
        let inspection = resolution.inspect();
        (resolution, inspection)
    });
    let allowed = inspected.iter().flat_map(|(_, inspection)| inspection).map(|found| found.package.allowance.limits);
    let engine = PluginEngine::new(allowed.fold(config.plugins.limits, |limits, own| limits.covering(&own)))?;
    let rows = inspected.into_iter().map(|(resolution, inspection)| row(&engine, resolution, inspection));
    let explanation = Explanation {
        tenant_id: &config.tenant_id,
        agent_type: &config.agent_type,
        wit: WIT_VERSION,
        plugins: rows.collect(),
    };
    let mut answer = Answer::new(&explanation, &explanation);
    answer.exit_code = u8::from(explanation.plugins.iter().any(|row| !row.problems.is_empty()));
    Ok(answer)
}

fn row(engine: &Arc<PluginEngine>, resolution: Resolution, inspection: Result<Inspection, PluginError>) -> Row {
    let (found, problems) = match inspection {
        Ok(Inspection { package, mut problems }) => {
            // Of a plugin that may not serve, the component is looked at too: its faults are to be mended with the others.
            problems.extend(admit(engine, resolution.kind, &package).err());
            (Some(seen(package)), problems)
        }
        Err(problem) => (None, vec![problem]),
    };
    Row {
        kind: resolution.kind,
        plugin: resolution.choice.plugin.plugin.to_string(),
        decided: resolution.choice.decided,
        pin: resolution.choice.plugin.pin,
        found,
        problems: problems.iter().map(ToString::to_string).collect(),
    }
}

fn admit(engine: &Arc<PluginEngine>, kind: PluginKind, package: &PluginPackage) -> Result<(), PluginError> {
    match kind {
        PluginKind::Extractor => Extractor::load(engine, package).map(drop),
        PluginKind::Formatter => Formatter::load(engine, package).map(drop),
        PluginKind::Policy => Policy::load(engine, package).map(drop),
    }
}

fn seen(package: PluginPackage) -> Seen {
    let PluginPackage { manifest, digest, signer, allowance, .. } = package;
    Seen {
        name: manifest.name,
        version: manifest.version,
        wit: manifest.wit,
        agent_types: manifest.agent_types,
        sha256: digest,
        signer,
        wants: Wants { asked: manifest.wants, granted: allowance.wants },
        limits: allowance.limits,
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tenant {}, agent type {}\n", self.tenant_id, self.agent_type)?;
        let mut table = report::table();
        let header = std::iter::once(String::new()).chain(self.plugins.iter().map(|row| row.kind.to_string()));
        table.set_header(header);
        let mut line = |name: &str, cell: &dyn Fn(&Row) -> String| {
            table.add_row(std::iter::once(name.to_owned()).chain(self.plugins.iter().map(cell)));
        };
        let of_seen =
            |cell: &dyn Fn(&Seen) -> String, row: &Row| row.found.as_ref().map_or_else(|| "?".to_owned(), cell);
        line("plugin", &|row| row.plugin.clone());
        line("decided by", &|row| row.decided.to_string());
        line("version", &|row| of_seen(&|seen| format!("{} {}", seen.name, seen.version), row));
        line("wit", &|row| of_seen(&|seen| seen.wit.clone(), row));
        line("agent types", &|row| of_seen(&|seen| seen.agent_types.join(", "), row));
        line("sha256", &|row| of_seen(&|seen| seen.sha256[..12].to_owned(), row));
        line("pinned", &|row| row.pin.as_ref().map_or("no".to_owned(), |pin| format!("to {}", &pin.as_str()[..12])));
        line("signed by", &|row| {
            of_seen(&|seen| seen.signer.map_or_else(|| "nobody".to_owned(), |key| key.to_string()), row)
        });
        line("wants", &|row| of_seen(&|seen| list(&seen.wants.asked), row));
        line("is granted", &|row| of_seen(&|seen| list(&seen.wants.granted), row));
        line("deadline", &|row| of_seen(&|seen| format!("{:?}", seen.limits.deadline), row));
        line("fuel", &|row| {
            of_seen(&|seen| seen.limits.fuel.map_or_else(|| "not counted".to_owned(), |fuel| fuel.to_string()), row)
        });
        line("memory", &|row| of_seen(&|seen| format!("{} MiB", seen.limits.memory_bytes >> 20), row));
        line("stack", &|row| of_seen(&|seen| format!("{} KiB", seen.limits.stack_bytes >> 10), row));
        line("table", &|row| of_seen(&|seen| format!("{} elements", seen.limits.table_elements), row));
        line("output", &|row| of_seen(&|seen| format!("{} MiB", seen.limits.output_bytes >> 20), row));
        line("records a span", &|row| of_seen(&|seen| seen.limits.records_per_span.to_string(), row));
        line("log", &|row| of_seen(&|seen| format!("{} KiB", seen.limits.log_bytes >> 10), row));
        line("component", &|row| of_seen(&|seen| format!("{} MiB", seen.limits.component_bytes >> 20), row));
        writeln!(f, "{table}")?;
        let problems = || self.plugins.iter().flat_map(|row| row.problems.iter().map(|problem| (row.kind, problem)));
        match problems().count() {
            0 => write!(f, "\nall three may serve"),
            _ => problems().try_for_each(|(kind, problem)| write!(f, "\n{kind}: {problem}")),
        }
    }
}

fn list(wants: &BTreeSet<Want>) -> String {
    match wants.is_empty() {
        true => "nothing".to_owned(),
        false => wants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

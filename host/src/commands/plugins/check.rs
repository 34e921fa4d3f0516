//! `tunesmith plugins check`

use crate::authoring::{self, InspectError, Inspection};
use crate::cli::CheckArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::plugins::WIT_VERSION;
use crate::report;

pub(super) fn run(args: &CheckArgs) -> Result<Answer, HostError> {
    let inspection = authoring::inspect(&args.component).map_err(|error| match error {
        InspectError::File(error) => HostError::from(error),
        InspectError::Runtime(error) => error.into(),
    })?;
    let json = serde_json::json!({ "loads": inspection.loads(), "component": inspection });
    Ok(Answer { exit_code: u8::from(!inspection.loads()), ..Answer::new(text(&inspection), &json) })
}

fn text(inspection: &Inspection) -> String {
    let mut table = report::table();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("component", format!("{} ({} bytes)", inspection.path.display(), inspection.bytes));
    row("sha256", inspection.sha256.clone());
    if let Some(manifest) = &inspection.manifest {
        row("plugin.toml", format!("{} {}, for {}", manifest.name, manifest.version, manifest.agent_types.join(", ")));
        let wants: Vec<_> = manifest.wants.iter().map(ToString::to_string).collect();
        row("wants", if wants.is_empty() { "nothing".to_owned() } else { wants.join(", ") });
    }
    row("signed by", inspection.signer.map_or_else(|| "nobody".to_owned(), |key| key.to_string()));
    if let Some(kind) = inspection.kind {
        row("world", kind.to_string());
    }
    if let Some(wit) = &inspection.wit {
        row("WIT", format!("{wit}; this host speaks {WIT_VERSION}"));
    }
    if let Some(surface) = &inspection.surface {
        let imports = if surface.imports.is_empty() { "nothing".to_owned() } else { surface.imports.join("\n") };
        row("imports", imports);
        row("exports", surface.exports.join("\n"));
    }
    row("loads", if inspection.loads() { "yes" } else { "no" }.to_owned());
    let mut text = table.to_string();
    for finding in &inspection.findings {
        text.push_str(if finding.is_problem { "\n\nproblem: " } else { "\n\nnote: " });
        text.push_str(&finding.what);
    }
    text
}

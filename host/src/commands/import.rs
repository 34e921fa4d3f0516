//! `tunesmith import`

use std::collections::BTreeMap;

use super::Answer;
use crate::cli::ImportArgs;
use crate::config;
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;
use crate::report;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: ImportArgs, progress: &Progress) -> Result<Answer, HostError> {
    let (options, _) = scope.load(args.store.config.as_deref(), &args.store.options())?;
    for file in &args.files {
        scope.check_read("FILE", file)?;
    }
    let path = config::store_path(&options)?;
    let mut store = pipeline::open_or_create(&path, &args.files)?.with_quota(options.granted.store_quota)?;
    let mut reports = BTreeMap::new();
    for file in &args.files {
        let report = pipeline::import_file(&mut store, file, args.project.as_deref(), progress)?;
        reports.insert(file.display().to_string(), report);
    }
    let projects = store.projects()?;
    let mut table = report::table();
    table.set_header(["project", "spans", "annotations"]);
    for project in &projects {
        table.add_row([project.name.clone(), project.spans.to_string(), project.annotations.to_string()]);
    }
    let text = format!("{table}\n\nstore: {}", store.path().display());
    let json = serde_json::json!({ "store": store.path(), "files": reports, "projects": projects });
    Ok(Answer::new(text, &json))
}

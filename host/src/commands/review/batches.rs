//! `tunesmith review batches`

use super::describe::time;
use crate::approval::ApprovalStore;
use crate::commands::Answer;
use crate::error::HostError;
use crate::report;

pub(super) fn run(store: &ApprovalStore) -> Result<Answer, HostError> {
    let batches = store.batches()?;
    if batches.is_empty() {
        return Ok(Answer::new("no batch was generated yet", &batches));
    }
    let mut table = report::table();
    table.set_header([
        "batch",
        "created",
        "project",
        "agent",
        "generator",
        "model",
        "run",
        "pending",
        "approved",
        "edited",
        "rejected",
        "expired",
    ]);
    for summary in &batches {
        let (batch, counts) = (&summary.batch, &summary.counts);
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            batch.id.to_string(),
            time(batch.created_at_ms),
            batch.project.clone(),
            batch.agent_type.clone(),
            batch.generator.clone(),
            or_none(&batch.model),
            or_none(&batch.run),
            counts.pending.to_string(),
            counts.approved.to_string(),
            counts.edited.to_string(),
            counts.rejected.to_string(),
            counts.expired.to_string(),
        ]);
    }
    Ok(Answer::new(table, &batches))
}

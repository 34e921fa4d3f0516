//! `tunesmith review export`: items with their decisions, as JSON lines.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::approval::{ApprovalError, ApprovalStore, Filter};
use crate::cli::ReviewExportArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::run_dir;

/// Items that are read at once.
const CHUNK: usize = 500;

#[derive(Serialize)]
struct Summary {
    items: u64,
}

pub(super) fn run(store: &ApprovalStore, args: &ReviewExportArgs) -> Result<Answer, HostError> {
    let only = if args.approved { Some(approved(store)?) } else { None };
    let (mut items, mut failed) = (0, None);
    let mut write = |output: &mut dyn Write| {
        write(store, only.as_ref(), output, &mut items).map_err(|error| match error {
            Failed::Output(error) => error,
            Failed::Store(error) => {
                let what = io::Error::other(error.to_string());
                failed = Some(error);
                what
            }
        })
    };
    let written = match &args.output {
        Some(path) => run_dir::write_whole(path, write),
        None => match write(&mut io::stdout().lock()) {
            // A reader that has seen enough, such as `head`, is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(HostError::io("write", Path::new("standard output"))(error))
            }
            _ => Ok(()),
        },
    };
    if let Some(error) = failed {
        return Err(error.into());
    }
    written?;
    Ok(Answer { aside: args.output.is_none(), ..Answer::new(format!("{items} items"), &Summary { items }) })
}

/// The numbers of what trains, each checked against the log.
fn approved(store: &ApprovalStore) -> Result<BTreeSet<i64>, ApprovalError> {
    let of = store.batches()?.into_iter().map(|summary| (summary.batch.project, summary.batch.agent_type));
    let mut approved = BTreeSet::new();
    for (project, agent_type) in of.collect::<BTreeSet<_>>() {
        approved.extend(store.approved(&project, &agent_type)?.iter().map(|approved| approved.approval().item));
    }
    Ok(approved)
}

enum Failed {
    Store(ApprovalError),
    Output(io::Error),
}

fn write(
    store: &ApprovalStore,
    only: Option<&BTreeSet<i64>>,
    output: &mut dyn Write,
    written: &mut u64,
) -> Result<(), Failed> {
    let mut output = BufWriter::new(output);
    let mut after = None;
    loop {
        let page = store.export(&Filter::default(), after, CHUNK).map_err(Failed::Store)?;
        for exported in page.items.iter().filter(|exported| only.is_none_or(|only| only.contains(&exported.item.id))) {
            serde_json::to_writer(&mut output, exported).map_err(|error| Failed::Output(error.into()))?;
            output.write_all(b"\n").map_err(Failed::Output)?;
            *written += 1;
        }
        after = page.next;
        if after.is_none() {
            return output.flush().map_err(Failed::Output);
        }
    }
}

use crate::dataset::SkipTable;

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum SyntheticError {
    #[error(
        "no approved {kind} are there to start from: approve some traces first, as generated examples are made of real ones"
    )]
    NoParents { kind: &'static str },

    #[error(
        "`{generator}` gave no example that could be reviewed (left out: {left_out}): approve more traces, or choose another with `--generator`"
    )]
    Nothing { generator: &'static str, left_out: String },

    #[error("interrupted while examples were generated")]
    Interrupted,
}

/// `3 not valid JSON, 1 refusal`
pub(super) fn listed(left_out: &SkipTable) -> String {
    match left_out.rows().as_slice() {
        [] => "nothing".to_owned(),
        rows => rows.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", "),
    }
}

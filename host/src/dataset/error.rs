/// Why a dataset cannot be trained. The first two texts are those that users of the Python system know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum DatasetError {
    #[error("Cannot train with empty dataset. No training examples available after formatting.")]
    Empty,

    /// A record lacks a field of its shape, or has another method's shape. An empty field is a missing one.
    #[error(
        "Invalid {dataset} dataset at index {index}: missing required fields {}. Expected fields: {}, got: {}",
        quoted(.missing), quoted(.expected), quoted(.got)
    )]
    MissingFields {
        dataset: &'static str,
        index: usize,
        missing: Vec<&'static str>,
        expected: Vec<&'static str>,
        got: Vec<&'static str>,
    },

    #[error(
        "Invalid SFT dataset at index {index}: `response-start` {start} is not the byte offset of a response in a \
         text of {bytes} bytes: mend the formatter"
    )]
    ResponseStart { index: usize, start: u32, bytes: usize },

    #[error(
        "cannot hold out examples: {largest} of {examples} hang together ({tie}), and without parting them only \
         {possible} can be held out, where {needed} are needed: give independent requests their own trace and \
         session ids"
    )]
    OneGroup { examples: usize, largest: usize, possible: usize, needed: usize, tie: String },

    #[error(
        "cannot hold out examples: of {examples} only {possible} were not shown to the generator of approved synthetic examples \
         and can judge, where {needed} are needed: approve some traces more, or take back approvals"
    )]
    Shown { examples: usize, possible: usize, needed: usize },

    #[error("the {what} `{value}` of a held-out example is also in the training data")]
    Leak { what: &'static str, value: String },

    #[error(
        "the formatter wrote one prompt for a held-out example (span `{held_out}`) and a training example (span \
         `{trained}`), so that the comparison with the base would be of what was learnt by heart: let it write different \
         inputs differently"
    )]
    PromptLeak { held_out: String, trained: String },
}

/// As Python prints a list of texts.
fn quoted(fields: &[&str]) -> String {
    format!("[{}]", fields.iter().map(|field| format!("'{field}'")).collect::<Vec<_>>().join(", "))
}

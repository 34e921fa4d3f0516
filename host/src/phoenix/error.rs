use crate::telemetry::TelemetryError;

/// Why a Phoenix server could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum PhoenixError {
    #[error("`{url}` is not the address of a server ({reason}): give one such as `http://127.0.0.1:6006`")]
    BadUrl { url: String, reason: String },

    /// After all attempts.
    #[error(
        "no answer from `{url}` ({reason}; {attempts} attempts): check that Phoenix is running there and the network"
    )]
    Unreachable { url: String, reason: String, attempts: u32 },

    /// Phoenix answers a path that it does not know with its web page, and so does whatever else listens there.
    #[error(
        "`{url}` answered with {found} instead of JSON: check the address: what listens there is not Phoenix, or one \
         that is too old for this"
    )]
    NotPhoenix { url: String, found: String },

    #[error(
        "Phoenix at `{url}` wants a key ({}): put one into PHOENIX_API_KEY, or name its file with `--phoenix-api-key-file`",
        short(.answer)
    )]
    Unauthorized { url: String, answer: String },

    #[error("Phoenix at `{url}` does not allow this to the key it was given ({}): use one of a user who may", short(.answer))]
    Forbidden { url: String, answer: String },

    #[error("Phoenix at `{url}` has no project `{project}`: {}", listed(.known))]
    UnknownProject { url: String, project: String, known: Vec<String> },

    /// A status that no second attempt changes.
    #[error("Phoenix refused `{url}` with {status} ({})", short(.answer))]
    Refused { url: String, status: u16, answer: String },

    /// After all attempts.
    #[error(
        "Phoenix failed at `{url}` with {status} ({answer}; {attempts} attempts): see its log, and try again later"
    )]
    Failed { url: String, status: u16, answer: String, attempts: u32 },

    #[error("the answer of `{url}` makes no sense ({reason}): is this Phoenix, and a version that this one knows?")]
    Malformed { url: String, reason: String },

    #[error("the key file `{path}` cannot be read ({reason})")]
    KeyFile { path: String, reason: String },

    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

/// A web server's words may be a page.
fn short(answer: &str) -> String {
    const MOST: usize = 200;
    match answer.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &answer[..end]),
        None => answer.to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "it has none".to_owned(),
        names => format!("it has `{}`", names.join("`, `")),
    }
}

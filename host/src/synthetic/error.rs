use std::path::PathBuf;

use crate::dataset::SkipTable;
use crate::error::HostError;

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

    #[error(
        "no server is named that could generate: name one with `--synthetic-url`, such as `http://127.0.0.1:8000/v1`"
    )]
    NoEndpoint,

    #[error("the key file `{path}` cannot be read ({reason}): mend `--synthetic-api-key-file`", path = path.display())]
    KeyFile { path: PathBuf, reason: String },

    /// After all attempts.
    #[error(
        "no answer from `{url}` ({reason}; attempts: {attempts}): start the server there, such as `python -m llama_cpp.server` or \
         `vllm serve`, or mend `--synthetic-url`"
    )]
    Unreachable { url: String, reason: String, attempts: u32 },

    /// After all attempts.
    #[error("`{url}` failed with {status} ({}; attempts: {attempts}): see its log, and try again later", short(.answer))]
    Failed { url: String, status: u16, answer: String, attempts: u32 },

    #[error("`{url}` answered {status} ({}): {}", short(.answer), remedy_of_key(.key))]
    Unauthorized { url: String, status: u16, key: Option<String>, answer: String },

    #[error("`{url}` knows no model `{model}`, or is not where chat completions are ({}): mend `--synthetic-model` or `--synthetic-url`", short(.answer))]
    UnknownModel { url: String, model: String, answer: String },

    #[error("which model of `{url}` is to generate? it has {}: name one with `--synthetic-model`", models(.known))]
    WhichModel { url: String, known: Vec<String> },

    #[error(
        "`{url}` sends to `{to}`, where keys and examples do not go unasked: name that address with `--synthetic-url`, if it is right"
    )]
    Redirected { url: String, to: String },

    /// A status that no second attempt changes.
    #[error("`{url}` refused the request with {status} ({}): mend what it says, or name another server or model", short(.answer))]
    Refused { url: String, status: u16, answer: String },

    #[error(
        "the answer of `{url}` is no chat completion ({reason}): mend `--synthetic-url`, which ends in `/v1` for most servers"
    )]
    Malformed { url: String, reason: String },

    /// The base model is of a kind that does not write.
    #[error("the base model `{model}` cannot generate ({why}): choose `endpoint` or `templates` with `--generator`", model = model.display())]
    CannotGenerate { model: PathBuf, why: String },

    /// Loading or running the base model.
    #[error("the base model could not generate: {}", .0.describe())]
    BaseModel(Box<HostError>),

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

fn remedy_of_key(key: &Option<String>) -> String {
    match key {
        Some(key) => format!("it does not accept the key in {key}; put one there that it does"),
        None => {
            "it wants a key; put one into TUNESMITH_SYNTHETIC_API_KEY, or name its file with `--synthetic-api-key-file`"
                .to_owned()
        }
    }
}

fn models(known: &[String]) -> String {
    const MOST: usize = 10;
    match known {
        [] => "listed none".to_owned(),
        known if known.len() > MOST => format!("`{}` and {} more", known[..MOST].join("`, `"), known.len() - MOST),
        known => format!("`{}`", known.join("`, `")),
    }
}

/// A web server's words may be a page.
fn short(answer: &str) -> String {
    const MOST: usize = 300;
    match answer.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &answer[..end]),
        None => answer.to_owned(),
    }
}

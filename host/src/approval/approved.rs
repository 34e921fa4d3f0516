use serde::Serialize;

/// Something that a named person approved as it is, by the log of decisions.
///
/// Only the approval store makes one: there is no constructor, and it is not read from anywhere else.
#[derive(Debug, Clone, PartialEq)]
pub struct Approved<T> {
    value: T,
    approval: Approval,
}

/// Who approved what, and where that is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// The item in the approval store.
    pub item: i64,
    /// Of the content that was approved.
    pub content_sha256: String,
    /// Who did it.
    pub approved_by: String,
    /// When, in unix milliseconds.
    pub approved_at_ms: i64,
    /// Whether that person changed the text first.
    pub edited: bool,
    /// What generated it: `endpoint`, `base_model` or `templates`.
    pub generator: String,
    /// The model that did, where one did.
    pub model: Option<String>,
}

impl<T> Approved<T> {
    pub(super) fn new(value: T, approval: Approval) -> Self {
        Self { value, approval }
    }

    /// What was approved.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// By whom, and when.
    pub fn approval(&self) -> &Approval {
        &self.approval
    }

    /// Both.
    pub fn into_parts(self) -> (T, Approval) {
        (self.value, self.approval)
    }
}

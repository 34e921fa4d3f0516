//! What a generator gives, and what of the real examples it may be made of.

use sha2::{Digest, Sha256};

use crate::approval::Content;
use crate::plugins::bindings::types::{Example, ExampleKind};

/// An example that nothing has been checked of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub(super) content: Content,
    /// What was shown for it: indices into the parents that are wanted.
    pub(super) parents: Vec<usize>,
    pub(super) prompt_sha256: String,
    pub(super) seed: u64,
}

/// Whether examples of `kind` can be made of a real one: an approved answer is the better one of a pair.
pub(super) fn serves(parent: &Example, kind: ExampleKind) -> bool {
    match kind {
        ExampleKind::ApprovedExample | ExampleKind::PreferencePair => !matches!(parent, Example::Triplet(_)),
        ExampleKind::Triplet => matches!(parent, Example::Triplet(_)),
    }
}

/// Parents that serve, by index.
pub(super) fn serving(parents: &[Example], kind: ExampleKind) -> Vec<usize> {
    (0..parents.len()).filter(|&parent| serves(&parents[parent], kind)).collect()
}

/// What parents of a kind are called.
pub(super) fn plural(kind: ExampleKind) -> &'static str {
    match kind {
        ExampleKind::ApprovedExample | ExampleKind::PreferencePair => "examples",
        ExampleKind::Triplet => "triplets",
    }
}

/// In hexadecimal.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

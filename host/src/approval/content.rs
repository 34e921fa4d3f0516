use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::plugins::bindings::types::{Example, ExampleKind, InstructionExample, Lineage, PreferencePair, Triplet};

/// What an example says, without where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// For SFT.
    Instruction {
        /// What the agent is told to do.
        instruction: String,
        /// What it is asked.
        input: String,
        /// What it should answer.
        output: String,
    },
    /// For DPO.
    Preference {
        /// What the agent is told to do.
        instruction: String,
        /// What it is asked.
        input: String,
        /// The better answer.
        chosen: String,
        /// The worse one.
        rejected: String,
    },
    /// For embedding models.
    Triplet {
        /// What is searched.
        anchor: String,
        /// A document that answers it.
        positive: String,
        /// One that does not.
        negative: String,
    },
}

impl Content {
    /// Of an example.
    pub fn of(example: &Example) -> Self {
        match example.clone() {
            Example::Instruction(InstructionExample { instruction, input, output, .. }) => {
                Self::Instruction { instruction, input, output }
            }
            Example::Preference(PreferencePair { instruction, input, chosen, rejected, .. }) => {
                Self::Preference { instruction, input, chosen, rejected }
            }
            Example::Triplet(Triplet { anchor, positive, negative, .. }) => {
                Self::Triplet { anchor, positive, negative }
            }
        }
    }

    /// As an example of that lineage: to compare it with others. It trains nothing.
    pub fn example(&self, lineage: Lineage) -> Example {
        match self.clone() {
            Self::Instruction { instruction, input, output } => {
                Example::Instruction(InstructionExample { instruction, input, output, corrected: false, lineage })
            }
            Self::Preference { instruction, input, chosen, rejected } => {
                Example::Preference(PreferencePair { instruction, input, chosen, rejected, lineage })
            }
            Self::Triplet { anchor, positive, negative } => {
                Example::Triplet(Triplet { anchor, positive, negative, lineage })
            }
        }
    }

    /// What it is good for.
    pub fn kind(&self) -> ExampleKind {
        match self {
            Self::Instruction { .. } => ExampleKind::ApprovedExample,
            Self::Preference { .. } => ExampleKind::PreferencePair,
            Self::Triplet { .. } => ExampleKind::Triplet,
        }
    }

    /// Its texts by name, in the order in which they are shown.
    pub fn fields(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Instruction { instruction, input, output } => {
                vec![("instruction", instruction), ("input", input), ("output", output)]
            }
            Self::Preference { instruction, input, chosen, rejected } => {
                vec![("instruction", instruction), ("input", input), ("chosen", chosen), ("rejected", rejected)]
            }
            Self::Triplet { anchor, positive, negative } => {
                vec![("anchor", anchor), ("positive", positive), ("negative", negative)]
            }
        }
    }

    /// Its texts, to be changed.
    pub fn fields_mut(&mut self) -> Vec<(&'static str, &mut String)> {
        match self {
            Self::Instruction { instruction, input, output } => {
                vec![("instruction", instruction), ("input", input), ("output", output)]
            }
            Self::Preference { instruction, input, chosen, rejected } => {
                vec![("instruction", instruction), ("input", input), ("chosen", chosen), ("rejected", rejected)]
            }
            Self::Triplet { anchor, positive, negative } => {
                vec![("anchor", anchor), ("positive", positive), ("negative", negative)]
            }
        }
    }

    /// What the model is given.
    pub fn input(&self) -> &str {
        match self {
            Self::Instruction { input, .. } | Self::Preference { input, .. } => input,
            Self::Triplet { anchor, .. } => anchor,
        }
    }

    /// Names this very content: SHA-256, in hexadecimal, of its JSON.
    pub fn sha256(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default(); // texts only: nothing of it can fail
        Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `instruction`, `preference` or `triplet`.
pub fn kind_name(kind: ExampleKind) -> &'static str {
    match kind {
        ExampleKind::ApprovedExample => "instruction",
        ExampleKind::PreferencePair => "preference",
        ExampleKind::Triplet => "triplet",
    }
}

use serde::{Deserialize, Serialize};

/// Why an attempt ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Told apart by what can be done about it.
    pub kind: FailureKind,
    /// The job's exit code, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The trainer's or the engine's own words.
    pub message: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// `job.json`, the data or the configuration: exit code 65.
    BadInput,
    /// The base model is missing or is another one: exit code 66.
    BaseModel,
    /// The machine's or the GPU's memory: exit code 71, or killed for it.
    OutOfMemory,
    /// A file, a disk, the artefact store: exit code 74.
    Io,
    /// Somebody asked it to stop, and it saved its state: exit code 75.
    Preempted,
    /// Ranks that did not find each other, or lost one: exit code 76.
    Rendezvous,
    /// No GPU or driver where one was asked for: exit code 77.
    Gpu,
    /// It took longer than it may.
    Timeout,
    /// The engine has no machine like that, or no quota, or none in time.
    Unschedulable,
    /// The machine went away.
    NodeLost,
    /// It could not start: an image, a package, a folder that is in use; exit code 126.
    SetUp,
    /// The job said that it is done, and what it left is not there or not what it should be.
    Artefact,
    /// The trainer ended with another code.
    Trainer,
    /// Nobody knows.
    Unknown,
}

impl FailureKind {
    /// The exit code that tells of it, where a process can.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadInput => 65,
            Self::BaseModel => 66,
            Self::OutOfMemory => 71,
            Self::Io => 74,
            Self::Preempted => 75,
            Self::Rendezvous => 76,
            Self::Gpu => 77,
            Self::SetUp => 126,
            _ => 70,
        }
    }

    /// What an exit code tells; 128 + n and -n are those of signal n, as shells and as Python tell it.
    pub fn of_exit_code(code: i32) -> Self {
        match code {
            65 => Self::BadInput,
            66 => Self::BaseModel,
            71 => Self::OutOfMemory,
            74 => Self::Io,
            75 => Self::Preempted,
            76 => Self::Rendezvous,
            77 => Self::Gpu,
            126 | 127 => Self::SetUp,
            // SIGKILL and SIGTERM: the machine's, an operator's or the kernel's for want of memory. Nobody can tell which.
            137 | -9 | 143 | -15 => Self::NodeLost,
            _ => Self::Trainer,
        }
    }

    /// Whether another attempt may end otherwise.
    pub fn is_worth_another_attempt(self) -> bool {
        matches!(self, Self::Preempted | Self::NodeLost | Self::SetUp | Self::Rendezvous | Self::Unknown)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadInput => "bad input",
            Self::BaseModel => "base model",
            Self::OutOfMemory => "out of memory",
            Self::Io => "input or output",
            Self::Preempted => "preempted",
            Self::Rendezvous => "rendezvous",
            Self::Gpu => "no usable GPU",
            Self::Timeout => "timed out",
            Self::Unschedulable => "can't be scheduled",
            Self::NodeLost => "machine lost",
            Self::SetUp => "could not start",
            Self::Artefact => "artefact",
            Self::Trainer => "trainer",
            Self::Unknown => "unknown",
        }
    }
}

impl Failure {
    /// Of a job that ended with `code`; `message` is all that is known beside it.
    pub fn of_exit_code(code: i32, message: impl Into<String>) -> Self {
        Self { kind: FailureKind::of_exit_code(code), exit_code: Some(code), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_comes_back_as_the_kind_that_gave_it() {
        use FailureKind::*;
        for kind in [BadInput, BaseModel, OutOfMemory, Io, Preempted, Rendezvous, Gpu, SetUp] {
            assert_eq!(FailureKind::of_exit_code(kind.exit_code().into()), kind);
        }
        assert_eq!(FailureKind::of_exit_code(Trainer.exit_code().into()), Trainer);
    }
}

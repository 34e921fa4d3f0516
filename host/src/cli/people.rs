//! Arguments of `people`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::StoreArgs;
use crate::config::{Options, ReviewOptions};
use crate::people::Role;

/// Subcommands of `people`.
#[derive(Debug, Subcommand)]
pub enum PeopleCommand {
    /// Add somebody, and print the token that they sign in with: it is told once, and kept nowhere
    #[command(after_help = "Example:\n  tunesmith people add anna --role reviewer")]
    Add(AddPersonArgs),
    /// List who may review, and what each may do
    List(PeopleArgs),
    /// Remove somebody: their token and their sessions end at once, what they decided stays
    #[command(after_help = "Example:\n  tunesmith people remove anna")]
    Remove(RemovePersonArgs),
}

/// A file of people, and the configuration that may name it.
#[derive(Debug, Args)]
pub struct PeopleArgs {
    /// The file of those who may review in the browser [default: `people.toml` beside the approval store]
    #[arg(long, env = "TUNESMITH_PEOPLE", value_name = "FILE")]
    pub people: Option<PathBuf>,
    /// The store that it lies beside.
    #[command(flatten)]
    pub store: StoreArgs,
}

impl PeopleArgs {
    /// As settings.
    pub fn options(&self) -> Options {
        let review = ReviewOptions { people: self.people.clone(), ..ReviewOptions::default() };
        Options { review, ..self.store.options() }
    }
}

/// Arguments of `people add`.
#[derive(Debug, Args)]
pub struct AddPersonArgs {
    /// Their name, which every decision of theirs has
    pub name: String,
    /// What they may do: look; decide; decide many at once and see who else may do what
    #[arg(long, value_enum)]
    pub role: Role,
    /// Where.
    #[command(flatten)]
    pub people: PeopleArgs,
}

/// Arguments of `people remove`.
#[derive(Debug, Args)]
pub struct RemovePersonArgs {
    /// Their name
    pub name: String,
    /// Where.
    #[command(flatten)]
    pub people: PeopleArgs,
}

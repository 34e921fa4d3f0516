//! Arguments of `train` and `jobs`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RunsArgs;

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The bundle's job.json: a path, or an address such as s3://bucket/job/bundle/job.json
    #[arg(long, value_name = "FILE")]
    pub job: String,
    /// Folder of the output; where an earlier attempt has left its checkpoint there, it is gone on from
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which attempt this is, from 1
    #[arg(long, value_name = "N", default_value = "1")]
    pub attempt: NonZeroU32,
    /// Address of a folder that has a copy of the output: a checkpoint is taken from there, and everything is copied there as
    /// it comes
    #[arg(long, value_name = "URL")]
    pub artefacts: Option<String>,
}

/// One job.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job, or as much of its name as tells it from the others
    pub job: String,
    /// Where its record is.
    #[command(flatten)]
    pub store: RunsArgs,
}

/// Subcommands of `jobs`.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List the jobs, and ask the engines of those that are open how they stand
    List(RunsArgs),
    /// Show the record of a job: its attempts, and what became of them
    Show(JobArgs),
    /// Print what a job has written
    #[command(after_help = "Example:\n  tunesmith jobs logs acme-0123 --follow")]
    Logs {
        /// The job.
        #[command(flatten)]
        job: JobArgs,
        /// Go on until the job ends
        #[arg(long, short)]
        follow: bool,
    },
    /// Attend a job until its output is here, with further attempts where its machine goes away
    Wait(JobArgs),
    /// End a job
    Cancel(JobArgs),
    /// Remove what is left of a job that is over: at its engine, in the artefact store, and here
    ///
    /// A job that failed or was cancelled keeps its bundle and its checkpoints where it ran, for the command that goes on with it.
    Remove {
        /// The job.
        #[command(flatten)]
        job: JobArgs,
        /// Only here: its engine is no more
        #[arg(long)]
        only_here: bool,
    },
    /// Copy the output of a job that is done into a folder
    Fetch {
        /// The job.
        #[command(flatten)]
        job: JobArgs,
        /// The folder, which must not be there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Arguments of `sagemaker-entrypoint`.
#[derive(Debug, Args)]
pub struct SagemakerEntrypointArgs {
    /// What SageMaker gives its images: `train`
    #[arg(value_parser = ["train"], default_value = "train")]
    pub role: String,
}

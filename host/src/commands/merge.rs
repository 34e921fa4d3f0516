//! `tunesmith merge`: an adapter put into its base.

use serde::Serialize;
use trainer_cuda::formats::{Adapter, BaseModel};

use super::Answer;
use crate::cli::MergeArgs;
use crate::error::HostError;
use crate::run_dir;

#[derive(Serialize)]
struct Merged<'a> {
    out: &'a std::path::Path,
    base_sha256: String,
    tensors: usize,
    adapted: usize,
}

pub(super) fn run(args: &MergeArgs) -> Result<Answer, HostError> {
    let base = BaseModel::open(&args.base_model)?;
    let adapter = Adapter::open(&args.adapter)?;
    adapter.check_fits(&base)?; // before a folder is made
    run_dir::make_whole(&args.out, |folder| Ok(trainer_cuda::merge::merge(&base, &adapter, folder)?))?;
    let (tensors, adapted) = (base.tensors().len(), adapter.updates.len());
    let merged = Merged { out: &args.out, base_sha256: base.sha256()?, tensors, adapted };
    let text = format!("{adapted} of {tensors} tensors adapted\n\nmodel: {}", args.out.display());
    Ok(Answer::new(text, &merged))
}

//! `tunesmith merge`: an adapter put into its base.

use serde::Serialize;
use trainer_cuda::formats::{Adapter, BaseModel};

use super::Answer;
use crate::cli::MergeArgs;
use crate::error::HostError;
use crate::run_dir;
use crate::tenants::Scope;

#[derive(Serialize)]
struct Merged<'a> {
    out: &'a std::path::Path,
    base_sha256: String,
    tensors: usize,
    adapted: usize,
}

pub(super) fn run(scope: &Scope, args: &MergeArgs) -> Result<Answer, HostError> {
    scope.check_model(&args.base_model)?;
    scope.check_read("--adapter", &args.adapter)?;
    scope.check_write("--out", &args.out)?;
    let base = BaseModel::open(&args.base_model)?;
    let adapter = Adapter::open(&args.adapter)?;
    adapter.check_fits(&base)?; // before a folder is made
    run_dir::make_whole(&args.out, |folder| Ok(trainer_cuda::merge::merge(&base, &adapter, folder)?))?;
    let (tensors, adapted) = (base.tensors().len(), adapter.updates.len());
    let merged = Merged { out: &args.out, base_sha256: base.sha256()?, tensors, adapted };
    let text = format!("{adapted} of {tensors} tensors adapted\n\nmodel: {}", args.out.display());
    Ok(Answer::new(text, &merged))
}

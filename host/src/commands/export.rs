//! `tunesmith export`: an adapter for llama.cpp.

use serde::Serialize;
use trainer_cuda::formats::gguf_lora::GgufLora;
use trainer_cuda::formats::{Adapter, BaseModel};

use super::Answer;
use crate::cli::ExportArgs;
use crate::error::HostError;
use crate::run_dir;
use crate::tenants::Scope;

#[derive(Serialize)]
struct Exported<'a> {
    out: &'a std::path::Path,
    adapted: usize,
}

pub(super) fn run(scope: &Scope, args: &ExportArgs) -> Result<Answer, HostError> {
    scope.check_model(&args.base_model)?;
    scope.check_read("--adapter", &args.adapter)?;
    scope.check_write("--out", &args.out)?;
    let base = BaseModel::open(&args.base_model)?;
    let adapter = Adapter::open(&args.adapter)?;
    let file = GgufLora::new(&base, &adapter)?;
    run_dir::write_whole(&args.out, |out| file.write(out))?;
    let exported = Exported { out: &args.out, adapted: adapter.updates.len() };
    let text = format!("{} adapted tensors\n\nadapter: {}", exported.adapted, args.out.display());
    Ok(Answer::new(text, &exported))
}

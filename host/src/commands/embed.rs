//! `tunesmith embed`: texts as vectors, a line of JSON each.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;
use trainer_cuda::TrainerError;
use trainer_cuda::device::Device;
use trainer_cuda::encoder::Encoder;
use trainer_cuda::encoder::text_batch::TextBatch;
use trainer_cuda::formats::BaseModel;

use super::Answer;
use super::generate::{check_model, open_adapter, open_device, read_stdin};
use crate::cli::EmbedArgs;
use crate::compute::Opened;
use crate::error::HostError;
use crate::tenants::Scope;

/// Texts that go through the model together: more fill no product better, and take more memory.
const TEXTS_PER_BATCH: usize = 32;

pub(super) fn run(scope: &Scope, args: EmbedArgs, json: bool) -> Result<Answer, HostError> {
    check_model(scope, &args.model)?;
    let base = BaseModel::open(&args.model.base_model)?;
    let max_length = base.encoder()?.max_length;
    let adapter = open_adapter(&args.model, &base)?;
    let texts = match args.texts.is_empty() {
        true => read_stdin()?.lines().map(str::to_owned).collect(),
        false => args.texts,
    };
    let (token_ids, cut) = encode(&base, &texts, max_length)?;
    let token_ids: Vec<&[u32]> = token_ids.iter().map(Vec::as_slice).collect();
    let batches = token_ids.chunks(TEXTS_PER_BATCH);
    let Some(budget) = batches.clone().map(|batch| TextBatch::new(batch).budget()).reduce(|a, b| a.max(b)) else {
        return Err(TrainerError::Prompt("no text to embed: give some, or lines on standard input".into()).into());
    };
    let (device, precision) = open_device(&args.model)?;
    let (adapter, hidden) = (adapter.as_ref(), base.encoder()?.hidden_size);
    let all = match device {
        Opened::Cpu(cpu) => embed(Encoder::with_adapter(cpu, &base, adapter, precision, budget)?, batches, json)?,
        Opened::Cuda(cuda) => embed(Encoder::with_adapter(*cuda, &base, adapter, precision, budget)?, batches, json)?,
    };
    let plural = if texts.len() == 1 { "" } else { "s" };
    let text = format!("{} text{plural}, {hidden} numbers each", texts.len());
    let json_answer = json!({ "dimensions": hidden, "cut": cut, "embeddings": all });
    Ok(Answer { aside: !json, ..Answer::new(text, &json_answer) })
}

/// Embeds the batches; writes each as it is done, or with `json` keeps them all.
fn embed<'a, D: Device>(
    mut encoder: Encoder<D>,
    batches: impl Iterator<Item = &'a [&'a [u32]]>,
    json: bool,
) -> Result<Vec<Vec<f32>>, HostError> {
    let mut all = Vec::new();
    for batch in batches {
        let embeddings = encoder.embed(batch)?;
        match json {
            true => all.extend(embeddings),
            false => match write(&embeddings) {
                // A reader that has seen enough, such as `head`, is no failure.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(HostError::io("write", Path::new("standard output"))(error));
                }
                _ => {}
            },
        }
    }
    Ok(all)
}

/// Token ids of each text, and the numbers of those that were cut.
fn encode(base: &BaseModel, texts: &[String], max_length: usize) -> Result<(Vec<Vec<u32>>, Vec<usize>), HostError> {
    let (mut token_ids, mut cut) = (Vec::new(), Vec::new());
    for (number, text) in (1..).zip(texts) {
        let refused = |what: &str| TrainerError::Prompt(format!("text {number} {what}"));
        if text.trim().is_empty() {
            return Err(refused("is empty").into());
        }
        let (ids, is_cut) = base.tokenizer.encode_within(text, max_length)?;
        let vocab = base.config.vocab_size();
        if ids.iter().any(|&id| id as usize >= vocab) {
            return Err(refused("has a token that is not in the model's vocabulary").into());
        }
        if is_cut {
            tracing::warn!("text {number} is longer than the model's {max_length} tokens: its end is cut");
            cut.push(number);
        }
        token_ids.push(ids);
    }
    Ok((token_ids, cut))
}

fn write(embeddings: &[Vec<f32>]) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    for embedding in embeddings {
        serde_json::to_writer(&mut output, embedding)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

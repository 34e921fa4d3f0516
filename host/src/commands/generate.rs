//! `tunesmith generate`: a model's answer, on standard output as it is made.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use trainer_cuda::TrainerError;
use trainer_cuda::config::Precision;
use trainer_cuda::device::Device;
use trainer_cuda::formats::{Adapter, BaseModel, ChatMessage};
use trainer_cuda::generator::sampling::Sampling;
use trainer_cuda::generator::{self, AnswerConfig, End, Generator};

use super::Answer;
use crate::cli::{GenerateArgs, ModelArgs};
use crate::compute::{ComputeConfig, Opened};
use crate::error::HostError;
use crate::tenants::{Scope, TenantError};

#[derive(Serialize)]
struct Summary {
    prompt_tokens: usize,
    #[serde(flatten)]
    answer: generator::Answer,
    load_ms: f64,
    answer_ms: f64,
}

/// Everything that is known before the model is loaded.
struct Request {
    start: Instant,
    base: BaseModel,
    adapter: Option<Adapter>,
    precision: Precision,
    prompt: Vec<u32>,
    config: AnswerConfig,
    json: bool,
}

pub(super) fn run(scope: &Scope, args: GenerateArgs, json: bool) -> Result<Answer, HostError> {
    check_model(scope, &args.model)?;
    let start = Instant::now();
    let GenerateArgs { temperature, top_p, seed, .. } = args;
    let sampling = Sampling { temperature, top_p, seed };
    sampling.validate()?;
    let base = BaseModel::open(&args.model.base_model)?;
    let model = base.decoder()?;
    let adapter = open_adapter(&args.model, &base)?;
    let prompt = prompt(&args, &base)?;
    generator::check_prompt(model, &prompt, model.max_position_embeddings)?;
    let config = AnswerConfig { max_new_tokens: args.max_new_tokens.get() as usize, sampling };
    let (device, precision) = open_device(&args.model)?;
    let request = Request { start, base, adapter, precision, prompt, config, json };
    match device {
        Opened::Cpu(cpu) => request.answer(cpu),
        Opened::Cuda(cuda) => request.answer(*cuda),
    }
}

impl Request {
    fn answer<D: Device>(self, device: D) -> Result<Answer, HostError> {
        let Self { start, base, adapter, precision, prompt, config, json } = self;
        let max_length = prompt.len().saturating_add(config.max_new_tokens);
        let mut generator = Generator::load(device, &base, adapter.as_ref(), precision, max_length)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;

        let start = Instant::now();
        let mut output = Output { stdout: io::stdout().lock(), silent: json, failed: None };
        let answer = generator.answer(&base.tokenizer, &prompt, config, &mut |text| output.write(text))?;
        let answer_ms = start.elapsed().as_secs_f64() * 1e3;
        if answer.end != End::Stopped {
            let _ = output.write("\n");
        }
        if let Some(error) = output.failed.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
            return Err(HostError::io("write", Path::new("standard output"))(error));
        }
        let summary = Summary { prompt_tokens: prompt.len(), answer, load_ms, answer_ms };
        Ok(Answer { aside: !json, ..Answer::new(text(&summary), &summary) })
    }
}

fn text(summary: &Summary) -> String {
    let end = match summary.answer.end {
        End::EndOfSequence => "it ended itself",
        End::MaxNewTokens => "cut at --max-new-tokens",
        End::MaxLength => "cut at the model's last position",
        End::Stopped => "cut by its reader",
    };
    let (n, seconds) = (summary.answer.token_ids.len(), summary.answer_ms / 1e3);
    format!("{n} tokens after {} of the prompt in {seconds:.1} s; {end}", summary.prompt_tokens)
}

/// The answer on its way out.
struct Output {
    stdout: io::StdoutLock<'static>,
    silent: bool,
    failed: Option<io::Error>,
}

impl Output {
    /// Breaks where nobody reads any more.
    fn write(&mut self, text: &str) -> ControlFlow<()> {
        if self.silent {
            return ControlFlow::Continue(());
        }
        match self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

fn prompt(args: &GenerateArgs, base: &BaseModel) -> Result<Vec<u32>, HostError> {
    let refused = |error| match error {
        // Its text says "example 0" otherwise.
        TrainerError::Encode { what, .. } => TrainerError::Prompt(format!("cannot encode the prompt: {what}")),
        other => other,
    };
    let Some(chat) = &args.chat else {
        let text = match &args.prompt {
            Some(text) => text.clone(),
            None => read_stdin()?,
        };
        return Ok(base.tokenizer.encode(&text).map_err(refused)?);
    };
    if base.tokenizer.chat_template().is_none() {
        let what = format!("`{}` has no chat template; give the whole text with `--prompt`", base.path().display());
        return Err(TrainerError::Prompt(what).into());
    }
    let message = |role: &str, content: &String| ChatMessage { role: role.to_owned(), content: content.clone() };
    let system = args.system.iter().map(|text| message("system", text));
    let messages: Vec<_> = system.chain([message("user", chat)]).collect();
    let text = base.tokenizer.render_chat(&messages, true).map_err(refused)?;
    Ok(base.tokenizer.encode_rendered(&text).map_err(refused)?)
}

/// Standard input to its end, as it stands: a prompt may end in a newline.
pub(super) fn read_stdin() -> Result<String, HostError> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(HostError::io("read", Path::new("standard input")))?;
    Ok(text)
}

/// Checks that everything the arguments name may be read.
pub(super) fn check_model(scope: &Scope, args: &ModelArgs) -> Result<(), TenantError> {
    scope.check_model(&args.base_model)?;
    scope.check_libraries(args.compute.cuda_libs.as_deref())?;
    args.adapter.iter().try_for_each(|adapter| scope.check_read("--adapter", adapter))
}

/// The adapter that is named, checked against the base before that is loaded.
pub(super) fn open_adapter(args: &ModelArgs, base: &BaseModel) -> Result<Option<Adapter>, HostError> {
    let Some(folder) = &args.adapter else { return Ok(None) };
    let adapter = Adapter::open(folder)?;
    adapter.check_fits(base)?;
    Ok(Some(adapter))
}

/// The device that runs a model, and how it holds the model's matrices.
pub(super) fn open_device(args: &ModelArgs) -> Result<(Opened, Precision), HostError> {
    let compute = ComputeConfig::new(&args.compute, args.precision);
    let (device, why) = compute.open()?;
    if let Some(why) = why {
        tracing::debug!("{} was chosen, as {why}", device.describe());
    }
    let precision = compute.precision_on(&device)?;
    Ok((device, precision))
}

//! The base model itself as generator: it goes on with lines of JSON, of which the first are real examples.
//!
//! Where the agent's answers are a choice, the answer is drawn and the model writes what is asked for it: a small model
//! writes a fitting question sooner than it judges one. It needs no server and no network, and the same seed gives the
//! same examples again.

use std::ops::ControlFlow;

use serde_json::Value;
use trainer_cuda::TrainerError;
use trainer_cuda::config::Precision;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::generator::sampling::Sampling;
use trainer_cuda::generator::{AnswerConfig, Generator};

use super::answers::{Answers, NOT_JSON, folded};
use super::draw::{Draw, mixed};
use super::prompt::{quoted, texts, whole};
use super::proposal::{Proposal, serving, sha256};
use super::sieve::Sieve;
use super::{Spent, SyntheticError, Wanted};
use crate::approval::Content;
use crate::compute::Opened;
use crate::config::RunConfig;
use crate::dataset;
use crate::error::HostError;
use crate::plugins::bindings::types::ExampleKind;
use crate::progress::Progress;

/// Answers for each example that is wanted, and so many besides.
const TRIES: usize = 4;
const TRIES_BESIDES: usize = 16;
/// Answers in a row without a candidate after which the model counts as one that can't.
const FRUITLESS: usize = 16;
/// Tokens of a prompt and its answer: what a small model follows, and a processor gets through.
const MOST_TOKENS: usize = 2048;
/// Tokens of an answer.
const MOST_NEW_TOKENS: usize = 400;
/// Draws from the likeliest tokens with this probability together: the rest of a small model's is noise.
const TOP_P: f32 = 0.95;

/// Fills the sieve as far as the base model goes; its name, and what it took.
pub(super) fn fill(
    sieve: &mut Sieve<'_>,
    config: &RunConfig,
    wanted: &Wanted<'_>,
    seed: u64,
    progress: &Progress,
) -> Result<(String, Spent), SyntheticError> {
    let ours = |error: HostError| SyntheticError::BaseModel(Box::new(error));
    let model = config.base_model.display().to_string();
    let base = BaseModel::open(&config.base_model).map_err(|error| ours(error.into()))?;
    let cannot = |why: String| SyntheticError::CannotGenerate { model: config.base_model.clone(), why };
    if wanted.kind == ExampleKind::Triplet {
        return Err(cannot("it is an embedding model".to_owned()));
    }
    base.decoder().map_err(|error| cannot(error.to_string()))?;
    let (device, _) = config.compute.open().map_err(ours)?;
    let precision = config.compute.precision_on(&device).map_err(ours)?;
    let writer = Writer::new(&base, config, wanted, sieve.answers(), seed).map_err(|e| ours(e.into()))?;
    let spent = match device {
        Opened::Cpu(cpu) => writer.write(cpu, precision, sieve, progress)?,
        Opened::Cuda(cuda) => writer.write(*cuda, precision, sieve, progress)?,
    };
    Ok((model, spent))
}

struct Writer<'a> {
    base: &'a BaseModel,
    wanted: &'a Wanted<'a>,
    answers: Answers,
    worse: Answers,
    few_shot: usize,
    temperature: f32,
    seed: u64,
    serving: Vec<usize>,
    /// Tokens of the longest real example.
    longest: usize,
    max_length: usize,
}

/// What the model goes on with.
struct Start {
    text: String,
    /// The beginning of the line that is to be written.
    line: String,
    parents: Vec<usize>,
    token_ids: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(
        base: &'a BaseModel,
        config: &RunConfig,
        wanted: &'a Wanted<'a>,
        [answers, worse]: [Answers; 2],
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let serving = serving(wanted.parents, wanted.kind);
        let mut longest = 0;
        for &parent in &serving {
            let line = line(&texts(wanted.kind, &Content::of(&wanted.parents[parent])));
            longest = longest.max(base.tokenizer.encode(&line)?.len());
        }
        let few_shot = config.synthetic.few_shot;
        let wished = base.tokenizer.encode(&opening(wanted))?.len() + (few_shot + 3) * (longest + 2) + MOST_NEW_TOKENS;
        let max_length = wished.min(MOST_TOKENS).min(base.decoder()?.max_position_embeddings);
        let temperature = config.synthetic.temperature;
        Ok(Self { base, wanted, answers, worse, few_shot, temperature, seed, serving, longest, max_length })
    }

    fn write<D: Device>(
        &self,
        device: D,
        precision: Precision,
        sieve: &mut Sieve<'_>,
        progress: &Progress,
    ) -> Result<Spent, SyntheticError> {
        let ours = |error: TrainerError| SyntheticError::BaseModel(Box::new(error.into()));
        let mut generator = Generator::load(device, self.base, None, precision, self.max_length).map_err(ours)?;
        let stage = progress.stage("generate", self.wanted.count as u64);
        let mut spent = Spent::default();
        let mut fruitless = 0;
        for attempt in 0..self.wanted.count * TRIES + TRIES_BESIDES {
            if sieve.is_full() || fruitless == FRUITLESS {
                break;
            }
            fruitless += 1;
            let seed = mixed(self.seed, attempt as u64);
            let Some(start) = self.start(&mut Draw::new(seed)).map_err(ours)? else {
                sieve.leave_out(TOO_LONG_PROMPT);
                continue;
            };
            let sampling = Sampling { temperature: self.temperature, top_p: TOP_P, seed };
            let room = self.max_length - start.token_ids.len();
            let config =
                AnswerConfig { max_new_tokens: room.min(2 * self.longest + 32).min(MOST_NEW_TOKENS), sampling };
            let mut written = String::new();
            let mut until = |text: &str| {
                written.push_str(text);
                let over = written.contains('\n') || (text.contains('}') && object(&start.line, &written).is_some());
                if over || progress.check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let answer = generator.answer(&self.base.tokenizer, &start.token_ids, config, &mut until).map_err(ours)?;
            progress.check_stop().map_err(|_| SyntheticError::Interrupted)?;
            spent.requests += 1;
            spent.prompt_tokens += start.token_ids.len() as u64;
            spent.completion_tokens += answer.token_ids.len() as u64;
            let content = object(&start.line, &written)
                .ok_or(NOT_JSON)
                .and_then(|item| whole(self.wanted.kind, self.wanted.instruction.to_owned(), &item));
            match content {
                Ok(content) => {
                    let prompt_sha256 = sha256(&start.text);
                    if sieve.offer(Proposal { content, parents: start.parents, prompt_sha256, seed }) {
                        fruitless = 0;
                    }
                }
                Err(reason) => sieve.leave_out(reason),
            }
            let tokens = spent.prompt_tokens + spent.completion_tokens;
            stage.at(sieve.len() as u64, &format!("{} answers, {tokens} tokens", spent.requests));
        }
        stage.finish(&format!("{} examples by the base model: {} answers", sieve.len(), spent.requests));
        Ok(spent)
    }

    /// Real examples, fewer where they would leave no room for an answer, and the beginning of another; `None` where
    /// not even one fits.
    fn start(&self, draw: &mut Draw) -> Result<Option<Start>, TrainerError> {
        let parents = self.wanted.parents;
        let whole = |parent: &usize| dataset::kind(&parents[*parent]) == self.wanted.kind;
        let mut shown: Vec<usize> = self.serving.iter().copied().filter(whole).collect();
        let (given, written) = self.given(draw);
        if shown.is_empty() {
            shown.clone_from(&self.serving);
        }
        let target: Vec<usize> = given.target.into_iter().collect();
        shown.retain(|parent| !target.contains(parent));
        let mut shots = draw.some(&shown, self.few_shot);
        let begun: Vec<String> =
            given.texts.iter().map(|(key, text)| format!("{}: {}, ", quoted(key), quoted(text))).collect();
        let line = format!("{{{}{}: \"", begun.concat(), quoted(written));
        loop {
            let mut text = opening(self.wanted);
            for &shot in &shots {
                let content = Content::of(&parents[shot]);
                let mut texts = texts(self.wanted.kind, &content);
                // What is given for the new one stands first in all of them.
                texts.sort_by_key(|(key, _)| !given.texts.iter().any(|(given, _)| given == key));
                text.push_str(&self::line(&texts));
                text.push('\n');
            }
            text.push_str(&line);
            let token_ids = self.base.tokenizer.encode(&text)?;
            if token_ids.len() + self.longest + 16 <= self.max_length {
                let parents = target.iter().chain(&shots).copied().collect();
                return Ok(Some(Start { text, line, parents, token_ids }));
            }
            if shots.pop().is_none() || shots.is_empty() {
                return Ok(None);
            }
        }
    }

    /// What is given of the new example, and what the model begins with.
    fn given(&self, draw: &mut Draw) -> (Given, &'static str) {
        let [choices, worse] = [&self.answers, &self.worse].map(|answers| answers.choices().unwrap_or_default());
        let of = |texts: Vec<(&'static str, String)>| Given { texts, target: None };
        match self.wanted.kind {
            ExampleKind::PreferencePair if !choices.is_empty() && worse.len() > 1 => {
                let chosen = &choices[draw.below(choices.len())];
                let others: Vec<&String> = worse.iter().filter(|other| folded(other) != folded(chosen)).collect();
                let rejected = others[draw.below(others.len())];
                (of(vec![("chosen", chosen.clone()), ("rejected", rejected.clone())]), "input")
            }
            ExampleKind::PreferencePair => {
                let target = self.serving[draw.below(self.serving.len())];
                let parent = &self.wanted.parents[target];
                let texts =
                    vec![("input", dataset::input(parent).to_owned()), ("chosen", dataset::output(parent).to_owned())];
                (Given { texts, target: Some(target) }, "rejected")
            }
            _ => match draw.pick(choices) {
                Some(choice) => (of(vec![("output", choice.clone())]), "input"),
                None => (of(Vec::new()), "input"),
            },
        }
    }
}

/// Of the new example what need not be written.
struct Given {
    texts: Vec<(&'static str, String)>,
    /// The parent whose input and answer that are.
    target: Option<usize>,
}

/// Reason of examples that the model has no room for.
const TOO_LONG_PROMPT: &str = "prompt beyond the model's context";

fn opening(wanted: &Wanted<'_>) -> String {
    format!("Examples of an agent that is told {}, one JSON object a line:\n", quoted(wanted.instruction))
}

fn line(texts: &[(&str, &str)]) -> String {
    let texts: Vec<String> = texts.iter().map(|(key, text)| format!("{}: {}", quoted(key), quoted(text))).collect();
    format!("{{{}}}", texts.join(", "))
}

/// The line, where it is one object.
fn object(begun: &str, written: &str) -> Option<serde_json::Map<String, Value>> {
    let text = format!("{begun}{written}");
    let value = serde_json::Deserializer::from_str(&text).into_iter::<Value>().next()?.ok()?;
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

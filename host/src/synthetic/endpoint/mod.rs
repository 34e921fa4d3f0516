//! A server's model as generator: OpenAI's chat completions, as OpenAI, vLLM and llama.cpp serve them.
//!
//! Threads only ask; everything that is decided (what to ask, what an answer is worth, whether the budget allows one more)
//! is decided here, by the one that owns the sieve.

mod dialect;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::answers::NOT_JSON;
use super::prompt::{Prompt, Writer};
use super::sieve::{REFUSAL, Sieve};
use super::{Spent, SyntheticError, Wanted};
use crate::config::{EndpointConfig, RunConfig};
use crate::progress::Progress;

use dialect::Dialect;
use server::{Failure, Outcome, Reply, Server, Shared};

/// Reason of a request that no attempt got an answer to.
const UNANSWERED: &str = "no answer";
/// Reason of an answer that was too long: what is whole of it counts.
const CUT: &str = "answer cut at its longest";
/// Reason of a request whose examples the model has no room for; `--few-shot` shows fewer.
const TOO_LONG_PROMPT: &str = "prompt beyond the model's context";
/// Requests in a row that give no candidate, after which no more are made.
const FRUITLESS: u32 = 24;
/// Requests in a row without an answer after which the server counts as gone.
const LOST: u32 = 3;
/// Bytes of a token, where the server does not count: fewer than text has, so that the budget holds.
const BYTES_PER_TOKEN: u64 = 3;
/// Between two looks at whether the run is to stop.
const TICK: Duration = Duration::from_millis(100);

/// What a generation came to, beside what is in the sieve.
pub(super) struct Asked {
    /// The model that answered.
    pub(super) model: String,
    pub(super) spent: Spent,
    /// Whether the budget ended it.
    pub(super) out_of_budget: bool,
}

/// Fills the sieve as far as the server and the budget go.
pub(super) fn fill(
    sieve: &mut Sieve<'_>,
    config: &RunConfig,
    endpoint: &EndpointConfig,
    wanted: &Wanted<'_>,
    seed: u64,
    progress: &Progress,
) -> Result<Asked, SyntheticError> {
    let server = Server::open(endpoint)?;
    let left = AtomicU32::new(endpoint.max_requests);
    let shared = Arc::new(Shared { requests_left: left, cancelled: AtomicBool::new(false) });
    let model = match &endpoint.model {
        Some(model) => model.clone(),
        // Which is no generation, and has attempts of its own.
        None => server.only_model(&Shared { requests_left: u32::MAX.into(), cancelled: false.into() })?,
    };
    let workers = Workers::start(server, Arc::clone(&shared), model.clone(), endpoint.concurrency);
    let writer = Writer::new(wanted, sieve.answers(), config.synthetic.few_shot, seed);
    let stage = progress.stage("generate", wanted.count as u64);
    let mut run = Run {
        sieve,
        wanted,
        writer,
        dialect: Dialect::default(),
        temperature: config.synthetic.temperature,
        endpoint,
        spent: Spent::default(),
        again: Vec::new(),
        written: 0,
        in_flight: Vec::new(),
        fruitless: 0,
        unanswered: 0,
        out_of_budget: false,
    };
    let mut stopped = None;
    loop {
        while stopped.is_none()
            && let Some(job) = run.next_job(&model)
        {
            workers.ask(job);
        }
        if run.in_flight.is_empty() {
            break;
        }
        let (job, outcome) = workers.answer(progress)?;
        if let Err(error) = run.take(job, outcome) {
            stopped.get_or_insert(error);
            workers.shared.cancelled.store(true, Ordering::Relaxed);
        }
        stage.at(run.sieve.len() as u64, &format!("{} requests, {} tokens", run.spent.requests, run.tokens()));
    }
    let (spent, out_of_budget) = (run.spent, run.out_of_budget);
    stage.finish(&format!(
        "{} examples by `{model}`: {} requests, {} tokens",
        sieve.len(),
        spent.requests,
        spent.prompt_tokens + spent.completion_tokens
    ));
    match stopped {
        Some(error) if sieve.len() == 0 => return Err(error),
        // What was paid for is kept.
        Some(error) => tracing::warn!("no more examples are generated: {error}"),
        None => {}
    }
    Ok(Asked { model, spent, out_of_budget })
}

/// A request on its way.
#[derive(Debug)]
struct Job {
    prompt: Prompt,
    dialect: Dialect,
    body: String,
    /// What it may take of the budget.
    tokens: u64,
}

struct Run<'r, 'a> {
    sieve: &'r mut Sieve<'a>,
    wanted: &'r Wanted<'r>,
    writer: Writer<'r>,
    dialect: Dialect,
    temperature: f32,
    endpoint: &'r EndpointConfig,
    spent: Spent,
    /// Prompts that the server did not take as they were written.
    again: Vec<Prompt>,
    written: u64,
    /// Of each request on its way, the examples that it asks for and the tokens that it may take.
    in_flight: Vec<(usize, u64)>,
    fruitless: u32,
    unanswered: u32,
    out_of_budget: bool,
}

impl Run<'_, '_> {
    /// The next request, where one more is wanted and paid for.
    fn next_job(&mut self, model: &str) -> Option<Job> {
        let asked: usize = self.in_flight.iter().map(|(n, _)| n).sum();
        let missing = self.wanted.count.saturating_sub(self.sieve.len() + asked);
        let full = self.in_flight.len() >= self.endpoint.concurrency;
        // The first request alone shows what the server takes.
        let untried = self.spent.requests == 0 && !self.in_flight.is_empty();
        let hopeless = self.fruitless as usize + self.in_flight.len() >= FRUITLESS as usize;
        if missing == 0 || full || untried || hopeless || self.out_of_budget {
            return None;
        }
        let prompt = self.again.pop().unwrap_or_else(|| {
            self.written += 1;
            self.writer.write(self.written - 1, missing)
        });
        let max_tokens = (prompt.answer_chars as u64 / BYTES_PER_TOKEN).clamp(128, 2048);
        let body = self.dialect.body(model, &prompt, self.temperature, max_tokens);
        let tokens = tokens_of(&prompt) + max_tokens;
        let reserved: u64 = self.in_flight.iter().map(|(_, tokens)| tokens).sum();
        if self.tokens() + reserved + tokens > self.endpoint.max_tokens
            || self.spent.requests + self.in_flight.len() as u64 >= u64::from(self.endpoint.max_requests)
        {
            self.out_of_budget = true;
            return None;
        }
        self.in_flight.push((prompt.n, tokens));
        Some(Job { prompt, dialect: self.dialect, body, tokens })
    }

    fn tokens(&self) -> u64 {
        self.spent.prompt_tokens + self.spent.completion_tokens
    }

    /// What an answer is worth.
    fn take(&mut self, job: Job, outcome: Outcome) -> Result<(), SyntheticError> {
        let Job { prompt, dialect, tokens, .. } = job;
        if let Some(place) = self.in_flight.iter().position(|flying| *flying == (prompt.n, tokens)) {
            self.in_flight.swap_remove(place);
        }
        self.spent.requests += u64::from(outcome.requests);
        self.spent.retries += u64::from(outcome.requests.saturating_sub(1));
        match outcome.result {
            Ok(reply) => {
                self.unanswered = 0;
                self.read(&prompt, reply);
            }
            Err(Failure::NotTaken { answer, .. }) if answer.to_lowercase().contains("context") => {
                tracing::debug!("the server does not take a prompt of some {} tokens ({answer})", tokens_of(&prompt));
                self.sieve.leave_out(TOO_LONG_PROMPT);
                self.fruitless += 1;
            }
            Err(Failure::NotTaken { status, answer }) => {
                // Of requests that were on their way together the first mends it for all.
                let next = if dialect == self.dialect { dialect.after(&answer) } else { Some(self.dialect) };
                let url = self.endpoint.url.clone();
                self.dialect = next.ok_or(SyntheticError::Refused { url, status, answer: answer.clone() })?;
                tracing::debug!(
                    "the server does not take the request as it was written ({answer}): once more without that"
                );
                self.again.push(prompt);
            }
            Err(Failure::Passing(error)) => {
                self.sieve.leave_out(UNANSWERED);
                self.unanswered += 1;
                if self.unanswered >= LOST || self.sieve.len() == 0 {
                    return Err(error);
                }
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Budget) => self.out_of_budget = true,
        }
        Ok(())
    }

    fn read(&mut self, prompt: &Prompt, reply: Reply) {
        self.spent.prompt_tokens += reply.prompt_tokens.unwrap_or_else(|| tokens_of(prompt));
        self.spent.completion_tokens +=
            reply.completion_tokens.unwrap_or(reply.text.len() as u64 / BYTES_PER_TOKEN + 1);
        self.fruitless += 1;
        if reply.refused {
            return self.sieve.leave_out(REFUSAL);
        }
        if reply.cut {
            self.sieve.leave_out(CUT);
        }
        for proposal in prompt.read(self.wanted, &reply.text) {
            match proposal {
                Ok(proposal) => {
                    if self.sieve.offer(proposal) {
                        self.fruitless = 0;
                    }
                }
                Err(NOT_JSON) if reply.cut => {}
                Err(reason) => self.sieve.leave_out(reason),
            }
        }
    }
}

/// More than the prompt has.
fn tokens_of(prompt: &Prompt) -> u64 {
    (prompt.system.len() + prompt.user.len() + prompt.schema.len()) as u64 / BYTES_PER_TOKEN
}

/// Threads that ask. Dropped, they end with the request that they are at, and nobody waits for them.
struct Workers {
    jobs: SyncSender<Job>,
    outcomes: mpsc::Receiver<(Job, Outcome)>,
    shared: Arc<Shared>,
}

impl Workers {
    fn start(server: Server, shared: Arc<Shared>, model: String, n: usize) -> Self {
        let (jobs, taken) = mpsc::sync_channel::<Job>(n);
        let (done, outcomes) = mpsc::channel();
        let common = Arc::new((server, model, std::sync::Mutex::new(taken)));
        for _ in 0..n {
            let (common, done, shared) = (Arc::clone(&common), done.clone(), Arc::clone(&shared));
            std::thread::spawn(move || {
                let (server, model, taken) = &*common;
                loop {
                    let job = taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
                    let Ok(job) = job else { return };
                    let outcome = server.complete(&shared, model, &job.body);
                    if done.send((job, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        Self { jobs, outcomes, shared }
    }

    fn ask(&self, job: Job) {
        // Its receiver lives as long as the threads do.
        let _ = self.jobs.send(job);
    }

    fn answer(&self, progress: &Progress) -> Result<(Job, Outcome), SyntheticError> {
        loop {
            progress.check_stop().map_err(|_| SyntheticError::Interrupted)?;
            match self.outcomes.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(SyntheticError::Interrupted),
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }
}

//! What a review costs: pages and answers over a queue of 10,000 items, and decisions that are on the disk.
//!
//! `review_costs BINARY`: it starts `BINARY serve` on a free port of loopback, over a store that it makes.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};
use tunesmith::approval::{ApprovalStore, Candidate, Content, NewBatch, Parent};
use tunesmith::people::{People, Role};

const ITEMS: usize = 10_000;
const REVIEWERS: usize = 8;
/// Requests that a figure is of.
const REQUESTS: usize = 300;
/// Decisions of one reviewer.
const DECISIONS: usize = 500;

type Failed = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let binary = std::env::args().nth(1).ok_or("give the binary")?;
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only where there is one
    let folder = tempfile::tempdir_in(".")?;
    let start = Instant::now();
    ApprovalStore::open_or_create(&folder.path().join("approvals.sqlite"))?.submit(batch())?;
    println!("{ITEMS} items submitted in {:.2} s", start.elapsed().as_secs_f64());
    let tokens = people(folder.path())?;
    let mut serving = serve(&binary, folder.path())?;
    let measured = measure(folder.path(), &serving.1, &tokens);
    serving.0.kill()?;
    serving.0.wait()?;
    measured
}

fn measure(folder: &Path, address: &str, tokens: &[String]) -> Result<(), Failed> {
    let anna = Api { client: Client::builder().build()?, root: format!("http://{address}"), token: tokens[0].clone() };
    let cookie = anna.sign_in()?;
    println!("\n| request | p50 ms | p99 ms | KiB |\n|---|---:|---:|---:|");
    let gets = [
        "/api/v1/me",
        "/api/v1/items?state=pending&limit=50",
        "/api/v1/items?limit=200",
        "/api/v1/items?q=nobody%20wrote%20this",
        "/api/v1/items/5000",
        "/api/v1/items/5000/parents",
        "/api/v1/batches",
    ];
    for path in gets {
        latency(path, REQUESTS, || anna.answer(anna.get(path)))?;
    }
    latency("/api/v1/export, all items", 5, || anna.answer(anna.get("/api/v1/export")))?;
    for path in ["/review", "/review/items?state=pending", "/review/items", "/review/items/5000"] {
        let page = || anna.answer(anna.client.get(format!("{}{path}", anna.root)).header(COOKIE, &cookie));
        latency(path, REQUESTS, page)?;
    }

    println!("\n| decisions | p50 ms | p99 ms | decisions/s |\n|---|---:|---:|---:|");
    let synced = append_and_sync(folder)?;
    told("for scale: a line appended to a file and synced", synced, None);
    let start = Instant::now();
    let alone = (1..=DECISIONS).map(|id| anna.decide(id)).collect::<Result<Vec<_>, _>>()?;
    told("one reviewer, one after the other", alone, Some(DECISIONS as f64 / start.elapsed().as_secs_f64()));
    let start = Instant::now();
    let together = std::thread::scope(|scope| {
        let reviewer = |(index, token): (usize, &String)| {
            let api = Api { token: token.clone(), ..anna.clone() };
            let own = (0..DECISIONS).map(move |number| DECISIONS + 1 + number * REVIEWERS + index);
            scope.spawn(move || own.map(|id| api.decide(id)).collect::<Result<Vec<_>, _>>())
        };
        let reviewers: Vec<_> = tokens.iter().enumerate().map(reviewer).collect();
        let joined =
            reviewers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a reviewer broke".into())));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let decided: Vec<_> = together.into_iter().flatten().collect();
    let rate = decided.len() as f64 / start.elapsed().as_secs_f64();
    told(&format!("{REVIEWERS} reviewers at once, each on items of their own"), decided, Some(rate));
    let many = (0..5).map(|index| anna.decide_all(5001 + 200 * index)).collect::<Result<Vec<_>, _>>()?;
    let rate = 1000.0 / many.iter().sum::<Duration>().as_secs_f64();
    told("200 in one request", many, Some(rate));
    Ok(())
}

#[derive(Clone)]
struct Api {
    client: Client,
    root: String,
    token: String,
}

impl Api {
    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.root)).bearer_auth(&self.token)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.root)).bearer_auth(&self.token).body(body.to_string())
    }

    /// The bytes of an answer of 200.
    fn answer(&self, request: RequestBuilder) -> Result<Vec<u8>, Failed> {
        let response = request.send()?;
        let (status, bytes) = (response.status(), response.bytes()?);
        match status.is_success() {
            true => Ok(bytes.to_vec()),
            false => Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)).into()),
        }
    }

    fn seen(&self, id: usize) -> Result<Value, Failed> {
        let item: Value = serde_json::from_slice(&self.answer(self.get(&format!("/api/v1/items/{id}")))?)?;
        Ok(json!({
            "item": id,
            "version": item["version"],
            "content_sha256": item["content_sha256"],
            "decision": "approve",
        }))
    }

    /// How long the decision itself took.
    fn decide(&self, id: usize) -> Result<Duration, Failed> {
        let mut decision = self.seen(id)?;
        decision.as_object_mut().and_then(|fields| fields.remove("item"));
        let start = Instant::now();
        self.answer(self.post(&format!("/api/v1/items/{id}/decision"), &decision))?;
        Ok(start.elapsed())
    }

    fn decide_all(&self, first: usize) -> Result<Duration, Failed> {
        let decisions = (first..first + 200).map(|id| self.seen(id)).collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        self.answer(self.post("/api/v1/decisions", &decisions.into()))?;
        Ok(start.elapsed())
    }

    fn sign_in(&self) -> Result<String, Failed> {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let form = format!("token={}&next=/review", self.token);
        let request = client.post(format!("{}/login", self.root)).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded").header("origin", &self.root);
        let response = request.send()?;
        let cookie = response.headers().get(SET_COOKIE).ok_or("no cookie")?.to_str()?;
        Ok(cookie.split(';').next().unwrap_or_default().to_owned())
    }
}

fn latency(what: &str, requests: usize, request: impl Fn() -> Result<Vec<u8>, Failed>) -> Result<(), Failed> {
    let mut bytes = request()?.len();
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let start = Instant::now();
        bytes = request()?.len();
        times.push(start.elapsed());
    }
    let (p50, p99) = percentiles(times);
    println!("| {what} | {p50:.2} | {p99:.2} | {:.1} |", bytes as f64 / 1024.0);
    Ok(())
}

fn told(what: &str, times: Vec<Duration>, rate: Option<f64>) {
    let (p50, p99) = percentiles(times);
    println!("| {what} | {p50:.2} | {p99:.2} | {} |", rate.map_or_else(String::new, |rate| format!("{rate:.0}")));
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(99))
}

fn append_and_sync(folder: &Path) -> Result<Vec<Duration>, Failed> {
    let mut file = std::fs::File::create(folder.join("synced"))?;
    let one = |_| {
        let start = Instant::now();
        file.write_all(&[b'x'; 500])?;
        file.sync_data()?;
        Ok(start.elapsed())
    };
    (0..REQUESTS).map(one).collect()
}

fn serve(binary: &str, folder: &Path) -> Result<(Child, String), Failed> {
    let mut command = Command::new(binary);
    command
        .args(["serve", "--otlp", "--json", "--listen", "127.0.0.1:0", "--store"])
        .arg(folder.join("telemetry.sqlite"));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
    let announced: Value = serde_json::from_str(&line)?;
    let address = announced["listening"].as_str().ok_or("it did not start")?.to_owned();
    Ok((child, address))
}

fn people(folder: &Path) -> Result<Vec<String>, Failed> {
    let mut people = People::open(&folder.join("people.toml"))?;
    (0..REVIEWERS).map(|number| Ok(people.add(&format!("reviewer-{number}"), Role::Reviewer)?)).collect()
}

/// Texts as long as those of agents: some 600 bytes an item.
fn batch() -> NewBatch {
    let content = |what: &str, index: usize| Content::Instruction {
        instruction: "Route the following query to the appropriate agent".to_owned(),
        input: format!("{what} question {index}: {}", "what is the weather in a town by the sea, and when? ".repeat(6)),
        output: format!("weather_agent, because question {index} is on the weather of a place"),
    };
    let parent = |index| Parent {
        span_ids: vec![format!("{index:016x}")],
        trace_id: format!("{index:032x}"),
        content: content("real", index),
    };
    let candidate = |index: usize| Candidate {
        content: content("generated", index),
        parents: vec![index % 60, (index + 7) % 60, (index + 31) % 60],
        prompt_sha256: format!("{index:064x}"),
        seed: index as u64,
        near: Vec::new(),
    };
    NewBatch {
        project: "default".to_owned(),
        agent_type: "routing".to_owned(),
        run: None,
        generator: "endpoint".to_owned(),
        model: Some("some-model".to_owned()),
        parents: (0..60).map(parent).collect(),
        held_out: (60..70).map(|index| content("held-out", index)).collect(),
        candidates: (0..ITEMS).map(candidate).collect(),
        expires_at_ms: None,
    }
}

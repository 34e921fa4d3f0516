//! Pages of runs and what the API says of them: lists, a run while it trains, and who is not served.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tunesmith::people::{People, Role};

use crate::home::Home;
use crate::serving::{Answered, Serving, get};

const RUN: &str = "sft_routing_20261126_084403";

fn serve(home: &Home) -> Serving {
    let args = ["serve", "--json", "--listen", "127.0.0.1:0", "--store", "telemetry.sqlite"];
    Serving::started(home.command(&args))
}

/// A home with `anna`, and her token.
fn home() -> (Home, String) {
    let home = Home::ready();
    let token = People::open(&home.path("people.toml")).unwrap().add("anna", Role::Viewer).unwrap();
    (home, token)
}

fn cookie(serving: &Serving, token: &str) -> String {
    let (address, body) = (&serving.address, format!("token={token}"));
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head =
        format!("POST /login HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let cookie =
        answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_else(|| panic!("{answer}"));
    format!("cookie: {}\r\n", cookie.split("; ").next().unwrap())
}

fn page(serving: &Serving, cookie: &str, path: &str) -> Answered {
    get(&serving.address, path, cookie).unwrap()
}

/// A folder that a run fills, and the lock by which it is known to live.
fn training(home: &Home) -> (PathBuf, File) {
    let folder = home.path("out").join(format!(".{RUN}.unfinished-Ab3dE6"));
    fs::create_dir_all(&folder).unwrap();
    let lock = File::open(&folder).unwrap();
    lock.lock().unwrap();
    (folder, lock)
}

fn step(step: usize) -> String {
    let event = json!({
        "event": "step", "step": step, "total_steps": 9, "epoch": 0.5, "loss": 1.0 / step as f64, "grad_norm": 0.25,
        "learning_rate": 0.5, "n_tokens": 1, "n_tokens_flat": 1, "n_labels": 1, "step_ms": 2.0,
    });
    format!("{event}\n")
}

/// A page that follows a run.
struct Following(BufReader<TcpStream>);

impl Following {
    fn start(serving: &Serving, cookie: &str) -> Self {
        let mut stream = TcpStream::connect(&serving.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "GET /runs/{RUN}/events HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{cookie}\r\n",
            serving.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The lines of the answer up to one that begins so; `None` where it ended before.
    fn until(&mut self, start: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.trim().to_owned());
            }
        }
    }

    fn change(&mut self) -> Value {
        assert_eq!(self.until("event: ").as_deref(), Some("change"));
        serde_json::from_str(&self.until("data: ").unwrap()).unwrap()
    }
}

#[test]
fn a_finished_run_is_on_its_pages_and_in_the_api() {
    let (home, token) = home();
    let folder = home.trains(&[]);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let serving = serve(&home);
    let cookie = cookie(&serving, &token);
    for path in ["/runs", "/adapters"] {
        let list = page(&serving, &cookie, path);
        assert_eq!(list.status, 200, "{}", list.text());
        assert!(list.text().contains(&format!("<a href=\"/runs/{name}\">{name}</a>")), "{path}: {}", list.text());
    }
    let run = page(&serving, &cookie, &format!("/runs/{name}"));
    let text = run.text();
    for part in
        ["<span class=\"state run-finished\">finished</span>", "<path class=\"line training\"", "annotated-extractor"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("data-events"), "{text}");

    let bearer = format!("authorization: Bearer {token}\r\n");
    let api = |path: &str| get(&serving.address, &format!("/api/v1{path}"), &bearer).unwrap();
    let listed = api("/runs").json();
    assert_eq!((&listed["total"], &listed["next"]), (&1.into(), &Value::Null));
    assert_eq!((&listed["runs"][0]["name"], &listed["runs"][0]["state"]), (&name.into(), &"finished".into()));
    assert_eq!(api("/adapters").json(), listed);
    let told = api(&format!("/runs/{name}")).json();
    let record: Value = serde_json::from_slice(&fs::read(folder.join("run.json")).unwrap()).unwrap();
    assert_eq!(told["adapter"], record["report"]["held_out"]["adapter"]);
    assert_eq!(told["metrics"]["steps"].as_array().unwrap().len() as u64, record["report"]["steps"].as_u64().unwrap());
    assert_eq!(told["lineage"].as_array().unwrap().len(), record["lineage"].as_array().unwrap().len());
    serving.stop();
}

#[test]
fn a_run_is_followed_to_its_end() {
    let (home, token) = home();
    let (folder, lock) = training(&home);
    let mut metrics = File::create(folder.join("metrics.jsonl")).unwrap();
    metrics.write_all((step(1) + &step(2)).as_bytes()).unwrap();
    let serving = serve(&home);
    let cookie = cookie(&serving, &token);
    let run = page(&serving, &cookie, &format!("/runs/{RUN}"));
    assert!(run.text().contains(&format!("data-events=\"/runs/{RUN}/events\"")), "{}", run.text());

    let mut following = Following::start(&serving, &cookie);
    assert_eq!(following.until("content-type: ").as_deref(), Some("text/event-stream"));
    assert!(following.change()["live"].as_str().unwrap().contains("2 of 9"));
    metrics.write_all(step(3).as_bytes()).unwrap();
    let change = following.change();
    assert!(change["live"].as_str().unwrap().contains("3 of 9"), "{change}");
    assert!(change["points"].as_str().unwrap().contains("0.3333"), "{change}");
    fs::rename(&folder, home.path("out").join(RUN)).unwrap();
    drop(lock);
    assert_eq!(following.until("event: ").as_deref(), Some("end"));
    assert_eq!(following.until("data: ").as_deref(), Some("finished"));
    serving.stop();
}

#[test]
fn who_follows_is_let_go_when_signed_out_and_when_the_server_ends() {
    let (home, token) = home();
    let (folder, _lock) = training(&home);
    fs::write(folder.join("metrics.jsonl"), step(1)).unwrap();
    let serving = serve(&home);
    let cookie = cookie(&serving, &token);
    let mut following = Following::start(&serving, &cookie);
    following.change();
    // Who is removed sees no more.
    let mut people = People::open(&home.path("people.toml")).unwrap();
    people.remove("anna").unwrap();
    assert_eq!(following.until("event: "), None);

    let token = people.add("berta", Role::Viewer).unwrap();
    let cookie = self::cookie(&serving, &token);
    let mut following = Following::start(&serving, &cookie);
    following.change();
    let start = Instant::now();
    serving.stop();
    assert!(start.elapsed() < Duration::from_secs(10), "nobody is waited for: {:?}", start.elapsed());
    assert_eq!(following.until("event: "), None);
}

#[test]
fn as_many_follow_as_a_tenant_may_and_one_more_is_told_so() {
    let (home, token) = home();
    let (folder, _lock) = training(&home);
    fs::write(folder.join("metrics.jsonl"), step(1)).unwrap();
    let serving = serve(&home);
    let cookie = cookie(&serving, &token);
    let mut all: Vec<_> = (0..32).map(|_| Following::start(&serving, &cookie)).collect();
    all.iter_mut().for_each(|following| drop(following.change()));
    assert_eq!(Following::start(&serving, &cookie).until("HTTP/1.1 ").as_deref(), Some("503 Service Unavailable"));
    drop(all);
    serving.stop();
}

#[test]
fn nobody_else_sees_a_run() {
    let (home, token) = home();
    let (folder, _lock) = training(&home);
    fs::write(folder.join("metrics.jsonl"), step(1)).unwrap();
    let serving = serve(&home);
    for path in ["/runs", "/adapters", &format!("/runs/{RUN}"), &format!("/runs/{RUN}/events")] {
        let answered = page(&serving, "", path);
        assert_eq!(answered.status, 303, "{path}: {}", answered.text());
        assert!(answered.head.contains("\r\nlocation: /login"), "{}", answered.head);
    }
    let cookie = cookie(&serving, &token);
    for path in ["/runs/nothing", "/runs/..%2f..%2fout", "/runs/%2e%2e", &format!("/runs/{RUN}x"), "/runs/x/events"] {
        assert_eq!(page(&serving, &cookie, path).status, 404, "{path}");
    }
    let bearer = format!("authorization: Bearer {token}\r\n");
    for (path, headers, status) in [
        ("/api/v1/runs", "", 401),
        ("/api/v1/runs/nothing", bearer.as_str(), 404),
        ("/api/v1/runs/..%2f..%2fout", &bearer, 404),
        ("/api/v1/runs?limit=0", &bearer, 400),
        ("/api/v1/runs?limit=201", &bearer, 400),
    ] {
        let answered = get(&serving.address, path, headers).unwrap();
        assert_eq!(answered.status, status, "{path}: {}", answered.text());
    }
    serving.stop();
}

//! What a Phoenix server, or whatever else is at its address, can do to a sync. Answers are scripted here because a real
//! server gives them on no demand; `tests/phoenix/` has the real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::home::{Ended, Home, run};

const KEY: &str = "secret-of-the-tests";

enum Answer {
    Json(Value),
    Status(u16, &'static str),
    /// With this type, and 200.
    Text(&'static str, &'static str),
    /// Half of a body, and the end.
    Cut,
}

struct Request {
    /// Without the query.
    path: String,
    query: String,
    body: String,
    authorization: Option<String>,
}

/// A server on loopback that answers by a script. It ends with the test's process.
struct Server {
    url: String,
    /// Paths and queries of all requests so far.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(mut script: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                log.lock().unwrap().push(format!("{}?{}", request.path, request.query));
                answer(&mut stream, script(&request));
            }
        });
        Self { url, asked }
    }

    fn asked(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    fn sync(&self, home: &Home) -> Ended {
        let mut command =
            home.command(&["sync", "--phoenix-url", &self.url, "--project", "acme", "--store", "s.sqlite"]);
        command.env("PHOENIX_API_KEY", KEY);
        run(command)
    }

    /// The error, in which `{url}` is the server's address. Keys are in none.
    fn refuses(&self, home: &Home, error: &str) {
        let ended = self.sync(home);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.error(), error.replace("{url}", &self.url));
        assert!(!ended.stderr.contains(KEY), "{}", ended.stderr);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let target = first.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = (path.to_owned(), query.to_owned());
    Some(Request { path, query, body: String::from_utf8(body).ok()?, authorization })
}

fn answer(stream: &mut TcpStream, answer: Answer) {
    let whole = |status: u16, kind: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    let text = match answer {
        Answer::Json(value) => whole(200, "application/json", &value.to_string()),
        Answer::Status(status, body) => whole(status, "text/plain", body),
        Answer::Text(kind, body) => whole(200, kind, body),
        Answer::Cut => {
            "HTTP/1.1 200 -\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{\"data\": [".to_owned()
        }
    };
    let _ = stream.write_all(text.as_bytes()); // whoever asked may be gone
}

/// A server that has nothing wrong: project `acme` with three spans in pages of two, and an approval of the first.
fn healthy(request: &Request) -> Answer {
    let page = |items: &[Value], next: Option<&str>| Answer::Json(json!({ "data": items, "next_cursor": next }));
    match request.path.as_str() {
        "/v1/projects" => page(&[json!({ "id": "P1", "name": "acme" })], None),
        "/v1/projects/P1/spans" => match cursor(request) {
            None => page(&[span(1), span(2)], Some("S3")),
            Some("S3") => page(&[span(3)], None),
            other => panic!("cursor {other:?}"),
        },
        "/v1/projects/P1/span_annotations" => page(&[approval(1)], None),
        "/graphql" => graphql(request),
        other => panic!("{other}"),
    }
}

fn graphql(request: &Request) -> Answer {
    let revision = json!({ "streamingLastUpdatedAt": "2026-11-01T00:00:00+00:00", "documentEvaluationNames": [] });
    assert!(request.body.contains("P1"), "{}", request.body);
    Answer::Json(json!({ "data": { "node": revision } }))
}

fn cursor(request: &Request) -> Option<&str> {
    request.query.split('&').find_map(|pair| pair.strip_prefix("cursor="))
}

fn span(n: u32) -> Value {
    json!({
        "id": format!("S{n}"),
        "name": "routing_agent",
        "context": { "trace_id": format!("{n:032x}"), "span_id": format!("{n:016x}") },
        "span_kind": "AGENT",
        "parent_id": null,
        "start_time": "2026-11-01T00:00:00+00:00",
        "end_time": "2026-11-01T00:00:01+00:00",
        "status_code": "OK",
        "attributes": { "input.value": format!("question {n}"), "output.value": "an answer" },
    })
}

fn approval(n: u32) -> Value {
    json!({
        "span_id": format!("{n:016x}"),
        "name": "human_approval",
        "annotator_kind": "HUMAN",
        "result": { "label": "approved", "score": null, "explanation": null },
        "metadata": {},
        "identifier": "",
        "created_at": "2026-11-01T00:01:00+00:00",
        "updated_at": "2026-11-01T00:01:00+00:00",
    })
}

/// Approved spans of the quick start's kind, so that a run can train on them.
fn sixty(request: &Request, marked: &Mutex<Vec<Value>>) -> Answer {
    let page = |items: Vec<Value>| Answer::Json(json!({ "data": items, "next_cursor": null }));
    match request.path.as_str() {
        "/v1/projects/P1/spans" => page((1..=60).map(span).collect()),
        "/v1/projects/P1/span_annotations" => page((1..=60).map(approval).collect()),
        "/v1/span_annotations" => {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let ids: Vec<_> =
                body["data"].as_array().unwrap().iter().map(|it| it["span_id"].as_str().unwrap()).collect();
            // One was deleted since.
            let gone = format!("{:016x}", 7);
            if ids.contains(&gone.as_str()) {
                return Answer::Status(404, "Spans with IDs 0000000000000007 do not exist.");
            }
            marked.lock().unwrap().extend(body["data"].as_array().unwrap().iter().cloned());
            Answer::Json(json!({ "data": [] }))
        }
        _ => healthy(request),
    }
}

fn succeeds(server: &Server, home: &Home) -> String {
    let ended = server.sync(home);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr
}

const FIRST: &str = "3 spans (3 new), 1 annotations (1 new, 0 updated, 0 removed), 0 rejected";

#[test]
fn pages_are_read_to_the_end_with_the_key() {
    let (home, server) = (
        Home::empty(),
        Server::new(|request: &Request| {
            assert_eq!(request.authorization.as_deref(), Some(&*format!("Bearer {KEY}")));
            healthy(request)
        }),
    );
    let told = succeeds(&server, &home);
    assert!(told.contains(FIRST), "{told}");
    // All three ids in one request; Phoenix's own limit would be 10 annotations.
    assert_eq!(server.asked("span_annotations?limit=10000&span_ids=0000000000000001&span_ids=0000000000000002"), 1);
}

#[test]
fn an_unchanged_project_is_not_read_again() {
    let (home, server) = (Home::empty(), Server::new(healthy));
    succeeds(&server, &home);
    let told = succeeds(&server, &home);
    assert!(told.contains("nothing new in `acme`"), "{told}");
    assert_eq!((server.asked("/spans"), server.asked("span_annotations")), (2, 1));
}

#[test]
fn an_approval_that_was_taken_back_goes_and_an_imported_one_stays() {
    let home = Home::empty();
    let mut syncs = 0;
    let server = Server::new(move |request: &Request| match request.path.as_str() {
        "/v1/projects/P1/span_annotations" if syncs == 1 => {
            syncs += 1;
            Answer::Json(json!({ "data": [approval(1), approval(2)], "next_cursor": null }))
        }
        "/v1/projects/P1/span_annotations" => {
            syncs += 1;
            Answer::Json(json!({ "data": [approval(2)], "next_cursor": null }))
        }
        // Another state each time.
        "/graphql" => Answer::Json(json!({ "data": { "node": {
            "streamingLastUpdatedAt": format!("after {syncs}"), "documentEvaluationNames": [],
        } } })),
        // Span 1 is still there, so that its approval was taken back.
        "/v1/projects/P1/spans" if request.query.contains("span_id=") => {
            assert!(request.query.contains("span_id=0000000000000001"), "{}", request.query);
            Answer::Json(json!({ "data": [span(1)], "next_cursor": null }))
        }
        "/v1/projects/P1/spans" if syncs > 0 => Answer::Json(json!({ "data": [span(3)], "next_cursor": null })),
        _ => healthy(request),
    });
    assert!(succeeds(&server, &home).contains("1 annotations (1 new, 0 updated, 0 removed)"));
    assert!(succeeds(&server, &home).contains("2 annotations (1 new, 0 updated, 0 removed)"));
    home.write("own.jsonl", approval(3).to_string());
    let imported = home.run(&["import", "own.jsonl", "--store", "s.sqlite"]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    let told = succeeds(&server, &home);
    assert!(told.contains("1 annotations (0 new, 0 updated, 1 removed)"), "{told}");
    let projects = home.run(&["import", "own.jsonl", "--store", "s.sqlite", "--json"]).json();
    assert_eq!(projects["projects"][0]["annotations"], 2, "{projects}");
}

#[test]
fn verdicts_of_spans_that_were_deleted_stay() {
    let home = Home::empty();
    let mut syncs = 0;
    let server = Server::new(move |request: &Request| match request.path.as_str() {
        "/v1/projects/P1/span_annotations" if syncs > 0 => Answer::Json(json!({ "data": [], "next_cursor": null })),
        "/v1/projects/P1/span_annotations" => {
            syncs += 1;
            healthy(request)
        }
        "/graphql" => Answer::Json(json!({ "data": { "node": {
            "streamingLastUpdatedAt": format!("after {syncs}"), "documentEvaluationNames": [],
        } } })),
        "/v1/projects/P1/spans" if syncs > 0 => Answer::Json(json!({ "data": [], "next_cursor": null })),
        _ => healthy(request),
    });
    succeeds(&server, &home);
    let told = succeeds(&server, &home);
    assert!(told.contains("0 annotations (0 new, 0 updated, 0 removed)"), "{told}");
}

/// Phoenix gives the rows of deleted spans to new ones.
#[test]
fn a_row_that_is_another_span_now_makes_a_sync_read_all_of_them() {
    let home = Home::empty();
    let mut syncs = 0;
    let other = |n: u32, row: u32| {
        let mut other = span(n);
        other["id"] = format!("S{row}").into();
        other
    };
    let server = Server::new(move |request: &Request| match (request.path.as_str(), cursor(request)) {
        ("/v1/projects/P1/span_annotations", _) => {
            syncs += 1;
            healthy(request)
        }
        ("/graphql", _) => Answer::Json(json!({ "data": { "node": {
            "streamingLastUpdatedAt": format!("after {syncs}"), "documentEvaluationNames": [],
        } } })),
        ("/v1/projects/P1/spans", Some(_)) if syncs > 0 => {
            Answer::Json(json!({ "data": [other(13, 3), other(14, 4)], "next_cursor": null }))
        }
        ("/v1/projects/P1/spans", None) if syncs > 0 => Answer::Json(
            json!({ "data": [other(11, 1), other(12, 2), other(13, 3), other(14, 4)], "next_cursor": null }),
        ),
        _ => healthy(request),
    });
    succeeds(&server, &home);
    let told = succeeds(&server, &home);
    assert!(told.contains("4 spans (4 new)"), "{told}");
}

/// Phoenix tells times in whole seconds, and lists the newest first.
#[test]
fn of_two_verdicts_in_one_second_the_newer_counts() {
    let home = Home::empty();
    let server = Server::new(|request: &Request| match request.path.as_str() {
        "/v1/projects/P1/span_annotations" => {
            let (mut newer, mut older) = (approval(1), approval(1));
            (newer["identifier"], older["identifier"]) = ("bob".into(), "alice".into());
            older["result"]["label"] = "rejected".into();
            Answer::Json(json!({ "data": [newer, older], "next_cursor": null }))
        }
        _ => healthy(request),
    });
    succeeds(&server, &home);
    let analysis = home.run(&["analyze", "--agent-type", "routing", "--store", "s.sqlite", "--json"]).json();
    assert_eq!(analysis["examples"]["approved_examples"], 1, "{analysis}");
}

#[test]
fn a_sync_that_broke_off_goes_on_where_it_was() {
    let home = Home::empty();
    let mut refused = false;
    let server = Server::new(move |request: &Request| match (request.path.as_str(), cursor(request)) {
        ("/v1/projects/P1/spans", Some("S3")) if !refused => {
            refused = true;
            Answer::Status(422, "not now")
        }
        // From the last span that is stored, which comes once more.
        ("/v1/projects/P1/spans", Some("S2")) => {
            Answer::Json(json!({ "data": [span(2), span(3)], "next_cursor": null }))
        }
        _ => healthy(request),
    });
    server.refuses(&home, "Phoenix refused `{url}/v1/projects/P1/spans` with 422 (not now)");
    let told = succeeds(&server, &home);
    assert!(told.contains("1 spans (1 new), 1 annotations (1 new"), "{told}");
}

#[test]
fn a_refused_key_is_told_with_where_to_put_one() {
    let (home, server) = (Home::empty(), Server::new(|_: &Request| Answer::Status(401, "Invalid token")));
    server.refuses(
        &home,
        "Phoenix at `{url}` wants a key (Invalid token): put one into PHOENIX_API_KEY, or name its file with \
         `--phoenix-api-key-file`",
    );
    assert_eq!(server.asked(""), 1, "no second attempt makes a key good");
}

#[test]
fn a_key_that_may_not_is_told_apart_from_a_bad_one() {
    let (home, server) = (Home::empty(), Server::new(|_: &Request| Answer::Status(403, "Viewers cannot")));
    server.refuses(
        &home,
        "Phoenix at `{url}` does not allow this to the key it was given (Viewers cannot): use one of a user who may",
    );
}

#[test]
fn an_unknown_project_is_told_with_those_that_are_there() {
    let other =
        |_: &Request| Answer::Json(json!({ "data": [{ "id": "P1", "name": "acme-prod" }], "next_cursor": null }));
    let (home, server) = (Home::empty(), Server::new(other));
    server.refuses(&home, "Phoenix at `{url}` has no project `acme`: it has `acme-prod`");
}

#[test]
fn failures_and_cut_connections_are_tried_again() {
    let home = Home::empty();
    let mut failures = [Answer::Status(500, "oops"), Answer::Cut, Answer::Status(503, "busy")].into_iter();
    let server = Server::new(move |request: &Request| match request.path.as_str() {
        "/v1/projects/P1/span_annotations" => failures.next().unwrap_or_else(|| healthy(request)),
        _ => healthy(request),
    });
    let told = succeeds(&server, &home);
    assert!(told.contains(FIRST), "{told}");
    assert_eq!(server.asked("span_annotations"), 4);
}

#[test]
fn a_server_that_goes_on_failing_is_given_up_with_its_words() {
    let (home, server) = (Home::empty(), Server::new(|_: &Request| Answer::Status(500, "database is\n locked")));
    server.refuses(
        &home,
        "Phoenix failed at `{url}/v1/projects` with 500 (database is locked; 5 attempts): see its log, and try again later",
    );
    assert_eq!(server.asked(""), 5);
}

#[test]
fn a_web_page_is_no_phoenix() {
    let page = |_: &Request| Answer::Text("text/html; charset=utf-8", "<!doctype html>");
    let (home, server) = (Home::empty(), Server::new(page));
    server.refuses(
        &home,
        "`{url}/v1/projects` answered with `text/html; charset=utf-8` instead of JSON: check the address: what \
         listens there is not Phoenix, or one that is too old for this",
    );
}

#[test]
fn half_of_a_json_text_is_refused() {
    let (home, server) = (Home::empty(), Server::new(|_: &Request| Answer::Text("application/json", "{\"data\": [")));
    server.refuses(
        &home,
        "the answer of `{url}/v1/projects` makes no sense (EOF while parsing a list at line 1 column 10): is this Phoenix, \
         and a version that this one knows?",
    );
}

#[test]
fn cursors_that_go_round_are_noticed() {
    let home = Home::empty();
    let server = Server::new(|request: &Request| match request.path.as_str() {
        "/v1/projects/P1/spans" => Answer::Json(json!({ "data": [span(1)], "next_cursor": "S1" })),
        _ => healthy(request),
    });
    server.refuses(
        &home,
        "the answer of `{url}` makes no sense (the cursor `S1` came twice, so its pages have no end): is this Phoenix, and \
         a version that this one knows?",
    );
}

#[test]
fn spans_that_are_none_are_told_and_the_rest_is_read() {
    let home = Home::empty();
    let server = Server::new(|request: &Request| match (request.path.as_str(), cursor(request)) {
        ("/v1/projects/P1/spans", Some("S3")) => {
            Answer::Json(json!({ "data": [{ "id": "S3", "start_time": "yesterday" }, span(4)], "next_cursor": null }))
        }
        _ => healthy(request),
    });
    let told = succeeds(&server, &home);
    assert!(told.contains("3 spans (3 new), 1 annotations (1 new, 0 updated, 0 removed), 1 rejected"), "{told}");
    assert!(told.contains("`start_time`"), "{told}");
}

#[test]
fn a_run_tells_the_server_what_it_used_where_it_is_asked_to() {
    let home = Home::ready();
    let marked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&marked);
    let server = Server::new(move |request: &Request| sixty(request, &seen));
    home.write(
        "tunesmith.toml",
        format!(
            "agent_type = \"routing\"\nmethod = \"sft\"\nbase_model = \"model\"\noutput_dir = \"out\"\nepochs = 1\n\
             project = \"acme\"\ntelemetry = {{ store = \"s.sqlite\", phoenix_url = \"{}\" }}\n",
            server.url
        ),
    );
    home.trains(&[]);
    assert_eq!(marked.lock().unwrap().len(), 0, "nothing is written unasked");

    let folder = home.trains(&["--phoenix-write-back", "true"]);
    let run = folder.file_name().unwrap().to_str().unwrap();
    let marks = std::mem::take(&mut *marked.lock().unwrap());
    assert_eq!(marks.len(), 59);
    for mark in &marks {
        let told = [&mark["name"], &mark["annotator_kind"], &mark["identifier"], &mark["metadata"]["run"]];
        assert_eq!(told, ["used_in_training", "CODE", run, run], "{mark}");
        assert_eq!(mark["metadata"]["adapter_sha256"].as_str().unwrap().len(), 64);
    }
    let of = |set: &str| marks.iter().filter(|mark| mark["result"]["label"] == set).count();
    assert!(of("train") >= 48 && of("held_out") >= 5 && of("train") + of("held_out") == 59);

    let again = home.run(&["mark", "--adapter", folder.to_str().unwrap(), "--json"]);
    assert_eq!(again.json(), json!({ "marked": 59, "missing": 1 }), "{}", again.stderr);
    assert_eq!(*marked.lock().unwrap(), marks);
}

#[test]
fn the_doctor_asks_once_and_says_what_the_server_lacks() {
    let home = Home::ready();
    let mut answers = [Answer::Status(500, "down"), Answer::Status(401, "Invalid token")].into_iter();
    let server = Server::new(move |request: &Request| answers.next().unwrap_or_else(|| healthy(request)));
    let doctor = || {
        let args = ["doctor", "--phoenix-url", &server.url, "--project", "acme", "--json"];
        let findings = home.run(&args).json();
        let of_phoenix = |it: &&Value| it["what"] == "Phoenix";
        findings.as_array().unwrap().iter().find(of_phoenix).unwrap().clone()
    };
    let url = &server.url;
    assert_eq!(
        doctor()["remedy"],
        format!("Phoenix failed at `{url}/v1/projects` with 500 (down; 1 attempts): see its log, and try again later")
    );
    assert_eq!(doctor()["status"], "lack");
    assert_eq!(doctor(), json!({ "what": "Phoenix", "status": "ok", "found": format!("{url} has `acme`") }));
    assert_eq!(server.asked(""), 3);
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_is_asked() {
    let home = Home::empty();
    for (url, error) in [("localhost:6006", "neither http nor https"), ("http://", "empty host")] {
        let ended = home.run(&["sync", "--phoenix-url", url, "--project", "acme"]);
        let want = format!(
            "error: `{url}` is not the address of a server ({error}): give one such as `http://127.0.0.1:6006`\n"
        );
        assert_eq!((ended.code, ended.stderr), (Some(1), want));
    }
    let ended = home.run(&["sync", "--phoenix-url", "http://me:hunter2@localhost/x", "--project", "acme"]);
    assert!(ended.error().starts_with("`http://localhost` is not the address of a server"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    let ended = home.run(&["sync", "--project", "acme"]);
    assert_eq!(
        ended.stderr,
        "error: `telemetry.phoenix_url` is not set: name the server with `--phoenix-url`, such as `http://127.0.0.1:6006`\n"
    );
}

//! A `tunesmith serve` on a free port of loopback, and what a client of it needs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use serde_json::Value;

use crate::home::Home;
use crate::spans::{answer, query, span_id};

pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

/// A server with the store `telemetry.sqlite` of its home; killed where a test ends before it.
pub(crate) struct Serving {
    child: Child,
    /// Its first line.
    pub(crate) announced: Value,
    pub(crate) address: String,
    pub(crate) token: String,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: fs::File,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Serving {
    pub(crate) fn start(home: &Home, args: &[&str]) -> Self {
        let own = ["serve", "--otlp", "--json", "--listen", "127.0.0.1:0", "--store", "telemetry.sqlite"];
        Self::started(home.command(&[&own, args].concat()))
    }

    /// Of a `serve --json`; the token is that of its first tenant, and empty without `--otlp`.
    pub(crate) fn started(mut command: Command) -> Self {
        let stderr = tempfile::tempfile().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let mut serving =
            Self { child, announced: Value::Null, address: String::new(), token: String::new(), stdout, stderr };
        assert!(!line.is_empty(), "it did not start: {}", serving.log());
        serving.announced = serde_json::from_str(&line).unwrap();
        serving.address = serving.announced["listening"].as_str().unwrap().to_owned();
        serving.token = serving.token_of(0);
        serving
    }

    pub(crate) fn token_of(&self, tenant: usize) -> String {
        let file = self.announced["tenants"][tenant]["token_file"].as_str();
        file.map(|file| fs::read_to_string(file).unwrap().trim().to_owned()).unwrap_or_default()
    }

    pub(crate) fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Answered {
        post(&self.address, path, &self.headers(content_type), body).unwrap()
    }

    pub(crate) fn post_gzip(&self, path: &str, content_type: &str, body: &[u8]) -> Answered {
        let headers = format!("{}content-encoding: gzip\r\n", self.headers(content_type));
        post(&self.address, path, &headers, body).unwrap()
    }

    pub(crate) fn headers(&self, content_type: &str) -> String {
        format!("authorization: Bearer {}\r\ncontent-type: {content_type}\r\n", self.token)
    }

    /// Feedback as JSON, and the answer's JSON.
    pub(crate) fn annotate(&self, feedback: &Value) -> (u16, Value) {
        let answered = self.post("/v1/annotations", JSON, feedback.to_string().as_bytes());
        (answered.status, answered.json())
    }

    /// The most memory that it had.
    pub(crate) fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, signal) }, 0);
    }

    /// Ends it in order, and returns its summary.
    pub(crate) fn stop(mut self) -> Value {
        self.signal(libc::SIGTERM);
        self.ended()
    }

    /// Waits for its end in order.
    pub(crate) fn ended(&mut self) -> Value {
        let mut summary = String::new();
        self.stdout.read_to_string(&mut summary).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        serde_json::from_str(&summary).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "{}", self.log());
    }

    pub(crate) fn log(&mut self) -> String {
        // A file that is shared with the server has one position: what is read is read by its path.
        use std::os::fd::AsRawFd;
        fs::read_to_string(format!("/proc/self/fd/{}", self.stderr.as_raw_fd())).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl Answered {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.contains(&format!("\r\n{header}\r\n"))
    }
}

/// One request on a connection of its own.
pub(crate) fn get(address: &str, path: &str, headers: &str) -> std::io::Result<Answered> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?;
    answered(stream)
}

/// As [`get`].
pub(crate) fn post(address: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Answered> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    answered(stream)
}

pub(crate) fn answered(mut stream: impl Read) -> std::io::Result<Answered> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let broken = || std::io::Error::other(String::from_utf8_lossy(&bytes).into_owned());
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok());
    // An answer that was cut is none.
    (length == Some(bytes.len() - end)).then_some(()).ok_or_else(broken)?;
    Ok(Answered { status, head, body: bytes[end..].to_vec() })
}

/// What [`crate::spans::otlp`] writes as JSON.
pub(crate) fn otlp_protobuf(indices: impl IntoIterator<Item = usize>) -> Vec<u8> {
    request(indices.into_iter().map(otlp_span).collect())
}

pub(crate) fn request(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

pub(crate) fn otlp_span(index: usize) -> Span {
    Span {
        name: "RoutingAgent.route".to_owned(),
        trace_id: (index as u128).to_be_bytes().to_vec(),
        span_id: (index as u64).to_be_bytes().to_vec(),
        start_time_unix_nano: 1_740_988_876_000_000_000,
        end_time_unix_nano: 1_740_988_877_000_000_000,
        status: Some(Status { code: 1, message: String::new() }),
        attributes: vec![
            attribute("openinference.span.kind", "AGENT"),
            attribute("input.value", &query(index)),
            attribute("output.value", answer(index)),
        ],
        ..Span::default()
    }
}

pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Every span of a store, whole, with its project.
pub(crate) fn stored(home: &Home) -> Vec<Vec<rusqlite::types::Value>> {
    stored_in(&home.path("telemetry.sqlite"))
}

pub(crate) fn stored_in(path: &Path) -> Vec<Vec<rusqlite::types::Value>> {
    let store = rusqlite::Connection::open(path).unwrap();
    let mut statement = store
        .prepare(
            "SELECT p.name, span_id, trace_id, parent_id, s.name, kind, status, start_time_ns, end_time_ns, input_key,
                    attributes FROM spans s JOIN projects p ON p.id = s.project ORDER BY p.name, span_id",
        )
        .unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect());
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

pub(crate) fn stored_ids(home: &Home) -> std::collections::BTreeSet<String> {
    let id = |row: Vec<rusqlite::types::Value>| match row.into_iter().nth(1) {
        Some(rusqlite::types::Value::Text(id)) => id,
        other => panic!("{other:?}"),
    };
    stored(home).into_iter().map(id).collect()
}

pub(crate) fn ids(indices: impl IntoIterator<Item = usize>) -> std::collections::BTreeSet<String> {
    indices.into_iter().map(span_id).collect()
}

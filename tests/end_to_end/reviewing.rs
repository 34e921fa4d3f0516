//! An approval store with something to review in it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use tunesmith::approval::{ApprovalStore, Candidate, Content, Near, NearTo, NewBatch, Parent};
use tunesmith::people::{People, Role};

use crate::home::Home;

pub(crate) const STORE: &str = "approvals.sqlite";

/// What item `index` of a batch says.
pub(crate) fn generated(index: usize) -> Content {
    Content::Instruction {
        instruction: "Route the following query to the appropriate agent".to_owned(),
        input: format!("generated question {index} on the weather in town {index}"),
        output: "weather_agent".to_owned(),
    }
}

fn real(index: usize) -> Content {
    Content::Instruction {
        instruction: "Route the following query to the appropriate agent".to_owned(),
        input: format!("real question {index}"),
        output: "weather_agent".to_owned(),
    }
}

/// The input that the adapter will be judged by.
pub(crate) const HELD_OUT: &str = "what is held out to judge the adapter by, word for word";

/// A batch of `n` items of project `default` for the agent `routing`.
pub(crate) fn batch(n: usize) -> NewBatch {
    let parent = |index| Parent {
        span_ids: vec![crate::spans::span_id(index)],
        trace_id: format!("{index:032x}"),
        content: real(index),
    };
    let candidate = |index| Candidate {
        content: generated(index),
        parents: vec![index % 3, (index + 1) % 3],
        prompt_sha256: format!("{index:064x}"),
        seed: index as u64,
        near: vec![Near { to: NearTo::Training, text: format!("real question {index}"), similarity: 0.25 }],
    };
    let Content::Instruction { instruction, output, .. } = real(0) else { unreachable!() };
    NewBatch {
        project: "default".to_owned(),
        agent_type: "routing".to_owned(),
        run: None,
        generator: "endpoint".to_owned(),
        model: Some("some-model".to_owned()),
        parents: (0..3).map(parent).collect(),
        held_out: vec![Content::Instruction { instruction, input: HELD_OUT.to_owned(), output }],
        candidates: (0..n).map(candidate).collect(),
        expires_at_ms: None,
    }
}

/// A home with a batch of `n` items, numbered from 1.
pub(crate) fn filled(n: usize) -> Home {
    let home = Home::empty();
    ApprovalStore::open_or_create(&home.path(STORE)).unwrap().submit(batch(n)).unwrap();
    home
}

pub(crate) fn store(home: &Home) -> ApprovalStore {
    ApprovalStore::open(&home.path(STORE)).unwrap()
}

/// A person who reviews, and their token.
pub(crate) fn person(home: &Home, name: &str, role: Role) -> String {
    People::open(&home.path("people.toml")).unwrap().add(name, role).unwrap()
}

/// A client of `/api/v1` with somebody's token, on one connection as long as it lasts.
pub(crate) struct Api {
    address: String,
    token: String,
    connection: Option<BufReader<TcpStream>>,
}

/// What the API answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Api {
    pub(crate) fn new(address: &str, token: &str) -> Self {
        Self { address: address.to_owned(), token: token.to_owned(), connection: None }
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, b"").unwrap()
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes()).unwrap()
    }

    /// The item, as it is now.
    pub(crate) fn item(&mut self, id: i64) -> Value {
        let answer = self.get(&format!("/items/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// On an item as `seen` is.
    pub(crate) fn decide(&mut self, seen: &Value, decision: &str) -> Answer {
        self.post(&format!("/items/{}/decision", seen["id"]), &verdict(seen, decision))
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let sent = self.exchange(method, path, body);
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let Self { address, token, connection } = self;
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(address.as_str())?;
                stream.set_nodelay(true)?;
                connection.insert(BufReader::new(stream))
            }
        };
        let mut request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        connection.get_mut().write_all(&request)?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let header =
            |name: &str| head.split_once(&format!("\r\n{name}: ")).and_then(|(_, rest)| rest.split("\r\n").next());
        let body = match header("content-length") {
            Some(length) => {
                let mut body = vec![0; length.parse().map_err(|_| io::ErrorKind::InvalidData)?];
                connection.read_exact(&mut body)?;
                body
            }
            None => chunks(connection)?,
        };
        if header("connection") == Some("close") {
            self.connection = None;
        }
        Ok(Answer { status, head, body })
    }
}

fn chunks(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut chunk = vec![0; length + 2];
        connection.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.contains(&format!("\r\n{header}\r\n"))
    }
}

/// The body of a decision on an item as `seen` is.
pub(crate) fn verdict(seen: &Value, decision: &str) -> Value {
    json!({ "version": seen["version"], "content_sha256": seen["content_sha256"], "decision": decision })
}

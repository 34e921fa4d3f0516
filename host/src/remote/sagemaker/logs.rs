//! What a job wrote: CloudWatch keeps it as events, of which a line is one.

use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Refusal};
use crate::job::JobId;
use crate::remote::{LogChunk, RemoteError};

const GROUP: &str = "/aws/sagemaker/TrainingJobs";

/// CloudWatch's side of it.
pub(super) struct Logs {
    api: Api,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Streams {
    log_streams: Vec<Stream>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    log_stream_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Events {
    events: Vec<Event>,
    next_forward_token: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    message: String,
}

impl Logs {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }

    /// The first machine's log from byte `from` on. CloudWatch counts events and not bytes, so it is read from its start each time: a
    /// job's log is short, since its figures lie elsewhere.
    pub(super) fn read(&self, id: &JobId, from: u64) -> Result<LogChunk, RemoteError> {
        let Some(stream) = self.stream(id)? else { return Ok(LogChunk { bytes: Vec::new(), next: from }) };
        let mut log = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut body = json!({ "logGroupName": GROUP, "logStreamName": stream, "startFromHead": true });
            if let Some(token) = &token {
                body["nextToken"] = json!(token);
            }
            let page = self.asked(self.api.call::<Events>("GetLogEvents", &body)?)?.unwrap_or_default();
            for event in &page.events {
                log.extend_from_slice(event.message.as_bytes());
                log.push(b'\n');
            }
            // At the end it answers with the token that it was asked with.
            if page.next_forward_token.is_none() || page.next_forward_token == token {
                break;
            }
            token = page.next_forward_token;
        }
        let total = log.len() as u64;
        let bytes = log.get(from as usize..).unwrap_or_default().to_vec();
        Ok(LogChunk { bytes, next: total.max(from) })
    }

    fn stream(&self, id: &JobId) -> Result<Option<String>, RemoteError> {
        let prefix = format!("{id}/algo-1-");
        let body = json!({ "logGroupName": GROUP, "logStreamNamePrefix": prefix, "limit": 1 });
        let streams = self.asked(self.api.call::<Streams>("DescribeLogStreams", &body)?)?.unwrap_or_default();
        Ok(streams.log_streams.into_iter().next().map(|stream| stream.log_stream_name))
    }

    /// A group or stream that isn't there yet is an empty log.
    fn asked<T>(&self, answer: Result<T, Refusal>) -> Result<Option<T>, RemoteError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(refusal) if refusal.code == "ResourceNotFoundException" => Ok(None),
            Err(refusal) => Err(self.api.refused(&refusal)),
        }
    }
}

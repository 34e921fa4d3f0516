//! What the API server answers, as ours.

use std::time::Duration;

use super::RemoteError;
use crate::http::innermost;

/// Told apart by what can be done about it.
pub(super) fn classify(engine: &str, error: &kube::Error) -> RemoteError {
    let engine = engine.to_owned();
    match error {
        kube::Error::Api(status) => of_status(engine, status),
        kube::Error::Auth(_) => credentials(engine, innermost(error)),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            RemoteError::Protocol { engine, message: innermost(error) }
        }
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
            let message = innermost(error);
            // It will be the same one in a minute.
            match message.to_ascii_lowercase().contains("certificate") {
                true => RemoteError::Refused {
                    engine,
                    message: format!("{message}; the kubeconfig's `certificate-authority` is of another cluster"),
                },
                false => RemoteError::Transient { engine, message, after: None },
            }
        }
        _ => RemoteError::Refused { engine, message: innermost(error) },
    }
}

fn of_status(engine: String, status: &kube::core::Status) -> RemoteError {
    // kube's mark for a body that is no status of Kubernetes.
    let is_foreign = status.reason == "Failed to parse error data";
    let message = match status.message.split_whitespace().collect::<Vec<_>>().join(" ") {
        empty if empty.is_empty() => format!("HTTP {} {}", status.code, status.reason),
        message => message,
    };
    match status.code {
        401 => credentials(engine, message),
        403 if message.contains("exceeded quota") => RemoteError::Unschedulable { engine, message },
        403 => credentials(engine, message),
        408 | 429 | 500.. => {
            let seconds = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0);
            RemoteError::Transient { engine, message, after: seconds.map(|s| Duration::from_secs(s.into())) }
        }
        // Somebody changed it between our reading and our writing.
        409 => RemoteError::Transient { engine, message, after: None },
        _ if is_foreign => RemoteError::Protocol { engine, message },
        _ => RemoteError::Refused { engine, message },
    }
}

fn credentials(engine: String, message: String) -> RemoteError {
    let remedy = "log in anew where the kubeconfig's token has run out; deploy/kubernetes/rbac.yaml has what the account must be \
                  allowed";
    RemoteError::Credentials { engine, message, remedy: remedy.to_owned() }
}

/// What is not there is removed already.
pub(super) fn gone(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        error => Err(error),
    }
}

/// What is there need not be made.
pub(super) fn exists(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists" => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &str) -> RemoteError {
        let status: kube::core::Status = serde_json::from_str(status).unwrap();
        classify("kubernetes at https://k", &kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn an_answer_is_told_apart_by_what_can_be_done_about_it() {
        let unauthorized =
            told(r#"{"status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401}"#);
        assert!(
            unauthorized
                .to_string()
                .starts_with("kubernetes at https://k refuses the credentials: Unauthorized; log in")
        );
        let forbidden = r#"{"message": "jobs.batch is forbidden: User \"u\" cannot create resource", "reason": "Forbidden", "code": 403}"#;
        assert!(matches!(told(forbidden), RemoteError::Credentials { .. }));
        let quota =
            r#"{"message": "jobs.batch \"a\" is forbidden: exceeded quota: gpus", "reason": "Forbidden", "code": 403}"#;
        assert!(matches!(told(quota), RemoteError::Unschedulable { .. }));
        let busy = r#"{"message": "Too many requests", "code": 429, "details": {"retryAfterSeconds": 7}}"#;
        let RemoteError::Transient { after, .. } = told(busy) else { panic!("{:?}", told(busy)) };
        assert_eq!(after, Some(Duration::from_secs(7)));
        assert!(told(r#"{"message": "etcdserver: request timed out", "code": 500}"#).is_transient());
        assert_eq!(
            told(r#"{"message": "Job.batch \"q\" is invalid", "reason": "Invalid", "code": 422}"#).to_string(),
            "kubernetes at https://k refuses the request: Job.batch \"q\" is invalid"
        );
        let page = r#"{"message": "<html>\n not here", "reason": "Failed to parse error data", "code": 404}"#;
        assert_eq!(
            told(page).to_string(),
            "kubernetes at https://k gives an answer that is none of its own: <html> not here; is that the right address?"
        );
    }
}

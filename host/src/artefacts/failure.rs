//! What a store's answer means. `object_store` tells it as text alone: the status, then what the server sent.

use super::ArtefactError;
use crate::http::innermost;

/// What was tried, for the error's text.
pub(super) struct Call<'a> {
    pub action: &'static str,
    pub url: &'a str,
    pub path: &'a str,
}

impl Call<'_> {
    pub(super) fn failed(&self, error: &object_store::Error) -> ArtefactError {
        let told = innermost(error);
        let (status, message) = read(&told);
        let url = self.url.to_owned();
        let is = |codes: &[&str]| codes.iter().any(|code| told.contains(code));
        if is(&["RequestTimeTooSkewed", "RequestExpired", "Request date header too old"]) {
            return ArtefactError::Clock { url, message };
        }
        if matches!(status, Some(401 | 403))
            || is(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"])
        {
            return ArtefactError::Credentials { url, message };
        }
        let (action, path) = (self.action, self.path.to_owned());
        match status {
            // An overload, or a server's own timeout: everything else of the kind says that we are wrong.
            Some(400..=407 | 409..=428 | 430..=499) => ArtefactError::Refused { action, url, path, message },
            Some(301 | 307 | 308) => ArtefactError::Refused { action, url, path, message },
            _ => ArtefactError::Store { action, url, path, message },
        }
    }
}

/// Whether it is the file that isn't there, rather than all that it should be in.
pub(super) fn is_missing_file(error: &object_store::Error) -> bool {
    let is_not_found = matches!(error, object_store::Error::NotFound { .. });
    is_not_found && !["NoSuchBucket", "ContainerNotFound"].iter().any(|code| innermost(error).contains(code))
}

const STATUS: &str = "Server returned non-2xx status code: ";

/// The status, and the server's words: `Code: Message` of the XML that S3 and Azure send.
fn read(told: &str) -> (Option<u16>, String) {
    let status = told.strip_prefix(STATUS).and_then(|rest| rest.get(..3)?.parse().ok());
    let words = match (tag(told, "Code"), tag(told, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => told.strip_prefix(STATUS).unwrap_or(told).to_owned(),
    };
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    (status, line.trim_end_matches([':', ' ']).to_owned())
}

fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(answer: &str) -> ArtefactError {
        let source = std::io::Error::other(answer.to_owned());
        let error = object_store::Error::Generic { store: "S3", source: Box::new(source) };
        Call { action: "read", url: "s3://lora/jobs", path: "out/result.json" }.failed(&error)
    }

    fn answer(status: &str, code: &str, message: &str) -> String {
        format!(
            "{STATUS}{status}: <?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        )
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_from_a_key_that_is() {
        let skewed = answer("403 Forbidden", "RequestTimeTooSkewed", "The difference is too large.");
        assert_eq!(
            told(&skewed).to_string(),
            "`s3://lora/jobs` does not take our signatures (RequestTimeTooSkewed: The difference is too large.): this machine's clock \
             is wrong; set it (`timedatectl set-ntp true`)"
        );
        let wrong = answer("403 Forbidden", "SignatureDoesNotMatch", "The signatures differ.");
        let ArtefactError::Credentials { message, .. } = told(&wrong) else { panic!("{wrong}") };
        assert_eq!(message, "SignatureDoesNotMatch: The signatures differ.");
    }

    #[test]
    fn only_what_may_pass_is_worth_another_try() {
        let passes = |status, code| matches!(told(&answer(status, code, "x")), ArtefactError::Store { .. });
        assert!(passes("503 Service Unavailable", "SlowDown"));
        assert!(passes("500 Internal Server Error", "InternalError"));
        assert!(passes("429 Too Many Requests", "TooManyRequests"));
        assert!(passes("408 Request Timeout", "RequestTimeout"));
        assert!(!passes("404 Not Found", "NoSuchBucket"));
        assert!(!passes("400 Bad Request", "InvalidBucketName"));
        assert!(
            matches!(told("connection refused"), ArtefactError::Store { message, .. } if message == "connection refused")
        );
    }

    #[test]
    fn a_bucket_that_is_missing_is_not_a_file_that_is() {
        let missing = |code| {
            let source = std::io::Error::other(answer("404 Not Found", code, "x"));
            is_missing_file(&object_store::Error::NotFound { path: "a".to_owned(), source: Box::new(source) })
        };
        assert!(missing("NoSuchKey"));
        assert!(missing("BlobNotFound"));
        assert!(!missing("NoSuchBucket"));
        assert!(!missing("ContainerNotFound"));
    }
}

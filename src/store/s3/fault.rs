//! What went wrong, by what can be done about it, and the sentence for it.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};

use crate::model::{Error, ErrorKind};

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// There is no such object.
    Missing,
    /// There is an object already.
    Exists,
    /// The object ends before the range does.
    Short,
    /// The parts that were sent are gone: begin again.
    Restart,
    /// It may go well a little later.
    Busy,
    /// The keys are wrong or may not do this.
    Denied,
    /// There is no room.
    Full,
    /// It will fail again.
    Refused,
}

/// A failure.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What can be done about it.
    pub class: Class,
    /// What was said, in words that fit behind a colon.
    pub said: String,
    /// How long the store wants to be left alone.
    pub wait: Option<Duration>,
}

/// The longest that a store's own words may get.
const WORDS: usize = 200;

/// Text of a store, made fit for one line.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect::<String>().trim().to_owned()
}

/// The innermost reason, which is the one that tells something.
fn root(error: &dyn StdError) -> String {
    let mut at = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    tame(&at.to_string())
}

impl Fault {
    /// A failure of a class.
    pub fn new(class: Class, said: impl Into<String>) -> Self {
        Self { class, said: said.into(), wait: None }
    }

    /// One that may pass.
    pub fn busy(said: impl Into<String>) -> Self {
        Self::new(Class::Busy, said)
    }

    /// One that will not.
    pub fn refused(said: impl Into<String>) -> Self {
        Self::new(Class::Refused, said)
    }

    /// What the SDK makes of an answer, or of none.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::TimeoutError(_) => Self::busy("it did not answer in time"),
            SdkError::DispatchFailure(failure) => Self::connection(failure.as_connector_error()),
            SdkError::ResponseError(_) => Self::busy(format!("its answer cannot be read ({})", root(error))),
            SdkError::ServiceError(answer) => Self::answer(answer.raw(), answer.err().code(), answer.err().message()),
            _ => Self::refused(format!("the request could not be made ({})", root(error))),
        }
    }

    /// The same for a request whose answer has no body: 404 alone says that nothing is there.
    pub fn of_head<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(answer) if answer.raw().status().as_u16() == 404 => {
                Self::new(Class::Missing, "there is no such object")
            }
            other => Self::of(other),
        }
    }

    fn connection(error: Option<&ConnectorError>) -> Self {
        let said = error.map(|e| root(e)).unwrap_or_default();
        if said.contains("certificate") || said.contains("UnknownIssuer") {
            return Self::refused(format!("its certificate is not trusted ({said}); give its authority's as ca_file"));
        }
        if error.is_some_and(ConnectorError::is_timeout) {
            return Self::busy("it did not answer in time");
        }
        Self::busy(format!("it cannot be reached ({said})"))
    }

    fn answer(raw: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Self {
        let status = raw.status().as_u16();
        let code = tame(code.unwrap_or_default());
        let class = class(status, &code);
        let message = tame(message.unwrap_or_default());
        let words = if message.is_empty() || message == code { String::new() } else { format!(": {message}") };
        let code = if code.is_empty() { status.to_string() } else { format!("{code}, {status}") };
        let said = match (class, status) {
            (Class::Denied, _) => format!("access was denied ({code}{words})"),
            (Class::Full, _) => format!("it has no room ({code}{words})"),
            (Class::Refused, 404) if code.starts_with("NoSuchBucket") => format!("there is no such bucket ({code})"),
            (Class::Refused, 404) => format!("it answered {code} and names no object; is the endpoint right"),
            (Class::Refused, 301 | 307) => format!("it belongs to another region or endpoint ({code}{words})"),
            _ => format!("it answered {code}{words}"),
        };
        let wait = raw.headers().get("retry-after").and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
        Self { class, said, wait }
    }

    /// The error for who asked: `what` was tried with `place`.
    pub fn error(&self, what: &str, place: &str) -> Error {
        let (kind, advice) = match self.class {
            Class::Missing => (ErrorKind::NotFound, ""),
            Class::Short => (ErrorKind::Damaged, ""),
            Class::Exists | Class::Restart | Class::Busy | Class::Refused => (ErrorKind::DestinationFailed, ""),
            Class::Denied => (ErrorKind::DestinationFailed, "; check the credentials and what they may do"),
            Class::Full => (ErrorKind::NoSpace, "; make room there or raise its quota"),
        };
        Error::new(kind, format!("cannot {what} {place}: {}{advice}", self.said))
    }
}

/// What a status and S3's code for it come down to.
fn class(status: u16, code: &str) -> Class {
    match code {
        "NoSuchKey" => Class::Missing,
        "NoSuchUpload" => Class::Restart,
        "NoSuchBucket" | "InvalidObjectState" | "NotImplemented" | "EntityTooLarge" => Class::Refused,
        "PreconditionFailed" => Class::Exists,
        "InvalidRange" => Class::Short,
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "AuthorizationHeaderMalformed"
        | "ExpiredToken"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired" => Class::Denied,
        "QuotaExceeded"
        | "BucketQuotaExceeded"
        | "InsufficientStorage"
        | "StorageFull"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "ServiceQuotaExceededException" => Class::Full,
        // What was sent did not arrive as it was: send it again.
        "BadDigest"
        | "IncompleteBody"
        | "RequestTimeout"
        | "XAmzContentSHA256Mismatch"
        | "ConditionalRequestConflict"
        | "OperationAborted" => Class::Busy,
        _ if code.contains("Throttl") || code.contains("SlowDown") => Class::Busy,
        _ => match status {
            401 | 403 => Class::Denied,
            408 | 429 => Class::Busy,
            412 => Class::Exists,
            416 => Class::Short,
            501 => Class::Refused,
            507 => Class::Full,
            500.. => Class::Busy,
            _ => Class::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_so_only_by_name() {
        assert_eq!(class(404, "NoSuchKey"), Class::Missing);
        for code in ["", "NoSuchBucket", "NotFound", "Html"] {
            assert_eq!(class(404, code), Class::Refused, "{code}");
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (503, ""), (429, ""), (400, "RequestTimeout")]
        {
            assert_eq!(class(status, code), Class::Busy, "{status} {code}");
        }
        assert_eq!(class(403, "QuotaExceeded"), Class::Full);
        assert_eq!(class(507, ""), Class::Full);
        assert_eq!(class(403, ""), Class::Denied);
        assert_eq!(class(400, "InvalidArgument"), Class::Refused);
        assert_eq!(class(501, "NotImplemented"), Class::Refused);
    }

    #[test]
    fn a_stores_words_fit_on_one_line() {
        let said = tame(&format!("a\nb\u{1b}[31m{}", "x".repeat(1000)));
        assert!(said.len() <= WORDS && !said.contains('\n') && !said.contains('\u{1b}'));
    }
}

//! Errors by their D-Bus names: the table of the interface, in both directions.

use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use crate::model::{self, ErrorKind};

/// The model's error, on its way to a caller.
#[derive(Debug)]
pub struct Error(pub model::Error);

/// What a method of an interface answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const NAMES: [(ErrorKind, &str); 13] = [
    (ErrorKind::InvalidArgument, "org.strongroom1.Error.InvalidArgument"),
    (ErrorKind::NotFound, "org.strongroom1.Error.NotFound"),
    (ErrorKind::AlreadyExists, "org.strongroom1.Error.AlreadyExists"),
    (ErrorKind::LimitReached, "org.strongroom1.Error.LimitReached"),
    (ErrorKind::NotConfirmed, "org.strongroom1.Error.NotConfirmed"),
    (ErrorKind::InvalidState, "org.strongroom1.Error.InvalidState"),
    (ErrorKind::NoSpace, "org.strongroom1.Error.NoSpace"),
    (ErrorKind::DestinationFailed, "org.strongroom1.Error.DestinationFailed"),
    (ErrorKind::Damaged, "org.strongroom1.Error.Damaged"),
    (ErrorKind::Cancelled, "org.strongroom1.Error.Cancelled"),
    (ErrorKind::AccessDenied, "org.freedesktop.DBus.Error.AccessDenied"),
    (ErrorKind::InteractiveAuthorizationRequired, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"),
    (ErrorKind::Failed, "org.freedesktop.DBus.Error.Failed"),
];

/// The D-Bus error name of a kind.
pub fn name(kind: ErrorKind) -> &'static str {
    NAMES.iter().find(|(k, _)| *k == kind).map_or("org.freedesktop.DBus.Error.Failed", |(_, name)| name)
}

/// The kind that a D-Bus error name stands for; `Failed` for names of others.
pub fn kind(name: &str) -> ErrorKind {
    NAMES.iter().find(|(_, n)| *n == name).map_or(ErrorKind::Failed, |(kind, _)| *kind)
}

/// The longest message; what callers sent is quoted in it, and may be megabytes.
const LONGEST: usize = 4096;

/// A message as one plain line. A NUL cannot cross the bus, and an error that cannot be sent would
/// leave the caller waiting; other control characters would play with the reader's terminal.
fn sentence(message: &str) -> String {
    let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
    if message.len() <= LONGEST {
        return plain(message);
    }
    // The end says what would be right.
    let half = LONGEST / 2;
    let at = |least: usize| message.char_indices().map(|(at, _)| at).find(|at| *at >= least).unwrap_or(message.len());
    let start = message.get(..at(half)).unwrap_or_default();
    let end = message.get(at(message.len() - half)..).unwrap_or_default();
    format!("{} ... {}", plain(start), plain(end))
}

impl zbus::DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&sentence(&self.0.message))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(name(self.0.kind))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.0.message)
    }
}

impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        Self(error)
    }
}

/// The model's error for one that a call came back with.
pub fn from_call(error: zbus::Error) -> model::Error {
    use zbus::fdo;
    match error {
        zbus::Error::MethodError(name, message, _) => {
            let message = message.unwrap_or_else(|| name.to_string());
            model::Error::new(kind(name.as_str()), message)
        }
        zbus::Error::FDO(error) => match *error {
            fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => model::Error::failed(
                "strongroomd is not running on this bus; start it, or use --private DIR to run one for this command",
            ),
            fdo::Error::NoReply(_) => {
                model::Error::failed("strongroomd went away before it answered; see its log, and try again")
            }
            fdo::Error::AccessDenied(message) => model::Error::access_denied(message),
            fdo::Error::InteractiveAuthorizationRequired(message) => {
                model::Error::new(ErrorKind::InteractiveAuthorizationRequired, message)
            }
            fdo::Error::InvalidArgs(message) => model::Error::invalid(message),
            other => {
                let message = zbus::DBusError::description(&other).map_or_else(|| other.to_string(), str::to_owned);
                model::Error::failed(message)
            }
        },
        other => model::Error::failed(format!("the call over the bus failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_map_one_to_one() {
        for (k, n) in NAMES {
            assert_eq!(name(k), n);
            assert_eq!(kind(n), k);
            assert!(ErrorName::try_from(n).is_ok(), "{n}");
        }
        assert_eq!(kind("org.example.Error.Other"), ErrorKind::Failed);
    }

    #[test]
    fn a_message_is_one_short_plain_line() {
        assert_eq!(sentence("a\nb\u{1b}[31m"), "a\u{fffd}b\u{fffd}[31m");
        let long = format!("begins {} ends", "\u{65e5}".repeat(100_000));
        let short = sentence(&long);
        assert!(short.len() < LONGEST + 10 && short.starts_with("begins ") && short.ends_with(" ends"));
    }

    #[test]
    fn an_error_keeps_its_name_and_message_on_the_wire() {
        let call = Message::method_call("/org/strongroom1", "GetJob").build(&()).unwrap();
        let reply = zbus::DBusError::create_reply(&Error(model::Error::no_space("no\0 room")), &call.header()).unwrap();
        assert_eq!(reply.header().error_name().unwrap().as_str(), "org.strongroom1.Error.NoSpace");
        assert_eq!(reply.body().deserialize::<String>().unwrap(), "no\u{fffd} room");
    }
}

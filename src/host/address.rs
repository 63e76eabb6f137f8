//! Which bus.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;

use zbus::address::Transport;
use zbus::address::transport::{Unix, UnixSocket};
use zbus::connection;

use crate::model::{Error, Result};

/// Which bus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BusAddress {
    /// The system's.
    #[default]
    System,
    /// The user's session's.
    Session,
    /// One by its D-Bus address.
    Address(String),
}

impl FromStr for BusAddress {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "system" => Ok(Self::System),
            "session" => Ok(Self::Session),
            address if address.parse::<zbus::Address>().is_ok() => Ok(Self::Address(address.to_owned())),
            _ => Err(Error::invalid(format!(
                "{s:?} is no bus; give system, session or a D-Bus address like unix:path=/run/dbus/system_bus_socket"
            ))),
        }
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("the system bus"),
            Self::Session => f.write_str("the session bus"),
            Self::Address(address) => write!(f, "the bus at {address}"),
        }
    }
}

impl BusAddress {
    /// A connection in the making.
    pub fn builder(&self) -> connection::Builder<'_> {
        match self {
            Self::System => connection::Builder::system(),
            Self::Session => connection::Builder::session(),
            Self::Address(address) => match decoded(address) {
                Some(path) => connection::Builder::address(zbus::Address::new(Transport::Unix(Unix::new(path)))),
                None => connection::Builder::address(address.as_str()),
            },
        }
    }

    /// What to say when it cannot be reached.
    pub fn unreachable(&self, error: &zbus::Error) -> Error {
        Error::failed(format!("cannot reach {self}: {error}"))
    }
}

/// The socket of an address whose path has escapes in it, which zbus takes by their letters.
fn decoded(address: &str) -> Option<UnixSocket> {
    let path = address.strip_prefix("unix:path=").filter(|p| p.contains('%') && !p.contains([',', ';']))?;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            plain => plain,
        });
    }
    Some(UnixSocket::File(OsString::from_vec(bytes).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buses_are_told_apart() {
        assert_eq!("system".parse::<BusAddress>().unwrap(), BusAddress::System);
        assert_eq!("session".parse::<BusAddress>().unwrap(), BusAddress::Session);
        let address = "unix:path=/tmp/bus";
        assert_eq!(address.parse::<BusAddress>().unwrap(), BusAddress::Address(address.to_owned()));
        assert!("".parse::<BusAddress>().is_err());
        assert!("systen".parse::<BusAddress>().unwrap_err().message.contains("no bus"));
    }

    #[test]
    fn escapes_in_a_path_are_undone() {
        assert_eq!(decoded("unix:path=/a%20b%2cc/bus"), Some(UnixSocket::File("/a b,c/bus".into())));
        assert_eq!(decoded("unix:path=/plain"), None);
        assert_eq!(decoded("unix:path=/broken%2"), None);
        assert_eq!(decoded("unix:path=/broken%zz"), None);
    }
}

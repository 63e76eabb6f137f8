//! Who logs in to a database server, and the file that says so.
//!
//! A file holds a line `password = …`, and where it is not said elsewhere `user = …`; quotes, comments
//! and one `[section]` above are welcome, so that a file of the client programs of MariaDB will do.

use std::fmt;
use std::path::Path;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::{Error, Result};
use crate::store::login::read_private;

/// A user and a password. The password is never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct DatabaseLogin {
    /// Who; empty: not said here.
    pub user: String,
    /// The secret.
    pub password: String,
}

impl fmt::Debug for DatabaseLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseLogin(…)")
    }
}

impl DatabaseLogin {
    /// Reads a file, which must be nobody else's to read.
    pub fn read(path: &Path) -> Result<Self> {
        let at = |e: Error| e.context(format!("the credential file {}", path.display()));
        Self::parse(&read_private(path).map_err(at)?).map_err(at)
    }

    /// Reads what a file holds.
    pub fn parse(text: &str) -> Result<Self> {
        let mut login = Self { user: String::new(), password: String::new() };
        let mut sections = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') && line.ends_with(']') {
                sections += 1;
                if sections > 1 {
                    return Err(Error::invalid("it has several sections; leave only what is meant"));
                }
                continue;
            }
            let wrong =
                || Error::invalid(format!("line {} is neither user nor password, with = and a value", number + 1));
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            let value = value.trim();
            let quoted = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
            let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
            match key.trim() {
                "user" => value.clone_into(&mut login.user),
                "password" => value.clone_into(&mut login.password),
                _ => return Err(wrong()),
            }
        }
        if login.password.is_empty() || login.password.contains('\0') {
            return Err(Error::invalid("it holds no password; give it a line password = …"));
        }
        if login.user.starts_with('-') || login.user.contains('\0') {
            return Err(Error::invalid("its user is no name"));
        }
        Ok(login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_secrets_are_not_told() {
        let login = DatabaseLogin::parse("# x\n[client]\nuser=app\npassword = \"a=b c\"\n").unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("app", "a=b c"));
        assert_eq!(format!("{login:?}"), "DatabaseLogin(…)");
        for text in ["", "hush", "user=a", "password=", "pass=hush", "[a]\n[b]\npassword=hush"] {
            let error = DatabaseLogin::parse(text).unwrap_err();
            assert!(!error.message.contains("hush"), "{error}");
        }
    }
}

//! The keys to a bucket, and the files they stand in.
//!
//! A file holds a line `access_key_id = …` and a line `secret_access_key = …`, and where it is
//! needed `session_token = …`; quotes, comments, an `aws_` in front and one `[section]` above are
//! welcome, so that a file of the AWS command will do.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::model::{Error, Result};

/// Larger files hold something else. Session tokens have some kilobytes.
const LONGEST: u64 = 64 << 10;

/// What requests are signed with. It is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Login {
    /// Who asks.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// What comes with temporary keys.
    #[serde(default)]
    pub session_token: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    /// Refuses what cannot be sent in a header, naming the key and never the value.
    pub fn check(&self) -> Result<()> {
        let token = self.session_token.as_deref();
        let all = [
            ("access_key_id", Some(self.access_key_id.as_str())),
            ("secret_access_key", Some(self.secret_access_key.as_str())),
            ("session_token", token),
        ];
        for (key, value) in all {
            if value.is_some_and(|v| v.is_empty() || !v.bytes().all(|b| b.is_ascii_graphic())) {
                return Err(Error::invalid(format!("{key} is empty or holds spaces or control characters")));
            }
        }
        Ok(())
    }

    /// Reads what a file holds; `known` is the access key id where it is known from elsewhere.
    pub fn parse(text: &str, known: Option<&str>) -> Result<Self> {
        let mut login = Self { access_key_id: String::new(), secret_access_key: String::new(), session_token: None };
        let mut sections = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
                continue;
            }
            if line.starts_with('[') && line.ends_with(']') {
                sections += 1;
                if sections > 1 {
                    return Err(Error::invalid("it has several sections; leave only the keys that are meant"));
                }
                continue;
            }
            let wrong = || {
                Error::invalid(format!(
                    "line {} is none of access_key_id, secret_access_key and session_token, each with = and a value",
                    number + 1
                ))
            };
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            let value = value.trim();
            let quoted = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
            let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value).to_owned();
            let key = key.trim();
            match key.strip_prefix("aws_").unwrap_or(key).to_ascii_lowercase().as_str() {
                "access_key_id" => login.access_key_id = value,
                "secret_access_key" => login.secret_access_key = value,
                "session_token" => login.session_token = Some(value),
                _ => return Err(wrong()),
            }
        }
        match known {
            Some(known) if login.access_key_id.is_empty() => known.clone_into(&mut login.access_key_id),
            Some(known) if login.access_key_id != known => {
                return Err(Error::invalid("its access_key_id is not the one that was given"));
            }
            _ => {}
        }
        login.check().map_err(|e| e.context("it lacks what it must hold"))?;
        Ok(login)
    }

    /// What [`Login::parse`] reads.
    pub fn to_file(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!(
            "access_key_id = {}\nsecret_access_key = {}\n",
            self.access_key_id, self.secret_access_key
        ));
        if let Some(token) = &self.session_token {
            text.push_str("session_token = ");
            text.push_str(token);
            text.push('\n');
        }
        text
    }
}

/// A file that holds a login. It is read again when the store refuses what was read before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    /// Where it is.
    pub path: PathBuf,
    /// The access key id, where the file need not hold it.
    pub access_key_id: Option<String>,
}

impl LoginFile {
    /// Reads it. A file that others could read or change is refused.
    pub fn read(&self) -> Result<Login> {
        let at = |e: Error| e.context(format!("the credential file {}", self.path.display()));
        let text = read_private(&self.path).map_err(at)?;
        Login::parse(&text, self.access_key_id.as_deref()).map_err(at)
    }
}

/// Reads a small file that belongs to us alone; one that others could read or change is refused.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>> {
    let io = |e: std::io::Error| Error::invalid(format!("it cannot be read: {e}"));
    // Without O_NONBLOCK a FIFO would be waited for.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(Error::invalid("it is not a plain file"));
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::invalid(format!("it belongs to user {}; make it root's (chown root)", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::invalid(format!(
            "its mode is {:04o}, so others can read it; make it 0600 (chmod 600)",
            meta.mode() & 0o7777
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::invalid(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let login =
            Login { access_key_id: "AK".into(), secret_access_key: "a/b+c==".into(), session_token: Some("t=".into()) };
        assert_eq!(Login::parse(&login.to_file(), None).unwrap(), login);
        assert_eq!(format!("{login:?}"), "Login(…)");
    }

    #[test]
    fn files_of_other_programs_will_do() {
        let login = Login::parse("# mine\n[default]\naws_access_key_id=AK\naws_secret_access_key = \"s\"\n", None);
        let login = login.unwrap();
        assert_eq!((login.access_key_id.as_str(), login.secret_access_key.as_str()), ("AK", "s"));
        assert_eq!(Login::parse("secret_access_key=s", Some("AK")).unwrap(), login);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for text in [
            "",
            "hush",
            "access_key_id=AK",
            "access_key_id=AK\nsecret_access_key=",
            "secret_access_key=hush",
            "access_key_id=AK\nsecret_access_key=hu sh",
            "access_key_id=AK\nsecret_access_key=hush\nregion=x",
            "[a]\naccess_key_id=AK\n[b]\nsecret_access_key=hush",
        ] {
            let error = Login::parse(text, None).unwrap_err();
            assert!(!error.message.contains("hu"), "{error}");
        }
        assert!(Login::parse("access_key_id=B\nsecret_access_key=s", Some("A")).is_err());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3");
        std::fs::write(&path, "access_key_id=AK\nsecret_access_key=hush\n").unwrap();
        let file = LoginFile { path: path.clone(), access_key_id: None };
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for wrong in [0o640, 0o604, 0o622] {
            mode(wrong);
            assert!(file.read().unwrap_err().message.contains("0600"));
        }
        mode(0o600);
        assert_eq!(file.read().unwrap().access_key_id, "AK");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(LoginFile { path: link, access_key_id: None }.read().is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(LoginFile { path: fifo, access_key_id: None }.read().unwrap_err().message.contains("plain file"));
    }
}

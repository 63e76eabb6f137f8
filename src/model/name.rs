//! The rules for names that people give.

use super::{Error, Result};

/// The longest name, in bytes.
pub const MAX_NAME: usize = 255;

/// Checks a name of a project, resource, vault, destination, schedule or task: 1-255 bytes, no
/// `/`, no control characters, not `.` or `..`, no leading `-`, not only digits.
pub fn check(what: &str, name: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("{what} name {name:?} {why}")));
    if name.is_empty() {
        return wrong("is empty; give 1 to 255 bytes");
    }
    if name.len() > MAX_NAME {
        let start: String = name.chars().take(20).collect();
        return Err(Error::invalid(format!(
            "{what} name {start:?}... is {} bytes long; at most {MAX_NAME} are allowed",
            name.len()
        )));
    }
    if name == "." || name == ".." {
        return wrong("is reserved; give another");
    }
    if name.starts_with('-') {
        return wrong("starts with '-'; begin with another character");
    }
    if name.contains('/') {
        return wrong("contains '/'; leave it out");
    }
    if name.chars().any(char::is_control) {
        return wrong("contains a control character; leave it out");
    }
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return wrong("consists of digits only, which would read as an id; add a letter");
    }
    Ok(())
}

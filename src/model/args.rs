//! Reading the map of a method call: typed, every key accounted for, before anything is done.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Error, Map, Result, Value};

/// The arguments of one call. Take each key, then call [`Args::finish`], which refuses the rest.
#[derive(Debug)]
pub struct Args {
    map: Map,
}

fn wrong(key: &str, value: &Value, want: &str) -> Error {
    Error::invalid(format!("{key} is {}; it must be {want}", value.kind()))
}

impl Args {
    /// Arguments from a map.
    pub fn new(map: Map) -> Self {
        Self { map }
    }

    /// Refuses keys that nobody took, naming the first.
    pub fn finish(self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(Error::invalid(format!("unknown key {key:?}; see the method's documentation for its keys")))
            }
        }
    }

    /// Takes a value of whatever type.
    pub fn value(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key)
    }

    /// Takes a boolean.
    pub fn bool(&mut self, key: &str) -> Result<Option<bool>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(wrong(key, &other, "a boolean (b)")),
        }
    }

    /// Takes a string.
    pub fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Str(s)) => Ok(Some(s)),
            Some(other) => Err(wrong(key, &other, "a string (s)")),
        }
    }

    /// Takes a string that must be one of `allowed`.
    pub fn choice(&mut self, key: &str, allowed: &[&str]) -> Result<Option<String>> {
        match self.string(key)? {
            Some(s) if !allowed.contains(&s.as_str()) => {
                Err(Error::invalid(format!("{key} is {s:?}; it must be one of {}", allowed.join(", "))))
            }
            other => Ok(other),
        }
    }

    /// Takes any integer within `min..=max`.
    pub fn integer(&mut self, key: &str, min: i64, max: u64) -> Result<Option<i128>> {
        let number = match self.map.remove(key) {
            None => return Ok(None),
            Some(Value::Int(i)) => i128::from(i),
            Some(Value::Int32(i)) => i128::from(i),
            Some(Value::Uint(u)) => i128::from(u),
            Some(Value::Uint32(u)) => i128::from(u),
            Some(other) => return Err(wrong(key, &other, "an integer")),
        };
        if number < i128::from(min) || number > i128::from(max) {
            return Err(Error::invalid(format!("{key} is {number}; it must be between {min} and {max}")));
        }
        Ok(Some(number))
    }

    /// Takes an unsigned integer of at most `max`.
    pub fn uint(&mut self, key: &str, min: u64, max: u64) -> Result<Option<u64>> {
        let low = i64::try_from(min).unwrap_or(i64::MAX);
        Ok(self.integer(key, low, max)?.and_then(|n| u64::try_from(n).ok()))
    }

    /// Takes a list of strings.
    pub fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let want = "an array of strings (as)";
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::List(list)) => list
                .into_iter()
                .map(|v| match v {
                    Value::Str(s) => Ok(s),
                    other => Err(wrong(key, &other, want)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(Value::Maps(list)) if list.is_empty() => Ok(Some(Vec::new())),
            Some(other) => Err(wrong(key, &other, want)),
        }
    }

    /// Takes a list of paths: `as`, or `aay` where they are not UTF-8.
    pub fn paths(&mut self, key: &str) -> Result<Option<Vec<PathBuf>>> {
        let want = "an array of strings (as) or of byte arrays (aay)";
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::List(list)) => list
                .into_iter()
                .map(|v| match v {
                    Value::Str(s) => Ok(PathBuf::from(s)),
                    Value::Bytes(b) => Ok(PathBuf::from(std::ffi::OsString::from_vec(b))),
                    other => Err(wrong(key, &other, want)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(Value::Maps(list)) if list.is_empty() => Ok(Some(Vec::new())),
            Some(other) => Err(wrong(key, &other, want)),
        }
    }

    /// Takes a map.
    pub fn map(&mut self, key: &str) -> Result<Option<Map>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Map(m)) => Ok(Some(m)),
            Some(other) => Err(wrong(key, &other, "a map (a{sv})")),
        }
    }

    /// Takes a list of maps.
    pub fn maps(&mut self, key: &str) -> Result<Option<Vec<Map>>> {
        let want = "an array of maps (aa{sv})";
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Maps(list)) => Ok(Some(list)),
            Some(Value::List(list)) => list
                .into_iter()
                .map(|v| match v {
                    Value::Map(m) => Ok(m),
                    other => Err(wrong(key, &other, want)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(other) => Err(wrong(key, &other, want)),
        }
    }

    /// Takes a file descriptor.
    pub fn fd(&mut self, key: &str) -> Result<Option<Arc<OwnedFd>>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Fd(fd)) => Ok(Some(fd)),
            Some(other) => Err(wrong(key, &other, "a file descriptor (h)")),
        }
    }
}

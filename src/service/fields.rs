//! Building the map that an object is on the bus.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::catalog::Origin;
pub use crate::model::value::map_from_json as from_json;
use crate::model::{Map, Value};

/// A map in the making. What is not known is left out.
#[derive(Debug, Default)]
pub struct Fields(Map);

impl Fields {
    /// Sets a field.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a field whose value is known.
    pub fn opt(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Sets a field to a text that is not empty.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.opt(key, (!value.is_empty()).then_some(value))
    }

    /// Sets a time that is known.
    pub fn time(&mut self, key: &str, value: Option<Timestamp>) -> &mut Self {
        self.opt(key, value.map(time))
    }

    /// Sets where an object was declared, and whether it is declared there no more.
    pub fn origin(&mut self, origin: &Origin) -> &mut Self {
        self.opt("orphaned", origin.orphaned().then_some(true)).set("origin", origin.text())
    }

    /// The map.
    pub fn done(&mut self) -> Map {
        std::mem::take(&mut self.0)
    }
}

/// RFC 3339 in UTC, always of the same length, so that text sorts as time does.
pub fn time(value: Timestamp) -> String {
    format!("{value:.3}")
}

/// Paths: text where all of them are UTF-8, else bytes.
pub fn paths(list: &[PathBuf]) -> Value {
    match list.iter().map(|p| p.to_str().map(Value::from)).collect::<Option<Vec<_>>>() {
        Some(texts) => Value::List(texts),
        None => Value::List(list.iter().map(|p| Value::Bytes(p.as_os_str().as_bytes().to_vec())).collect()),
    }
}

/// A path as text, lossy.
pub fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The bus path of a job.
pub fn job_path(id: u64) -> Value {
    Value::Path(format!("/org/strongroom1/job/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_text() {
        let early = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        let late = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
        assert_eq!(time(early), "2023-11-14T22:13:20.000Z");
        assert!(time(early) < time(late));
    }

    #[test]
    fn paths_that_are_not_text_go_as_bytes() {
        use std::os::unix::ffi::OsStringExt;
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff".to_vec()));
        assert!(
            matches!(&paths(&[odd, "/b".into()]), Value::List(l) if matches!(&l[1], Value::Bytes(b) if b == b"/b"))
        );
        assert!(matches!(&paths(&["/b".into()]), Value::List(l) if matches!(&l[0], Value::Str(_))));
    }
}

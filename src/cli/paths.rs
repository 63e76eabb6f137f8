//! Paths as people type them, made absolute, and ready for the bus.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::model::{Error, Result, Value};

/// A path without `.` and `..`, beginning at the root.
///
/// A `..` is taken as the kernel takes it where the way there exists, and by its letters otherwise.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the path is empty; give one"));
    }
    let full = std::path::absolute(path).map_err(|e| Error::io("cannot tell the current directory", &e))?;
    let mut clean = PathBuf::from("/");
    for component in full.components() {
        match component {
            Component::ParentDir => {
                if let Ok(real) = clean.canonicalize() {
                    clean = real;
                }
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

/// One path for the bus: `s`, or `ay` where it is not UTF-8.
pub fn value(path: &Path) -> Result<Value> {
    let path = absolute(path)?;
    Ok(match path.to_str() {
        Some(s) => Value::from(s),
        None => Value::Bytes(path.as_os_str().as_bytes().to_vec()),
    })
}

/// Paths for the bus: `as`, or `aay` where one is not UTF-8.
pub fn values(paths: &[PathBuf]) -> Result<Value> {
    let paths = paths.iter().map(|p| absolute(p)).collect::<Result<Vec<_>>>()?;
    let texts: Option<Vec<Value>> = paths.iter().map(|p| p.to_str().map(Value::from)).collect();
    let bytes = || paths.iter().map(|p| Value::Bytes(p.as_os_str().as_bytes().to_vec())).collect();
    Ok(Value::List(texts.unwrap_or_else(bytes)))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn paths_become_absolute_and_plain() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("a/./b")).unwrap(), here.join("a/b"));
        assert_eq!(absolute(Path::new("/no/such/../place")).unwrap(), Path::new("/no/place"));
        assert_eq!(absolute(Path::new("/../..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("")).is_err());
    }

    #[test]
    fn parent_of_a_link_is_the_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/deep")).unwrap();
        std::os::unix::fs::symlink("real/deep", root.join("link")).unwrap();
        assert_eq!(absolute(&root.join("link/../x")).unwrap(), root.join("real/x"));
        assert_eq!(absolute(&root.join("link")).unwrap(), root.join("link"));
    }

    #[test]
    fn one_odd_name_makes_all_bytes() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/tmp/\xff"));
        let Value::List(list) = values(&["/etc".into(), odd]).unwrap() else { panic!("no list") };
        assert!(matches!(&list[0], Value::Bytes(b) if b == b"/etc"));
        assert!(matches!(&list[1], Value::Bytes(b) if b == b"/tmp/\xff"));
        let Value::List(list) = values(&["/etc".into()]).unwrap() else { panic!("no list") };
        assert!(matches!(&list[0], Value::Str(s) if s == "/etc"));
    }
}

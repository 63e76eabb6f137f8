//! The rules for single arguments.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::archive::Compression;
use crate::model::{Error, Result};

/// Longer ones cannot be opened by name.
const PATH_MAX: usize = 4095;

/// An absolute path without `..`, as short as it can be written.
pub fn clean_path(key: &str, path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{key} holds an empty path; give an absolute one")));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid(format!("{key} holds a path with a zero byte; leave it out")));
    }
    if path.as_os_str().len() > PATH_MAX {
        return Err(Error::invalid(format!("{key} holds a path of more than {PATH_MAX} bytes; give a shorter one")));
    }
    if !path.is_absolute() {
        return Err(Error::invalid(format!("{key} holds {shown}, which is not absolute; begin it with '/'")));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::invalid(format!("{key} holds {shown}, which contains '..'; give the path it leads to")));
    }
    Ok(path.components().collect())
}

/// The same for a list; doubles are dropped.
pub fn clean_paths(key: &str, list: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut clean: Vec<PathBuf> = Vec::with_capacity(list.len());
    for path in list {
        let path = clean_path(key, path)?;
        if !clean.contains(&path) {
            clean.push(path);
        }
    }
    Ok(clean)
}

/// Refuses a path that lies in one of Strongroom's own directories.
pub fn not_ours(key: &str, path: &Path, ours: &[PathBuf]) -> Result<()> {
    match ours.iter().find(|dir| path.starts_with(dir)) {
        None => Ok(()),
        Some(dir) => Err(Error::invalid(format!(
            "{key} holds {}, which lies in Strongroom's own directory {}; give one outside it",
            path.display(),
            dir.display()
        ))),
    }
}

/// How a compression is called, in its full form.
pub fn compression(text: &str) -> Result<(String, Compression)> {
    let wrong = || {
        Error::invalid(format!(
            "compression is {text:?}; it must be zstd:N with N from 1 to 22, gzip:N with N from 1 to 9, or none"
        ))
    };
    let level = |level: Option<&str>, usual: u8, most: u8| match level {
        None => Ok(usual),
        Some(digits) => digits.parse::<u8>().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong),
    };
    let (name, number) = match text.split_once(':') {
        Some((name, number)) => (name, Some(number)),
        None => (text, None),
    };
    match name {
        "zstd" => level(number, 3, 22).map(|n| (format!("zstd:{n}"), Compression::Zstd(n))),
        "gzip" => level(number, 6, 9).map(|n| (format!("gzip:{n}"), Compression::Gzip(n))),
        "none" if number.is_none() => Ok(("none".into(), Compression::None)),
        _ => Err(wrong()),
    }
}

/// Who may browse a resource's backups.
pub fn browse(text: &str) -> Result<()> {
    match text {
        "root" | "strict" => Ok(()),
        _ => match text.strip_prefix("owner=") {
            Some(user) => owner(user).map(drop),
            None => {
                Err(Error::invalid(format!("browse is {text:?}; it must be root, strict or owner=USER with a user")))
            }
        },
    }
}

/// The number of a user.
pub fn owner(user: &str) -> Result<u32> {
    match nix::unistd::User::from_name(user) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(Error::invalid(format!("browse names the user {user:?}, whom this machine does not know"))),
        Err(e) => Err(Error::invalid(format!("browse names the user {user:?}, who cannot be looked up: {e}"))),
    }
}

/// A kind of resource by our name or by the cloud's.
pub fn kind(text: &str) -> Result<&'static str> {
    Ok(match text {
        "server"
        | "OS::Nova::Server"
        | "OS::Native::Server"
        | "OS::Ironic::BareMetalServer"
        | "OS::Workspace::DesktopV2" => "server",
        "volume" | "OS::Cinder::Volume" => "volume",
        "share" | "OS::Sfs::Turbo" => "share",
        _ => {
            return Err(Error::invalid(format!(
                "kind is {text:?}; it must be server, volume or share, or a type such as OS::Nova::Server"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_shortened() {
        assert_eq!(clean_path("paths", Path::new("/etc//ssh/./")).unwrap(), Path::new("/etc/ssh"));
        assert_eq!(clean_path("paths", Path::new("/")).unwrap(), Path::new("/"));
        let list = ["/a".into(), "/a/".into(), "/b".into()];
        assert_eq!(clean_paths("paths", &list).unwrap().len(), 2);
    }

    #[test]
    fn bad_paths_are_named() {
        for path in ["", "etc", "/a/../b", "./x", "/a\0b"] {
            let error = clean_path("paths", Path::new(path)).unwrap_err();
            assert!(error.message.starts_with("paths "), "{error}");
        }
        assert!(clean_path("paths", &PathBuf::from(format!("/{}", "a/".repeat(3000)))).is_err());
    }

    #[test]
    fn our_own_directories_are_refused_and_those_around_them_are_not() {
        let ours = [PathBuf::from("/var/lib/strongroom")];
        assert!(not_ours("paths", Path::new("/var/lib/strongroom/keys"), &ours).is_err());
        assert!(not_ours("paths", Path::new("/var/lib/strongroom"), &ours).is_err());
        assert!(not_ours("paths", Path::new("/var/lib"), &ours).is_ok());
        assert!(not_ours("paths", Path::new("/var/lib/strongroomy"), &ours).is_ok());
    }

    #[test]
    fn compressions() {
        assert_eq!(compression("zstd:3").unwrap(), ("zstd:3".into(), Compression::Zstd(3)));
        assert_eq!(compression("gzip").unwrap().0, "gzip:6");
        assert_eq!(compression("none").unwrap().1, Compression::None);
        for text in ["zstd:0", "zstd:23", "gzip:10", "zstd:", "none:1", "lz4", "", "zstd:3:1", "zstd:-1"] {
            assert!(compression(text).unwrap_err().message.contains("compression"), "{text}");
        }
    }

    #[test]
    fn kinds_by_both_names() {
        assert_eq!(kind("OS::Sfs::Turbo").unwrap(), "share");
        assert!(kind("OS::Other").is_err());
    }

    proptest! {
        #[test]
        fn a_clean_path_is_absolute_and_stays_as_it_is(text in ".{0,40}") {
            if let Ok(path) = clean_path("paths", Path::new(&text)) {
                prop_assert!(path.is_absolute());
                prop_assert_eq!(clean_path("paths", &path).unwrap(), path);
            }
        }
    }
}

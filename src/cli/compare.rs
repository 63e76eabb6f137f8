//! Whether two trees are the same in all that a backup keeps.

use std::ffi::{CString, OsString};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::model::{Error, IoContext, Result};

/// Compares what is below two paths, and answers how many entries were equal; the first
/// difference is an error.
pub fn compare(left: &Path, right: &Path) -> Result<u64> {
    let mut count = 0;
    let mut todo = vec![(left.to_owned(), right.to_owned())];
    while let Some((a, b)) = todo.pop() {
        let (ma, mb) = (metadata(&a)?, metadata(&b)?);
        let differ = |what: &str| Err(Error::damaged(format!("{} and {} differ in {what}", a.display(), b.display())));
        for (what, equal) in [
            ("type or mode", ma.mode() == mb.mode()),
            ("owner", (ma.uid(), ma.gid()) == (mb.uid(), mb.gid())),
            ("modification time", (ma.mtime(), ma.mtime_nsec()) == (mb.mtime(), mb.mtime_nsec())),
            ("size", ma.is_dir() || ma.len() == mb.len()),
            ("device number", !is_device(&ma) || ma.rdev() == mb.rdev()),
            ("extended attributes", attributes(&a)? == attributes(&b)?),
        ] {
            if !equal {
                return differ(what);
            }
        }
        if ma.is_symlink() && link(&a)? != link(&b)? {
            return differ("where they point");
        }
        if ma.is_file() && !same_content(&a, &b)? {
            return differ("content");
        }
        if ma.is_dir() {
            let (names, others) = (names(&a)?, names(&b)?);
            if names != others {
                return differ("the names they hold");
            }
            todo.extend(names.iter().map(|n| (a.join(n), b.join(n))));
        }
        count += 1;
    }
    Ok(count)
}

fn metadata(path: &Path) -> Result<Metadata> {
    std::fs::symlink_metadata(path).at(|| format!("cannot look at {}", path.display()))
}

fn is_device(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_block_device() || kind.is_char_device()
}

fn link(path: &Path) -> Result<std::path::PathBuf> {
    std::fs::read_link(path).at(|| format!("cannot read the link {}", path.display()))
}

/// The names in a directory. Sockets are left out: they are an end of a living process, and no
/// backup brings one back.
fn names(path: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).at(|| format!("cannot list {}", path.display()))? {
        let entry = entry.at(|| format!("cannot list {}", path.display()))?;
        let kind = entry.file_type().at(|| format!("cannot look at {}", entry.path().display()))?;
        if !kind.is_socket() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

fn attributes(path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
    let what = || format!("cannot read the attributes of {}", path.display());
    // What the kernel has room for.
    let mut list = vec![0u8; 65536];
    let used = match rustix::fs::llistxattr(path, &mut list) {
        Ok(used) => used,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(Error::io(what(), &error.into())),
    };
    let mut found = Vec::new();
    for name in list[..used].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 65536];
        let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value).at(what)?;
        value.truncate(length);
        found.push((CString::new(name).map_err(Error::failed)?, value));
    }
    found.sort();
    Ok(found)
}

fn same_content(a: &Path, b: &Path) -> Result<bool> {
    let open = |p: &Path| std::fs::File::open(p).at(|| format!("cannot open {}", p.display()));
    let (mut fa, mut fb) = (open(a)?, open(b)?);
    let (mut ba, mut bb) = (vec![0u8; 1 << 18], vec![0u8; 1 << 18]);
    loop {
        let na = fill(&mut fa, &mut ba).at(|| format!("cannot read {}", a.display()))?;
        let nb = fill(&mut fb, &mut bb).at(|| format!("cannot read {}", b.display()))?;
        if ba[..na] != bb[..nb] {
            return Ok(false);
        }
        if na == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_difference_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        let make = |root: &Path| {
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("d/f"), "text").unwrap();
            let _ = fs::remove_file(root.join("d/l"));
            std::os::unix::fs::symlink("f", root.join("d/l")).unwrap();
            rustix::fs::utimensat(
                rustix::fs::CWD,
                root.join("d/l"),
                &rustix::fs::Timestamps {
                    last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                    last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                },
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
            for p in ["d/f", "d", ""] {
                fs::File::open(root.join(p)).unwrap().set_times(times).unwrap();
            }
        };
        make(&a);
        make(&b);
        assert_eq!(compare(&a, &b).unwrap(), 4);
        fs::write(b.join("d/f"), "tuxt").unwrap();
        assert!(compare(&a, &b).is_err());
        make(&b);
        fs::File::open(b.join("d/f")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        assert!(compare(&a, &b).unwrap_err().message.contains("modification time"));
        make(&b);
        fs::write(b.join("d/more"), "").unwrap();
        fs::File::open(b.join("d")).unwrap().set_times(times).unwrap();
        assert!(compare(&a, &b).unwrap_err().message.contains("names"));
    }
}

//! "The mount is my directory": many threads compare it with plain copies, operation by operation, while
//! backups are made and deleted. `STRONGROOM_OPERATIONS` says how many there are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::common::{Daemon, Dice, heavy, random_files, sh};
use crate::needs_root;

/// Threads that look at the mount.
const THREADS: u64 = 6;

/// A backup, its copy, and everything in it.
struct Pair {
    id: u64,
    seen: PathBuf,
    copy: PathBuf,
    paths: Vec<PathBuf>,
    /// Set before it is deleted.
    gone: AtomicBool,
}

fn paths(top: &Path) -> Vec<PathBuf> {
    sh(top, "find . -print0").split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).collect()
}

/// What is to be equal of an inode.
fn stat(path: &Path) -> io::Result<String> {
    let m = fs::symlink_metadata(path)?;
    let size = if m.is_dir() { 0 } else { m.len() };
    let (kind, links) = (m.mode(), if m.is_dir() { 0 } else { m.nlink() });
    let rdev = if m.file_type().is_char_device() || m.file_type().is_block_device() { m.rdev() } else { 0 };
    Ok(format!("{kind:o} {size} {}:{} {}.{} {links} {rdev}", m.uid(), m.gid(), m.mtime(), m.mtime_nsec()))
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| format!("{:?} {:?}", entry.file_name(), entry.file_type().unwrap())))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut buffer[..])?;
    let listed = buffer[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    listed
        .map(|name| {
            let mut value = vec![0; 4096];
            let text = std::str::from_utf8(name).unwrap();
            let len = rustix::fs::lgetxattr(path, text, &mut value[..])?;
            value.truncate(len);
            Ok((name.to_vec(), value))
        })
        .collect()
}

fn piece(path: &Path, from: f64, len: f64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let at = (size as f64 * from) as u64;
    let mut bytes = vec![0; (len * 300_000.0) as usize];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], at + have as u64)? {
            0 => break,
            n => have += n,
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// Where data and holes begin, from here on.
fn layout(path: &Path, from: f64) -> io::Result<Vec<u64>> {
    let file = File::open(path)?;
    let at = (file.metadata()?.len() as f64 * from) as u64;
    let seek = |whence| match rustix::fs::seek(&file, whence) {
        Err(rustix::io::Errno::NXIO) => Ok(u64::MAX),
        told => told.map_err(io::Error::from),
    };
    Ok(vec![seek(rustix::fs::SeekFrom::Data(at))?, seek(rustix::fs::SeekFrom::Hole(at))?])
}

/// One operation on both sides; what it told, as text.
fn operate(pair: &Pair, dice: &mut Dice) -> Option<(String, String, String)> {
    let path = &pair.paths[(dice.roll() * pair.paths.len() as f64) as usize];
    let (seen, copy) = (pair.seen.join(path), pair.copy.join(path));
    let kind = fs::symlink_metadata(&copy).unwrap().file_type();
    let (a, b) = (dice.roll(), dice.roll());
    let told = |what: io::Result<String>| what.unwrap_or_else(|e| format!("{:?}", e.raw_os_error()));
    let both = |name: &str, op: &dyn Fn(&Path) -> io::Result<String>| {
        Some((format!("{name} of {}", seen.display()), told(op(&seen)), told(op(&copy))))
    };
    match (dice.roll() * 7.0) as u32 {
        0 | 1 => both("stat", &|p| stat(p)),
        2 if kind.is_dir() => both("list", &|p| names(p).map(|n| format!("{n:?}"))),
        2 if kind.is_symlink() => both("link", &|p| fs::read_link(p).map(|t| format!("{t:?}"))),
        3 => both("attributes", &|p| xattrs(p).map(|x| format!("{x:?}"))),
        4 => both("nothing", &|p| fs::symlink_metadata(p.join("no such name")).map(|_| String::new())),
        5 if kind.is_file() => both("layout", &|p| layout(p, a).map(|l| format!("{l:?}"))),
        _ if kind.is_file() => both("read", &|p| {
            piece(p, a, b).map(|bytes| format!("{} {:?}", bytes.len(), strongroom::model::Id::of(&bytes)))
        }),
        _ => None,
    }
}

fn memory(pid: nix::unistd::Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn the_mount_is_the_copy_operation_by_operation() {
    needs_root!("the_mount_is_the_copy_operation_by_operation");
    let _heavy = heavy();
    let wanted: u64 = std::env::var("STRONGROOM_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let seed = Dice::seed(20_261_128);
    let daemon = Daemon::start();
    let source = daemon.source();
    daemon.add("tree", &source);
    let pairs: RwLock<Vec<Arc<Pair>>> = RwLock::default();
    let make = |turn: u64| {
        sh(
            &source,
            &format!("mkdir -p a/b/c{turn} many; for i in $(seq 400); do echo $i $(({turn} % 3)) > many/$i; done"),
        );
        random_files(&source.join(format!("a/b/c{turn}")), "r", 8, 700_000);
        sh(
            &source.join(format!("a/b/c{turn}")),
            "ln -s ../x link; ln r00001 again; mkfifo pipe; mknod null c 1 3; truncate -s 3M holes; echo x >> holes; \
             setfattr -n user.note -v kept r00002; chmod 4750 r00003; chown 5:6 r00004; : > empty; mkdir none",
        );
        sh(&source, &format!("rm -rf a/b/c{}", turn.wrapping_sub(3)));
        let copy = daemon.path(&format!("copies/{turn}"));
        sh(&source, &format!("mkdir -p {0}; cp -a --sparse=auto . {0}/", copy.display()));
        let id = daemon.back_up("tree")["id"].as_u64().unwrap();
        let seen = daemon.browse(id).join(source.strip_prefix("/").unwrap());
        let paths = paths(&copy);
        pairs.write().unwrap().push(Arc::new(Pair { id, seen, copy, paths, gone: AtomicBool::new(false) }));
    };
    (0..3).for_each(make);
    let (done, misses, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let browse = daemon.browse_pid().unwrap();
    let mut most = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pairs, done, misses, ended) = (&pairs, &done, &misses, &ended);
            scope.spawn(move || {
                let mut dice = Dice::seeded(seed + thread);
                while !ended.load(Relaxed) && done.load(Relaxed) < wanted {
                    let pair = {
                        let pairs = pairs.read().unwrap();
                        pairs[(dice.roll() * pairs.len() as f64) as usize].clone()
                    };
                    let Some((what, seen, copy)) = operate(&pair, &mut dice) else { continue };
                    done.fetch_add(1, Relaxed);
                    // What is being deleted may fail, and must not lie.
                    let fails = seen.starts_with("Some(");
                    if pair.gone.load(Relaxed) && fails {
                        misses.fetch_add(1, Relaxed);
                    } else if seen != copy {
                        ended.store(true, Relaxed);
                        panic!("{what}:\n{seen}\nin the copy:\n{copy}");
                    }
                }
            });
        }
        let mut turn = 3;
        while !ended.load(Relaxed) && done.load(Relaxed) < wanted {
            make(turn);
            turn += 1;
            let old = pairs.read().unwrap().first().cloned().unwrap();
            old.gone.store(true, Relaxed);
            daemon.work(&format!("DeleteBackup ta{{sv}} {} 0", old.id));
            pairs.write().unwrap().remove(0);
            // Copies go when nobody can still be comparing with them.
            most.push(memory(browse));
        }
    });
    assert!(!ended.load(Relaxed), "the mount is not the copy");
    let (done, misses) = (done.load(Relaxed), misses.load(Relaxed));
    let (early, late) = (most[most.len() / 3], *most.iter().max().unwrap());
    println!(
        "{done} operations, {misses} on what was being deleted; memory {early} MB after a third, {late} MB at most"
    );
    assert!(late < early + 64, "the mount's memory grows: {most:?} MB");
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}

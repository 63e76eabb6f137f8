//! Small tools: a shell, waiting, comparing, dice.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static SKIPPED: AtomicU32 = AtomicU32::new(0);
static HEAVY: Mutex<()> = Mutex::new(());

const PROGRAMS: &[&str] = &[
    "busctl",
    "dbus-daemon",
    "getfacl",
    "getfattr",
    "lsattr",
    "mkfs.btrfs",
    "mkfs.ext4",
    "mkfs.xfs",
    "perl",
    "rsync",
    "setcap",
    "setpriv",
    "tar",
    "zstd",
];

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it takes root".into());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(**program).is_file());
    let program = PROGRAMS.iter().find(|p| !found(p))?;
    Some(format!("the program {program} is not installed"))
}

/// Whether a story cannot be told here. Says so even where the test's output is captured, and
/// fails in CI, where nothing may be skipped.
pub fn cannot(story: &str) -> bool {
    missing().is_some_and(|reason| skipped(story, &reason))
}

/// Whether a story cannot be told because a file is not there, which comes with a package.
pub fn lacks(story: &str, file: Option<&Path>, package: &str) -> bool {
    file.is_none() && skipped(story, &format!("the package {package} is not installed"))
}

fn skipped(story: &str, reason: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "{story} would be skipped in CI: {reason}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {story}: {reason} ({count} skipped so far)");
    true
}

/// Held by stories that keep all cores busy, so that only one of them runs at a time.
pub fn heavy() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bash(dir: &Path, script: &str) -> Output {
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("bash in {}: {e}", dir.display()))
}

/// Runs a script in a directory and gives what it printed; it must succeed.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = bash(dir, script);
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}\nin {} ended with {}: {}{}",
        dir.display(),
        output.status,
        shown(&output.stdout),
        shown(&output.stderr)
    );
    shown(&output.stdout)
}

/// Runs a script that must not succeed, and gives what it said on stderr.
pub fn sh_fails(dir: &Path, script: &str) -> String {
    let output = bash(dir, script);
    assert!(!output.status.success(), "{script}\nsucceeded: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What rsync would have to do to make `copy` equal to `source`, contents read: nothing, if all
/// is well.
pub fn differences(source: &Path, copy: &Path) -> String {
    let (source, copy) = (source.display(), copy.display());
    sh(Path::new("/"), &format!("rsync -nacHAX --delete --itemize-changes '{source}/' '{copy}/' | head -40"))
}

/// The bytes that a directory's files hold, by their lengths.
pub fn du(dir: &Path) -> u64 {
    let text = sh(dir, "find . -type f -printf '%s\\n' | awk '{ n += $1 } END { printf \"%d\", n }'");
    text.trim().parse().unwrap()
}

/// Waits until something is so.
pub fn wait_for(what: &str, patience: Duration, so: impl FnMut() -> bool) {
    assert!(eventually(patience, so), "{what}: not within {patience:?}");
}

/// Whether something becomes so in time.
pub fn eventually(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Numbers that look random and come again with the same seed.
pub struct Dice(u64);

impl Dice {
    /// The seed is `STRONGROOM_SEED`, or `usual`.
    pub fn new(usual: u64) -> Self {
        Self::seeded(Self::seed(usual))
    }

    /// That seed, told for whoever wants the same numbers again.
    pub fn seed(usual: u64) -> u64 {
        let given = std::env::var("STRONGROOM_SEED").ok().and_then(|s| s.parse().ok());
        let seed: u64 = given.unwrap_or(usual);
        println!("seed {seed} (STRONGROOM_SEED)");
        seed
    }

    /// Dice of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 up to 1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

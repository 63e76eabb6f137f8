//! What the process may do and what others may learn from it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Files made are private, files open may be many, and keys in memory go into no core dump.
/// What the system refuses is logged, and the daemon goes on without.
pub fn apply() {
    umask(Mode::from_bits_truncate(0o077));
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 16), hard));
    if let Err(e) = raised {
        tracing::warn!("the limit of open files could not be raised: {e}");
    }
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!("core dumps could not be forbidden: {e}");
    }
    if let Err(e) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!("the process could not be hidden from debuggers: {e}");
    }
}

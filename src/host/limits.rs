//! What the process may do and what others may learn from it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Files made are private, files open may be many, and keys in memory go into no core dump.
/// What the system refuses is logged, and the daemon goes on without.
pub fn apply() {
    return_memory();
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

/// Makes the C library give large buffers back to the system when they are freed, and keeps it
/// from growing a heap per thread: packs and chunks are megabytes and come and go, and what is
/// said about memory is measured on the process. Buffers of the size of a frame, of which there is
/// one after another, are kept: fresh memory costs a fault every 4 KiB, a sixth of a verify.
#[allow(unsafe_code)]
fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, before any thread was started. A
    // value that it does not take changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 2 << 20);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 8 << 20);
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2);
    }
}

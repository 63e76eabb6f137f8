//! What the process may do and what others may learn from it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// What becomes of large buffers that were freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// Those up to 2 MiB stay with the process, where fresh ones would cost more than they take: packs and chunks
    /// are megabytes and come and go. Fresh memory costs a fault every 4 KiB, a sixth of a verify.
    Kept,
    /// Those from 512 KiB on go back to the system: between smaller things that stay, the pieces of what was freed
    /// came to twice what was in use. For a process that keeps its own large buffers, and mostly does nothing.
    Returned,
}

/// Files made are private, files open may be many, and keys in memory go into no core dump.
/// What the system refuses is logged, and the daemon goes on without.
pub fn apply(buffers: Buffers) {
    return_memory(buffers);
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

/// Gives back to the system what lies free between what is in use: a few megabytes that come and go in small things
/// leave several times as much behind.
#[allow(unsafe_code)]
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks, and changes nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Makes the C library give large buffers back to the system when they are freed, and keeps it
/// from growing a heap per thread: what is said about memory is measured on the process.
#[allow(unsafe_code)]
fn return_memory(buffers: Buffers) {
    #[cfg_attr(not(target_env = "gnu"), allow(unused_variables))]
    let large = if buffers == Buffers::Kept { 2 << 20 } else { 512 << 10 };
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, before any thread was started. A
    // value that it does not take changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, large);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 8 << 20);
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2);
    }
}

//! What becomes of the process: its own session, its limits, its end.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::model::{IoContext, Result};

/// Leaves the daemon's session, so that nothing sent to it ends this process too; raises the
/// limit of open files; writes no core dumps, since there are keys in memory.
pub fn settle() {
    // Fails where this process leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::unistd::chdir("/");
}

/// The signals that end the process; blocked in all threads, so that one can wait for them.
pub fn block_signals() -> Result<SigSet> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().at(|| "cannot block signals")?;
    Ok(set)
}

//! What becomes of the process: its own session, its limits, its end.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// The signals that end the process. Caught from the moment this is made, whichever thread they
/// come to.
pub struct Signals {
    runtime: Runtime,
    signals: [Signal; 3],
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP.
    pub fn new() -> Result<Self> {
        let catch = || {
            let runtime = Builder::new_current_thread().enable_io().build()?;
            let guard = runtime.enter();
            let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
            let [term, int, hup] = kinds.map(signal);
            let signals = [term?, int?, hup?];
            drop(guard);
            Ok::<_, std::io::Error>(Self { runtime, signals })
        };
        catch().at(|| "cannot catch signals")
    }

    /// Waits for one of them.
    pub fn wait(mut self) {
        let [term, int, hup] = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv() => {} }
        });
    }
}

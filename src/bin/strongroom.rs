//! The command. It holds the daemon too, since `--private` and `demo` start one.

use std::ffi::OsStr;
use std::process::exit;

fn main() {
    let mut arguments = std::env::args_os();
    let hidden = std::env::args_os().nth(1);
    exit(match hidden.as_deref().and_then(OsStr::to_str) {
        Some("__strongroomd") => strongroom::daemon::main(arguments.skip(2)),
        Some("__tied") => strongroom::cli::exec_tied(arguments.by_ref().skip(2)),
        _ => strongroom::cli::main(arguments),
    })
}

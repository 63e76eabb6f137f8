//! The daemon.

fn main() {
    std::process::exit(strongroom::daemon::main(std::env::args_os().skip(1)))
}

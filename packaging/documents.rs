//! Writes what the package needs of the command line's definitions: `documents DIR` makes
//! `DIR/man/*.1`, `DIR/man/*.8` and `DIR/completions/*`.

use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let dir = std::env::args_os().nth(1).ok_or("usage: documents DIR")?;
    let (man, completions) = (Path::new(&dir).join("man"), Path::new(&dir).join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir)?;
    }
    page(strongroom::cli::command(), None, "1", &man)?;
    let [daemon, browse] = strongroom::daemon::commands();
    page(daemon, Some(DAEMON), "8", &man)?;
    page(browse.name("strongroomd-browse").bin_name("strongroomd browse"), None, "8", &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut strongroom::cli::command(), "strongroom", &completions)?;
    }
    Ok(())
}

/// The page of a command, and of each that is below it.
fn page(command: Command, more: Option<&str>, section: &str, dir: &Path) -> Outcome {
    let name = command.get_display_name().unwrap_or(command.get_name()).replace(' ', "-");
    for below in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        let whole: &'static str = format!("{name}-{}", below.get_name()).leak();
        let below = below.clone().name(whole).display_name(whole).bin_name(whole.replace('-', " "));
        page(below, None, section, dir)?;
    }
    let mut text = Vec::new();
    // The name a person types, not the page's.
    let manual = format!("Strongroom {}", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.disable_help_subcommand(true)).section(section).source(&manual);
    page.render(&mut text)?;
    text.extend(more.unwrap_or_default().as_bytes());
    fs::write(dir.join(format!("{name}.{section}")), text)?;
    Ok(())
}

/// What the daemon's options do not say.
const DAEMON: &str = include_str!("strongroomd.roff");

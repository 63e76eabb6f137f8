//! The `strongroom` command: a D-Bus client that knows nothing of vaults.

mod args;
mod backup;
mod checkpoint;
mod compare;
mod demo;
mod destination;
mod history;
mod job;
mod output;
mod paths;
mod private;
mod project;
mod resource;
mod restore;
mod sample;
mod schedule;
mod session;
mod snapshot;
mod status;
mod task;
mod vault;
mod wait;

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Parser;

use self::args::{Cli, Verb};
use self::private::Private;
use self::session::Session;
use crate::bus::BusAddress;
use crate::bus::client::Client;
use crate::model::{Error, ErrorKind, Result};

pub use self::private::exec_tied;

/// The command's definition, for man pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command and returns its exit status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    // One thread, the main one: the children of --private end with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format!("strongroom: cannot start: {error}"));
            return 1;
        }
    };
    let code = match runtime.block_on(run(cli)) {
        Ok(code) => i32::from(code),
        Err(error) => {
            output::note(format!("strongroom: {}", output::printable(&error.message)));
            1
        }
    };
    // A read from the terminal may still be waiting; it is not waited for.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli) -> Result<u8> {
    let address = match (&cli.bus, &cli.private) {
        (Some(address), _) => match address.parse::<BusAddress>() {
            Ok(address) => address,
            Err(error) => return Ok(usage(&error.message)),
        },
        (None, _) => BusAddress::System,
    };
    if let Verb::Demo { path } = &cli.verb {
        return demo::run(path.as_deref()).await;
    }
    let Some(dir) = &cli.private else {
        let client = Client::connect(&address).await?;
        return verb(Session { client, json: cli.json, wait: !cli.no_wait, private: false }, cli.verb).await;
    };
    let private = Private::start(dir).await?;
    let result = tokio::select! {
        result = in_private(&private, cli.json, cli.verb) => result,
        () = private::told_to_end() => Err(Error::new(ErrorKind::Cancelled, "ended by a signal")),
    };
    private.stop().await;
    result
}

async fn in_private(private: &Private, json: bool, what: Verb) -> Result<u8> {
    let client = Client::connect(private.address()).await?;
    verb(Session { client, json, wait: true, private: true }, what).await
}

async fn verb(session: Session, verb: Verb) -> Result<u8> {
    let session = &session;
    match verb {
        // Without a bus; see above.
        Verb::Demo { path } => demo::run(path.as_deref()).await,
        Verb::Status => status::run(session).await,
        Verb::Project(verb) => project::run(session, verb).await,
        Verb::Resource(verb) => resource::run(session, verb).await,
        Verb::Destination(verb) => destination::run(session, verb).await,
        Verb::Vault(verb) => vault::run(session, verb).await,
        Verb::Backup(what) => backup::backup(session, &what).await,
        Verb::List(which) => backup::list(session, &which).await,
        Verb::Show { id } => backup::show(session, id).await,
        Verb::Delete { id } => backup::delete(session, id).await,
        Verb::Copy { id, vault } => backup::copy(session, id, &vault).await,
        Verb::Restore(what) => restore::restore(session, &what).await,
        Verb::Export(what) => restore::export(session, &what).await,
        Verb::Browse { id } => restore::browse(session, id).await,
        Verb::Diff { first, second } => history::diff(session, first, second).await,
        Verb::Versions { resource, path } => history::versions(session, &resource, &path).await,
        Verb::Find { resource, glob } => history::find(session, &resource, &glob).await,
        Verb::Checkpoint(verb) => checkpoint::run(session, verb).await,
        Verb::Task(verb) => task::run(session, verb).await,
        Verb::Snapshot(verb) => snapshot::run(session, verb).await,
        Verb::Schedule(verb) => schedule::run(session, verb).await,
        Verb::Job(verb) => job::run(session, verb).await,
    }
}

/// Says what was wrong with the command line; the exit status of that.
fn usage(message: &str) -> u8 {
    output::note(format!("strongroom: {}", output::printable(message)));
    2
}

/// Reads a line, from a terminal or a file; nothing for an empty one.
async fn ask(question: &str) -> Option<String> {
    if std::io::stdin().is_terminal() {
        output::note(question);
    }
    let line = wait::read_line().await.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Asks, where there is somebody to ask; otherwise `--yes` is what is missing.
async fn confirm(question: &str) -> Result<()> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::new(
            ErrorKind::NotConfirmed,
            "this overwrites or deletes; say --yes, or ask from a terminal",
        ));
    }
    output::note(format!("{} [y/N]", output::printable(question)));
    match wait::read_line().await.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::new(ErrorKind::NotConfirmed, "nothing was done")),
    }
}

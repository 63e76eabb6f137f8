//! The command line: one definition for parsing, help, completions and man pages.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::checkpoint::CheckpointVerb;
use super::destination::DestinationVerb;
use super::project::ProjectVerb;
use super::snapshot::SnapshotVerb;
use super::vault::VaultVerb;

/// Backs up, browses and restores this machine.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, about, max_term_width = 100)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but some files could not be read.")]
pub struct Cli {
    /// The bus the daemon is on: system, session or a D-Bus address
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "private")]
    pub bus: Option<String>,
    /// Run an own bus and daemon over state in DIR, for this command only
    #[arg(long, global = true, value_name = "DIR")]
    pub private: Option<PathBuf>,
    /// Print one JSON document, with the bus's field names
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not wait for the work to end
    #[arg(long, global = true, conflicts_with = "private")]
    pub no_wait: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the whole thing in a minute, on a private bus with throw-away state
    Demo {
        /// What to back up along with a small sample; read only
        #[arg(value_name = "PATH")]
        path: Option<PathBuf>,
    },
    /// Health at a glance; exit status 1 when something is wrong
    Status,
    /// Groups of resources
    #[command(subcommand)]
    Project(ProjectVerb),
    /// What is backed up
    #[command(subcommand)]
    Resource(ResourceVerb),
    /// Places that hold vaults
    #[command(subcommand)]
    Destination(DestinationVerb),
    /// Vaults and their keys
    #[command(subcommand)]
    Vault(VaultVerb),
    /// Back a resource up now
    Backup(Backup),
    /// List backups
    List(List),
    /// Show one backup
    Show {
        /// The backup
        id: u64,
    },
    /// Delete a backup for good
    Delete {
        /// The backup
        id: u64,
    },
    /// Copy a backup into another vault
    Copy {
        /// The backup
        id: u64,
        /// NAME or id of the other vault
        vault: String,
    },
    /// Restore a backup, or some of its paths, in place or to a directory
    Restore(Restore),
    /// Write a backup to standard output as a tar archive
    Export(Export),
    /// Print where backups, or one of them, can be browsed as files
    Browse {
        /// The backup
        id: Option<u64>,
    },
    /// List what differs between two backups
    Diff {
        /// The earlier backup
        first: u64,
        /// The later one
        second: u64,
    },
    /// List every version of a file in the backups of a resource
    Versions {
        /// NAME, PROJECT/NAME or id
        resource: String,
        /// Its absolute path
        path: String,
    },
    /// List files in the backups of a resource by a pattern, such as *.conf
    Find {
        /// NAME, PROJECT/NAME or id
        resource: String,
        /// A pattern in gitignore syntax
        glob: String,
    },
    /// Restore points of a whole vault
    #[command(subcommand)]
    Checkpoint(CheckpointVerb),
    /// Copies of projects as plain files, and the way back
    #[command(subcommand)]
    Task(TaskVerb),
    /// Snapshots: the state of a moment, kept on the same storage
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// What is backed up by itself, and when
    #[command(subcommand)]
    Schedule(ScheduleVerb),
    /// Work that is done, running or waiting
    #[command(subcommand)]
    Job(JobVerb),
}

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Make a task; it runs at once unless its plan says otherwise
    Create {
        /// A JSON document with the keys of CreateTask; - reads standard input
        #[arg(value_name = "FILE.json")]
        file: PathBuf,
    },
    /// Run a task now
    Run {
        /// The task
        id: u64,
    },
    /// List tasks, the newest first
    List {
        /// Only those in this state
        #[arg(long, value_parser = ["PENDING", "RUNNING", "FINISHED"])]
        state: Option<String>,
    },
    /// Show one task
    Show {
        /// The task
        id: u64,
    },
    /// Remove a task; what its runs wrote stays
    Remove {
        /// The task
        id: u64,
    },
}

/// What can be done with resources.
#[derive(Debug, Subcommand)]
pub enum ResourceVerb {
    /// Declare what is to be backed up
    Add {
        /// Its name
        name: String,
        /// The settings
        #[command(flatten)]
        settings: ResourceSettings,
    },
    /// List resources
    List {
        /// Only those that nothing covers
        #[arg(long)]
        unprotected: bool,
    },
    /// Show one resource
    Show {
        /// NAME, PROJECT/NAME or id
        resource: String,
    },
    /// Change a resource
    Set {
        /// NAME, PROJECT/NAME or id
        resource: String,
        /// The settings; those not given stay
        #[command(flatten)]
        settings: ResourceSettings,
    },
    /// Remove a resource; its backups stay
    Remove {
        /// NAME, PROJECT/NAME or id
        resource: String,
    },
}

/// A resource's settings.
#[derive(Debug, Args)]
pub struct ResourceSettings {
    /// What to back up
    #[arg(long = "path", value_name = "PATH", num_args = 1..)]
    pub paths: Vec<PathBuf>,
    /// server, volume (block devices and disk images) or share
    #[arg(long)]
    pub kind: Option<String>,
    /// What to leave out, in gitignore syntax
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// A database: postgresql, mariadb, either with :SOCKET, or sqlite:FILE
    #[arg(long = "database", value_name = "KIND[:PATH]")]
    pub databases: Vec<String>,
    /// systemd units that write there
    #[arg(long = "unit", value_name = "UNIT")]
    pub units: Vec<String>,
    /// What to do with them meanwhile
    #[arg(long, value_parser = ["none", "freeze", "stop"])]
    pub unit_action: Option<String>,
    /// The project it belongs to
    #[arg(long)]
    pub project: Option<String>,
    /// Who may browse its backups: root, strict or owner=USER
    #[arg(long, value_name = "POLICY")]
    pub browse: Option<String>,
    /// The vault its backups go to
    #[arg(long)]
    pub vault: Option<String>,
    /// Do not cross into other file systems
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub one_file_system: Option<bool>,
}

/// A backup to be made.
#[derive(Debug, Args)]
pub struct Backup {
    /// NAME, PROJECT/NAME or id
    pub resource: String,
    /// What to back up of it
    #[arg(long = "type", value_parser = ["full", "database"], value_name = "TYPE")]
    pub kind: Option<String>,
    /// A note to find it by
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Another vault than the resource's own
    #[arg(long)]
    pub vault: Option<String>,
    /// Read everything again, whatever the change cache says
    #[arg(long)]
    pub full: bool,
}

/// Which backups to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this resource
    pub resource: Option<String>,
    /// Only those made by hand
    #[arg(long, conflicts_with = "automatic")]
    pub manual: bool,
    /// Only those made by a schedule
    #[arg(long)]
    pub automatic: bool,
    /// Only those with this status: completed, failed, in_progress and so on
    #[arg(long)]
    pub status: Option<String>,
}

/// What to restore, and how.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub id: u64,
    /// Only these paths of it
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Restore below this directory, or a volume onto this device or image, instead of in place
    #[arg(long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Everything, or databases alone
    #[arg(long = "type", value_parser = ["full", "database"], value_name = "TYPE")]
    pub kind: Option<String>,
    /// What to do with files that are there and differ
    #[arg(long, value_parser = ["overwrite", "skip"])]
    pub conflict: Option<String>,
    /// Replace whole directories, all or nothing, in one step
    #[arg(long, conflicts_with_all = ["target", "kind", "conflict"])]
    pub atomic: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before restoring in place
    #[arg(long)]
    pub yes: bool,
}

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// The backup
    pub id: u64,
    /// The archive's format
    #[arg(long, value_parser = ["tar.zst", "tar.gz", "tar"], default_value = "tar.zst")]
    pub format: String,
}

/// What can be done with schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleVerb {
    /// Make a schedule, or change one
    Set {
        /// Its name
        name: String,
        /// The settings; those not given stay
        #[command(flatten)]
        settings: Box<ScheduleSettings>,
    },
    /// List schedules
    List,
    /// Show one schedule
    Show {
        /// NAME or id
        schedule: String,
    },
    /// Show which of its backups stay, and until when
    Plan {
        /// NAME or id
        schedule: String,
    },
    /// Run a schedule now
    Run {
        /// NAME or id
        schedule: String,
    },
    /// Remove a schedule; its backups stay
    Remove {
        /// NAME or id
        schedule: String,
    },
}

/// A schedule's settings.
#[derive(Debug, Args)]
pub struct ScheduleSettings {
    /// When: five fields, six with seconds first, or @daily
    #[arg(long)]
    pub cron: Option<String>,
    /// The time zone of that, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// What to make of them [default: backup]
    #[arg(long, value_parser = ["backup", "snapshot"])]
    pub what: Option<String>,
    /// A resource to back up; without any, all there are when it runs
    #[arg(long = "resource", value_name = "RESOURCE", num_args = 1.., conflicts_with = "all")]
    pub resources: Vec<String>,
    /// Back up all resources again
    #[arg(long)]
    pub all: bool,
    /// Another vault than each resource's own
    #[arg(long)]
    pub vault: Option<String>,
    /// What to back up of them
    #[arg(long = "type", value_parser = ["full", "database"], value_name = "TYPE")]
    pub kind: Option<String>,
    /// Days that its backups or snapshots are kept; 0: not by age
    #[arg(long, value_name = "DAYS")]
    pub retention: Option<u32>,
    /// The most backups or snapshots of a resource; 0: any number
    #[arg(long, value_name = "N")]
    pub max_backups: Option<u32>,
    /// Keep the last backup of each of so many days; with any such rule, age does not count
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// The same of weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// The same of years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Read everything again every so many backups; 0: never
    #[arg(long, value_name = "N")]
    pub full_every: Option<u32>,
    /// Start strongroom-notify@JOB.service when a backup fails
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub notify_on_failure: Option<bool>,
    /// Whether it runs by itself
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub enabled: Option<bool>,
}

/// What can be done with jobs.
#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// List jobs, the newest first
    List,
    /// Watch a job until it ends
    Watch {
        /// The job
        id: u64,
    },
    /// Ask a job to stop
    Cancel {
        /// The job
        id: u64,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("strongroom").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_forms_of_the_interface_parse() {
        for line in [
            "demo",
            "demo /usr/share",
            "status --json",
            "--bus session status",
            "--bus unix:path=/tmp/bus --json list",
            "--private /tmp/x list",
            "resource add web --path /etc /srv --exclude *.tmp --exclude cache/ --unit nginx.service --unit-action stop --project p --browse strict",
            "resource add web --path /etc --path /srv --one-file-system",
            "resource list --unprotected",
            "resource show web",
            "resource set web --exclude *.o",
            "resource remove web",
            "destination add disk local /mnt/disk",
            "destination add off s3 --bucket b --endpoint https://s3.example.net --credential /etc/strongroom/s3",
            "destination list",
            "destination test disk",
            "destination remove disk",
            "vault add v --destination disk --compression zstd:3",
            "vault list",
            "vault show v",
            "vault verify v --read-data --repair",
            "vault prune v --dry-run",
            "vault sync v",
            "vault key add v",
            "vault key list v",
            "vault key remove v 0123",
            "vault remove v --delete-data --yes",
            "backup web --type full --description before --vault v --full --no-wait",
            "list web --manual --status completed",
            "list --automatic",
            "show 3",
            "delete 3",
            "restore 3 /etc/fstab /etc/hosts --target /tmp/out --conflict skip --dry-run",
            "restore 3 --yes",
            "export 3 --format tar.gz",
            "browse",
            "browse 3",
            "project add shop --description tills",
            "project list",
            "project remove shop",
            "checkpoint create main",
            "checkpoint create main --name before-update web db",
            "checkpoint create main web --full --automatic --retention -1 --description x",
            "checkpoint list --vault main",
            "checkpoint show 3",
            "checkpoint delete 3 --yes",
            "snapshot create web before-upgrade --description why --unit-action freeze",
            "snapshot list",
            "snapshot list web",
            "snapshot show 3",
            "snapshot restore 3 --yes",
            "snapshot delete 3",
            "task create nightly.json",
            "task run 7",
            "task list --state FINISHED",
            "task show 7",
            "task remove 7",
            "schedule set nightly --cron @daily --timezone UTC --resource web db --vault v --retention 30 --max-backups 9",
            "schedule set nightly --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --keep-yearly 3 --full-every 30",
            "schedule set nightly --all --enabled=false --notify-on-failure --type full",
            "schedule list",
            "schedule show nightly",
            "schedule plan nightly",
            "schedule run nightly",
            "schedule remove nightly",
            "job list",
            "job watch 7",
            "job cancel 7",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "",
            "nothing",
            "show",
            "show one",
            "list --manual --automatic",
            "restore 3 --conflict maybe",
            "export 3 --format zip",
            "vault add v",
            "resource add",
            "checkpoint create",
            "checkpoint create main --retention 3",
            "--bus session --private /tmp/x status",
            "--private /tmp/x --no-wait backup web",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

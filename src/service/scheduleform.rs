//! A schedule as a caller or a file gives it.

use jiff::Timestamp;

use super::{select, vaults};
use crate::catalog::schedule::What;
use crate::catalog::{Keep, Origin, Schedule, Tables};
use crate::model::{Args, Result};

/// Longer than anybody keeps anything.
const MOST_DAYS: u64 = 36_500;
/// More than anybody keeps.
const MOST: u64 = 100_000;

/// Settings as a caller gives them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    enabled: Option<bool>,
    pub cron: Option<String>,
    timezone: Option<String>,
    what: Option<What>,
    kind: Option<String>,
    resources: Option<Vec<String>>,
    vault: Option<String>,
    days: Option<u32>,
    most: Option<u32>,
    daily: Option<u32>,
    weekly: Option<u32>,
    monthly: Option<u32>,
    yearly: Option<u32>,
    notify_on_failure: Option<bool>,
    full_every: Option<u32>,
}

fn small(args: &mut Args, key: &str, most: u64) -> Result<Option<u32>> {
    Ok(args.uint(key, 0, most)?.and_then(|n| u32::try_from(n).ok()))
}

impl Settings {
    pub fn take(mut args: Args) -> Result<Self> {
        let what = args.choice("what", &["backup", "snapshot"])?;
        let what = what.map(|what| if what == "snapshot" { What::Snapshot } else { What::Backup });
        let settings = Self {
            enabled: args.bool("enabled")?,
            cron: args.string("cron")?,
            timezone: args.string("timezone")?,
            what,
            kind: args.choice("type", &["full", "database"])?,
            resources: args.strings("resources")?,
            vault: args.string("vault")?,
            days: small(&mut args, "retention", MOST_DAYS)?,
            most: small(&mut args, "max_backups", MOST)?,
            daily: small(&mut args, "keep_daily", MOST)?,
            weekly: small(&mut args, "keep_weekly", MOST)?,
            monthly: small(&mut args, "keep_monthly", MOST)?,
            yearly: small(&mut args, "keep_yearly", MOST)?,
            notify_on_failure: args.bool("notify_on_failure")?,
            full_every: small(&mut args, "full_every", MOST)?,
        };
        args.finish()?;
        Ok(settings)
    }

    pub fn apply(self, t: &impl Tables, row: &mut Schedule) -> Result<()> {
        let set = |target: &mut u32, value: Option<u32>| *target = value.unwrap_or(*target);
        row.enabled = self.enabled.unwrap_or(row.enabled);
        if let Some(cron) = self.cron {
            cron.trim().clone_into(&mut row.cron);
        }
        row.timezone = self.timezone.unwrap_or_else(|| std::mem::take(&mut row.timezone));
        row.what = self.what.unwrap_or(row.what);
        row.r#type = self.kind.unwrap_or_else(|| std::mem::take(&mut row.r#type));
        if let Some(list) = self.resources {
            row.resources.clear();
            for selector in list {
                let id = select::resource(t, &selector)?.id;
                if !row.resources.contains(&id) {
                    row.resources.push(id);
                }
            }
        }
        if let Some(vault) = self.vault {
            row.vault = if vault.is_empty() {
                None
            } else {
                let vault = select::vault(t, &vault)?;
                vaults::refuse_removing(&vault)?;
                Some(vault.id)
            };
        }
        if let Some(days) = self.days {
            row.keep.days = (days > 0).then_some(days);
        }
        if let Some(most) = self.most {
            row.keep.most = (most > 0).then_some(most);
        }
        set(&mut row.keep.daily, self.daily);
        set(&mut row.keep.weekly, self.weekly);
        set(&mut row.keep.monthly, self.monthly);
        set(&mut row.keep.yearly, self.yearly);
        row.notify_on_failure = self.notify_on_failure.unwrap_or(row.notify_on_failure);
        set(&mut row.full_every, self.full_every);
        Ok(())
    }
}

/// A schedule as it is before any setting.
pub(super) fn blank(id: u64, name: &str, now: Timestamp) -> Schedule {
    Schedule {
        id,
        name: name.to_owned(),
        enabled: true,
        cron: String::new(),
        timezone: String::new(),
        what: What::Backup,
        r#type: "full".into(),
        resources: Vec::new(),
        vault: None,
        keep: Keep::default(),
        notify_on_failure: false,
        full_every: 0,
        created_at: now,
        since: now,
        due: None,
        served: None,
        last_run: None,
        last_backups: Vec::new(),
        last_snapshots: Vec::new(),
        last_skipped: None,
        last_refused: None,
        overdue: false,
        origin: Origin::default(),
    }
}

//! Schedules: set, listed, run by the clock or by hand.
//!
//! A run writes the rows of all its backups and its own next time in one transaction, so that a
//! crash neither loses a run nor repeats one. What was missed is caught up once.

use jiff::{SignedDuration, Timestamp};

use super::backups::{self, Wish};
use super::declare::{Change, put, refuse_declared};
use super::fields::Fields;
use super::page::Page;
use super::scheduleform::{Settings, blank};
use super::snapruns::{self, Engines, Planned};
use super::submit::Batch;
use super::{Event, ObjectKind, Service, retention, select};
use crate::catalog::schedule::What;
use crate::catalog::{
    Backup, Job, Keep, Project, Resource, Schedule, Snapshot, State, Tables, VaultRow, Writer, backup,
};
use crate::jobs::Times;
use crate::model::{Args, Error, Map, Result, name};

const FIELDS: &[&str] = &[
    "id",
    "name",
    "enabled",
    "cron",
    "timezone",
    "what",
    "type",
    "resources",
    "vault",
    "retention",
    "max_backups",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "notify_on_failure",
    "full_every",
    "created_at",
    "next_run",
    "last_run",
    "last_result",
    "message",
    "overdue",
    "origin",
];

/// A run is overdue at the earliest so long after its time, and at the latest after [`LATE_MOST`].
const LATE_LEAST: SignedDuration = SignedDuration::from_hours(1);
const LATE_MOST: SignedDuration = SignedDuration::from_hours(24);

fn times(row: &Schedule) -> Result<Times> {
    Times::parse(&row.cron, &row.timezone)
}

/// The resources that a schedule backs up now.
pub(super) fn covered(t: &impl Tables, row: &Schedule) -> Result<Vec<Resource>> {
    let mut found = Vec::new();
    let ids = if row.resources.is_empty() { t.ids::<Resource>()? } else { row.resources.clone() };
    for id in ids {
        found.extend(t.get::<Resource>(id)?.filter(|r| r.removed_at.is_none()));
    }
    Ok(found)
}

/// The backups of one resource by a schedule, newest first, read as far as they are asked for.
fn newest_first<T: Tables>(
    t: &T,
    schedule: u64,
    resource: u64,
) -> Result<impl Iterator<Item = Result<Backup>> + use<'_, T>> {
    let ids = t.indexed(backup::BY_SCHEDULE, backup::group(schedule, resource))?;
    let rows = ids.into_iter().rev().filter_map(move |id| t.get::<Backup>(id).transpose());
    Ok(rows.filter(move |row| row.as_ref().map_or(true, |b| b.resource == resource && !b.deleting)))
}

/// The newest good backup of one resource by a schedule.
fn newest_good(t: &impl Tables, schedule: u64, resource: u64) -> Result<Option<Backup>> {
    let mut rows = newest_first(t, schedule, resource)?;
    rows.find(|row| row.as_ref().map_or(true, |b| b.status == State::Completed)).transpose()
}

/// Since when a schedule has something good of a resource.
fn good_since(t: &impl Tables, row: &Schedule, resource: u64) -> Result<Option<Timestamp>> {
    Ok(match row.what {
        What::Backup => newest_good(t, row.id, resource)?.map(|b| b.created_at),
        What::Snapshot => snapruns::newest_good(t, row.id, resource)?.map(|s| s.created_at),
    })
}

/// The latest time whose run should have ended well by now.
fn expected(times: &Times, now: Timestamp) -> Option<Timestamp> {
    let mut at = times.last(now.checked_sub(LATE_LEAST).ok()?)?;
    loop {
        let until_next = times.next(at).map_or(LATE_MOST, |next| next.duration_since(at));
        let late = until_next.clamp(LATE_LEAST, LATE_MOST);
        if at.checked_add(late).is_ok_and(|end| end <= now) {
            return Some(at);
        }
        at = times.last(at.checked_sub(SignedDuration::from_nanos(1)).ok()?)?;
    }
}

/// The resources without a good backup since the time whose run should have ended well by now.
pub(super) fn overdue(t: &impl Tables, row: &Schedule, now: Timestamp) -> Result<Vec<Resource>> {
    let mut found = Vec::new();
    let Some(at) = expected(&times(row)?, now).filter(|at| row.enabled && *at >= row.since) else { return Ok(found) };
    for resource in covered(t, row)? {
        if resource.created_at <= at && good_since(t, row, resource.id)?.is_none_or(|good| good < at) {
            found.push(resource);
        }
    }
    Ok(found)
}

/// A schedule that names something.
pub(super) fn naming(t: &impl Tables, names: impl Fn(&Schedule) -> bool) -> Result<Option<Schedule>> {
    Ok(t.all::<Schedule>()?.into_iter().find(names))
}

/// Refuses to remove what a schedule names.
pub(super) fn refuse_named(t: &impl Tables, what: &str, names: impl Fn(&Schedule) -> bool) -> Result<()> {
    match naming(t, names)? {
        None => Ok(()),
        Some(schedule) => Err(Error::invalid_state(format!(
            "schedule {:?} names {what}; change or remove the schedule first",
            schedule.name
        ))),
    }
}

/// The name of a resource as a selector that finds it.
fn selector(t: &impl Tables, resource: &Resource) -> Result<String> {
    let mut same = 0;
    for project in t.ids::<Project>()? {
        same += u32::from(t.named::<Resource>(project, &resource.name)?.is_some());
    }
    Ok(match t.get::<Project>(resource.project)? {
        Some(project) if same > 1 => format!("{}/{}", project.name, resource.name),
        _ => resource.name.clone(),
    })
}

/// Writes down a schedule that was `old` before, if what it says can be done.
pub(super) fn keep(w: &Writer, old: Option<&Schedule>, mut row: Schedule, now: Timestamp) -> Result<Change> {
    let times = times(&row)?;
    if row.what == What::Snapshot && row.r#type == "database" {
        return Err(Error::invalid(
            "type is database, and a snapshot is always of all that a resource holds; leave it out",
        ));
    }
    if row.what == What::Snapshot && row.vault.is_some() {
        return Err(Error::invalid("vault is given, and snapshots rest beside the data itself; leave it out"));
    }
    if row.r#type == "database" && row.resources.is_empty() {
        return Err(Error::invalid("type is database, which needs resources; name those that have databases"));
    }
    for resource in covered(w, &row)? {
        backups::refuse_kind(&row.r#type, &resource)?;
    }
    let timing = |s: &Schedule| (s.enabled, s.cron.clone(), s.timezone.clone());
    if old.map(timing) != Some(timing(&row)) {
        row.since = now;
        row.due = if row.enabled { times.next(now) } else { None };
        (row.served, row.overdue) = (None, false);
    }
    let change = put(w, old, &row)?;
    if change == Change::Changed {
        retention::replan_schedule(w, row.id, now)?;
    }
    Ok(change)
}

/// Removes a schedule; its backups stay.
pub(super) fn forget(w: &Writer, id: u64, now: Timestamp) -> Result<()> {
    w.remove::<Schedule>(id)?;
    retention::replan_schedule(w, id, now)
}

/// What came of a run.
struct Run {
    schedule: Schedule,
    jobs: Vec<u64>,
}

impl Service {
    /// Makes a schedule, or changes the one of that name: what is not given stays.
    pub fn set_schedule(&self, selector: &str, options: Map) -> Result<u64> {
        let settings = Settings::take(Args::new(options))?;
        let now = self.now();
        let (id, new) = self.catalog.write(|w| {
            let old = match select::number(selector) {
                Some(_) => Some(select::schedule(w, selector)?),
                None => {
                    name::check("schedule", selector)?;
                    w.named::<Schedule>(0, selector)?.map(|id| w.need::<Schedule>(id)).transpose()?
                }
            };
            if let Some(old) = &old {
                refuse_declared("schedule", &old.name, &old.origin)?;
            } else if settings.cron.is_none() {
                return Err(Error::invalid(format!(
                    "cron is missing, and there is no schedule {selector:?} yet; give one such as \"0 2 * * *\""
                )));
            }
            let mut row = match &old {
                Some(row) => row.clone(),
                None => blank(w.next_id::<Schedule>()?, selector, now),
            };
            settings.apply(w, &mut row)?;
            Ok((row.id, keep(w, old.as_ref(), row, now)? == Change::Added))
        })?;
        let kind = ObjectKind::Schedule;
        self.emit(if new { Event::ObjectAdded { kind, id } } else { Event::ObjectChanged { kind, id } });
        Ok(id)
    }

    /// One schedule.
    pub fn get_schedule(&self, selector: &str) -> Result<Map> {
        self.catalog.read(|r| self.schedule_map(r, &select::schedule(r, selector)?))
    }

    /// Lists schedules.
    pub fn list_schedules(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        args.finish()?;
        self.catalog.read(|r| {
            let rows = r.all::<Schedule>()?;
            Ok(page.cut(rows.iter().map(|row| self.schedule_map(r, row)).collect::<Result<_>>()?))
        })
    }

    /// Removes a schedule. Its backups stay until somebody deletes them.
    pub fn remove_schedule(&self, selector: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let now = self.now();
        let id = self.catalog.write(|w| {
            let row = select::schedule(w, selector)?;
            refuse_declared("schedule", &row.name, &row.origin)?;
            forget(w, row.id, now)?;
            Ok(row.id)
        })?;
        self.emit(Event::ObjectRemoved { kind: ObjectKind::Schedule, id });
        Ok(())
    }

    /// Runs a schedule now, enabled or not; its own next time stays. Answers the jobs.
    pub fn run_schedule(&self, selector: &str, options: Map) -> Result<Vec<u64>> {
        Args::new(options).finish()?;
        let engines = self.look_at(&self.catalog.read(|r| select::schedule(r, selector))?)?;
        let run = self.submit_all(|w, batch| {
            let mut row = select::schedule(w, selector)?;
            let jobs = self.plan_run(w, batch, &mut row, &engines)?;
            if jobs.is_empty() {
                let reasons = [row.last_refused.as_deref(), row.last_skipped.as_deref()];
                let why: Vec<&str> = reasons.into_iter().flatten().collect();
                let why = if why.is_empty() { "there is no resource".to_owned() } else { why.join("; ") };
                return Err(Error::invalid_state(format!("schedule {:?} has nothing to do: {why}", row.name)));
            }
            w.put(&row)?;
            Ok(Run { schedule: row, jobs })
        })?;
        self.told_run(&run);
        Ok(run.jobs)
    }

    /// What a run must know of file systems beforehand.
    fn look_at(&self, row: &Schedule) -> Result<Engines> {
        if row.what == What::Snapshot { self.engines_of(row) } else { Ok(Engines::new()) }
    }

    /// Writes what a run makes, and what came of it into the schedule's row.
    fn plan_run(&self, w: &Writer, batch: &mut Batch, row: &mut Schedule, engines: &Engines) -> Result<Vec<u64>> {
        let said = |list: Vec<String>| (!list.is_empty()).then(|| list.join("; "));
        let mut planned = match row.what {
            What::Backup => self.plan_backups(w, batch, row)?,
            What::Snapshot => self.plan_snapshot_run(w, batch, row, engines)?,
        };
        if row.resources.iter().any(|id| w.get::<Resource>(*id).is_ok_and(|r| r.is_none_or(|r| r.removed_at.is_some())))
        {
            planned.skipped.push("a resource that it names is gone".into());
        }
        row.last_run = Some(self.now());
        (row.last_backups, row.last_snapshots) = (Vec::new(), Vec::new());
        match row.what {
            What::Backup => row.last_backups = planned.made,
            What::Snapshot => row.last_snapshots = planned.made,
        }
        (row.last_skipped, row.last_refused) = (said(planned.skipped), said(planned.refused));
        Ok(planned.jobs)
    }

    /// Writes the backups of a run.
    fn plan_backups(&self, w: &Writer, batch: &mut Batch, row: &Schedule) -> Result<Planned> {
        let now = self.now();
        let (mut jobs, mut made) = (Vec::new(), Vec::new());
        let (mut skipped, mut refused): (Vec<String>, Vec<String>) = Default::default();
        for resource in covered(w, row)? {
            let mut earlier = None;
            for b in newest_first(w, row.id, resource.id)? {
                let b = b?;
                if !b.status.ended() {
                    earlier = Some(b);
                    break;
                }
                if b.status == State::Completed {
                    break;
                }
            }
            if let Some(b) = earlier {
                skipped.push(format!(
                    "{} was left out, because its earlier backup {} is still {}",
                    resource.name,
                    b.id,
                    b.status.name()
                ));
                continue;
            }
            let since_full = newest_good(w, row.id, resource.id)?.map(|b| b.since_full.saturating_add(1));
            let full = row.full_every > 0 && since_full.is_none_or(|n| n >= row.full_every);
            let wish = Wish {
                kind: row.r#type.clone(),
                backup_type: "automatic".into(),
                incremental: !full,
                schedule: Some(row.id),
                since_full: if full { 0 } else { since_full.unwrap_or(0) },
                ..Wish::default()
            };
            let vault = match row.vault {
                Some(id) => w.need::<VaultRow>(id),
                None => backups::vault_of(w, &resource),
            };
            let name = resource.name.clone();
            let job = w.next_id::<Job>()?;
            let drafted = vault.and_then(|vault| {
                self.refuse_full(&vault)?;
                self.draft_backup(w, job, resource, &vault, wish)
            });
            match drafted {
                Ok((draft, id)) => {
                    w.put(&draft.row(job, now))?;
                    batch.push((job, draft.ticket));
                    jobs.push(job);
                    made.push(id);
                }
                Err(e) => refused.push(format!("{name} could not be backed up: {e}")),
            }
        }
        Ok(Planned { jobs, made, skipped, refused })
    }

    fn told_run(&self, run: &Run) {
        let row = &run.schedule;
        for id in &row.last_backups {
            self.emit(Event::BackupChanged { id: *id, status: "pending".into() });
        }
        tracing::info!("schedule {:?} queued {} {}s", row.name, run.jobs.len(), row.what.name());
        if let Some(skipped) = &row.last_skipped {
            tracing::warn!("schedule {:?}: {skipped}", row.name);
        }
        if let Some(refused) = &row.last_refused {
            tracing::error!("schedule {:?}: {refused}", row.name);
        }
        self.emit(Event::ObjectChanged { kind: ObjectKind::Schedule, id: row.id });
    }

    /// Runs what is due, catches up once on what was missed, and notices what is overdue.
    pub(super) fn tick_schedules(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        for row in self.catalog.read(Tables::all::<Schedule>)?.into_iter().filter(|s| s.enabled) {
            let due = match row.due {
                Some(due) if due <= now => self.run_due(row.id, now)?,
                _ => self.keep_due(&row, now)?,
            };
            next = [next, due].into_iter().flatten().min();
        }
        Ok(next)
    }

    fn run_due(&self, id: u64, now: Timestamp) -> Result<Option<Timestamp>> {
        let Some(row) = self.catalog.read(|r| r.get::<Schedule>(id))? else { return Ok(None) };
        let engines = self.look_at(&row)?;
        let run = self.submit_all(|w, batch| {
            // It may have been changed or removed meanwhile.
            let Some(mut row) = w.get::<Schedule>(id)?.filter(|s| s.enabled && s.due.is_some_and(|due| due <= now))
            else {
                return Ok(None);
            };
            let jobs = self.plan_run(w, batch, &mut row, &engines)?;
            row.served = row.due;
            row.due = times(&row)?.next(now);
            w.put(&row)?;
            Ok(Some(Run { schedule: row, jobs }))
        })?;
        let Some(run) = run else { return Ok(None) };
        if let Some(late) = run.schedule.served.map(|due| now.duration_since(due)).filter(|l| *l > LATE_LEAST) {
            tracing::warn!("schedule {:?} runs {late:#} late, once for all runs it missed", run.schedule.name);
        }
        self.told_run(&run);
        Ok(run.schedule.due)
    }

    /// A clock that was set back must not leave a schedule waiting for what is far ahead now.
    fn keep_due(&self, row: &Schedule, now: Timestamp) -> Result<Option<Timestamp>> {
        let after = match row.served {
            // A small step back does not bring the same run again.
            Some(served) if served.duration_since(now) < LATE_LEAST => served.max(now),
            _ => now,
        };
        let expected = times(row)?.next(after);
        if row.due.is_some_and(|due| expected.is_none_or(|e| due <= e)) {
            return Ok(row.due);
        }
        self.catalog.write(|w| {
            if let Some(mut now) = w.get::<Schedule>(row.id)?.filter(|s| s.due == row.due) {
                now.due = expected;
                w.put(&now)?;
            }
            Ok(())
        })?;
        Ok(expected)
    }

    fn schedule_map(&self, t: &impl Tables, row: &Schedule) -> Result<Map> {
        let mut f = Fields::default();
        f.set("id", row.id).set("name", row.name.as_str()).set("enabled", row.enabled);
        f.set("cron", row.cron.as_str()).text("timezone", &row.timezone);
        f.set("what", row.what.name()).set("type", row.r#type.as_str());
        let mut names = Vec::new();
        for id in &row.resources {
            if let Some(resource) = t.get::<Resource>(*id)?.filter(|r| r.removed_at.is_none()) {
                names.push(selector(t, &resource)?);
            }
        }
        f.set("resources", names);
        if let Some(vault) = row.vault {
            f.opt("vault", t.get::<VaultRow>(vault)?.map(|v| v.name));
        }
        let Keep { days, most, daily, weekly, monthly, yearly } = row.keep;
        f.set("retention", days.unwrap_or(0)).set("max_backups", most.unwrap_or(0));
        f.set("keep_daily", daily).set("keep_weekly", weekly);
        f.set("keep_monthly", monthly).set("keep_yearly", yearly);
        f.set("notify_on_failure", row.notify_on_failure).set("full_every", row.full_every);
        f.time("created_at", Some(row.created_at)).time("next_run", row.due).time("last_run", row.last_run);
        f.opt("last_result", last_result(t, row)?);
        let late = overdue(t, row, self.now())?;
        let names = late.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
        let late_words = (!late.is_empty()).then(|| format!("no good {} in time of {names}", row.what.name()));
        let words: Vec<&str> =
            [&late_words, &row.last_refused, &row.last_skipped].into_iter().flatten().map(String::as_str).collect();
        f.text("message", &words.join("; ")).set("overdue", !late.is_empty()).origin(&row.origin);
        Ok(f.done())
    }
}

/// How the last run ended: as its worst backup did.
fn last_result(t: &impl Tables, row: &Schedule) -> Result<Option<&'static str>> {
    if row.last_run.is_none() {
        return Ok(None);
    }
    let mut states = Vec::new();
    for id in &row.last_backups {
        states.extend(t.get::<Backup>(*id)?.map(|b| b.status));
    }
    for id in &row.last_snapshots {
        states.extend(t.get::<Snapshot>(*id)?.map(|s| s.status));
    }
    let any = |state: State| states.contains(&state);
    Ok(Some(if any(State::Running) || any(State::Pending) {
        State::Running.name()
    } else if any(State::Failed) || row.last_refused.is_some() {
        State::Failed.name()
    } else if any(State::Cancelled) {
        State::Cancelled.name()
    } else if row.last_backups.is_empty() && row.last_snapshots.is_empty() {
        "skipped"
    } else {
        State::Completed.name()
    }))
}

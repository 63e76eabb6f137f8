//! Schedules and retention under a clock that the tests set.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::catalog::{Keep, Schedule};
use crate::jobs::cron;
use crate::jobs::retention::{self, Candidate};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn later(time: Timestamp, hours: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_hours(hours)).unwrap()
}

pub struct Timed {
    pub house: House,
    pub clock: Clock,
    pub service: Arc<Service>,
}

impl Timed {
    pub fn new(start: &str) -> Self {
        let (house, clock) = (House::new(), Clock::manual(at(start)));
        let service = open(&house, &clock);
        house.add(&service, "data");
        Self { house, clock, service }
    }

    pub fn set(&self, name: &str, pairs: &[(&str, Value)]) -> u64 {
        self.service.set_schedule(name, map(pairs)).unwrap()
    }

    /// Lets the time come, and everything that is due be done.
    pub fn come(&self, time: Timestamp) {
        self.clock.set(time);
        self.service.tick();
        self.service.jobs.settle();
        // What ended may have brought more about.
        self.service.tick();
        self.service.jobs.settle();
    }

    /// Goes through all that is due until `end`.
    pub fn run_until(&self, end: Timestamp) {
        while let Some(next) = self.service.tick().filter(|next| *next < end) {
            self.come(next);
        }
        self.come(end);
    }

    /// Ids of the backups there are, oldest first.
    pub fn ids(&self) -> Vec<u64> {
        let list = self.service.list_backups(map(&[("sort", strings(&["id"])), ("page_size", 1000_u64.into())]));
        list.unwrap().1.iter().map(|b| number(b, "id")).collect()
    }

    fn field(&self, schedule: &str, key: &str) -> String {
        self.service
            .get_schedule(schedule)
            .unwrap()
            .get(key)
            .map(|_| ())
            .map_or(String::new(), |()| text(&self.service.get_schedule(schedule).unwrap(), key))
    }

    fn overdue(&self, schedule: &str) -> bool {
        matches!(self.service.get_schedule(schedule).unwrap()["overdue"], Value::Bool(true))
    }

    pub fn expires(&self, id: u64) -> Option<String> {
        let backup = self.service.get_backup(id).unwrap();
        backup.contains_key("expires_at").then(|| text(&backup, "expires_at"))
    }
}

pub fn open(house: &House, clock: &Clock) -> Arc<Service> {
    let service = Service::open(ServiceOptions { clock: clock.clone(), ..house.options() }).unwrap();
    service.start();
    service
}

#[test]
fn a_schedule_runs_when_it_is_due_and_says_when_next() {
    let t = Timed::new("2024-03-30T12:00:00Z");
    let id = t.set("nightly", &[("cron", "30 2 * * *".into()), ("timezone", "Europe/Berlin".into())]);
    assert_eq!(t.field("nightly", "next_run"), "2024-03-31T01:00:00.000Z", "the clocks are changed that night");
    assert!(t.service.objects().contains(&(ObjectKind::Schedule, id)));
    t.come(at("2024-03-31T00:59:59Z"));
    assert!(t.ids().is_empty());
    t.come(at("2024-03-31T01:00:00Z"));
    let backup = t.service.get_backup(1).unwrap();
    assert_eq!((text(&backup, "status"), text(&backup, "backup_type")), ("completed".into(), "automatic".into()));
    assert_eq!(text(&backup, "schedule"), "nightly");
    assert_eq!(text(&backup, "created_at"), "2024-03-31T01:00:00.000Z");
    assert_eq!(t.field("nightly", "last_run"), "2024-03-31T01:00:00.000Z");
    assert_eq!(t.field("nightly", "last_result"), "completed");
    assert_eq!(t.field("nightly", "next_run"), "2024-04-01T00:30:00.000Z");
    t.run_until(at("2024-04-04T00:00:00Z"));
    assert_eq!(t.ids(), [1, 2, 3, 4]);
    close(t.service);
}

#[test]
fn unset_keys_keep_their_value_and_wrong_ones_change_nothing() {
    use ErrorKind::{InvalidArgument, InvalidState, NotFound};
    let t = Timed::new("2024-01-01T00:00:00Z");
    let set = |pairs: &[(&str, Value)]| t.service.set_schedule("s", map(pairs));
    refused(set(&[]), InvalidArgument, "cron is missing");
    for (key, value) in [
        ("cron", Value::from("61 * * * *")),
        ("cron", 5_u64.into()),
        ("timezone", "Mars/Olympus".into()),
        ("what", "nothing".into()),
        ("type", "half".into()),
        ("type", "database".into()),
        ("resources", "data".into()),
        ("retention", Value::Int(-1)),
        ("retention", 36_501_u64.into()),
        ("max_backups", true.into()),
        ("keep_daily", Value::Int32(-3)),
        ("full_every", Value::Double(1.5)),
        ("enabled", 1_u64.into()),
        ("notify", true.into()),
    ] {
        refused(set(&[("cron", "@daily".into()), (key, value)]), InvalidArgument, key);
    }
    refused(set(&[("cron", "@daily".into()), ("resources", strings(&["nope"]))]), NotFound, "nope");
    refused(set(&[("cron", "@daily".into()), ("vault", "nope".into())]), NotFound, "nope");
    refused(t.service.set_schedule("a/b", map(&[("cron", "@daily".into())])), InvalidArgument, "name");
    refused(t.service.set_schedule("7", map(&[("cron", "@daily".into())])), NotFound, "7");
    assert_eq!(t.service.list_schedules(Map::new()).unwrap().0, 0);
    let id = t.set(
        "s",
        &[
            ("cron", "0 2 * * *".into()),
            ("timezone", "UTC".into()),
            ("resources", strings(&["data"])),
            ("vault", "main".into()),
            ("retention", 9_u64.into()),
            ("keep_weekly", 2_u64.into()),
        ],
    );
    assert_eq!(t.set("s", &[("max_backups", 4_u64.into())]), id);
    let row = t.service.get_schedule("1").unwrap();
    assert_eq!(text(&row, "cron"), "0 2 * * *");
    assert_eq!(text(&row, "vault"), "main");
    let counts = ["retention", "max_backups", "keep_daily", "keep_weekly"].map(|key| match row[key] {
        Value::Uint32(n) => n,
        ref other => panic!("{key} is {other:?}"),
    });
    assert_eq!(counts, [9, 4, 0, 2]);
    assert_eq!(text(&row, "next_run"), "2024-01-01T02:00:00.000Z");
    // What it names cannot go.
    refused(t.service.remove_resource("data", Map::new()), InvalidState, "\"s\"");
    refused(t.service.remove_vault("main", Map::new()), InvalidState, "\"s\"");
    refused(t.service.set_schedule("s", map(&[("enabled", "no".into())])), InvalidArgument, "enabled");
    t.service.remove_schedule("s", Map::new()).unwrap();
    refused(t.service.get_schedule("s"), NotFound, "s");
    t.service.remove_resource("data", Map::new()).unwrap();
    close(t.service);
}

#[test]
fn what_was_missed_is_caught_up_once() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("hourly", &[("cron", "0 * * * *".into()), ("timezone", "UTC".into())]);
    t.come(at("2024-01-01T01:00:00Z"));
    assert_eq!(t.ids(), [1]);
    close(t.service);
    // Two days without the daemon.
    t.clock.set(at("2024-01-03T03:30:00Z"));
    let service = open(&t.house, &t.clock);
    let t = Timed { service, ..t };
    assert!(t.overdue("hourly"), "nothing good for two days");
    t.come(at("2024-01-03T03:30:00Z"));
    assert_eq!(t.ids(), [1, 2]);
    assert!(!t.overdue("hourly"));
    assert_eq!(t.field("hourly", "next_run"), "2024-01-03T04:00:00.000Z");
    // A clock that was far ahead for a moment does not leave the schedule waiting for that day.
    t.come(at("2031-01-01T00:00:00Z"));
    t.come(at("2024-01-03T03:40:00Z"));
    assert_eq!(t.field("hourly", "next_run"), "2024-01-03T05:00:00.000Z", "the next one was served meanwhile");
    // One that is set back a little does not run again what it ran.
    t.come(at("2024-01-03T05:00:00Z"));
    let runs = t.ids().len();
    t.come(at("2024-01-03T04:59:58Z"));
    t.come(at("2024-01-03T05:00:01Z"));
    assert_eq!(t.ids().len(), runs);
    assert_eq!(t.field("hourly", "next_run"), "2024-01-03T06:00:00.000Z");
    close(t.service);
}

#[test]
fn a_resource_whose_backup_still_waits_is_left_out_and_said() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.house.add(&t.service, "other");
    t.set("s", &[("cron", "0 * * * *".into()), ("timezone", "UTC".into())]);
    // Nothing begins: the queue is held.
    t.service.jobs.set_limits(crate::jobs::Limits { work: 0, maintenance: 1, export: 1 }, &t.service);
    let jobs = t.service.run_schedule("s", Map::new()).unwrap();
    assert_eq!((jobs.len(), t.field("s", "last_result")), (2, "running".into()));
    refused(t.service.run_schedule("s", Map::new()), ErrorKind::InvalidState, "backup 1 is still pending");
    t.service.cancel_job(jobs[1], Map::new()).unwrap();
    assert_eq!(t.service.run_schedule("s", Map::new()).unwrap().len(), 1);
    assert!(t.field("s", "message").contains("data was left out"), "{}", t.field("s", "message"));
    assert!(t.service.get_schedule("s").unwrap().contains_key("next_run"), "a run by hand leaves the next one");
    t.service.jobs.set_limits(crate::jobs::Limits::default(), &t.service);
    t.service.jobs.settle();
    assert_eq!(t.field("s", "last_result"), "completed");
    // Named resources that went another way leave the rest.
    t.set("s", &[("resources", strings(&["data", "other"]))]);
    t.service
        .catalog
        .write(|w| {
            w.update::<Resource>(2, |r| {
                r.removed_at = Some(at("2024-01-01T00:00:00Z"));
                Ok(())
            })
        })
        .unwrap();
    assert_eq!(t.service.run_schedule("s", Map::new()).unwrap().len(), 1);
    t.service.jobs.settle();
    close(t.service);
}

#[test]
fn a_failing_schedule_becomes_overdue_and_well_again() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("daily", &[("cron", "0 2 * * *".into()), ("timezone", "UTC".into())]);
    let away = t.house.path("away");
    std::fs::rename(t.house.data(), &away).unwrap();
    t.come(at("2024-01-01T02:00:00Z"));
    assert_eq!(t.field("daily", "last_result"), "failed");
    assert!(!t.overdue("daily"), "there is a day's time to mend it");
    t.come(at("2024-01-02T02:00:00Z"));
    assert!(t.overdue("daily"));
    assert!(t.field("daily", "message").contains("data"));
    std::fs::rename(&away, t.house.data()).unwrap();
    t.service.run_schedule("daily", Map::new()).unwrap();
    t.service.jobs.settle();
    assert!(!t.overdue("daily"));
    t.set("daily", &[("enabled", false.into())]);
    t.come(at("2024-02-02T02:00:00Z"));
    assert!(!t.overdue("daily"), "what is not enabled is not overdue");
    close(t.service);
}

#[test]
fn every_third_backup_reads_everything() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("s", &[("cron", "@daily".into()), ("full_every", 3_u64.into()), ("max_backups", 1_u64.into())]);
    let mut full = Vec::new();
    for id in 1..=7_u64 {
        t.service.run_schedule("s", Map::new()).unwrap();
        t.service.jobs.settle();
        full.push(!matches!(t.service.get_backup(id).unwrap()["incremental"], Value::Bool(true)));
        t.come(later(at("2024-01-01T00:00:00Z"), i64::try_from(id).unwrap()));
    }
    assert_eq!(full, [true, false, false, true, false, false, true], "though only one of them is kept");
    close(t.service);
}

#[test]
fn automatic_backups_expire_and_manual_ones_never_do() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("s", &[("cron", "0 0 1 1 *".into()), ("timezone", "UTC".into())]);
    let run = || {
        t.service.run_schedule("s", Map::new()).unwrap();
        t.service.jobs.settle();
    };
    back_up(&t.service, "data");
    run();
    assert_eq!((t.expires(1), t.expires(2)), (None, None), "the newest has no end");
    t.clock.set(at("2024-01-05T00:00:00Z"));
    run();
    assert_eq!(t.expires(2).as_deref(), Some("2024-01-31T00:00:00.000Z"), "thirty days");
    t.service.update_backup(2, map(&[("protected", true.into())])).unwrap();
    assert_eq!(t.expires(2), None);
    t.service.update_backup(2, map(&[("protected", false.into())])).unwrap();
    // Without the newest, the one before is the newest.
    done(&t.service, t.service.delete_backup(3, Map::new()).unwrap());
    assert_eq!(t.expires(2), None);
    run();
    t.set("s", &[("retention", 40_u64.into())]);
    assert_eq!(t.expires(2).as_deref(), Some("2024-02-10T00:00:00.000Z"));
    t.come(at("2024-02-09T23:59:59Z"));
    assert_eq!(t.ids(), [1, 2, 4]);
    t.come(at("2024-02-10T00:00:00Z"));
    assert_eq!(t.ids(), [1, 4], "the newest stays, however old");
    // One that was asked for as automatic, by no schedule, goes after thirty days as well.
    for _ in 0..2 {
        let queued = t.service.create_backup("data", map(&[("backup_type", "automatic".into())])).unwrap();
        done(&t.service, job_of(&queued));
    }
    assert_eq!(t.expires(5).as_deref(), Some("2024-03-11T00:00:00.000Z"));
    // A schedule that goes takes nothing with it.
    run();
    assert!(t.expires(4).is_some());
    t.service.remove_schedule("s", Map::new()).unwrap();
    assert_eq!(t.expires(4), None);
    t.come(at("2025-01-01T00:00:00Z"));
    assert_eq!(t.ids(), [1, 4, 6, 7]);
    close(t.service);
}

#[test]
fn a_backup_that_is_being_read_goes_later() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("s", &[("cron", "0 0 1 1 *".into()), ("timezone", "UTC".into()), ("max_backups", 1_u64.into())]);
    t.service.run_schedule("s", Map::new()).unwrap();
    t.service.jobs.settle();
    t.service.jobs.set_limits(crate::jobs::Limits { work: 1, maintenance: 0, export: 1 }, &t.service);
    let verify = t.service.verify_backup(1, Map::new()).unwrap();
    t.service.run_schedule("s", Map::new()).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while text(&t.service.get_backup(2).unwrap(), "status") != "completed" {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    let plan = t.service.plan_retention("s").unwrap();
    let goes = |m: &Map| (number(m, "backup"), matches!(m["keep"], Value::Bool(true)), text(m, "reason"));
    let plan: Vec<_> = plan.iter().map(goes).collect();
    assert_eq!(plan, [(2, true, "newest".into()), (1, false, "max_backups".into())]);
    let next = t.service.tick().unwrap();
    assert_eq!(next, at("2024-01-01T00:01:00Z"), "it is looked at again in a minute");
    assert_eq!(t.ids(), [1, 2]);
    t.service.jobs.set_limits(crate::jobs::Limits::default(), &t.service);
    done(&t.service, verify);
    t.come(next);
    assert_eq!(t.ids(), [2]);
    close(t.service);
}

/// What one who reads the sentence in the manual would keep, asked of each backup by itself.
fn stays(keep: &Keep, zone: &str, all: &BTreeMap<u64, Timestamp>, now: Timestamp) -> Vec<u64> {
    let zone = cron::zone(zone).unwrap();
    let rules = [(keep.daily, "%Y-%j"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m"), (keep.yearly, "%Y")];
    let newest = all.keys().max();
    let mut left: Vec<u64> = Vec::new();
    for (id, time) in all {
        let wanted = rules.iter().any(|(n, format)| {
            let name = |t: &Timestamp| t.to_zoned(zone.clone()).strftime(format).to_string();
            let newer: Vec<String> = all.iter().filter(|(o, _)| *o > id).map(|(_, t)| name(t)).collect();
            let mut others = newer.clone();
            others.sort();
            others.dedup();
            !newer.contains(&name(time)) && others.len() < *n as usize
        });
        let by_rule = rules.iter().any(|(n, _)| *n > 0);
        let young = keep.days.is_none_or(|d| later(*time, 24 * i64::from(d)) > now);
        if Some(id) == newest || if by_rule { wanted } else { young } {
            left.push(*id);
        }
    }
    if let Some(most) = keep.most {
        let over = left.len().saturating_sub(most as usize);
        left.drain(..over);
    }
    left
}

/// Five weeks over a change of clocks and a leap day, with a week switched off, through the real
/// service and a real vault: after every night there is exactly what the reference keeps.
#[test]
fn weeks_of_nights_leave_what_the_reference_keeps() {
    let t = Timed::new("2024-02-26T12:00:00Z");
    let zone = "Europe/Berlin";
    let sets: [(&str, &[(&str, u64)]); 3] = [
        ("aged", &[("retention", 10)]),
        ("counted", &[("retention", 30), ("max_backups", 4)]),
        ("ruled", &[("keep_daily", 3), ("keep_weekly", 2), ("keep_monthly", 2)]),
    ];
    for (name, keys) in sets {
        let mut pairs = vec![("cron", "30 2 * * *".into()), ("timezone", zone.into())];
        pairs.extend(keys.iter().map(|(key, n)| (*key, Value::Uint(*n))));
        t.set(name, &pairs);
    }
    let rows: Vec<Schedule> = t.service.catalog.read(Tables::all::<Schedule>).unwrap();
    let mut there: BTreeMap<u64, BTreeMap<u64, Timestamp>> = BTreeMap::new();
    let mut seen = 0;
    let (mut now, end) = (at("2024-02-26T12:00:00Z"), at("2024-04-01T12:00:00Z"));
    let off = at("2024-03-08T12:00:00Z")..at("2024-03-15T12:00:00Z");
    while now < end {
        now = later(now, 6);
        if off.contains(&now) {
            continue;
        }
        // A quarter of a day is coarser than the runs: they come at their own time first.
        while let Some(next) = t.service.tick().filter(|next| *next < now && !off.contains(next)) {
            t.come(next);
        }
        t.come(now);
        for schedule in &rows {
            let group = there.entry(schedule.id).or_default();
            let list = t.service.list_backups(map(&[("schedule", schedule.name.as_str().into())])).unwrap();
            let real: BTreeMap<u64, Timestamp> =
                list.1.iter().map(|b| (number(b, "id"), at(&text(b, "created_at")))).collect();
            for (id, time) in real.iter().filter(|(id, _)| **id > seen) {
                group.insert(*id, *time);
            }
            let kept = stays(&schedule.keep, zone, group, now);
            assert_eq!(real.keys().copied().collect::<Vec<_>>(), kept, "{} at {now}", schedule.name);
            group.retain(|id, _| kept.contains(id));
        }
        seen = t.ids().into_iter().max().unwrap_or(0);
    }
    // 35 nights less the week; one run of the week is caught up with.
    assert_eq!(seen, 3 * (35 - 7 + 1));
    let verify = t.service.verify_vault("main", map(&[("read_data", true.into())])).unwrap();
    done(&t.service, verify);
    close(t.service);
}

/// A year of hours in the pure parts: two changes of clocks, a leap day, a week switched off.
#[test]
fn a_year_of_runs_leaves_what_the_reference_keeps() {
    let zone = "Europe/Berlin";
    let times = cron::Times::parse("15 */6 * * *", zone).unwrap();
    let off = at("2024-08-01T00:00:00Z")..at("2024-08-08T00:00:00Z");
    for keep in [
        Keep { days: Some(30), ..Keep::default() },
        Keep { most: Some(20), ..Keep::default() },
        Keep { daily: 7, weekly: 4, monthly: 12, yearly: 2, ..Keep::default() },
        Keep { daily: 5, monthly: 3, most: Some(6), ..Keep::default() },
    ] {
        let mut there: BTreeMap<u64, Timestamp> = BTreeMap::new();
        let (mut now, mut id) = (at("2023-12-31T23:00:00Z"), 0);
        while let Some(next) = times.next(now).filter(|next| *next < at("2024-12-31T23:00:00Z")) {
            now = next;
            if off.contains(&now) {
                continue;
            }
            id += 1;
            there.insert(id, now);
            let all: Vec<Candidate> =
                there.iter().map(|(id, at)| Candidate { id: *id, at: *at, protected: false }).collect();
            let expected = stays(&keep, zone, &there, now);
            for gone in retention::plan(&keep, times.zone(), &all, now, None).iter().filter(|d| !d.keep) {
                there.remove(&gone.id);
            }
            assert_eq!(there.keys().copied().collect::<Vec<_>>(), expected, "{keep:?} at {now}");
        }
        assert_eq!(id, 366 * 4 - 7 * 4, "every run of the year but those of the week");
    }
}

//! Which automatic backups of one resource stay, which go, and when.
//!
//! With any `keep_*` rule a backup stays if one of them wants it, else while it is younger than
//! the days it is kept; then the most there may be drops the oldest. The newest never goes, and
//! protected ones never do. Pure: the clock is an argument.
//!
//! When a backup goes is foretold as far as it is known: by age exactly, by the other rules under
//! the assumption that every coming run makes a good backup.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, ToSpan, Zoned};

use super::Times;
use crate::catalog::Keep;

/// No further ahead than so many runs is anything foretold.
const AHEAD: u32 = 1000;
/// The same where runs must be played through one by one.
const PLAYED: u32 = 200;

/// A good backup that may have to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Whether it is protected.
    pub protected: bool,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The backup.
    pub id: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: &'static str,
    /// When it goes, where that is known.
    pub expires: Option<Timestamp>,
}

/// A stretch of time that a rule keeps one backup of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    fn of(self, date: Date) -> (i16, i16) {
        match self {
            Self::Day => (date.year(), date.day_of_year()),
            Self::Week => (date.iso_week_date().year(), i16::from(date.iso_week_date().week())),
            Self::Month => (date.year(), i16::from(date.month())),
            Self::Year => (date.year(), 0),
        }
    }

    /// When the period after that of `time` begins.
    fn next(self, time: &Zoned) -> Option<Timestamp> {
        let date = time.date();
        let (first, step): (Date, Span) = match self {
            Self::Day => (date, 1.day()),
            Self::Week => (date.checked_sub(i32::from(date.weekday().to_monday_zero_offset()).days()).ok()?, 1.week()),
            Self::Month => (date.first_of_month(), 1.month()),
            Self::Year => (date.first_of_year(), 1.year()),
        };
        let start = first.checked_add(step).ok()?.to_zoned(time.time_zone().clone()).ok()?;
        Some(start.timestamp())
    }
}

fn rules(keep: &Keep) -> [(u32, Period, &'static str); 4] {
    [
        (keep.daily, Period::Day, "keep_daily"),
        (keep.weekly, Period::Week, "keep_weekly"),
        (keep.monthly, Period::Month, "keep_monthly"),
        (keep.yearly, Period::Year, "keep_yearly"),
    ]
}

/// A time so many days later.
pub fn later(time: Timestamp, days: u32) -> Option<Timestamp> {
    time.checked_add(SignedDuration::from_hours(24 * i64::from(days))).ok()
}

/// What one rule wants: the last of each of so many periods that have any, with the number of
/// periods that are newer.
fn wanted(newest_first: &[Candidate], zone: &TimeZone, count: u32, period: Period) -> Vec<(u64, u32)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for backup in newest_first {
        let newer = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        if newer >= count {
            break;
        }
        if seen.insert(period.of(zone.to_datetime(backup.at).date())) {
            found.push((backup.id, newer));
        }
    }
    found
}

/// When a rule that wants `backup` no longer does: once a later backup of its period comes, or
/// `missing` more periods have one.
fn released(
    backup: &Candidate,
    newest: &Candidate,
    period: Period,
    missing: u32,
    times: &Times,
    now: Timestamp,
) -> Option<Timestamp> {
    let of = |time: Timestamp| period.of(times.zone().to_datetime(time).date());
    let mut next = times.next(now)?;
    if of(next) == of(backup.at) {
        return Some(next);
    }
    let mut last = of(newest.at);
    let mut left = missing;
    for _ in 0..AHEAD {
        if of(next) != last {
            last = of(next);
            left = left.saturating_sub(1);
            if left == 0 {
                return Some(next);
            }
        }
        let end = period.next(&next.to_zoned(times.zone().clone()))?;
        next = times.next(end.checked_sub(SignedDuration::from_nanos(1)).ok()?)?;
    }
    None
}

/// The time of the run `count` runs ahead.
fn ahead(times: &Times, now: Timestamp, count: u32) -> Option<Timestamp> {
    if count > AHEAD {
        return None;
    }
    (0..count).try_fold(now, |at, _| times.next(at))
}

/// Decides over the good backups of one resource by one schedule, newest first. `times` are those
/// of the runs to come, if there are any.
pub fn plan(
    keep: &Keep,
    zone: &TimeZone,
    backups: &[Candidate],
    now: Timestamp,
    times: Option<&Times>,
) -> Vec<Decision> {
    let mut order = backups.to_vec();
    order.sort_by_key(|b| std::cmp::Reverse((b.at, b.id)));
    let mut decisions = decide(keep, zone, &order, now);
    let by_rule = rules(keep).iter().any(|(count, ..)| *count > 0);
    if let Some(times) = times {
        match (by_rule, keep.most) {
            (true, Some(_)) => play(keep, zone, &order, now, times, &mut decisions),
            (true, None) => foretell_rules(keep, zone, &order, now, times, &mut decisions),
            (false, Some(most)) => foretell_most(most, &order, now, times, &mut decisions),
            (false, None) => {}
        }
    }
    decisions
}

fn goes_sometime(decision: &Decision) -> bool {
    decision.keep && !matches!(decision.reason, "newest" | "protected")
}

fn foretell_rules(
    keep: &Keep,
    zone: &TimeZone,
    order: &[Candidate],
    now: Timestamp,
    times: &Times,
    decisions: &mut [Decision],
) {
    let Some(newest) = order.first() else { return };
    let wants: Vec<_> =
        rules(keep).map(|(count, period, _)| (count, period, wanted(order, zone, count, period))).into();
    for (decision, backup) in decisions.iter_mut().zip(order).filter(|(d, _)| goes_sometime(d)) {
        let releases = wants.iter().filter_map(|(count, period, list)| {
            let (_, newer) = list.iter().find(|(id, _)| *id == backup.id)?;
            Some(released(backup, newest, *period, count - newer, times, now))
        });
        // The last rule to let go decides; one that is beyond telling leaves it open.
        decision.expires = releases.collect::<Option<Vec<_>>>().and_then(|list| list.into_iter().max());
    }
}

/// Without rules everything newer than a backup outlasts it: it goes when enough have come.
fn foretell_most(most: u32, order: &[Candidate], now: Timestamp, times: &Times, decisions: &mut [Decision]) {
    for i in 0..order.len() {
        let older_protected = order.iter().skip(i + 1).filter(|b| b.protected).count();
        let standing = u32::try_from(i + older_protected).unwrap_or(u32::MAX);
        let Some(decision) = decisions.get_mut(i).filter(|d| goes_sometime(d)) else { continue };
        let full = ahead(times, now, most.saturating_sub(standing).max(1));
        decision.expires = [decision.expires, full].into_iter().flatten().min();
    }
}

/// Plays the coming runs through.
fn play(keep: &Keep, zone: &TimeZone, order: &[Candidate], now: Timestamp, times: &Times, decisions: &mut [Decision]) {
    let goes = |id: u64| decisions.iter().any(|d| d.id == id && d.keep);
    let mut left: Vec<Candidate> = order.iter().filter(|b| goes(b.id)).copied().collect();
    let mut open: BTreeSet<u64> = decisions.iter().filter(|d| goes_sometime(d)).map(|d| d.id).collect();
    let mut at = now;
    for run in 0..u64::from(PLAYED) {
        let Some(next) = times.next(at).filter(|_| !open.is_empty()) else { return };
        at = next;
        left.insert(0, Candidate { id: u64::MAX - run, at, protected: false });
        let gone: BTreeSet<u64> = decide(keep, zone, &left, at).into_iter().filter(|d| !d.keep).map(|d| d.id).collect();
        left.retain(|b| !gone.contains(&b.id));
        for decision in decisions.iter_mut().filter(|d| gone.contains(&d.id) && goes_sometime(d)) {
            decision.expires = Some(at);
            open.remove(&decision.id);
        }
    }
}

/// What stays and goes now, of backups that are newest first; by age also when.
fn decide(keep: &Keep, zone: &TimeZone, order: &[Candidate], now: Timestamp) -> Vec<Decision> {
    let rules = rules(keep);
    let by_rule = rules.iter().any(|(count, ..)| *count > 0);
    let wants = rules.map(|(count, period, name)| (wanted(order, zone, count, period), name));
    let mut decisions: Vec<Decision> = order
        .iter()
        .enumerate()
        .map(|(i, b)| {
            let end = keep.days.filter(|_| !by_rule).and_then(|days| later(b.at, days));
            let (stays, reason) = if i == 0 {
                (true, "newest")
            } else if b.protected {
                (true, "protected")
            } else if by_rule {
                match wants.iter().find(|(list, _)| list.iter().any(|(id, _)| *id == b.id)) {
                    Some((_, rule)) => (true, *rule),
                    None => (false, "no keep rule wants it"),
                }
            } else if end.is_none_or(|end| end > now) {
                (true, "retention")
            } else {
                (false, "older than retention")
            };
            Decision { id: b.id, keep: stays, reason, expires: end.filter(|_| stays && i > 0 && !b.protected) }
        })
        .collect();
    if let Some(most) = keep.most {
        let most = usize::try_from(most.max(1)).unwrap_or(usize::MAX);
        let mut over = decisions.iter().filter(|d| d.keep).count().saturating_sub(most);
        for decision in decisions.iter_mut().rev() {
            if over > 0 && goes_sometime(decision) {
                *decision = Decision { id: decision.id, keep: false, reason: "max_backups", expires: None };
                over -= 1;
            }
        }
    }
    decisions
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_704_067_200 + second).unwrap()
    }

    /// The same rules, written as one asks them: for each backup by itself, over all others.
    fn stays(keep: &Keep, zone: &TimeZone, all: &[Candidate], now: Timestamp) -> BTreeSet<u64> {
        let newer = |a: &Candidate, b: &Candidate| (a.at, a.id) > (b.at, b.id);
        let last = |b: &Candidate| !all.iter().any(|o| newer(o, b));
        let rules: [(u32, &str); 4] =
            [(keep.daily, "%Y-%j"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m"), (keep.yearly, "%Y")];
        let some = rules.iter().any(|(n, _)| *n > 0);
        let rule = |b: &Candidate| {
            rules.iter().any(|(n, format)| {
                let name = |c: &Candidate| c.at.to_zoned(zone.clone()).strftime(format).to_string();
                let newest_of_period = !all.iter().any(|o| newer(o, b) && name(o) == name(b));
                let later: BTreeSet<String> =
                    all.iter().filter(|o| newer(o, b)).map(name).filter(|p| *p != name(b)).collect();
                newest_of_period && later.len() < *n as usize
            })
        };
        let young = |b: &Candidate| keep.days.is_none_or(|d| now.duration_since(b.at).as_secs() < i64::from(d) * DAY);
        let mut left: Vec<&Candidate> =
            all.iter().filter(|b| last(b) || b.protected || if some { rule(b) } else { young(b) }).collect();
        left.sort_by_key(|b| (b.at, b.id));
        if let Some(most) = keep.most {
            while left.len() > most.max(1) as usize {
                let Some(i) = left.iter().position(|b| !last(b) && !b.protected) else { break };
                left.remove(i);
            }
        }
        left.iter().map(|b| b.id).collect()
    }

    proptest! {
        #[test]
        fn what_stays_is_what_the_sentence_says(
            times in prop::collection::vec((0..800 * DAY, prop::bool::weighted(0.1)), 0..60),
            days in prop::option::of(1_u32..400),
            most in prop::option::of(1_u32..20),
            rules in (0_u32..6, 0_u32..4, 0_u32..4, 0_u32..3),
            with_rules: bool,
        ) {
            let (daily, weekly, monthly, yearly) = if with_rules { rules } else { (0, 0, 0, 0) };
            let keep = Keep { days, most, daily, weekly, monthly, yearly };
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let all: Vec<Candidate> =
                (1..).zip(&times).map(|(id, (t, protected))| Candidate { id, at: at(*t), protected: *protected }).collect();
            let now = at(800 * DAY);
            let plan = plan(&keep, &zone, &all, now, None);
            let kept: BTreeSet<u64> = plan.iter().filter(|d| d.keep).map(|d| d.id).collect();
            prop_assert_eq!(kept, stays(&keep, &zone, &all, now));
            prop_assert_eq!(plan.len(), all.len());
            prop_assert!(plan.first().is_none_or(|d| d.keep && d.expires.is_none()), "the newest stays for good");
            prop_assert!(plan.iter().filter_map(|d| d.expires).all(|e| e > now));
        }
    }

    /// A year of nightly backups with a week switched off, decided every night: what is there in
    /// the end is what a look at the whole history gives, and nothing left before its time.
    #[test]
    fn a_year_of_nights() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let keep = Keep { days: Some(30), most: None, daily: 7, weekly: 4, monthly: 12, yearly: 1 };
        let mut there: BTreeMap<u64, Candidate> = BTreeMap::new();
        for (id, night) in (1..).zip((0..366).filter(|n| !(100..107).contains(n))) {
            let now = at(night * DAY + 3 * 3600);
            there.insert(id, Candidate { id, at: now, protected: false });
            let all: Vec<Candidate> = there.values().copied().collect();
            let expected = stays(&keep, &zone, &all, now);
            for gone in plan(&keep, &zone, &all, now, None).iter().filter(|d| !d.keep) {
                there.remove(&gone.id);
            }
            assert_eq!(there.keys().copied().collect::<BTreeSet<_>>(), expected, "night {night}");
        }
        assert!((18..=23).contains(&there.len()), "{}", there.len());
    }

    proptest! {
        /// What is foretold is what happens when every run makes a good backup.
        #[test]
        fn what_is_foretold_happens(
            past in prop::collection::btree_set(1_i64..120, 1..20),
            protected: [bool; 3],
            cron in prop::sample::select(vec!["0 2 * * *", "0 2 * * 1,4", "30 */8 * * *"]),
            days in prop::option::of(1_u32..40),
            most in prop::option::of(1_u32..12),
            rules in (0_u32..5, 0_u32..4, 0_u32..3),
            with_rules: bool,
        ) {
            let (daily, weekly, monthly) = if with_rules { rules } else { (0, 0, 0) };
            let keep = Keep { days, most, daily, weekly, monthly, yearly: 0 };
            let by_rule = daily + weekly + monthly > 0;
            let times = Times::parse(cron, "Europe/Berlin").unwrap();
            let zone = times.zone().clone();
            let start = at(200 * DAY);
            let made = past.iter().map(|ago| start.checked_sub(SignedDuration::from_hours(20 * ago)).unwrap());
            let mut there: Vec<Candidate> =
                (1..).zip(made).map(|(id, at)| Candidate { id, at, protected: protected.get(id as usize) == Some(&true) }).collect();
            let first = plan(&keep, &zone, &there, start, Some(&times));
            let told: BTreeMap<u64, Option<Timestamp>> =
                first.iter().filter(|d| d.keep).map(|d| (d.id, d.expires)).collect();
            there.retain(|b| told.contains_key(&b.id));
            let newest = first.first().unwrap().id;
            // Time passes by the hour and by the run.
            let (mut went, mut now, mut id) = (BTreeMap::new(), start, 1000);
            let end = start.checked_add(SignedDuration::from_hours(24 * 50)).unwrap();
            while now < end {
                let tick = now.checked_add(SignedDuration::from_mins(30)).unwrap();
                now = times.next(now).unwrap().min(tick);
                if now != tick || times.last(now) == Some(now) {
                    there.push(Candidate { id, at: now, protected: false });
                    id += 1;
                }
                let gone: BTreeSet<u64> =
                    plan(&keep, &zone, &there, now, None).iter().filter(|d| !d.keep).map(|d| d.id).collect();
                there.retain(|b| !gone.contains(&b.id));
                went.extend(gone.into_iter().filter(|id| *id < 1000).map(|id| (id, now)));
            }
            for (id, expires) in told {
                if id == newest {
                    prop_assert_eq!(expires, None, "the newest has no end");
                    continue;
                }
                // By age it goes at its second, and is noticed at the next half hour.
                let slack = if by_rule { 0 } else { 1800 };
                match (expires.filter(|e| *e < end), went.get(&id)) {
                    (Some(told), Some(real)) => {
                        let off = real.duration_since(told).as_secs();
                        prop_assert!((0..=slack).contains(&off), "{} was told {} and went {}", id, told, real);
                    }
                    (None, None) => {}
                    (told, real) => prop_assert!(
                        told.is_some_and(|t| end.duration_since(t).as_secs() <= slack), "{}: told {:?}, went {:?}", id, told, real
                    ),
                }
            }
        }
    }
}

//! When which share of a vault is read, so that everything is read within so many days.
//!
//! A round goes through all ids once, in shares of equal length, evenly over four fifths of the days. What exists
//! when its place is passed is read then; what is written behind it, when the next round comes there. So between two
//! reads of an object, or between its writing and the first, there are at most a round and one share, and what
//! a share came too late: the fifth that is left over is for the latter. A share that is late is longer, up to
//! where the round should be by then.

use jiff::{SignedDuration, Timestamp};

use crate::catalog::vault::Round;
use crate::vault::Share;

impl Round {
    /// One that begins.
    pub fn new(began: Timestamp) -> Self {
        Self { began, to: 0, bad: false }
    }

    /// When the next share is to be read.
    pub fn due(&self, days: u32) -> Timestamp {
        let passed = (length(days).as_nanos() * i128::from(self.to)) >> 64;
        let passed = SignedDuration::from_nanos_i128(passed);
        self.began.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    /// How long to wait before a share that could not be read is tried again.
    pub fn pause(days: u32) -> SignedDuration {
        (length(days) / (2 * shares(days))).min(SignedDuration::from_hours(24))
    }

    /// What is to be read at a time: to the end of the share that should be read by then, one at least.
    pub fn share(&self, days: u32, now: Timestamp) -> Share {
        let count = i128::from(shares(days));
        let number = |nanos: i128| nanos * count / length(days).as_nanos().max(1);
        let by_now = number(now.duration_since(self.began).as_nanos().max(0)) + 1;
        // The nearest share: where one ends was rounded down.
        let next = ((i128::from(self.to) * count + (1 << 63)) >> 64) + 1;
        let end = ((by_now.max(next).min(count)) << 64) / count;
        Share { from: self.to, to: u64::try_from(end).unwrap_or(u64::MAX) }
    }

    /// How far it has come once a share of it was read, and was well or not: the round, and of one that has ended
    /// whether all of it was well.
    pub fn after(&self, share: Share, well: bool, days: u32, now: Timestamp) -> (Self, Option<bool>) {
        let bad = self.bad || !well;
        if share.to < u64::MAX {
            return (Self { to: share.to, bad, ..*self }, None);
        }
        let end = self.began.saturating_add(length(days)).unwrap_or(now);
        (Self::new(end.max(now)), Some(!bad))
    }

    /// The round as far as it can be true at a time: what began longer ago than the days says nothing of what is there
    /// now, and nothing is due later than a share from now, whatever clock said so or however many days there were.
    pub fn sane(self, days: u32, now: Timestamp) -> Self {
        if now.duration_since(self.began) > SignedDuration::from_hours(24).saturating_mul(count(days)) {
            return Self::new(self.began);
        }
        let most = length(days) / shares(days) + SignedDuration::from_secs(1);
        let ahead = self.due(days).duration_since(now);
        if ahead <= most {
            return self;
        }
        let began = self.began.saturating_sub(ahead.saturating_sub(most)).unwrap_or(now);
        Self { began, ..self }
    }
}

/// How long a round takes.
fn length(days: u32) -> SignedDuration {
    SignedDuration::from_hours(24).saturating_mul(count(days)) / 5 * 4
}

fn count(days: u32) -> i32 {
    i32::try_from(days.max(1)).unwrap_or(i32::MAX)
}

/// How many shares it has.
fn shares(days: u32) -> i32 {
    i32::try_from(days).unwrap_or(i32::MAX).clamp(10, 30)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Id;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + HOUR * i32::try_from(hours).unwrap()
    }

    fn id(prefix: u64) -> Id {
        let mut id = Id::default();
        id.0[..8].copy_from_slice(&prefix.to_be_bytes());
        id
    }

    #[test]
    fn shares_follow_each_other_and_are_everything() {
        for days in [1, 7, 10, 29, 30, 365, 36_500] {
            let mut round = Round::new(at(0));
            let mut read = Vec::new();
            loop {
                let now = round.due(days);
                let share = round.share(days, now);
                assert_eq!(share.from, round.to);
                assert!(share.to > share.from);
                read.push(share);
                let (next, ended) = round.after(share, true, days, now);
                round = next;
                if ended == Some(true) {
                    break;
                }
            }
            assert_eq!(i32::try_from(read.len()).unwrap(), shares(days), "{days} days");
            assert_eq!((read[0].from, read.last().unwrap().to), (0, u64::MAX));
            assert!(read.windows(2).all(|pair| pair[0].to == pair[1].from));
            let inside = |at: u64| read.iter().filter(|share| share.contains(&id(at))).count();
            let edges = read.iter().flat_map(|share| [share.from, share.from.saturating_sub(1), share.to - 1]);
            assert!(edges.chain([0, u64::MAX]).all(|edge| inside(edge) == 1));
            assert_eq!(round, Round::new(at(0) + length(days)), "the next begins when this one should end");
        }
    }

    #[test]
    fn damage_in_any_share_makes_a_round_a_bad_one() {
        for bad in [0, 4, 9] {
            let mut round = Round::new(at(0));
            let ended = (0..10).find_map(|i| {
                let now = round.due(10);
                let (next, ended) = round.after(round.share(10, now), i != bad, 10, now);
                round = next;
                ended
            });
            assert_eq!((ended, round.bad), (Some(false), false), "the next one begins anew");
        }
        let late = at(24 * 30);
        assert!(Round::new(at(0)).share(10, late).is_all());
        assert_eq!(Round::new(at(0)).after(Share::ALL, false, 10, late), (Round::new(late), Some(false)));
    }

    #[test]
    fn a_wrong_clock_and_other_days_keep_nothing_waiting() {
        let now = at(24 * 100);
        let share = length(10) / 10 + SignedDuration::from_secs(1);
        for (began, to) in [(24 * 400, 0), (24 * 103, 0), (24 * 110, 1 << 63), (24 * 99, 1 << 63)] {
            let round = Round { began: at(began), to, bad: true };
            let sane = round.sane(10, now);
            assert_eq!((sane.to, sane.bad), (to, true));
            assert_eq!(sane.due(10), now + share, "{began}");
            assert_eq!(sane.sane(10, now), sane);
        }
        let fine = Round { began: at(24 * 96), to: 1 << 63, bad: false };
        assert_eq!(fine.sane(10, now), fine);
        // Half of it was read long ago.
        let old = Round { began: at(0), to: 1 << 63, bad: true };
        assert_eq!(old.sane(10, now), Round::new(at(0)));
        assert!(old.sane(10, now).share(10, now).is_all());
    }

    proptest! {
        /// Objects are written at any time, and the machine is off or the vault away now and then, each time for a
        /// twenty-fifth of the days at most.
        #[test]
        fn no_object_waits_longer_than_the_days(
            days in prop_oneof![Just(1_u32), Just(10), Just(30), Just(365)],
            objects in prop::collection::vec((any::<u64>(), 0_i64..4000), 1..40),
            away in prop::collection::vec((0_i64..4000, 1_i64..=40), 0..60),
        ) {
            // Time in thousandths of the days, over four times as many.
            let unit = SignedDuration::from_hours(24) * i32::try_from(days).unwrap() / 1000;
            let time = |n: i64| Timestamp::UNIX_EPOCH + unit * i32::try_from(n).unwrap();
            // Whoever is away twice in a row is away for longer: one of them counts.
            let mut gone: Vec<(i64, i64)> = Vec::new();
            let mut sorted = away;
            sorted.sort_unstable();
            for (from, long) in sorted {
                if gone.last().is_none_or(|(_, end)| from > end + 160) {
                    gone.push((from, from + long));
                }
            }
            let mut round = Round::new(time(0));
            let mut waits: Vec<(Id, i64)> = objects.iter().map(|(at, when)| (id(*at), *when)).collect();
            let mut longest = 0;
            for now in 0..4000 {
                if gone.iter().any(|(from, to)| (*from..*to).contains(&now)) || round.due(days) > time(now) {
                    continue;
                }
                let share = round.share(days, time(now));
                for (_, since) in waits.iter_mut().filter(|(id, since)| *since <= now && share.contains(id)) {
                    longest = longest.max(now - *since);
                    *since = now;
                }
                (round, _) = round.after(share, true, days, time(now));
            }
            let left = waits.iter().map(|(_, since)| 4000 - since).max().unwrap_or(0);
            prop_assert!(longest.max(left) <= 1000, "{} of a thousand", longest.max(left));
        }
    }
}

//! What each backup alone takes, under a clock that the tests set.

use super::schedules::{Timed, at};
use super::*;

impl Timed {
    fn unique(&self, id: u64) -> Option<u64> {
        match self.service.get_backup(id).unwrap().get("unique_size") {
            None => None,
            Some(Value::Uint(size)) => Some(*size),
            other => panic!("{other:?}"),
        }
    }

    /// Lets the time come, and what is measured by then be known.
    fn measure(&self, time: &str) {
        self.come(at(time));
        settle(&self.service);
        // A number that is known is kept through a second look.
        self.come(at(time));
        settle(&self.service);
    }
}

fn settle(service: &Service) {
    service.sizes.settle(Instant::now() + Duration::from_secs(60));
}

/// Bytes that do not compress, and of which no two seeds have any in common.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    std::iter::repeat_with(step).take(len).collect()
}

#[test]
fn each_backup_says_what_it_alone_takes_once_that_is_known() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    std::fs::write(t.house.data().join("noise"), noise(1_000_000, 1)).unwrap();
    let first = back_up(&t.service, "data");
    t.come(at("2024-01-01T00:00:01Z"));
    assert_eq!(t.unique(first), None, "it is not measured while backups may follow");
    t.measure("2024-01-01T00:00:12Z");
    let alone = t.unique(first).unwrap();
    assert!((1_000_000..1_010_000).contains(&alone), "{alone}");
    // The second replaces the noise: each has its own, and the rest is of both.
    std::fs::write(t.house.data().join("noise"), noise(500_000, 2)).unwrap();
    let second = back_up(&t.service, "data");
    assert_eq!((t.unique(first), t.unique(second)), (None, None), "there is another backup by now");
    t.measure("2024-01-01T01:00:00Z");
    t.measure("2024-01-01T01:00:12Z");
    let (a, b) = (t.unique(first).unwrap(), t.unique(second).unwrap());
    assert!((1_000_000..alone).contains(&a) && (500_000..505_000).contains(&b), "{a} {b} {alone}");
    // Who is described anew or protected is the same as before.
    t.service.update_backup(second, map(&[("description", "words".into())])).unwrap();
    assert_eq!((t.unique(first), t.unique(second)), (Some(a), Some(b)));
    let job = t.service.delete_backup(first, Map::new()).unwrap();
    assert_eq!(t.unique(second), None, "what it shared is its own now");
    assert_eq!(wait(&t.service, job).state, "completed");
    t.measure("2024-01-01T02:00:00Z");
    t.measure("2024-01-01T02:00:12Z");
    let left = t.unique(second).unwrap();
    let used = number(&t.service.get_vault("main").unwrap(), "used");
    assert!(left > b && left <= used && left * 100 > used * 98, "{left} of {used}");
    // It is known after a restart as well.
    let (house, clock) = (t.house, t.clock);
    close(t.service);
    let service = super::schedules::open(&house, &clock);
    assert_eq!(number(&service.get_backup(second).unwrap(), "unique_size"), left);
    close(service);
}

#[test]
fn measuring_takes_a_hundredth_of_the_time() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    let first = back_up(&t.service, "data");
    t.measure("2024-01-01T00:00:00Z");
    t.measure("2024-01-01T00:00:12Z");
    assert!(t.unique(first).is_some());
    // The clock stands still: whatever it took, a hundred times that has not passed.
    back_up(&t.service, "data");
    t.service.tick();
    settle(&t.service);
    assert_eq!(t.unique(first), None);
    t.measure("2024-01-01T00:20:00Z");
    t.measure("2024-01-01T00:20:12Z");
    assert!(t.unique(first).is_some());
    close(t.service);
}

#[test]
fn what_was_measured_while_a_prune_copied_is_forgotten() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    let first = back_up(&t.service, "data");
    let vault = number(&t.service.get_vault("main").unwrap(), "id");
    // It may have been written down already, a moment before: then a prune forgets it afterwards.
    let forgotten = (1..=20).any(|hour| {
        t.come(at(&format!("2024-01-01T{hour:02}:00:00Z")));
        t.come(at(&format!("2024-01-01T{hour:02}:00:12Z")));
        t.service.sizes.outdated(vault);
        settle(&t.service);
        let forgotten = t.unique(first).is_none();
        back_up(&t.service, "data");
        forgotten
    });
    assert!(forgotten);
    t.measure("2024-01-02T00:00:00Z");
    t.measure("2024-01-02T00:00:12Z");
    assert!(t.unique(first).is_some(), "and measured again");
    close(t.service);
}

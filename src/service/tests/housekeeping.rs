//! Vaults that look after themselves, under a clock that the tests set.

use super::schedules::{Timed, at, later};
use super::*;

impl Timed {
    /// Kinds of all jobs of the vault's own, oldest first.
    fn chores(&self) -> Vec<String> {
        let list = self.service.list_jobs(map(&[("sort", strings(&["id"])), ("page_size", 1000_u64.into())])).unwrap();
        let chore = |m: &&Map| ["prune", "verify"].contains(&text(m, "kind").as_str());
        list.1.iter().filter(chore).map(|m| text(m, "kind")).collect()
    }

    fn vault(&self, key: &str) -> String {
        text(&self.service.get_vault("main").unwrap(), key)
    }
}

#[test]
fn a_vault_prunes_itself() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    back_up(&t.service, "data");
    let update = |pairs: &[(&str, Value)]| t.service.update_vault("main", map(pairs));
    refused(update(&[("prune", "sometimes".into())]), ErrorKind::InvalidArgument, "prune");
    refused(update(&[("verify_within", 40_000_u64.into())]), ErrorKind::InvalidArgument, "verify_within");
    t.come(at("2024-01-02T00:00:00Z"));
    assert!(t.chores().is_empty(), "nobody asked for anything");
    update(&[("prune", "0 5 * * *".into())]).unwrap();
    t.come(at("2024-01-02T00:00:01Z"));
    assert!(t.chores().is_empty());
    assert!(at(&t.vault("next_prune")) > at("2024-01-02T00:00:01Z"));
    t.come(later(at("2024-01-02T00:00:01Z"), 24));
    assert_eq!(t.chores(), ["prune"]);
    assert_eq!(t.vault("last_pruned"), "2024-01-03T00:00:01.000Z");
    update(&[("prune", "".into())]).unwrap();
    t.come(at("2024-01-05T00:00:00Z"));
    assert_eq!(t.chores(), ["prune"]);
    close(t.service);
}

impl Timed {
    /// All checks so far that ended so: what each of them read.
    fn checks(&self, state: &str) -> Vec<u64> {
        let list = self.service.list_jobs(map(&[("sort", strings(&["id"])), ("page_size", 1000_u64.into())])).unwrap();
        let ended = list.1.iter().filter(|m| text(m, "kind") == "verify" && text(m, "state") == state);
        ended
            .map(|m| m.get("result").map_or(0, |r| if let Value::Map(r) = r { number(r, "bytes") } else { 0 }))
            .collect()
    }
}

#[test]
fn everything_is_read_share_by_share_within_its_days() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    // Many packs.
    for i in 0..16 {
        std::fs::write(t.house.data().join("one"), vec![i; 50_000]).unwrap();
        let queued = t.service.create_backup("data", map(&[("backup_type", "automatic".into())])).unwrap();
        assert_eq!(wait(&t.service, job_of(&queued)).state, "completed");
        t.service.update_backup(number(&queued, "id"), map(&[("protected", true.into())])).unwrap();
    }
    t.service.update_vault("main", map(&[("verify_within", 10_u64.into())])).unwrap();
    let used = number(&t.service.get_vault("main").unwrap(), "used");
    t.run_until(at("2024-01-08T04:47:00Z"));
    assert_eq!(t.checks("completed").len(), 9);
    assert!(!t.service.get_vault("main").unwrap().contains_key("last_read"), "not everything was read yet");
    t.run_until(at("2024-01-08T23:59:00Z"));
    let read = t.checks("completed");
    // A tenth of the eight days before they are over.
    assert_eq!(t.vault("last_read"), "2024-01-08T04:47:59.999Z");
    assert_eq!((read.len(), read.iter().sum::<u64>()), (10, used), "each pack once: {read:?}");
    assert!(read.iter().all(|share| *share < used / 2), "{read:?} of {used}");
    // The machine was off for most of a round: what should have been read by then is, at once.
    t.clock.set(at("2024-01-15T00:00:00Z"));
    t.run_until(at("2024-01-17T00:00:01Z"));
    let again = t.checks("completed").split_off(10);
    assert!(again.len() <= 5, "{again:?}");
    assert!(again.iter().sum::<u64>() >= used, "{again:?} of {used}");
    // Wherever damage is, it is found in time, and told of with every share until it is mended.
    let mut now = at("2024-01-17T00:00:01Z");
    for pack in house_files(&t.house.path("state/vault/packs")).iter().step_by(5) {
        let whole = std::fs::read(pack).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(pack, &bytes).unwrap();
        let (failed, read) = (t.checks("failed").len(), t.vault("last_read"));
        now = later(now, 24 * 10);
        t.run_until(now);
        assert!(t.checks("failed").len() > failed, "{} was not found within ten days", pack.display());
        now = later(now, 24 * 8);
        t.run_until(now);
        let told = t.checks("failed").len() - failed;
        assert!((10..=23).contains(&told), "{} was told of {told} times, with each share", pack.display());
        let bytes: u64 = t.checks("failed").iter().rev().take(10).sum();
        assert!(bytes >= used, "the others were read as well: {bytes} of {used}");
        assert!(at(&t.vault("last_read")) < later(at(&read), 24 * 9), "a vault with damage is not well");
        std::fs::write(pack, &whole).unwrap();
        let failed = t.checks("failed").len();
        now = later(now, 24 * 17);
        t.run_until(now);
        assert_eq!(t.checks("failed").len(), failed);
        assert!(at(&t.vault("last_read")) > later(now, -24 * 9), "{}", t.vault("last_read"));
    }
    close(t.service);
}

#[test]
fn a_damaged_vault_that_is_read_at_once_is_not_read_all_over_again() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    for i in 0..9 {
        std::fs::write(t.house.data().join("one"), vec![i; 50_000]).unwrap();
        back_up(&t.service, "data");
    }
    let used = number(&t.service.get_vault("main").unwrap(), "used");
    let packs = house_files(&t.house.path("state/vault/packs"));
    let mut bytes = std::fs::read(&packs[3]).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&packs[3], &bytes).unwrap();
    t.clock.set(at("2024-03-01T00:00:00Z"));
    t.service.update_vault("main", map(&[("verify_within", 10_u64.into())])).unwrap();
    t.run_until(at("2024-03-09T00:00:00Z"));
    let read = t.checks("failed");
    assert_eq!((read[0], read.len()), (used, 11), "all of it, and then share by share: {read:?}");
    assert!(read[1..].iter().all(|share| *share < used), "{read:?} of {used}");
    assert!(!t.service.get_vault("main").unwrap().contains_key("last_read"));
    close(t.service);
}

fn house_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(house_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_backup_that_does_not_fit_fails_and_leaves_nothing() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    back_up(&t.service, "data");
    let used = || number(&t.service.get_vault("main").unwrap(), "used");
    let before = used();
    let mut noise = vec![0_u8; 2_000_000];
    let mut state = 1_u32;
    noise.iter_mut().for_each(|b| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *b = state.to_be_bytes()[0];
    });
    std::fs::write(t.house.data().join("noise"), &noise).unwrap();
    t.service.update_vault("main", map(&[("capacity", Value::Uint(before + 1_000_000))])).unwrap();
    let queued = t.service.create_backup("data", Map::new()).unwrap();
    let status = wait(&t.service, job_of(&queued));
    assert_eq!((status.state.as_str(), status.error_name.as_str()), ("failed", "org.strongroom1.Error.LimitReached"));
    assert!(status.error.contains("capacity"), "{}", status.error);
    assert_eq!(std::fs::read_dir(t.house.path("state/vault/backups")).unwrap().count(), 1, "no manifest of it");
    // What it may have stored comes back by itself.
    t.come(at("2024-01-01T00:00:01Z"));
    assert_eq!(t.chores(), ["prune"]);
    assert_eq!(used(), before);
    let on_disk: u64 =
        house_files(&t.house.path("state/vault/packs")).iter().map(|p| p.metadata().unwrap().len()).sum();
    assert_eq!(on_disk, before, "measured by the packs there are");
    t.service.update_vault("main", map(&[("capacity", Value::Uint(before + 3_000_000))])).unwrap();
    back_up(&t.service, "data");
    t.service.update_vault("main", map(&[("capacity", Value::Uint(1))])).unwrap();
    refused(t.service.create_backup("data", Map::new()), ErrorKind::LimitReached, "capacity");
    close(t.service);
}

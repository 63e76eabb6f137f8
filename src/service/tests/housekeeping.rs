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
fn a_vault_prunes_and_checks_itself() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    back_up(&t.service, "data");
    let update = |pairs: &[(&str, Value)]| t.service.update_vault("main", map(pairs));
    refused(update(&[("prune", "sometimes".into())]), ErrorKind::InvalidArgument, "prune");
    refused(update(&[("verify_within", 40_000_u64.into())]), ErrorKind::InvalidArgument, "verify_within");
    t.come(at("2024-01-02T00:00:00Z"));
    assert!(t.chores().is_empty(), "nobody asked for anything");
    update(&[("prune", "0 5 * * *".into()), ("verify_within", 10_u64.into())]).unwrap();
    t.come(at("2024-01-02T00:00:01Z"));
    assert!(t.chores().is_empty());
    assert!(at(&t.vault("next_prune")) > at("2024-01-02T00:00:01Z"));
    t.come(later(at("2024-01-02T00:00:01Z"), 24));
    assert_eq!(t.chores(), ["prune"]);
    assert_eq!(t.vault("last_pruned"), "2024-01-03T00:00:01.000Z");
    update(&[("prune", "".into())]).unwrap();
    // Eight of ten days after the vault was made, everything is read.
    t.come(at("2024-01-08T23:59:59Z"));
    assert_eq!(t.chores(), ["prune"]);
    t.come(at("2024-01-09T00:00:00Z"));
    assert_eq!(t.chores(), ["prune", "verify"]);
    assert_eq!(t.vault("last_read"), "2024-01-09T00:00:00.000Z");
    // A check that found damage is tried again, a day later.
    let packs = house_files(&t.house.path("state/vault/packs"));
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&packs[0], &bytes).unwrap();
    t.come(at("2024-01-17T00:00:00Z"));
    t.come(at("2024-01-17T12:00:00Z"));
    assert_eq!(t.chores(), ["prune", "verify", "verify"]);
    assert_eq!(t.vault("last_read"), "2024-01-09T00:00:00.000Z", "it was not well");
    bytes[middle] ^= 1;
    std::fs::write(&packs[0], &bytes).unwrap();
    t.come(at("2024-01-18T00:00:00Z"));
    assert_eq!(t.vault("last_read"), "2024-01-18T00:00:00.000Z");
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

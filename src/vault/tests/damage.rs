//! Whatever happens to an object, it is noticed, and nothing wrong is ever read.

use super::*;
use crate::model::ErrorKind;

fn files() -> Vec<(String, Vec<u8>)> {
    (0..12).map(|i| (format!("file{i:02}"), noise(i, 500 + 40_000 * (i as usize % 3)))).collect()
}

/// Opens the vault anew (nothing decoded is cached), and verifies it and reads all of a backup:
/// either it says what is wrong or everything is right.
fn judge(dir: &Path, id: &Id, what: &str) {
    let vault = vault(dir);
    let report = verify(&vault, &[], true, &Progress::default());
    let noticed = report.is_err() || report.is_ok_and(|r| r.problem_count > 0);
    assert!(noticed, "{what} was not noticed");
    let Ok(manifest) = vault.manifest(id) else { return };
    let Ok(entries) = vault.entries(&manifest.root) else { return };
    for (entry, (name, bytes)) in entries.iter().zip(files()) {
        assert_eq!(entry.name, name.as_bytes(), "{what}");
        let Kind::File { size, content, .. } = &entry.kind else { panic!("{what}: not a file") };
        for part in vault.parts(content, *size).unwrap() {
            match vault.read_blob(&part.id) {
                Ok(blob) => assert_eq!(*blob, *bytes, "{what}: wrong bytes"),
                Err(e) => assert_eq!(e.kind, ErrorKind::Damaged, "{what}: {e}"),
            }
        }
    }
}

#[test]
fn every_damage_to_packs_and_manifests_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let id = back_up(&vault(dir.path()), &files());
    let objects = vault(dir.path()).store().list("packs/").unwrap();
    let objects = objects.into_iter().chain(vault(dir.path()).store().list("backups/").unwrap());
    for object in objects {
        let path = dir.path().join("vault").join(&object.key);
        let good = std::fs::read(&path).unwrap();
        // Every byte of header and footer, and some of all others.
        let stride = (good.len() / 40).max(1);
        let places = (0..60).chain((60..good.len()).step_by(stride)).chain(good.len() - 30..good.len());
        for at in places.filter(|at| *at < good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            judge(dir.path(), &id, &format!("byte {at} of {}", object.key));
        }
        for len in [0, 1, 55, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            judge(dir.path(), &id, &format!("{} cut to {len}", object.key));
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(clean(&vault(dir.path())));
}

#[test]
fn missing_and_swapped_objects_are_noticed_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let id = back_up(&vault(dir.path()), &files());
    let packs = vault(dir.path()).store().list("packs/").unwrap();
    let [a, b] = [0, 1].map(|i| dir.path().join("vault").join(&packs[i].key));
    let (first, second) = (std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    std::fs::write(&a, &second).unwrap();
    std::fs::write(&b, &first).unwrap();
    judge(dir.path(), &id, "swapped packs");
    std::fs::remove_file(&a).unwrap();
    std::fs::write(&b, &second).unwrap();
    judge(dir.path(), &id, "a missing pack");
    let report = verify(&vault(dir.path()), &[id], false, &Progress::default()).unwrap();
    assert_eq!(report.damaged_backups, [id]);
    std::fs::write(&a, &first).unwrap();
    assert!(clean(&vault(dir.path())));
}

/// Two data packs, one in the place of the other: a prune, which looks for packs that the index has wrong, must not take the
/// second name to hold what the first does, since then nobody would miss what it held.
#[test]
fn a_pack_in_the_place_of_another_is_not_listed_as_it() {
    let dir = tempfile::tempdir().unwrap();
    let ids = [1, 2].map(|n| back_up(&vault(dir.path()), &[("file".into(), noise(n, 300_000))]));
    let vault = vault(dir.path());
    let packs: Vec<_> = vault.index().packs().filter(|pack| pack.class == Class::DataPack).collect();
    let [a, b] = [0, 1].map(|i| dir.path().join("vault").join(object::key(Class::DataPack, &packs[i].id)));
    assert_eq!(packs.len(), 2);
    let whole = std::fs::read(&b).unwrap();
    std::fs::copy(&a, &b).unwrap();
    assert!(!clean(&vault));
    let _ = prune(&vault, &ids, Compression::default(), false, &Progress::default());
    assert!(!clean(&vault), "what was there is still missed");
    std::fs::write(&b, whole).unwrap();
    let _ = clean(&vault);
    prune(&vault, &ids, Compression::default(), false, &Progress::default()).unwrap();
    assert!(clean(&vault));
    assert_eq!(read_back(&vault, &ids[0])[0].1, noise(1, 300_000));
    assert_eq!(read_back(&vault, &ids[1])[0].1, noise(2, 300_000));
}

#[test]
fn an_object_of_another_vault_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = back_up(&vault(dir.path()), &files());
    back_up(&vault(other.path()), &files());
    let foreign = vault(other.path()).store().list("backups/").unwrap()[0].key.clone();
    std::fs::copy(other.path().join("vault").join(&foreign), dir.path().join("vault").join(&foreign)).unwrap();
    let report = verify(&vault(dir.path()), &[], false, &Progress::default()).unwrap();
    assert_eq!(report.problem_count, 1, "{:?}", report.problems);
    assert!(report.problems[0].object.contains(&foreign) && !report.damaged_backups.contains(&id));
}

#[test]
fn an_encrypted_vault_does_not_pass_for_a_plain_one() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let config = VaultConfig { encrypted: false, ..read_config(&**vault.store()).unwrap() };
    config::write_config(&**vault.store(), &config).unwrap();
    let opened = Vault::open(vault.store().clone(), Some(MasterKey([0; 32])), dir.path(), 0);
    assert_eq!(opened.unwrap_err().kind, ErrorKind::Damaged);
}

/// Backs up again after `harm` was done to every pack in turn: nothing counts on what is lost, the
/// earlier backup is whole again too, and prune forgets the lost pack.
fn heals(harm: impl Fn(&Path), find: impl Fn(&Vault)) {
    let count = {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        back_up(&vault, &files());
        vault.store().list("packs/").unwrap().len()
    };
    for number in 0..count {
        let dir = tempfile::tempdir().unwrap();
        let first = back_up(&vault(dir.path()), &files());
        let key = vault(dir.path()).store().list("packs/").unwrap()[number].key.clone();
        harm(&dir.path().join("vault").join(&key));
        find(&vault(dir.path()));
        let opened = vault(dir.path());
        let second = back_up(&opened, &files());
        // Both an index that grew and one that is made anew find the whole copies, and so does a
        // reader that does not know what is lost.
        opened.rebuild_index().unwrap();
        let opened = vault(dir.path());
        for id in [first, second] {
            assert_eq!(read_back(&opened, &id), files(), "{key}");
            assert_eq!(verify(&opened, &[id], true, &Progress::default()).unwrap().damaged_backups, [], "{key}");
        }
        let report = verify(&opened, &[], true, &Progress::default()).unwrap();
        assert!(report.damaged_backups.is_empty() && report.problem_count > 0, "{report:?}");
        prune(&opened, &[], Compression::default(), false, &Progress::default()).unwrap();
        assert!(clean(&opened) && clean(&vault(dir.path())), "{key}");
        for id in [first, second] {
            assert_eq!(read_back(&vault(dir.path()), &id), files(), "{key}");
        }
    }
}

#[test]
fn a_missing_pack_is_stored_again() {
    heals(|path| std::fs::remove_file(path).unwrap(), |_| ());
}

#[test]
fn a_pack_cut_short_is_stored_again() {
    heals(|path| std::fs::write(path, &std::fs::read(path).unwrap()[..100]).unwrap(), |_| ());
}

#[test]
fn a_damaged_pack_is_stored_again_once_it_was_found() {
    let harm = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes.iter_mut().skip(60).step_by(97).for_each(|b| *b ^= 1);
        std::fs::write(path, bytes).unwrap();
    };
    heals(harm, |vault| assert!(verify(vault, &[], true, &Progress::default()).unwrap().problem_count > 0));
}

#[test]
fn a_pack_that_came_back_counts_again() {
    let dir = tempfile::tempdir().unwrap();
    let id = back_up(&vault(dir.path()), &files());
    let path = dir.path().join("vault").join(&vault(dir.path()).store().list("packs/").unwrap()[0].key);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad.iter_mut().skip(60).for_each(|b| *b ^= 1);
    std::fs::write(&path, bad).unwrap();
    assert!(!clean(&vault(dir.path())));
    std::fs::write(&path, good).unwrap();
    assert!(clean(&vault(dir.path())));
    let before = vault(dir.path()).stored_size();
    let again = back_up(&vault(dir.path()), &files());
    assert_eq!((vault(dir.path()).stored_size(), read_back(&vault(dir.path()), &again)), (before, files()));
    assert_eq!(read_back(&vault(dir.path()), &id), files());
}

#[test]
fn what_is_cached_does_not_hide_a_lost_pack() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let id = back_up(&vault, &files());
    assert_eq!(read_back(&vault, &id).len(), 12, "every node is cached now");
    let root = vault.manifest(&id).unwrap().root;
    let tree = vault.index().find(&root).unwrap().pack.id;
    std::fs::remove_file(dir.path().join("vault").join(object::key(Class::TreePack, &tree))).unwrap();
    let report = verify(&vault, &[], false, &Progress::default()).unwrap();
    assert_eq!(report.damaged_backups, [id], "{report:?}");
    assert!(!vault.holds(&root));
    assert_eq!(vault.node(&root).unwrap_err().kind, ErrorKind::Damaged);
}

#[test]
fn a_damaged_node_damages_its_backup_though_it_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let id = back_up(&vault, &files());
    read_back(&vault, &id);
    let root = vault.manifest(&id).unwrap().root;
    let tree = vault.index().find(&root).unwrap();
    let path = dir.path().join("vault").join(object::key(Class::TreePack, &tree.pack.id));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[tree.segment.offset as usize + 3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let report = verify(&vault, &[], true, &Progress::default()).unwrap();
    assert_eq!(report.damaged_backups, [id], "{report:?}");
}

#[test]
fn a_manifest_in_another_place_is_not_published_and_its_absence_there_is_no_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let id = back_up(&vault, &files());
    let manifest = vault.manifest(&id).unwrap();
    // The disk goes, and its mount point is what is left.
    std::fs::rename(dir.path().join("vault"), dir.path().join("away")).unwrap();
    std::fs::create_dir(dir.path().join("vault")).unwrap();
    assert_eq!(vault.put_manifest(&manifest).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert_eq!(vault.delete_manifest(&id).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert_eq!(std::fs::read_dir(dir.path().join("vault")).unwrap().count(), 0);
}

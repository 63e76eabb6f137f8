//! A vault in use: backups come and go, writers crash, space comes back.

use proptest::prelude::*;

use super::*;
use crate::model::ErrorKind;
use crate::store::ObjectMeta;

type Files = Vec<(String, Vec<u8>)>;

fn files(seed: u64, n: usize) -> Files {
    let size = |i: usize| [10, 3000, 90_000, 0, 1_500_000][i % 5];
    (0..n).map(|i| (format!("file{i:04}"), noise(seed + i as u64, size(i)))).collect()
}

fn packs(vault: &Vault) -> Vec<ObjectMeta> {
    vault.store().list("packs/").unwrap()
}

#[test]
fn what_was_stored_comes_back_and_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let all = files(1, 40);
    let first = back_up(&vault(dir.path()), &all);
    let stored = vault(dir.path()).stored_size();
    let second = back_up(&vault(dir.path()), &all);
    let vault = vault(dir.path());
    assert_eq!(vault.stored_size(), stored, "nothing was stored again");
    assert_eq!(vault.manifest(&first).unwrap().root, vault.manifest(&second).unwrap().root);
    assert_eq!(read_back(&vault, &second), all);
    assert!(clean(&vault));
}

#[test]
fn the_local_index_can_be_lost_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let all = files(2, 20);
    let id = back_up(&vault(dir.path()), &all);
    let cache = dir.path().join("cache");
    for run in walk(&cache) {
        let len = std::fs::metadata(&run).unwrap().len();
        std::fs::File::options().write(true).open(&run).unwrap().set_len(len / 2).unwrap();
    }
    assert_eq!(read_back(&vault(dir.path()), &id), all);
    std::fs::remove_dir_all(&cache).unwrap();
    assert_eq!(read_back(&vault(dir.path()), &id), all);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn packs_of_a_crashed_writer_are_found_and_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Uuid::new_v4();
    let all = files(3, 60);
    {
        let vault = vault(dir.path());
        vault.recover(machine).unwrap();
        let writer = VaultWriter::start(&vault, Compression::None).unwrap();
        let mut lane = writer.lane(Class::DataPack).unwrap();
        for (_, bytes) in &all {
            for chunk in bytes.chunks(700_000) {
                lane.put(chunk).unwrap();
            }
        }
        // Full packs are stored by now or soon; then the process is gone without a goodbye.
        for _ in 0..500 {
            if !packs(&vault).is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::mem::forget((lane, writer));
    }
    let vault = vault(dir.path());
    assert_eq!(vault.stored_size(), 0, "no index lists them");
    let there = packs(&vault);
    assert!(!there.is_empty());
    let recovered = vault.recover(machine).unwrap();
    assert_eq!(recovered.packs, there.len());
    assert!(vault.store().list("sessions/").unwrap().is_empty());
    let id = back_up(&vault, &all);
    let total: u64 = packs(&vault).iter().map(|p| p.size).sum();
    let plain: u64 = all.iter().map(|(_, b)| b.len() as u64).sum();
    assert!(total < plain + plain / 50, "{total} stored for {plain}");
    assert_eq!(read_back(&vault, &id), all);
    assert!(clean(&vault));
}

#[test]
fn another_machines_session_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    vault.recover(Uuid::new_v4()).unwrap();
    let writer = VaultWriter::start(&vault, Compression::None).unwrap();
    let other = super::vault(dir.path());
    other.recover(Uuid::new_v4()).unwrap();
    assert_eq!(other.store().list("sessions/").unwrap().len(), 1);
    writer.finish().unwrap();
    assert!(other.store().list("sessions/").unwrap().is_empty());
}

#[test]
fn prune_gives_space_back_and_takes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let kept = files(4, 30);
    let mut mixed = kept[..10].to_vec();
    mixed.extend(files(1000, 30).into_iter().map(|(name, bytes)| (format!("z{name}"), bytes)));
    let doomed = back_up(&vault, &mixed);
    let id = back_up(&vault, &kept);
    let both = vault.stored_size();
    assert_eq!(prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap().bytes_freed, 0);
    vault.delete_manifest(&doomed).unwrap();
    assert_eq!(vault.tombstones().unwrap().len(), 1);
    let plan = prune(&vault, &[], Compression::default(), true, &Progress::default()).unwrap();
    assert_eq!(vault.stored_size(), both, "a dry run changes nothing");
    let done = prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap();
    assert!(done.bytes_freed > 0 && plan.bytes_freed > 0);
    let on_disk: u64 = packs(&vault).iter().map(|p| p.size).sum();
    assert_eq!(on_disk, vault.stored_size(), "every pack is listed");
    let plain: u64 = kept.iter().map(|(_, b)| b.len() as u64).sum();
    assert!(on_disk < plain + plain / 3, "{on_disk} for {plain}");
    assert_eq!(read_back(&vault, &id), kept);
    // One that had the old index finds its way.
    assert_eq!(read_back(&super::vault(dir.path()), &id), kept);
    assert!(clean(&vault));
    vault.delete_manifest(&id).unwrap();
    prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap();
    assert!(packs(&vault).is_empty());
}

#[test]
fn a_reader_with_an_old_index_follows_a_prune() {
    let dir = tempfile::tempdir().unwrap();
    let writer = vault(dir.path());
    let mut all = files(5, 20);
    let doomed = back_up(&writer, &[&all[..2], &files(2000, 40)[4..]].concat());
    let reader = vault(dir.path());
    let kept = back_up(&writer, &all);
    reader.refresh().unwrap();
    writer.delete_manifest(&doomed).unwrap();
    assert!(prune(&writer, &[], Compression::default(), false, &Progress::default()).unwrap().packs_rewritten > 0);
    all.sort();
    assert_eq!(read_back(&reader, &kept), all);
}

#[test]
fn prune_gives_up_when_a_tree_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    back_up(&vault, &files(6, 8));
    let doomed = back_up(&vault, &files(3000, 8));
    vault.delete_manifest(&doomed).unwrap();
    let broken = manifest(Id([9; 32]), Totals::default(), 0);
    vault.put_manifest(&broken).unwrap();
    let before = packs(&vault).len();
    assert_eq!(
        prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap_err().kind,
        ErrorKind::Damaged
    );
    assert_eq!(packs(&vault).len(), before);
}

#[test]
fn the_last_key_stays_and_others_open_the_vault() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let first = vault.key_slots().unwrap()[0].id;
    assert_eq!(vault.remove_key_slot(&first).unwrap_err().kind, ErrorKind::InvalidState);
    let (slot, printed) = vault.add_recovery_key().unwrap();
    let secret = Secret::from_recovery(&printed).unwrap();
    vault.remove_key_slot(&first).unwrap();
    let store = vault.store();
    assert_eq!(unlock(&**store, &SECRET).unwrap_err().kind, ErrorKind::InvalidArgument);
    let master = unlock(&**store, &secret).unwrap();
    Vault::open(store.clone(), Some(master), &dir.path().join("other"), 1 << 20).unwrap();
    assert_eq!(vault.key_slots().unwrap().iter().map(|s| s.id).collect::<Vec<_>>(), [slot.id]);
}

#[test]
fn a_destination_that_was_emptied_or_exchanged_is_never_written_to() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let vault = vault(dir.path());
    let config = dir.path().join("vault/vault.json");
    std::fs::copy(
        super::vault(other.path()).store().list("keys/").map(|_| other.path().join("vault/vault.json")).unwrap(),
        &config,
    )
    .unwrap();
    assert_eq!(VaultWriter::start(&vault, Compression::None).unwrap_err().kind, ErrorKind::DestinationFailed);
    std::fs::remove_file(&config).unwrap();
    assert_eq!(VaultWriter::start(&vault, Compression::None).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert!(!config.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of backups, deletions and prunes leaves exactly the backups that were kept.
    #[test]
    fn any_life_keeps_what_is_kept(steps in prop::collection::vec((0u8..10, any::<u16>()), 1..14)) {
        let dir = tempfile::tempdir().unwrap();
        let mut vault = vault(dir.path());
        let mut kept: Vec<(Id, Files)> = Vec::new();
        for (what, x) in steps {
            match what {
                0..6 => {
                    let all = files(u64::from(x % 20), usize::from(x % 17) + 1);
                    let id = back_up(&vault, &all);
                    kept.push((id, all));
                }
                6..8 if !kept.is_empty() => {
                    let (id, _) = kept.swap_remove(usize::from(x) % kept.len());
                    vault.delete_manifest(&id).unwrap();
                }
                8 => drop(prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap()),
                _ => vault = super::vault(dir.path()),
            }
        }
        prune(&vault, &[], Compression::default(), false, &Progress::default()).unwrap();
        for (id, all) in &kept {
            prop_assert_eq!(&read_back(&vault, id), all);
        }
        prop_assert!(clean(&vault));
        prop_assert_eq!(vault.manifests().unwrap().len(), kept.len());
    }
}

#[test]
fn what_a_killed_prune_had_replaced_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let first = back_up(&vault, &files(40, 20));
    let second = back_up(&vault, &files(80, 20));
    let third = back_up(&vault, &files(120, 20));
    let indexes = |dir: &Path| walk(&dir.join("vault/index"));
    let old: Vec<_> = indexes(dir.path()).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    vault.delete_manifest(&first).unwrap();
    prune(&vault, &[second, third], Compression::default(), false, &Progress::default()).unwrap();
    // As if it had been killed before it deleted what it had replaced.
    for (bytes, path) in &old {
        std::fs::write(path, bytes).unwrap();
    }
    vault.delete_manifest(&second).unwrap();
    prune(&vault, &[third], Compression::default(), false, &Progress::default()).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    std::fs::rename(dir.path().join("vault"), fresh.path().join("vault")).unwrap();
    let vault = super::vault(fresh.path());
    assert!(clean(&vault), "{:?}", verify(&vault, &[], false, &Progress::default()));
    assert_eq!(indexes(fresh.path()).len(), 1);
    assert_eq!(read_back(&vault, &third), files(120, 20));
}

#[test]
fn tiny_blobs_fill_a_pack_by_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let writer = VaultWriter::start(&vault, Compression::Zstd(1)).unwrap();
    let (mut data, mut tree) = (writer.lane(Class::DataPack).unwrap(), writer.lane(Class::TreePack).unwrap());
    // Some megabytes, so 16 MiB of stored bytes are never reached.
    let parts = |n: u64| (0..n).map(u64::to_be_bytes);
    let parts: Vec<Part> = parts(300_000).map(|b| Part { id: data.put(&b).unwrap(), len: 8 }).collect();
    let size = parts.len() as u64 * 8;
    let content = put_content(&mut tree, parts).unwrap();
    let id = publish(&vault, writer, (data, tree), &[file("many", size, content)]);
    let before = packs(&vault);
    // 131,072 blobs are a segment of a mebibyte; a pack is closed with the first that makes it full.
    assert!((4..=6).contains(&before.len()), "{before:?}");
    // They are small by their bytes, and would be no other if they were written again, however often.
    for seed in 0..9 {
        back_up(&vault, &files(seed * 100, 3));
    }
    let kept = vault.manifests().unwrap();
    let report = prune(&vault, &kept, Compression::Zstd(1), false, &Progress::default()).unwrap();
    assert!(report.packs_rewritten >= 9, "the small ones are put together: {report:?}");
    let after = packs(&vault);
    assert!(before.iter().filter(|pack| pack.size > 500_000).all(|pack| after.iter().any(|a| a.key == pack.key)));
    assert_eq!(read_back(&vault, &id)[0].1.len() as u64, size);
}

#[test]
fn what_a_prune_copies_is_compressed_as_it_is_told() {
    let stored = |compression| {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        // Nine small packs are put together.
        for i in 0..9 {
            back_up(&vault, &[("words".into(), format!("words {i} ").repeat(20_000).into_bytes())]);
        }
        let kept = vault.manifests().unwrap();
        let report = prune(&vault, &kept, compression, false, &Progress::default()).unwrap();
        assert!(report.packs_rewritten >= 9, "{report:?}");
        report.bytes_stored
    };
    assert!(stored(Compression::Zstd(3)) < 100_000);
    assert!(stored(Compression::None) > 1_000_000);
}

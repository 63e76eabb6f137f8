//! Vaults that come and go.

use super::*;

/// The files in the directories of a directory, sorted.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut files: Vec<PathBuf> = list(dir).iter().flat_map(|d| list(d)).collect();
    files.sort();
    files
}

#[test]
fn a_vault_is_forgotten_or_emptied() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let keys = std::fs::read_dir(house.path("state/keys")).unwrap().count();
    assert_eq!(keys, 1);
    done(&service, service.remove_vault("main", map(&[("delete_data", true.into())])).unwrap());
    assert_eq!(service.list_vaults(Map::new()).unwrap().0, 0);
    assert_eq!(service.list_backups(Map::new()).unwrap().0, 0);
    assert!(!house.path("state/vault/vault.json").exists());
    assert_eq!(std::fs::read_dir(house.path("state/keys")).unwrap().count(), 0);
    refused(service.create_backup("data", Map::new()), ErrorKind::InvalidState, "no vault");
    close(service);
    let service = house.started();
    assert_eq!(service.list_vaults(Map::new()).unwrap().0, 0, "only the first start makes a vault");
    let options = map(&[("destinations", strings(&["local"])), ("encryption", false.into())]);
    service.add_vault("again", options.clone()).unwrap();
    let id = back_up(&service, "data");
    assert_eq!(id, 2);
    done(&service, service.remove_vault("again", Map::new()).unwrap());
    assert!(house.path("state/vault/vault.json").exists(), "forgetting leaves the data");
    refused(service.add_vault("again", options), ErrorKind::InvalidState, "already");
    close(service);
}

#[test]
fn a_vault_removed_in_part_can_only_be_removed() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    // The manifests go first; then the removal meets what it cannot list.
    std::fs::rename(house.path("state/vault/packs"), house.path("packs")).unwrap();
    std::fs::write(house.path("state/vault/packs"), "").unwrap();
    let delete = map(&[("delete_data", true.into())]);
    let ended = wait(&service, service.remove_vault("main", delete.clone()).unwrap());
    assert_eq!(ended.state, "failed");
    let half = |service: &Service| {
        refused(service.create_backup("data", Map::new()), ErrorKind::InvalidState, "removed in part");
        refused(service.verify_vault("main", Map::new()), ErrorKind::InvalidState, "removed in part");
        assert_eq!(text(&service.get_backup(1).unwrap(), "message"), "it is being deleted");
    };
    half(&service);
    close(service);
    let service = house.started();
    half(&service);
    close(service);
    std::fs::remove_file(house.path("state/vault/packs")).unwrap();
    std::fs::rename(house.path("packs"), house.path("state/vault/packs")).unwrap();
    let service = house.started();
    done(&service, service.remove_vault("main", delete).unwrap());
    assert_eq!(service.list_vaults(Map::new()).unwrap().0, 0);
    assert!(!house.path("state/vault/vault.json").exists());
    close(service);
}

#[test]
fn a_removal_that_waits_can_be_cancelled_and_cannot_be_evaded() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    close(service);
    let service = house.open();
    let job = service.remove_vault("main", map(&[("delete_data", true.into())])).unwrap();
    refused(service.update_backup(1, map(&[("protected", true.into())])), ErrorKind::InvalidState, "being removed");
    service.cancel_job(job, Map::new()).unwrap();
    assert_eq!(service.job_status(job).unwrap().state, "cancelled");
    service.update_backup(1, map(&[("protected", true.into())])).unwrap();
    service.start();
    assert_eq!(back_up(&service, "data"), 2);
    close(service);
}

#[test]
fn nothing_is_pruned_while_a_manifest_that_is_counted_on_is_missing() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    std::fs::write(house.path("data/more"), vec![7_u8; 300_000]).unwrap();
    back_up(&service, "data");
    let manifest = service.catalog.read(|r| r.need::<Backup>(1)).unwrap().manifest.unwrap();
    let lost = house.path(&format!("state/vault/backups/{manifest}"));
    std::fs::rename(&lost, house.path("lost")).unwrap();
    let packs = || walk(&house.path("state/vault/packs"));
    let before = packs();
    let ended = wait(&service, service.delete_backup(2, Map::new()).unwrap());
    assert_eq!(ended.state, "completed", "the backup itself is gone");
    assert_eq!(packs(), before, "and nothing that the other may need");
    let ended = wait(&service, service.prune_vault("main", Map::new()).unwrap());
    assert_eq!(ended.state, "failed");
    std::fs::rename(house.path("lost"), &lost).unwrap();
    done(&service, service.prune_vault("main", Map::new()).unwrap());
    done(&service, service.verify_vault("main", map(&[("read_data", true.into())])).unwrap());
    close(service);
}

#[test]
fn a_renamed_destination_leaves_its_vault_open() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let open = service.vaults.opened(1).unwrap();
    service.update_destination("local", map(&[("name", "disk".into())])).unwrap();
    service.update_destination("disk", map(&[("max_backups", 5_u64.into())])).unwrap();
    assert!(Arc::ptr_eq(&open, &service.vaults.opened(1).unwrap()), "a backup may be writing into it");
    close(service);
}

#[test]
fn an_empty_place_is_no_progress_of_a_removal() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    // The disk is not mounted, and what is beneath looks like a vault that was emptied.
    std::fs::rename(house.path("state/vault"), house.path("elsewhere")).unwrap();
    std::fs::create_dir_all(house.path("state/vault/keys")).unwrap();
    let ended = wait(&service, service.remove_vault("main", map(&[("delete_data", true.into())])).unwrap());
    assert_eq!(ended.state, "failed");
    assert_eq!(std::fs::read_dir(house.path("state/keys")).unwrap().count(), 1, "the key of the data is kept");
    close(service);
}

#[test]
fn a_removal_that_fails_brings_nothing_back_that_was_being_deleted() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    back_up(&service, "data");
    std::fs::rename(house.path("state/vault"), house.path("away")).unwrap();
    std::fs::create_dir(house.path("state/vault")).unwrap();
    let ended = wait(&service, service.delete_backup(1, Map::new()).unwrap());
    assert_eq!(ended.state, "failed", "{ended:?}");
    let removal = service.remove_vault("main", map(&[("delete_data", true.into())])).unwrap();
    assert_eq!(wait(&service, removal).state, "failed");
    assert_eq!(text(&service.get_backup(1).unwrap(), "message"), "it is being deleted");
    assert!(!service.get_backup(2).unwrap().contains_key("message"), "the other is there as before");
    close(service);
    std::fs::remove_dir(house.path("state/vault")).unwrap();
    std::fs::rename(house.path("away"), house.path("state/vault")).unwrap();
    // The next start finishes the deletion, and nothing else.
    let service = house.started();
    let until = Instant::now() + Duration::from_secs(20);
    while service.list_backups(Map::new()).unwrap().0 == 2 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(service.list_backups(Map::new()).unwrap().0, 1);
    assert_eq!(text(&service.get_backup(2).unwrap(), "status"), "completed");
    close(service);
}

#[test]
fn the_list_of_a_large_file_in_a_lost_pack_is_stored_again() {
    let house = House::new();
    // Of more parts than an entry names itself.
    let mut large = std::fs::File::create(house.data().join("large")).unwrap();
    let mut seed = 1_u64;
    for _ in 0..320 {
        let block: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed.to_le_bytes()
        })
        .take(1 << 17)
        .flatten()
        .collect();
        std::io::Write::write_all(&mut large, &block).unwrap();
    }
    let service = house.with_resource();
    back_up(&service, "data");
    // Reads the list, so that it is in memory from here on.
    done(&service, service.verify_vault("main", map(&[("read_data", true.into())])).unwrap());
    let mut trees = 0;
    for pack in walk(&house.path("state/vault/packs")) {
        // Data packs are large, and this one has the trees.
        if std::fs::metadata(&pack).unwrap().len() < 1 << 20 {
            std::fs::remove_file(pack).unwrap();
            trees += 1;
        }
    }
    assert!(trees > 0);
    let second = back_up(&service, "data");
    let verify = service.verify_backup(second, map(&[("read_data", true.into())])).unwrap();
    assert_eq!(wait(&service, verify).state, "completed", "{:?}", service.job_status(verify).unwrap());
    close(service);
}

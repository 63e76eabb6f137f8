//! Vaults that come and go.

use super::*;

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

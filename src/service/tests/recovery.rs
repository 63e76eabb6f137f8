//! What a restart makes of what a crash left.

use super::*;

#[test]
fn a_first_start_that_was_cut_short_is_taken_up_again() {
    let house = House::new();
    let service = house.open();
    let uuid = text(&service.get_vault("main").unwrap(), "uuid");
    drop_whole(service);
    // As if the crash came after the vault was made and before the catalog knew of it.
    std::fs::remove_file(house.path("state/catalog.redb")).unwrap();
    let service = house.open();
    assert_eq!(text(&service.get_vault("main").unwrap(), "uuid"), uuid);
    drop_whole(service);
}

/// The rows of a job and its backup as a crash in the middle leaves them.
fn as_if_running(service: &Service, job: u64, published: bool) {
    service
        .catalog
        .write(|w| {
            let row = w.update::<Job>(job, |j| {
                j.state = State::Running;
                j.completed_at = None;
                Ok(())
            })?;
            w.update::<Backup>(row.backup.unwrap(), |b| {
                b.status = State::Running;
                b.completed_at = None;
                b.size = None;
                if published {
                    b.manifest = None;
                    b.root = None;
                }
                Ok(())
            })?;
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_backup_whose_manifest_is_there_is_completed_at_start() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let before = service.get_backup(1).unwrap();
    as_if_running(&service, 1, true);
    close(service);
    let service = house.started();
    let after = service.get_backup(1).unwrap();
    assert_eq!(text(&after, "status"), "completed");
    assert_eq!(text(&after, "checksum"), text(&before, "checksum"));
    assert_eq!(number(&after, "size"), number(&before, "size"));
    assert_eq!(service.job_status(1).unwrap().state, "completed");
    close(service);
}

#[test]
fn a_backup_that_was_running_has_failed_and_a_waiting_one_goes_on() {
    let house = House::new();
    let service = house.open();
    house.add(&service, "data");
    service.create_backup("data", Map::new()).unwrap();
    service.create_backup("data", Map::new()).unwrap();
    as_if_running(&service, 1, false);
    drop_whole(service);
    let service = house.started();
    let failed = service.get_backup(1).unwrap();
    assert_eq!(text(&failed, "status"), "failed");
    assert!(text(&failed, "error").contains("the daemon stopped before it finished"));
    assert_eq!(service.job_status(1).unwrap().state, "failed");
    done(&service, 2);
    assert_eq!(text(&service.get_backup(2).unwrap(), "status"), "completed");
    close(service);
}

#[test]
fn a_deletion_is_finished_at_start() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    back_up(&service, "data");
    // One was cut short with its job, the other lost its job.
    service
        .catalog
        .write(|w| {
            for id in [1, 2] {
                w.update::<Backup>(id, |b| {
                    b.deleting = true;
                    Ok(())
                })?;
            }
            w.update::<Job>(1, |j| {
                j.task = Task::Delete;
                j.state = State::Running;
                Ok(())
            })?;
            Ok(())
        })
        .unwrap();
    close(service);
    let service = house.open();
    let marked = service.catalog.read(|r| r.indexed(backup::DELETING, 1)).unwrap();
    assert_eq!(marked, [1, 2], "marked until the manifest is gone");
    refused(service.restore_backup(1, map(&[("confirm", true.into())])), ErrorKind::InvalidState, "deleted");
    service.start();
    done(&service, 1);
    done(&service, 3);
    assert_eq!(service.list_backups(Map::new()).unwrap().0, 0);
    assert_eq!(number(&service.get_vault("main").unwrap(), "used"), 0);
    close(service);
}

#[test]
fn a_published_backup_is_completed_once_its_destination_is_back() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let before = service.get_backup(1).unwrap();
    as_if_running(&service, 1, true);
    close(service);
    std::fs::rename(house.path("state/vault"), house.path("away")).unwrap();
    let service = house.started();
    assert_eq!(text(&service.get_backup(1).unwrap(), "status"), "failed");
    // Deleting it now would leave the manifest, so it waits for the destination.
    let delete = service.delete_backup(1, Map::new()).unwrap();
    let ended = wait(&service, delete);
    assert_eq!(
        (ended.state.as_str(), ended.error_name.as_str()),
        ("failed", "org.strongroom1.Error.DestinationFailed")
    );
    std::fs::rename(house.path("away"), house.path("state/vault")).unwrap();
    service.get_vault("main").unwrap();
    let after = service.get_backup(1).unwrap();
    assert_eq!(text(&after, "status"), "completed");
    assert_eq!(text(&after, "checksum"), text(&before, "checksum"));
    assert_eq!(service.job_status(1).unwrap().state, "completed");
    done(&service, service.delete_backup(1, Map::new()).unwrap());
    assert_eq!(std::fs::read_dir(house.path("state/vault/backups")).unwrap().count(), 0);
    close(service);
}

#[test]
fn a_backup_that_may_be_published_is_deleted_with_its_manifest() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    as_if_running(&service, 1, true);
    close(service);
    std::fs::rename(house.path("state/vault"), house.path("away")).unwrap();
    let service = house.open();
    let delete = service.delete_backup(1, Map::new()).unwrap();
    std::fs::rename(house.path("away"), house.path("state/vault")).unwrap();
    service.start();
    done(&service, delete);
    assert_eq!(std::fs::read_dir(house.path("state/vault/backups")).unwrap().count(), 0);
    assert_eq!(service.list_backups(Map::new()).unwrap().0, 0);
    close(service);
}

#[test]
fn a_backup_that_is_found_later_is_completed_and_the_newest_stays_the_newest() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    back_up(&service, "data");
    let (vault, resource) = (service.get_vault("main").unwrap(), service.get_resource("data").unwrap());
    let newest = service.catalog.read(|r| r.need::<VaultRow>(1)).unwrap().last_manifest;
    // As if publishing it had ended in an error after the manifest was there.
    service
        .catalog
        .write(|w| {
            w.update::<Backup>(1, |b| {
                (b.status, b.manifest, b.root, b.unsure) = (State::Failed, None, None, true);
                Ok(())
            })?;
            w.update::<Job>(1, |j| {
                j.state = State::Failed;
                Ok(())
            })
        })
        .unwrap();
    done(&service, service.verify_vault("main", Map::new()).unwrap());
    assert_eq!(text(&service.get_backup(1).unwrap(), "status"), "completed");
    assert_eq!(service.catalog.read(|r| r.need::<VaultRow>(1)).unwrap().last_manifest, newest);
    assert_eq!(text(&service.get_resource("data").unwrap(), "last_success"), text(&resource, "last_success"));
    assert_eq!(number(&service.get_vault("main").unwrap(), "backups"), number(&vault, "backups"));
    close(service);
}

#[test]
fn what_an_exchanged_destination_does_not_hold_decides_nothing() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let before = service.get_backup(1).unwrap();
    service
        .catalog
        .write(|w| {
            w.update::<Backup>(1, |b| {
                (b.status, b.manifest, b.root, b.unsure) = (State::Failed, None, None, true);
                Ok(())
            })
        })
        .unwrap();
    // The disk goes under an open vault, and another empty directory stands in its place.
    std::fs::rename(house.path("state/vault"), house.path("away")).unwrap();
    std::fs::create_dir(house.path("state/vault")).unwrap();
    let row = service.catalog.read(|r| r.need::<VaultRow>(1)).unwrap();
    let open = service.open_vault(&row).unwrap();
    assert_eq!(service.ask_for_unsure(1, &open.vault).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert!(service.catalog.read(|r| r.need::<Backup>(1)).unwrap().unsure);
    std::fs::remove_dir(house.path("state/vault")).unwrap();
    std::fs::rename(house.path("away"), house.path("state/vault")).unwrap();
    service.ask_for_unsure(1, &open.vault).unwrap();
    drop(open);
    assert_eq!(text(&service.get_backup(1).unwrap(), "checksum"), text(&before, "checksum"));
    close(service);
}

#[test]
fn a_saved_configuration_that_is_not_understood_is_not_replaced() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let row = service.catalog.read(|r| r.need::<VaultRow>(1)).unwrap();
    let open = service.open_vault(&row).unwrap();
    let newer = serde_json::json!({"common": {"version": 99}});
    open.vault.put_state(&newer).unwrap();
    let job = service.rebuild_catalog("local", Map::new()).unwrap();
    done(&service, job);
    assert!(format!("{:?}", service.get_job(job).unwrap()).contains("notes"), "it is said");
    let states = open.vault.states().unwrap();
    assert_eq!(states.iter().map(|s| &s.content).collect::<Vec<_>>(), [&newer]);
    drop(open);
    close(service);
}

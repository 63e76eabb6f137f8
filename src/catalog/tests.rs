//! The catalog on a real disk.

use jiff::Timestamp;

use super::*;
use crate::model::ErrorKind;

fn project(id: u64, name: &str) -> Project {
    Project {
        id,
        name: name.into(),
        description: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        origin: Origin::default(),
    }
}

fn add(catalog: &Catalog, name: &str) -> Result<u64> {
    catalog.write(|w| {
        let id = w.next_id::<Project>()?;
        w.put(&project(id, name))?;
        Ok(id)
    })
}

#[test]
fn ids_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let first = add(&catalog, "one").unwrap();
    catalog.write(|w| w.remove::<Project>(first)).unwrap();
    let second = add(&catalog, "one").unwrap();
    assert!(second > first);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    catalog.write(|w| w.remove::<Project>(second)).unwrap();
    assert!(add(&catalog, "one").unwrap() > second);
}

#[test]
fn rows_survive_a_copy_taken_without_closing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let id = add(&catalog, "kept").unwrap();
    // What a crash leaves: the file as it is while the database is open.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
    let again = Catalog::open(copy.path()).unwrap();
    let row: Project = again.read(|r| r.need(id)).unwrap();
    assert_eq!(row.name, "kept");
    assert!(add(&again, "next").unwrap() > id);
}

#[test]
fn a_failed_change_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    add(&catalog, "a").unwrap();
    let error = add(&catalog, "a").unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert!(error.message.contains("\"a\""), "{error}");
    assert_eq!(catalog.read(Tables::count::<Project>).unwrap(), 2);
    assert_eq!(add(&catalog, "b").unwrap(), 3, "an id of a failed transaction was never given");
}

#[test]
fn renaming_frees_the_old_name() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let id = add(&catalog, "old").unwrap();
    catalog
        .write(|w| {
            w.update::<Project>(id, |p| {
                p.name = "new".into();
                Ok(())
            })
        })
        .unwrap();
    add(&catalog, "old").unwrap();
    assert_eq!(catalog.read(|r| r.named::<Project>(0, "new")).unwrap(), Some(id));
}

#[test]
fn a_second_catalog_on_the_same_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Catalog::open(dir.path()).unwrap();
    let error = Catalog::open(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidState);
    assert!(error.message.contains("already uses"), "{error}");
}

#[test]
fn files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let _catalog = Catalog::open(&state).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join(FILE)), 0o600);
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), vec![7; 100_000]).unwrap();
    let error = Catalog::open(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.message.contains(FILE), "{error}");
}

#[test]
fn a_row_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let error = table::decode::<Project>(5, b"\x09{}").unwrap_err();
    assert!(error.message.contains("project 5"), "{error}");
    drop(catalog);
}

#[test]
fn indexes_follow_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let job = |id, state| Job {
        id,
        task: Task::Sync { mirror: None },
        state,
        resource: None,
        backup: None,
        vault: Some(1),
        part_of: None,
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        completed_at: None,
        done: job::Done::default(),
        error: None,
        error_kind: None,
        units: Vec::new(),
        frozen: false,
        commands: false,
        result: serde_json::Map::new(),
    };
    catalog.write(|w| (1..=3).try_for_each(|id| w.put(&job(id, State::Pending)))).unwrap();
    catalog.write(|w| w.put(&job(2, State::Completed))).unwrap();
    let pending = catalog.read(|r| r.indexed(job::BY_STATE, State::Pending.key())).unwrap();
    assert_eq!(pending, [1, 3]);
    catalog.write(|w| w.remove::<Job>(3)).unwrap();
    let pending = catalog.read(|r| r.indexed(job::BY_STATE, State::Pending.key())).unwrap();
    assert_eq!(pending, [1]);
    assert_eq!(catalog.read(|r| r.need::<Job>(2)).unwrap(), job(2, State::Completed));
}

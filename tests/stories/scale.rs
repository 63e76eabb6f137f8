//! A hundred thousand backups: a page of a list, an object, a start cost what they always do. What
//! counts is how many rows are read, not how long it takes; `benches/catalog.rs` tells that.

use strongroom::catalog::rows_read;
use strongroom::model::{Map, Value};
use strongroom::service::{Clock, Service, ServiceOptions};

use crate::common::many;

const BACKUPS: u64 = 100_000;
/// A page of twenty: each backup with its vault and its destination, and what the filter names.
const PAGE: u64 = 20 * 3 + 10;

fn map(pairs: &[(&str, Value)]) -> Map {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

fn sort(field: &str) -> (&'static str, Value) {
    ("sort", Value::from(vec![field.to_owned()]))
}

fn ids(rows: &[Map]) -> Vec<u64> {
    rows.iter().map(|row| if let Value::Uint(id) = row["id"] { id } else { panic!("{row:?}") }).collect()
}

#[test]
fn a_hundred_thousand_backups_cost_no_more_than_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    many::fill(&state, BACKUPS);
    let before = rows_read();
    let service = Service::open(ServiceOptions {
        config: dir.path().join("none.toml"),
        first_vault: state.join("vault"),
        state_dir: state,
        cache_dir: dir.path().join("cache"),
        browse_path: dir.path().join("browse"),
        browse: None,
        bus: Default::default(),
        clock: Clock::System,
    })
    .unwrap();
    service.objects();
    let read = rows_read() - before;
    assert!(read < 4 * many::RESOURCES + 50, "the start read {read} rows");

    let per = BACKUPS / many::RESOURCES;
    let manual = BACKUPS / 1000;
    let web = ("resource", Value::from("web-8"));
    for (filter, count, first) in [
        (vec![], BACKUPS, BACKUPS),
        (vec![web.clone()], per, BACKUPS - 42),
        (vec![("resource", Value::from("8"))], per, BACKUPS - 42),
        // Every second backup of web-8 failed.
        (vec![web.clone(), ("status", Value::from("failed"))], per / 2, BACKUPS - 92),
        (vec![("vault", Value::from("main"))], BACKUPS, BACKUPS),
        (vec![("project", Value::from("default"))], BACKUPS, BACKUPS),
        (vec![("status", Value::from("completed"))], BACKUPS - BACKUPS / 100, BACKUPS),
        (vec![("status", Value::from("in_progress"))], 0, 0),
        (vec![("backup_type", Value::from("manual"))], manual, BACKUPS - 996),
        (vec![("type", Value::from("full")), ("backup_type", Value::from("manual"))], manual, BACKUPS - 996),
        (vec![("type", Value::from("database"))], 0, 0),
    ] {
        for order in ["-id", "id", "-created_at", "created_at"] {
            let mut options = map(&filter);
            options.extend(map(&[sort(order)]));
            let before = rows_read();
            let (found, page) = service.list_backups(options).unwrap();
            let read = rows_read() - before;
            assert_eq!(found, count, "{filter:?} {order}");
            assert_eq!(page.len() as u64, count.min(20), "{filter:?} {order}");
            assert!(read <= PAGE, "{filter:?} {order} read {read} rows");
            if order.starts_with('-') && count > 0 {
                assert_eq!(ids(&page)[0], first, "{filter:?} {order}");
            }
            assert!(ids(&page).is_sorted_by(|a, b| if order.starts_with('-') { a > b } else { a < b }));
        }
    }

    let before = rows_read();
    let resource = service.get_resource("web-8").unwrap();
    assert!(matches!(resource["backup_count"], Value::Uint(n) if n == per / 2), "{resource:?}");
    assert!(matches!(resource["manual_count"], Value::Uint(0)), "{resource:?}");
    let (_, vaults) = service.list_vaults(Map::new()).unwrap();
    assert!(matches!(vaults[0]["backups"], Value::Uint(n) if n == BACKUPS - BACKUPS / 100), "{vaults:?}");
    let read = rows_read() - before;
    assert!(read < 20, "GetResource and ListVaults read {read} rows");

    // Another page far back is no dearer.
    let before = rows_read();
    let (_, page) = service.list_backups(map(&[web, ("page", Value::Uint(90)), sort("-created_at")])).unwrap();
    assert_eq!(page.len(), 20);
    assert!(rows_read() - before <= PAGE);
}

//! Numbers, names, hard links and the virtual directories, against trees in memory.

use std::sync::Arc;

use nix::errno::Errno;

use super::memory::{Memory, backup, dir, file, first, holding, later, unread};
use crate::browse::attr::Attr;
use crate::browse::fail::{Answer, Fail};
use crate::browse::ino::{Ino, MAX_NUMBER, ROOT};
use crate::browse::source::TreeSource;
use crate::browse::types::{BackupView, Policy};
use crate::browse::view::{MEMORY, View};
use crate::browse::virtuals::Change;
use crate::model::Id;
use crate::vault::tree::{Entry, Metadata, Totals};

fn lookup(view: &View, parent: Ino, name: &str) -> Answer<Attr> {
    view.insist(|| view.lookup(parent, name.as_bytes()))?.ok_or(Fail::Errno(Errno::ENOENT))
}

fn walk(view: &View, path: &str) -> Answer<Attr> {
    let mut at = ROOT;
    let mut attr = view.getattr(at)?;
    for name in path.split('/') {
        attr = lookup(view, at, name)?;
        at = attr.ino;
    }
    Ok(attr)
}

/// All names in a directory, read a few at a time.
fn list(view: &View, ino: Ino) -> Answer<Vec<(String, Ino)>> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let mut got = Vec::new();
        view.insist(|| {
            got.clear();
            view.list(ino, cookie, &mut |row| {
                got.push((String::from_utf8_lossy(row.name).into_owned(), row.attr.ino, row.cookie));
                got.len() < 3
            })
        })?;
        let Some((_, _, last)) = got.last() else { return Ok(names) };
        assert!(*last > cookie);
        cookie = *last;
        names.extend(got.into_iter().map(|(name, ino, _)| (name, ino)));
    }
}

fn is_broken<T: std::fmt::Debug>(answer: &Answer<T>) -> bool {
    matches!(answer, Err(Fail::Broken(_)))
}

/// `/a/{1,2}`, `/b` (unread), `/c/d/{1..9 in a branch}`, `/e`.
fn tree(memory: &Memory) -> (Id, Totals) {
    let a = memory.leaf(vec![file("1"), file("2")]);
    let d = memory.branch((1..10).map(|n| file(&n.to_string())).collect(), 2);
    let c = memory.leaf(vec![dir("d", d)]);
    memory.leaf(vec![dir("a", a), unread("b"), dir("c", c), file("e")])
}

fn view_of(memory: &Arc<Memory>, root: (Id, Totals)) -> View {
    let view = View::new(1, MEMORY).unwrap();
    let source = memory.clone() as Arc<dyn TreeSource>;
    view.add_from(&source, backup(7, root)).unwrap();
    view
}

#[test]
fn numbers_follow_the_walk_and_lead_back() {
    let memory = Arc::new(Memory::default());
    let view = view_of(&memory, tree(&memory));
    let number = |path: &str| walk(&view, &format!("backups/7/{path}")).unwrap().ino.number();
    let paths = ["a", "a/1", "a/2", "c", "c/d", "c/d/1", "c/d/2", "c/d/8", "c/d/9", "e"];
    let numbers: Vec<u64> = paths.iter().map(|path| number(path)).collect();
    // `b` is hidden but has number 4.
    assert_eq!(numbers, [1, 2, 3, 5, 6, 7, 8, 14, 15, 16]);
    for path in paths {
        let attr = walk(&view, &format!("backups/7/{path}")).unwrap();
        assert_eq!(view.insist(|| view.getattr(attr.ino)).unwrap(), attr, "{path}");
        assert_eq!(view.describe(attr.ino), (7, format!("/{path}")));
    }
    let slot = walk(&view, "backups/7").unwrap().ino.slot();
    for hidden in [4, 17, 1 << 30] {
        assert!(view.insist(|| view.getattr(Ino::new(slot, hidden))).is_err());
    }
}

#[test]
fn both_places_share_all_but_directories() {
    let memory = Arc::new(Memory::default());
    let view = view_of(&memory, tree(&memory));
    let at = |path: &str| walk(&view, path).unwrap().ino;
    let name = "2026-01-16T154507Z-7";
    let home = format!("resources/default/web/{name}");
    assert_eq!(at("backups/7/c/d/5"), at(&format!("{home}/c/d/5")));
    assert_ne!(at("backups/7/c"), at(&format!("{home}/c")));
    let latest = at("resources/default/web/latest");
    assert_eq!(view.readlink(latest).unwrap(), name.as_bytes());
}

#[test]
fn listings_go_on_where_they_stopped() {
    let memory = Arc::new(Memory::default());
    let view = view_of(&memory, tree(&memory));
    let names = |path: &str| -> Vec<String> {
        let ino = walk(&view, path).unwrap().ino;
        list(&view, ino).unwrap().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("backups/7"), [".", "..", "a", "c", "e"]);
    assert_eq!(names("backups/7/c/d"), [".", "..", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(names("resources/default/web"), [".", "..", "2026-01-16T154507Z-7", "latest"]);
    let d = walk(&view, "backups/7/c/d").unwrap().ino;
    let rows = list(&view, d).unwrap();
    assert_eq!(rows[1].1, walk(&view, "backups/7/c").unwrap().ino);
    for (name, ino) in &rows[2..] {
        assert_eq!(lookup(&view, d, name).unwrap().ino, *ino);
    }
}

#[test]
fn later_names_show_the_first_ones_inode() {
    let memory = Arc::new(Memory::default());
    let odd = Entry { meta: Metadata { mode: 0o600, ..Default::default() }, ..later("odd", 3, 0, "first") };
    let inner = memory.leaf(vec![
        later("up", 3, 1, "first"),
        later("lost", 3, 1, "nothing"),
        later("outside", 3, 9, "first"),
        later("through", 3, 1, "first/x"),
    ]);
    let root = memory.leaf(vec![first("first", 3), dir("in", inner), later("near", 3, 0, "first"), odd]);
    let view = view_of(&memory, root);
    let attr = |path: &str| walk(&view, &format!("backups/7/{path}")).unwrap();
    assert_eq!((attr("near").ino, attr("near").nlink), (attr("first").ino, 3));
    assert_eq!(attr("in/up").ino, attr("first").ino);
    for own in ["in/lost", "in/outside", "in/through", "odd"] {
        assert_ne!(attr(own).ino, attr("first").ino, "{own}");
        assert_eq!(view.insist(|| view.getattr(attr(own).ino)).unwrap(), attr(own));
    }
    let dir = attr("in").ino;
    let rows = list(&view, dir).unwrap();
    assert!(rows.contains(&("up".to_owned(), attr("first").ino)));
}

#[test]
fn directories_that_lie_about_their_totals_are_damage() {
    let memory = Arc::new(Memory::default());
    let (node, honest) = memory.leaf(vec![file("1"), file("2")]);
    for entries in [0, 1, 3, u64::MAX - 1, u64::MAX] {
        let liar = dir("liar", (node, Totals { entries, ..honest }));
        // Encoded by hand: totals that large cannot be summed up.
        let root = memory.put(crate::vault::tree::node::encode_leaf([liar, file("z")].iter()));
        let claimed = entries.saturating_add(2).min(MAX_NUMBER - 1);
        let view = view_of(&memory, (root, Totals { entries: claimed, files: 1, bytes: 0 }));
        let found = walk(&view, "backups/7/liar");
        match found {
            Ok(attr) => {
                assert!(is_broken(&view.insist(|| view.lookup(attr.ino, b"1"))), "{entries}");
                assert!(is_broken(&list(&view, attr.ino)), "{entries}");
            }
            Err(fail) => assert!(matches!(fail, Fail::Broken(_)), "{entries}: {fail:?}"),
        }
    }
}

#[test]
fn branches_that_never_end_and_missing_nodes_are_damage() {
    let memory = Arc::new(Memory::default());
    let (mut node, totals) = memory.leaf(vec![file("1")]);
    for _ in 0..20 {
        let child = crate::vault::tree::Child { last: b"1".to_vec(), count: 1, totals, node };
        node = memory.put(crate::vault::tree::node::encode_branch(&[child]));
    }
    let gone = (Id::of(b"gone"), totals);
    let root = memory.leaf(vec![dir("deep", (node, totals)), dir("gone", gone)]);
    let view = view_of(&memory, root);
    for name in ["deep", "gone"] {
        let ino = walk(&view, &format!("backups/7/{name}")).unwrap().ino;
        assert!(is_broken(&view.insist(|| view.lookup(ino, b"1"))), "{name}");
        assert!(is_broken(&list(&view, ino)), "{name}");
        assert!(is_broken(&view.insist(|| view.getattr(Ino::new(ino.slot(), ino.number() + 1)))), "{name}");
    }
}

#[test]
fn backups_come_and_go_with_their_directories() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let view = View::new(1, MEMORY).unwrap();
    let root = tree(&memory);
    let changes = view.add_from(&source, backup(1, root)).unwrap();
    let named = |changes: &[Change], name: &str| changes.iter().any(|change| change.name == name.as_bytes());
    for name in ["default", "web", "1", "latest", "2026-01-16T154501Z-1"] {
        assert!(named(&changes, name), "{name}");
    }
    let kept = walk(&view, "backups/1/e").unwrap().ino;
    view.add_from(&source, backup(2, root)).unwrap();
    view.add_from(&source, BackupView { partial: true, ..backup(3, root) }).unwrap();
    let target = || {
        let ino = walk(&view, "resources/default/web/latest").unwrap().ino;
        String::from_utf8(view.readlink(ino).unwrap()).unwrap()
    };
    assert_eq!(target(), "2026-01-16T154502Z-2");
    view.remove(2);
    assert_eq!(target(), "2026-01-16T154501Z-1");

    // Moved: the same inodes. Another policy: others, since the kernel has remembered owners.
    let moved = BackupView { resource: "www".to_owned(), ..backup(1, root) };
    view.add_from(&source, moved.clone()).unwrap();
    assert_eq!(walk(&view, "backups/1/e").unwrap().ino, kept);
    assert!(walk(&view, "resources/default/www/2026-01-16T154501Z-1/e").is_ok());
    assert!(walk(&view, "resources/default/web/2026-01-16T154501Z-1").is_err());
    let owned = BackupView { policy: Policy::Owner(1000), ..moved };
    view.add_from(&source, owned).unwrap();
    let attr = walk(&view, "backups/1/e").unwrap();
    assert_ne!(attr.ino, kept);
    assert_eq!(attr.uid, 1000);
    assert!(matches!(view.getattr(kept), Err(Fail::Errno(Errno::ESTALE))));
    let door = walk(&view, "resources/default/www").unwrap();
    assert_eq!((door.mode, door.uid), (0o700, 1000));

    view.remove(1);
    view.remove(3);
    assert_eq!(list(&view, walk(&view, "resources").unwrap().ino).unwrap().len(), 2);
    assert_eq!(list(&view, walk(&view, "backups").unwrap().ino).unwrap().len(), 2);
}

#[test]
fn checkpoints_show_their_backups_by_resource() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let view = View::new(1, MEMORY).unwrap();
    let root = tree(&memory);
    let of = |id, project: &str, resource: &str| BackupView {
        checkpoint: Some(5),
        project: project.to_owned(),
        resource: resource.to_owned(),
        ..backup(id, root)
    };
    view.add_from(&source, backup(1, root)).unwrap();
    assert_eq!(list(&view, walk(&view, "checkpoints").unwrap().ino).unwrap().len(), 2);
    for shown in [of(2, "default", "web"), of(3, "default", "db"), of(4, "shop", "web")] {
        view.add_from(&source, shown).unwrap();
    }
    let dir = walk(&view, "checkpoints/5").unwrap().ino;
    let names: Vec<String> = list(&view, dir).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".", "..", "web", "db", "4"]);
    let at = |path: &str| walk(&view, path).unwrap().ino;
    assert_eq!(at("checkpoints/5/4/c/d/5"), at("backups/4/c/d/5"));
    // Directories have a parent each, in all three places.
    let home = "resources/default/web/2026-01-16T154502Z-2";
    for place in ["checkpoints/5/web", "backups/2", home] {
        let rows = list(&view, at(place)).unwrap();
        let above = place.rsplit_once('/').unwrap().0;
        assert_eq!(rows[1].1, at(above), "{place}");
        assert_eq!(list(&view, at(&format!("{place}/c"))).unwrap()[1].1, at(place), "{place}/c");
    }
    // A renamed resource has its new name there too.
    let changes = view.add_from(&source, of(3, "default", "data")).unwrap();
    assert!(changes.contains(&Change { parent: dir, name: b"db".to_vec() }));
    assert!(walk(&view, "checkpoints/5/db").is_err() && walk(&view, "checkpoints/5/data/e").is_ok());
    [2, 4].into_iter().for_each(|id| drop(view.remove(id)));
    assert_eq!(list(&view, dir).unwrap().len(), 3);
    view.remove(3);
    assert!(walk(&view, "checkpoints/5").is_err());
    assert!(walk(&view, "backups/1/e").is_ok());
}

#[test]
fn impossible_backups_are_refused() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let view = View::new(1, MEMORY).unwrap();
    let fine = backup(1, tree(&memory));
    let bad = [
        BackupView { project: "..".to_owned(), ..fine.clone() },
        BackupView { resource: "a/b".to_owned(), ..fine.clone() },
        BackupView { totals: Totals { entries: 1 << 40, ..fine.totals }, ..fine },
    ];
    for view_of_bad in bad {
        assert!(view.add_from(&source, view_of_bad).is_err());
    }
    assert_eq!(list(&view, walk(&view, "resources").unwrap().ino).unwrap().len(), 2);
}

#[test]
fn small_files_are_given_to_the_kernel_before_it_asks() {
    let memory = Arc::new(Memory::default());
    let text = |n: usize| format!("file {n} of many").repeat(n % 5 + 1);
    let mut files: Vec<Entry> = (0..200).map(|n| holding(&memory, &format!("f{n:03}"), &text(n))).collect();
    // What is not one blob as it stands is left to be asked for.
    files[20] = first("f020", 2);
    let view = view_of(&memory, memory.leaf(files));
    let pushed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = pushed.clone();
    view.set_push(Box::new(move |ino: Ino, bytes: &[u8]| seen.lock().unwrap().push((ino, bytes.to_vec()))));
    let ino = |n: usize| walk(&view, &format!("backups/7/f{n:03}")).unwrap().ino;
    let read = |n: usize| drop(view.read(ino(n), 0, 1000).unwrap());
    // One file, or two far apart, are nobody who reads on.
    read(150);
    read(0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(pushed.lock().unwrap().is_empty());
    read(1);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while pushed.lock().unwrap().len() < 50 && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pushed = pushed.lock().unwrap();
    assert!((50..=64).contains(&pushed.len()), "{}", pushed.len());
    for (at, bytes) in pushed.iter() {
        let n = usize::try_from(at.number()).unwrap() - 1;
        assert_eq!((*at, bytes.as_slice()), (ino(n), text(n).as_bytes()));
        assert!(n != 20 && at.number() % 16 != 0, "{n}");
    }
}

#[test]
fn a_resource_that_goes_takes_no_other_with_it() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let root = tree(&memory);
    let view = View::new(1, MEMORY).unwrap();
    let named = |id, resource: &str| BackupView { resource: resource.to_owned(), ..backup(id, root) };
    view.add_from(&source, named(1, "a")).unwrap();
    // Both in one step, as the daemon tells after it was away.
    view.exchange_from(&source, 1, named(2, "b")).unwrap();
    assert!(walk(&view, "versions/default/b").is_ok() && walk(&view, "versions/default/a").is_err());
    assert!(walk(&view, "resources/default/b/2026-01-16T154502Z-2/e").is_ok());
    view.exchange_from(&source, 2, named(3, "a")).unwrap();
    assert!(walk(&view, "versions/default/a").is_ok() && walk(&view, "versions/default/b").is_err());
}

//! Views over all backups: versions of random trees against a model of them, and links by day and kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::errno::Errno;
use proptest::prelude::*;

use super::memory::{Memory, backup, dir, holding};
use crate::browse::attr::Attr;
use crate::browse::fail::{Answer, Fail};
use crate::browse::ino::{Ino, ROOT};
use crate::browse::source::TreeSource;
use crate::browse::types::{BackupView, Policy};
use crate::browse::view::{MEMORY, View};
use crate::model::Id;
use crate::vault::tree::{Entry, Metadata, Owner, Totals};

/// A name in a tree: a file of this content, or a directory.
#[derive(Debug, Clone)]
enum Thing {
    File(u8),
    Dir(BTreeMap<String, Thing>),
}

/// The name that the version of a backup has.
fn version(id: u64) -> String {
    backup(id, Default::default()).dir_name()
}

/// Names, some of them those of versions.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[abc]", 1 => (1u64..3).prop_map(version), 1 => (1u64..3).prop_map(|id| version(id) + "~")]
}

fn things() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    let leaf = (0u8..3).prop_map(Thing::File);
    let thing = leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            (0u8..3).prop_map(Thing::File),
            prop::collection::btree_map(name(), inner, 0..4).prop_map(Thing::Dir)
        ]
    });
    prop::collection::btree_map(name(), thing, 0..4)
}

fn text(content: u8) -> String {
    format!("content {content}")
}

fn store(memory: &Memory, things: &BTreeMap<String, Thing>) -> (Id, Totals) {
    let entry = |(name, thing): (&String, &Thing)| match thing {
        Thing::File(content) => holding(memory, name, &text(*content)),
        Thing::Dir(inner) => dir(name, store(memory, inner)),
    };
    memory.leaf(things.iter().map(entry).collect())
}

fn lookup(view: &View, parent: Ino, name: &str) -> Answer<Attr> {
    if parent.is_versions() {
        let one = view.past(parent)?.lookup(view, name.as_bytes())?.ok_or(Fail::Errno(Errno::ENOENT));
        let one = one.map(|(attr, _)| attr);
        // Found alone or in the whole list, it is the same.
        assert_eq!(view.version(parent, name.as_bytes()).ok(), one.as_ref().ok().copied());
        return one.inspect(|attr| keep(view, parent, name, attr.ino));
    }
    let found = view.insist(|| view.lookup(parent, name.as_bytes()))?.ok_or(Fail::Errno(Errno::ENOENT));
    found.inspect(|attr| keep(view, parent, name, attr.ino))
}

/// The kernel is told of it.
fn keep(view: &View, parent: Ino, name: &str, ino: Ino) {
    if ino.is_versions() {
        view.paths().keep(parent, name.as_bytes(), ino).unwrap();
    }
}

fn walk(view: &View, path: &str) -> Answer<Ino> {
    path.split('/').try_fold(ROOT, |at, name| lookup(view, at, name).map(|attr| attr.ino))
}

/// Up to two names of a directory of versions, and where to go on.
fn two(view: &View, ino: Ino, mut cookie: u64) -> Answer<(Vec<(String, Attr)>, u64)> {
    let mut rows = Vec::new();
    view.listing(ino, cookie)?.list(cookie, &mut |row| {
        assert!(row.cookie > cookie && row.cookie <= i64::MAX.unsigned_abs());
        rows.push((String::from_utf8(row.name.to_vec()).unwrap(), row.attr));
        if !matches!(row.name, b"." | b"..") {
            keep(view, ino, &rows[rows.len() - 1].0, row.attr.ino);
        }
        cookie = row.cookie;
        rows.len() < 2
    });
    Ok((rows, cookie))
}

/// What is in a directory of versions, read two names at a time, while `meanwhile` happens.
fn list_while(view: &View, ino: Ino, mut meanwhile: impl FnMut()) -> Vec<(String, Attr)> {
    let (mut all, mut cookie) = (Vec::new(), 0);
    loop {
        let (rows, next) = two(view, ino, cookie).unwrap();
        if rows.is_empty() {
            return all;
        }
        all.extend(rows);
        cookie = next;
        meanwhile();
    }
}

/// What is in a directory of versions.
fn list(view: &View, ino: Ino) -> Vec<(String, Attr)> {
    list_while(view, ino, || {})
}

fn target(view: &View, ino: Ino) -> String {
    String::from_utf8(view.insist(|| view.readlink(ino)).unwrap()).unwrap()
}

/// What a model says about a path: the names beneath it, and its contents by the first backup that has each.
fn expected(trees: &BTreeMap<u64, BTreeMap<String, Thing>>, path: &[String]) -> (BTreeSet<String>, BTreeMap<u8, u64>) {
    let (mut names, mut contents) = (BTreeSet::new(), BTreeMap::new());
    for (id, tree) in trees {
        let mut at = Some(Thing::Dir(tree.clone()));
        for name in path {
            at = match at {
                Some(Thing::Dir(inner)) => inner.get(name).cloned(),
                _ => None,
            };
        }
        match at {
            Some(Thing::Dir(inner)) => names.extend(inner.into_keys()),
            Some(Thing::File(content)) => drop(contents.entry(content).or_insert(*id)),
            None => {}
        }
    }
    (names, contents)
}

fn compare(view: &View, trees: &BTreeMap<u64, BTreeMap<String, Thing>>, ino: Ino, path: &mut Vec<String>) {
    let (names, contents) = expected(trees, path);
    let free = |id: u64| {
        let mut name = version(id);
        while names.contains(&name) {
            name.push('~');
        }
        name
    };
    let by_name: BTreeMap<String, u8> = contents.iter().map(|(content, id)| (free(*id), *content)).collect();
    let rows = list(view, ino);
    assert_eq!((rows[0].0.as_str(), rows[0].1.ino, rows[1].0.as_str()), (".", ino, ".."));
    let found: BTreeSet<String> = rows[2..].iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(found, names.iter().cloned().chain(by_name.keys().cloned()).collect(), "{path:?}");
    for (name, attr) in &rows[2..] {
        assert_eq!(lookup(view, ino, name).unwrap(), *attr, "{path:?} {name}");
        match by_name.get(name) {
            Some(content) => {
                assert_eq!(view.read(attr.ino, 0, 100).unwrap().bytes(), text(*content).as_bytes(), "{path:?} {name}");
            }
            None => {
                assert_eq!(view.past(attr.ino).unwrap().attr, *attr);
                assert_eq!(list(view, attr.ino)[1].1.ino, ino, "the parent of {path:?} {name}");
                path.push(name.clone());
                compare(view, trees, attr.ino, path);
                path.pop();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn versions_are_what_the_backups_had(
        trees in prop::collection::vec(things(), 1..6),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let memory = Arc::new(Memory::default());
        let source = memory.clone() as Arc<dyn TreeSource>;
        let view = View::new(1, MEMORY).unwrap();
        let mut model = BTreeMap::new();
        let check = |model: &BTreeMap<u64, BTreeMap<String, Thing>>| {
            let top = walk(&view, "versions/default/web").unwrap();
            compare(&view, model, top, &mut Vec::new());
        };
        for (id, tree) in (1..).zip(trees) {
            view.add_from(&source, backup(id, store(&memory, &tree))).unwrap();
            model.insert(id, tree);
            check(&model);
        }
        for index in gone {
            let ids: Vec<u64> = model.keys().copied().collect();
            let Some(id) = ids.get(index.index(ids.len().max(1))) else { break };
            view.remove(*id);
            model.remove(id);
            if model.is_empty() {
                prop_assert!(walk(&view, "versions/default").is_err());
            } else {
                check(&model);
            }
        }
    }
}

fn view_of(memory: &Arc<Memory>, backups: Vec<BackupView>) -> View {
    let source = memory.clone() as Arc<dyn TreeSource>;
    let view = View::new(1, MEMORY).unwrap();
    for backup in backups {
        view.add_from(&source, backup).unwrap();
    }
    view
}

#[test]
fn every_directory_has_a_hidden_link_to_its_versions() {
    let memory = Arc::new(Memory::default());
    let inner = memory.leaf(vec![holding(&memory, "f", "x")]);
    let etc = memory.leaf(vec![dir("ssh", inner)]);
    let own = memory.leaf(vec![holding(&memory, ".versions", "a file of this name")]);
    let root = memory.leaf(vec![dir("etc", etc), dir("own", own)]);
    let view = view_of(&memory, vec![BackupView { checkpoint: Some(5), ..backup(1, root) }]);
    for (place, up) in [("backups/1", 2), ("checkpoints/5/web", 3), ("resources/default/web/2026-01-16T154501Z-1", 4)] {
        let link = |path: &str| target(&view, walk(&view, &format!("{place}{path}/.versions")).unwrap());
        assert_eq!(link(""), format!("{}versions/default/web", "../".repeat(up)));
        assert_eq!(link("/etc/ssh"), format!("{}versions/default/web/etc/ssh", "../".repeat(up + 2)));
        let link = lookup(&view, walk(&view, &format!("{place}/etc")).unwrap(), ".versions").unwrap();
        assert_eq!(view.insist(|| view.getattr(link.ino)).unwrap(), link);
        assert_eq!(link.size, target(&view, link.ino).len() as u64);
        // Whoever has a file of this name sees that.
        let own = walk(&view, &format!("{place}/own/.versions")).unwrap();
        assert_eq!(view.read(own, 0, 6).unwrap().bytes(), b"a file");
        let mut names = Vec::new();
        let at = walk(&view, place).unwrap();
        view.insist(|| {
            view.list(at, 0, &mut |row| {
                names.push(row.name.to_vec());
                true
            })
        })
        .unwrap();
        assert!(!names.contains(&b".versions".to_vec()), "it is never listed");
    }
    assert!(walk(&view, "versions/default/web/etc/.versions").is_err());
    assert!(walk(&view, "backups/1/etc/ssh/f/.versions").is_err());
}

#[test]
fn nobody_gets_in_who_could_not_get_into_each_backup() {
    let memory = Arc::new(Memory::default());
    let inner = memory.leaf(vec![holding(&memory, "f", "x")]);
    let with = |mode: u16, uid: u32, acl: bool| {
        let owner = Arc::new(Owner { uid, gid: 7, ..Owner::default() });
        let xattrs = if acl { vec![(b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0])] } else { Vec::new() };
        let home = Entry { meta: Metadata { mode, owner, xattrs, ..Default::default() }, ..dir("home", inner) };
        memory.leaf(vec![home])
    };
    let access_to = |path: &str, backups: Vec<BackupView>| {
        let view = view_of(&memory, backups);
        let attr = view.past(walk(&view, path).unwrap()).unwrap().attr;
        (attr.mode, attr.uid, attr.gid)
    };
    let access = |backups| access_to("versions/default/web/home", backups);
    let plain = |id, mode, uid| backup(id, with(mode, uid, false));
    assert_eq!(access(vec![plain(1, 0o755, 5), plain(2, 0o750, 5)]), (0o750, 5, 7));
    assert_eq!(access(vec![plain(1, 0o705, 5), plain(2, 0o770, 5)]), (0o700, 5, 7));
    // What another owner let in says nothing.
    assert_eq!(access(vec![plain(1, 0o755, 5), plain(2, 0o755, 6)]), (0o700, 0, 0));
    assert_eq!(access(vec![plain(1, 0o755, 5), backup(2, with(0o755, 5, true))]), (0o700, 0, 0));
    let of = |id, policy| BackupView { policy, ..plain(id, 0o755, 5) };
    assert_eq!(access(vec![of(1, Policy::Owner(9)), of(2, Policy::Owner(9))]), (0o700, 9, 0));
    // What lets different people in is closed at its door.
    for other in [Policy::Root, Policy::Strict, Policy::Owner(8)] {
        for both in [[other, Policy::Owner(9)], [Policy::Owner(9), other]] {
            let backups = vec![of(1, both[0]), of(2, both[1])];
            assert_eq!(access_to("versions/default/web", backups), (0o700, 0, 0), "{both:?}");
        }
    }
    assert_eq!(access(vec![of(1, Policy::Root)]), (0o700, 0, 0));
}

#[test]
fn what_could_not_be_read_for_a_while_is_not_forgotten() {
    let memory = Arc::new(Memory::default());
    let of = |name: &str| memory.leaf(vec![holding(&memory, name, "x")]);
    let (old, new) = (of("old"), of("new"));
    let root = |home| memory.leaf(vec![dir("home", home)]);
    let view = view_of(&memory, vec![backup(1, root(old)), backup(2, root(new))]);
    let home = walk(&view, "versions/default/web/home").unwrap();
    let names = || list(&view, home).into_iter().skip(2).map(|(name, _)| name).collect::<Vec<_>>();
    let before = view.version_attr(home).unwrap();
    let away = memory.take(&old.0);
    assert_eq!(names(), ["new"]);
    // The kernel lists anew what has another time.
    assert!(view.version_attr(home).unwrap().mtime > before.mtime);
    memory.put(away);
    assert_eq!(names(), ["new", "old"]);
}

#[test]
fn a_version_is_not_hidden_by_a_name_like_its_own() {
    let memory = Arc::new(Memory::default());
    let home = memory.leaf(vec![holding(&memory, "home", "a file")]);
    let taken = [version(1), version(1) + "~", version(1) + "~~~", version(2)];
    let within = |name: &String| holding(&memory, name, "within");
    let inside = memory.leaf(taken.iter().map(within).collect());
    let view = view_of(&memory, vec![backup(1, home), backup(2, memory.leaf(vec![dir("home", inside)]))]);
    let at = walk(&view, "versions/default/web/home").unwrap();
    let mut names: Vec<String> = taken.to_vec();
    names.push(version(1) + "~~");
    names.sort();
    // Before it was listed, and after.
    for _ in 0..2 {
        let found = lookup(&view, at, &(version(1) + "~~")).unwrap();
        assert_eq!(view.read(found.ino, 0, 100).unwrap().bytes(), b"a file");
        for name in &taken {
            let inner = lookup(&view, lookup(&view, at, name).unwrap().ino, &version(2)).unwrap();
            assert_eq!(view.read(inner.ino, 0, 100).unwrap().bytes(), b"within", "{name}");
        }
        for nothing in [version(1) + "~~~~", version(2) + "~", "~".to_owned(), version(3)] {
            assert!(lookup(&view, at, &nothing).is_err(), "{nothing}");
        }
        assert_eq!(list(&view, at).into_iter().skip(2).map(|(name, _)| name).collect::<Vec<_>>(), names);
    }
}

/// `home` with these names.
fn home(memory: &Memory, names: &[&str]) -> (Id, Totals) {
    memory.leaf(vec![dir("home", memory.leaf(names.iter().map(|name| holding(memory, name, name)).collect()))])
}

#[test]
fn a_listing_that_was_begun_goes_on_as_backups_come_and_go() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let stays = ["b", "d", "f", "h", "j", "l"];
    let view = view_of(&memory, vec![backup(2, home(&memory, &stays)), backup(1, home(&memory, &["a", "c", "e"]))]);
    let at = walk(&view, "versions/default/web/home").unwrap();
    let mut turn = 0;
    let all = list_while(&view, at, || {
        turn += 1;
        match turn {
            // Names before the place that was reached go, and others come.
            1 => drop(view.remove(1)),
            2 => drop(view.add_from(&source, backup(3, home(&memory, &["A", "B", "C", "D", "k"]))).unwrap()),
            3 => drop(view.remove(3)),
            // Others list it meanwhile.
            _ => assert_eq!(list(&view, at).len(), 2 + stays.len()),
        }
    });
    assert!(turn > 4);
    for name in stays {
        assert_eq!(all.iter().filter(|(found, _)| found == name).count(), 1, "{name}");
    }
    assert_eq!(list(&view, at).into_iter().skip(2).map(|(name, _)| name).collect::<Vec<_>>(), stays);

    // One that is forgotten is made again while it would be the same, and else the reader is told.
    let (_, cookie) = two(&view, at, 0).unwrap();
    let long: Vec<String> =
        (0..40_000).map(|n| format!("a rather long name, and there are many of them: {n}")).collect();
    let many: Vec<(Id, Totals)> = (0..6)
        .map(|n| memory.branch(long.iter().map(|name| holding(&memory, name, &n.to_string())).collect(), 1000))
        .collect();
    let other = memory.leaf(many.iter().enumerate().map(|(n, inner)| dir(&format!("d{n}"), *inner)).collect());
    view.add_from(&source, BackupView { resource: "other".to_owned(), ..backup(9, other) }).unwrap();
    let forget = || {
        for n in 0..6 {
            assert_eq!(list(&view, walk(&view, &format!("versions/default/other/d{n}")).unwrap()).len(), 40_002);
        }
    };
    forget();
    assert_eq!(two(&view, at, cookie).unwrap().0[0].0, "b");
    view.add_from(&source, backup(4, home(&memory, &["m"]))).unwrap();
    assert_eq!(two(&view, at, cookie).unwrap().0[0].0, "b");
    forget();
    assert!(matches!(two(&view, at, cookie), Err(Fail::Errno(Errno::ESTALE))));
}

#[test]
fn a_directory_of_versions_stays_the_same_while_backups_come_and_go() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let path = "versions/default/web/home/sub";
    let inner = |names: &[&str]| memory.leaf(names.iter().map(|name| holding(&memory, name, name)).collect());
    // With as many names before it, so that its number is another in each.
    let root = |before: usize, sub: Option<(Id, Totals)>| {
        let mut entries: Vec<Entry> = (0..before).map(|n| holding(&memory, &format!("a{n}"), "x")).collect();
        entries.extend(sub.map(|sub| dir("sub", sub)));
        memory.leaf(vec![dir("home", memory.leaf(entries))])
    };
    let (one, two) = (inner(&["f"]), inner(&["f", "g"]));
    let view = view_of(&memory, vec![backup(5, root(3, Some(one))), backup(4, root(0, Some(one)))]);
    let at = walk(&view, path).unwrap();
    let names = || list(&view, at).into_iter().skip(2).map(|(name, _)| name).collect::<Vec<_>>();
    for (id, root) in [(6, root(9, Some(one))), (7, root(2, None)), (8, root(5, Some(two))), (3, root(1, Some(two)))] {
        view.add_from(&source, backup(id, root)).unwrap();
        assert_eq!(walk(&view, path).unwrap(), at, "with {id}");
        assert_eq!(list(&view, walk(&view, "versions/default/web/home").unwrap()).last().unwrap().1.ino, at);
    }
    assert_eq!(names(), ["f", "g"]);
    // What another has first stays as well.
    let later = walk(&view, "versions/default/web/home/sub/g").unwrap();
    view.add_from(&source, backup(9, root(7, Some(two)))).unwrap();
    assert_eq!(walk(&view, "versions/default/web/home/sub/g").unwrap(), later);
    // Whichever go, as long as one has the path.
    for gone in [5, 6, 4, 9, 3] {
        view.remove(gone);
        assert_eq!(walk(&view, path).unwrap(), at, "without {gone}");
        assert_eq!(names(), ["f", "g"], "without {gone}");
    }
    view.remove(8);
    assert!(matches!(view.past(at), Err(Fail::Errno(Errno::ESTALE))));
    assert!(walk(&view, path).is_err());
    view.add_from(&source, backup(10, root(1, Some(one)))).unwrap();
    assert_eq!((walk(&view, path).unwrap(), names()), (at, vec!["f".to_owned()]));
    view.remove(7);
    view.remove(10);
    assert!(matches!(view.past(at), Err(Fail::Errno(Errno::ESTALE))));
}

#[test]
fn paths_are_known_as_long_as_the_kernel_may_ask_for_them() {
    let memory = Arc::new(Memory::default());
    let inner = memory.leaf(vec![holding(&memory, "f", "x"), holding(&memory, "g", "x")]);
    let view = view_of(&memory, vec![backup(1, memory.leaf(vec![dir("home", inner)]))]);
    assert_eq!(view.paths().len(), 1, "that of the resource");
    let top = walk(&view, "versions/default/web").unwrap();
    let home = lookup(&view, top, "home").unwrap().ino;
    let [f, g] = ["f", "g"].map(|name| lookup(&view, home, name).unwrap().ino);
    view.paths().forget(f, 1);
    assert!(matches!(view.past(f), Err(Fail::Errno(Errno::ESTALE))));
    // What is within another is known by its whole path, also when the one above was forgotten.
    view.paths().forget(home, 1);
    assert_eq!((view.past(g).unwrap().attr.ino, view.paths().len()), (g, 2));
    // The resource's own stays as long as there is the resource, and no longer than the kernel knows it.
    view.paths().forget(top, 1);
    assert_eq!(walk(&view, "versions/default/web").unwrap(), top);
    view.remove(1);
    assert!(matches!(view.past(top), Err(Fail::Errno(Errno::ESTALE))));
    [top, g].into_iter().for_each(|ino| view.paths().forget(ino, 1));
    assert_eq!(view.paths().len(), 0);
}

#[test]
fn what_could_not_be_read_when_a_listing_was_begun_does_not_move_it() {
    let memory = Arc::new(Memory::default());
    let inner = |names: &[&str]| memory.leaf(names.iter().map(|name| holding(&memory, name, name)).collect());
    let (old, new) = (inner(&["a", "b", "c"]), inner(&["k", "l", "m"]));
    let root = |home| memory.leaf(vec![dir("home", home)]);
    let view = view_of(&memory, vec![backup(1, root(old)), backup(2, root(new))]);
    let at = walk(&view, "versions/default/web/home").unwrap();
    let mut away = Some(memory.take(&old.0));
    let all = list_while(&view, at, || {
        if let Some(bytes) = away.take() {
            memory.put(bytes);
        }
        assert_eq!(list(&view, at).len(), 8);
    });
    assert_eq!(all.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [".", "..", "k", "l", "m"]);
}

#[test]
fn names_that_change_what_they_mean_keep_their_places() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let root = memory.leaf(vec![holding(&memory, "f", "x")]);
    let view = view_of(&memory, vec![backup(1, root), backup(2, root)]);
    let moved = |id| BackupView { resource: "renamed".to_owned(), ..backup(id, root) };
    for (path, name) in [("resources/default/web", "latest"), ("versions/default", "web"), ("backups", "1")] {
        let at = walk(&view, path).unwrap();
        let (mut seen, mut cookie, mut turn) = (0, 0, 0);
        loop {
            let before = cookie;
            view.list(at, cookie, &mut |row| {
                seen += usize::from(row.name == name.as_bytes());
                cookie = row.cookie;
                false
            })
            .unwrap();
            if cookie == before {
                break;
            }
            turn += 1;
            match path {
                "backups" => {
                    drop(view.add_from(&source, if turn % 2 == 0 { backup(1, root) } else { moved(1) }).unwrap())
                }
                _ if turn < 9 => drop(view.exchange_from(&source, 1 + turn, backup(2 + turn, root)).unwrap()),
                _ => {}
            }
            assert!(turn < 100, "{path} has no end");
        }
        assert_eq!(seen, 1, "{name} in {path}");
        for id in 2..20 {
            view.remove(id);
        }
        view.add_from(&source, backup(1, root)).unwrap();
        view.add_from(&source, backup(2, root)).unwrap();
    }
}

#[test]
fn links_by_day_and_kind_lead_to_the_backups() {
    let memory = Arc::new(Memory::default());
    let root = memory.leaf(vec![holding(&memory, "f", "x")]);
    let partial = BackupView { partial: true, ..backup(2, root) };
    let machine = Some(("other".to_owned(), "default".to_owned()));
    let foreign = BackupView { machine, project: "default@other".to_owned(), ..backup(3, root) };
    let view = view_of(&memory, vec![backup(1, root), partial, foreign]);
    let link = |path: &str| walk(&view, path).map(|ino| target(&view, ino));
    assert_eq!(link("by-date/2026/01/16/154501Z-default-web-1").unwrap(), "../../../../backups/1");
    assert_eq!(link("by-date/2026/01/16/154503Z-default@other-web-3").unwrap(), "../../../../backups/3");
    assert_eq!(link("partial/2").unwrap(), "../backups/2");
    assert!(link("partial/1").is_err());
    assert_eq!(link("machines/other/default/web").unwrap(), "../../../resources/default@other/web");
    (1..=3).for_each(|id| drop(view.remove(id)));
    for dir in ["by-date", "partial", "machines", "versions", "resources"] {
        let mut names = 0;
        view.list(walk(&view, dir).unwrap(), 0, &mut |_| {
            names += 1;
            true
        })
        .unwrap();
        assert_eq!(names, 2, "{dir} is not empty");
    }
}

/// `cargo test --release --lib -- --ignored --nocapture browse::tests::versions::figures`
#[test]
#[ignore = "prints figures"]
fn figures() {
    let memory = Arc::new(Memory::default());
    let source = memory.clone() as Arc<dyn TreeSource>;
    let view = View::new(1, MEMORY).unwrap();
    // 100 directories of 100 files; in each of 1,000 backups one file is another.
    let mut dirs: Vec<Vec<u32>> = vec![vec![0; 100]; 100];
    for id in 1..=1000u64 {
        let at = usize::try_from(id * 37 % 10_000).unwrap();
        dirs[at / 100][at % 100] += 1;
        let entries = dirs.iter().enumerate().map(|(i, files)| {
            let file = |(j, version): (usize, &u32)| holding(&memory, &format!("f{j}"), &format!("{i} {j} {version}"));
            dir(&format!("d{i}"), memory.leaf(files.iter().enumerate().map(file).collect()))
        });
        view.add_from(&source, backup(id, memory.leaf(entries.collect()))).unwrap();
    }
    for path in ["versions/default/web", "versions/default/web/d7", "versions/default/web/d7/f40"] {
        for turn in ["cold", "warm"] {
            let since = std::time::Instant::now();
            let rows = list(&view, walk(&view, path).unwrap()).len();
            println!("{path} {turn}: {rows} names, {:.1} ms", since.elapsed().as_secs_f64() * 1e3);
        }
    }
}

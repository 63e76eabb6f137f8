//! Vaults whose every byte is sealed with the right key and lies: nothing is written outside the target, memory is
//! bounded, and what cannot be is `Damaged`.

use std::io;

use super::*;
use crate::model::ErrorKind;
use crate::restore::data::Layout;
use crate::restore::{Format, export, volume};
use crate::vault::compare::{Change, Differences, compare};
use crate::vault::tree::node::{encode_branch, encode_leaf, encode_root};
use crate::vault::tree::{Child, Content, Origin, Part, Totals, content::encode_list};
use crate::vault::writer::Lane;
use crate::vault::{VerifyReport, verify};

fn entry(name: &[u8], kind: Kind) -> Entry {
    Entry { name: name.to_vec(), meta: Metadata { mode: 0o755, ..Metadata::default() }, link: Link::None, kind }
}

fn dir(name: &[u8], node: Id, totals: Totals) -> Entry {
    entry(name, Kind::Directory { node, totals, origin: Origin::Read })
}

fn file(name: &[u8], size: u64, content: Content) -> Entry {
    entry(name, Kind::File { size, holes: Vec::new(), content })
}

fn sum(entries: &[Entry]) -> Totals {
    let mut totals = Totals::default();
    entries.iter().for_each(|entry| totals.add(entry.totals()));
    totals
}

/// Stores entries as one leaf, whatever they are, and a directory that holds them.
fn holding(lane: &mut Lane, name: &[u8], entries: &[Entry]) -> Entry {
    dir(name, lane.put(&encode_leaf(entries.iter())).unwrap(), sum(entries))
}

/// A published backup whose `/` is what `make` says; `make` may store what it needs.
fn crafted(world: &World, make: impl FnOnce(&mut Lane, &mut Lane) -> Entry) -> Manifest {
    let writer = VaultWriter::start(&world.vault, Compression::default()).unwrap();
    let mut data = writer.lane(Class::DataPack).unwrap();
    let mut tree = writer.lane(Class::TreePack).unwrap();
    let top = make(&mut data, &mut tree);
    let root = tree.put(&encode_root(&top)).unwrap();
    data.flush().unwrap();
    tree.flush().unwrap();
    drop((data, tree));
    writer.finish().unwrap();
    let manifest = Manifest { root, totals: top.totals(), ..world.backup() };
    world.vault.put_manifest(&manifest).unwrap();
    manifest
}

/// Every name beside the target, the vault and what a test brings itself.
fn surroundings(world: &World) -> String {
    sh(
        world.dir.path(),
        "find . /etc/passwd -path ./target -prune -o -path ./store -prune -o -path ./cache -prune -o -printf '%p %y %s %n %T@\\n' | sort",
    )
}

/// Restores into a target; what is beside it must stay as it was.
fn restored(world: &World, manifest: &Manifest) -> (Result<RestoreOutcome>, String) {
    let target = world.dir.path().join("target");
    sh(world.dir.path(), "rm -rf target; mkdir target; touch -d @1 .");
    let before = surroundings(world);
    let outcome = world.restore(manifest, to(&target));
    sh(world.dir.path(), "touch -d @1 .");
    assert_eq!(surroundings(world), before, "something outside the target was touched");
    (outcome, sh(&target, "find . -mindepth 1 -printf '%P%y\\n' | sort"))
}

/// Whether a restore said what is wrong, as damage.
fn damaged(outcome: &Result<RestoreOutcome>) -> bool {
    match outcome {
        Ok(outcome) => outcome.error_list.iter().any(|e| e.code == "damaged"),
        Err(e) => e.kind == ErrorKind::Damaged,
    }
}

fn report(world: &World, manifest: &Manifest) -> VerifyReport {
    let ids = world.vault.manifests().unwrap();
    let mine = ids.into_iter().filter(|id| world.vault.manifest(id).unwrap().root == manifest.root);
    verify(&world.vault, &mine.collect::<Vec<_>>(), false, &Progress::default()).unwrap()
}

#[derive(Default)]
struct Count(u64);

impl Differences for Count {
    fn change(&mut self, _: &[u8], _: Change<'_>) -> Result<bool> {
        self.0 += 1;
        Ok(true)
    }
}

fn walked(world: &World, manifest: &Manifest) -> Result<u64> {
    let mut count = Count::default();
    compare(None, Some((&world.vault, &manifest.root)), &mut count, &Progress::default()).map(|()| count.0)
}

/// All ways to read a backup say that it is damaged.
fn is_damaged_everywhere(world: &World, manifest: &Manifest, what: &str) {
    let (outcome, _) = restored(world, manifest);
    assert!(damaged(&outcome), "{what}: {outcome:?}");
    let exported = export(&world.vault, manifest, Format::Tar, Box::new(io::sink()), &Progress::default());
    let noticed = exported.as_ref().map_or_else(|e| e.kind == ErrorKind::Damaged, |outcome| outcome.errors > 0);
    assert!(noticed, "{what}: {exported:?}");
    assert_eq!(walked(world, manifest).unwrap_err().kind, ErrorKind::Damaged, "{what}");
    assert!(report(world, manifest).problem_count > 0, "{what}");
}

#[test]
fn names_that_lead_elsewhere_come_to_nothing() {
    let world = World::new();
    let long = [b'x'; 256];
    let names = [&b".."[..], b".", b"a/b", b"../x", b"/etc/x", b"a\0b", b"", &long];
    for name in names {
        for inside in [false, true] {
            let manifest = crafted(&world, |data, tree| {
                let id = data.put(b"hostile").unwrap();
                let inner = file(b"x", 7, Content::Whole(id));
                let bad = if inside {
                    Entry { name: name.to_vec(), ..holding(tree, b"d", &[inner]) }
                } else {
                    Entry { name: name.to_vec(), ..inner }
                };
                let top = holding(tree, b"top", &[bad]);
                holding(tree, b"", &[top])
            });
            is_damaged_everywhere(&world, &manifest, &format!("{:?}", String::from_utf8_lossy(name)));
        }
    }
}

#[test]
fn a_name_that_comes_twice_does_not_lead_through_its_link() {
    let world = World::new();
    sh(world.dir.path(), "mkdir outside");
    let outside = world.dir.path().join("outside").into_os_string().into_encoded_bytes();
    // In one leaf, and in two leaves of a branch.
    for branch in [false, true] {
        let manifest = crafted(&world, |data, tree| {
            let id = data.put(b"hostile").unwrap();
            let link = entry(b"a", Kind::Symlink { target: outside.clone() });
            let through = holding(tree, b"a", &[file(b"x", 7, Content::Whole(id))]);
            if !branch {
                return holding(tree, b"", &[link, through]);
            }
            let mut child = |entries: &[Entry], last: &[u8]| Child {
                last: last.to_vec(),
                count: entries.len() as u64,
                totals: sum(entries),
                node: tree.put(&encode_leaf(entries.iter())).unwrap(),
            };
            // The branch itself is in order.
            let children = [child(&[link], b"a"), child(&[through], b"b")];
            let mut totals = children[0].totals;
            totals.add(children[1].totals);
            dir(b"", tree.put(&encode_branch(&children)).unwrap(), totals)
        });
        is_damaged_everywhere(&world, &manifest, "a name that comes twice");
        assert_eq!(sh(world.dir.path(), "ls outside"), "");
    }
}

#[test]
fn hard_links_reach_nothing_but_the_backup() {
    let world = World::new();
    sh(world.dir.path(), "mkdir outside; echo secret > outside/file; chmod 755 outside/file; touch -d @0 outside/file");
    let outside = world.dir.path().join("outside").into_os_string().into_encoded_bytes();
    let with = |up: u32, path: &[u8]| {
        crafted(&world, |data, tree| {
            let id = data.put(b"secret\n").unwrap();
            let through = entry(b"a", Kind::Symlink { target: outside.clone() });
            let link = Link::To { nlink: 2, up, path: path.to_vec() };
            let later = Entry { link, ..file(b"b", 7, Content::Whole(id)) };
            holding(tree, b"", &[through, later])
        })
    };
    for path in [&b"../outside/file"[..], b"/etc/passwd", b"a//file", b"..", b".", b"a\0b", b""] {
        let (outcome, there) = restored(&world, &with(0, path));
        assert!(damaged(&outcome), "{path:?}: {outcome:?}");
        assert_eq!(there, "", "{path:?}");
    }
    for up in [1, 1000, u32::MAX] {
        let (outcome, there) = restored(&world, &with(up, b"outside/file"));
        assert!(damaged(&outcome), "{up}: {outcome:?}");
        assert_eq!(there, "al\n", "{up}");
    }
    // Through the symbolic link beside it, which leads out: what is there is not linked to, however alike it is.
    let (outcome, there) = restored(&world, &with(0, b"a/file"));
    assert_eq!((outcome.unwrap().errors, there.as_str()), (0, "al\nbf\n"));
    assert_eq!(sh(world.dir.path(), "cat target/b; stat -c %h target/b outside/file"), "secret\n1\n1\n");
}

/// A directory of two equal directories, of two equal directories, …: some nodes that stand for 2^64 entries.
#[test]
fn a_tree_that_unfolds_without_end_takes_neither_memory_nor_all_time() {
    let world = World::new();
    let manifest = crafted(&world, |data, tree| {
        let id = data.put(b"again").unwrap();
        let mut below = holding(tree, b"d", &[file(b"f", 5, Content::Whole(id))]);
        for _ in 0..64 {
            let twin = |name: &[u8]| Entry { name: name.to_vec(), ..below.clone() };
            let twins = [twin(b"a"), twin(b"b")];
            below = holding(tree, b"d", &twins);
        }
        Entry { name: Vec::new(), ..below }
    });
    assert_eq!(manifest.totals.entries, u64::MAX);
    // Each node is verified once; what it says of itself is true.
    assert_eq!(report(&world, &manifest).problem_count, 0);
    assert_eq!(walked(&world, &manifest).unwrap_err().kind, ErrorKind::LimitReached);
    let target = world.dir.path().join("target");
    sh(world.dir.path(), "mkdir target; mount -t tmpfs -o size=16M,nr_inodes=5000 none target");
    let error = world.restore(&manifest, to(&target)).unwrap_err();
    sh(world.dir.path(), "umount target");
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
}

#[test]
fn numbers_that_lie_are_found_by_verify() {
    let world = World::new();
    for lie in [0, 1, 3, u64::MAX] {
        let manifest = crafted(&world, |data, tree| {
            let id = data.put(b"x").unwrap();
            let mut inner =
                holding(tree, b"d", &[file(b"a", 1, Content::Whole(id)), file(b"b", 1, Content::Whole(id))]);
            let Kind::Directory { totals, .. } = &mut inner.kind else { panic!() };
            totals.entries = lie;
            holding(tree, b"", &[inner])
        });
        let report = report(&world, &manifest);
        assert_eq!(report.problem_count, 1, "{lie}");
        assert!(report.problems[0].message.contains("totals"), "{report:?}");
        // The files are there all the same.
        let (outcome, there) = restored(&world, &manifest);
        assert_eq!((outcome.unwrap().errors, there.as_str()), (0, "d/af\nd/bf\ndd\n"));
    }
}

#[test]
fn files_larger_than_any_are_said_not_to_fit() {
    let world = World::new();
    for size in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        let manifest = crafted(&world, |data, tree| {
            let id = data.put(b"tail").unwrap();
            let kind = Kind::File { size, holes: vec![(0, size - 4)], content: Content::Whole(id) };
            let fine = file(b"fine", 4, Content::Whole(id));
            holding(tree, b"", &[entry(b"big", kind), fine])
        });
        let (outcome, there) = restored(&world, &manifest);
        // Some file systems hold the smallest of them.
        let outcome = outcome.unwrap();
        assert!(outcome.errors == 1 || size < 1 << 63, "{outcome:?}");
        assert!(there.ends_with("finef\n"), "{there}");
        let exported = export(&world.vault, &manifest, Format::Tar, Box::new(io::sink()), &Progress::default());
        assert!(exported.is_ok_and(|outcome| outcome.files >= 1));
    }
}

/// 80 billion parts from two blobs: read one list at a time, whoever asks for them.
#[test]
fn lists_without_end_are_read_one_at_a_time() {
    let world = World::new();
    let mut list = Id::default();
    let manifest = crafted(&world, |data, tree| {
        let id = data.put(b"part").unwrap();
        list = tree.put(&encode_list(&vec![Part { id, len: 4 }; 4096])).unwrap();
        let too_many = encode_list(&vec![Part { id, len: 4 }; 4097]);
        let bad = vec![Part { id: tree.put(&too_many).unwrap(), len: 4 * 4097 }; 300];
        let bad = file(b"bad", 300 * 4 * 4097, Content::Lists(bad));
        holding(tree, b"", &[bad])
    });
    let lists = Content::Lists(vec![Part { id: list, len: 4 * 4096 }; 20_000_000]);
    let layout = Layout::new(&world.vault, 20_000_000 * 4 * 4096, &[], &lists).unwrap();
    let first: Result<Vec<_>> = layout.parts().take(10_000).collect();
    assert!(first.unwrap().iter().zip(0..).all(|((start, part), i)| (*start, part.len) == (4 * i, 4)));
    let (outcome, there) = restored(&world, &manifest);
    assert!(damaged(&outcome) && there.is_empty(), "{outcome:?} {there}");
}

#[test]
fn a_chain_of_thousands_of_directories_is_restored() {
    let world = World::new();
    let deep = 3000;
    let manifest = crafted(&world, |data, tree| {
        let id = data.put(b"end").unwrap();
        let mut below = holding(tree, b"d", &[file(b"f", 3, Content::Whole(id))]);
        for _ in 1..deep {
            below = holding(tree, b"d", &[below]);
        }
        holding(tree, b"", &[below])
    });
    assert_eq!(report(&world, &manifest).problem_count, 0);
    let target = world.dir.path().join("target");
    let outcome = world.restore(&manifest, to(&target)).unwrap();
    assert_eq!((outcome.errors, outcome.files), (0, deep + 1));
    sh(world.dir.path(), "rm -rf target");
    // As deep as it can be read, but deeper than a path may be long.
    assert_eq!(walked(&world, &manifest).unwrap(), deep + 1);
}

/// A list of blocks that is not there is found before the first block of the target is overwritten.
#[test]
fn a_volume_without_all_of_its_lists_overwrites_nothing() {
    let world = World::new();
    let manifest = crafted(&world, |data, tree| {
        let id = data.put(&[7; 4096]).unwrap();
        let list = tree.put(&encode_list(&[Part { id, len: 4096 }])).unwrap();
        let lists = vec![Part { id: list, len: 4096 }, Part { id: Id::of(b"lost"), len: 4096 }];
        holding(tree, b"", &[file(b"disk.img", 8192, Content::Lists(lists))])
    });
    let target = world.dir.path().join("target.img");
    std::fs::write(&target, [1; 5000]).unwrap();
    let onto = volume::Onto { path: "/disk.img".into(), target: target.clone() };
    let error = volume::run(&world.vault, &manifest, &onto, &[], false, &Progress::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
    assert_eq!(std::fs::read(&target).unwrap(), [1; 5000]);
}

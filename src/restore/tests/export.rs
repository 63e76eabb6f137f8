//! Exports, extracted by GNU tar.

use std::fs::File;
use std::path::Path;

use super::metadata::{everything, thaw};
use super::*;
use crate::model::Id;
use crate::restore::{Format, export};
use crate::vault::tree::{Kind, Origin, Totals};

fn export_to(world: &World, manifest: &Manifest, format: Format, name: &str) -> Result<crate::restore::ExportOutcome> {
    let file = File::create(world.dir.path().join(name)).unwrap();
    export(&world.vault, manifest, format, Box::new(file), &Progress::default())
}

fn extract(world: &World, archive: &str, into: &str) -> String {
    sh(
        world.dir.path(),
        &format!(
            "mkdir {into}; tar --xattrs --xattrs-include='*' --acls --numeric-owner -xpf {archive} -C {into} 2>&1 \
             | grep -v -e SCHILY.fflags -e 'time stamp' || true"
        ),
    )
}

#[test]
fn gnu_tar_restores_what_tar_can_carry() {
    let world = World::new();
    everything(&world);
    let name = "p".repeat(120);
    sh(
        &world.source(),
        &format!(
            "mkdir -p {name}/{name}; echo l > {name}/{name}/{name}; ln {name}/{name}/{name} {name}/x; \
        ln -s {name}/{name} longlink; echo o > owners; chown 3000000:4000000 owners; chattr -R -ia . 2>/dev/null || true"
        ),
    );
    let manifest = world.backup();
    for (format, archive) in [(Format::Tar, "a.tar"), (Format::TarGz, "a.tar.gz"), (Format::TarZst, "a.tar.zst")] {
        let outcome = export_to(&world, &manifest, format, archive).unwrap();
        assert_eq!(outcome.written, world.dir.path().join(archive).metadata().unwrap().len());
        assert_eq!(outcome.errors, 1, "{:?}", outcome.error_list);
        assert!(outcome.error_list[0].path.ends_with(b"/socket"));
        assert_eq!(outcome.files + 1, manifest.totals.entries);
        let said = extract(&world, archive, "out");
        assert_eq!(said, "", "tar has something to say");
        let restored = world.beneath(&world.dir.path().join("out"));
        let differences = differences(&world.source(), &restored);
        let hollow = std::os::unix::fs::MetadataExt::blocks(&restored.join("hollow").metadata().unwrap());
        sh(world.dir.path(), "rm -rf out");
        assert_eq!(differences, "cS+++++++++ socket\n");
        assert!(hollow <= 16, "holes were filled");
    }
    thaw(&world);
}

#[test]
fn a_failed_export_is_noticed_by_every_reader() {
    let world = World::new();
    sh(&world.source(), "for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom > $i; done");
    let manifest = world.backup();
    damage(&world);
    for (format, archive) in [(Format::Tar, "a.tar"), (Format::TarZst, "a.tar.zst")] {
        let error = export_to(&world, &manifest, format, archive).unwrap_err();
        assert_eq!(error.kind, crate::model::ErrorKind::Damaged);
        assert!(error.message.contains("/source/"), "{error}");
        let read = Command::new("tar").arg("-tf").arg(world.dir.path().join(archive)).output().unwrap();
        assert!(!read.status.success(), "tar did not notice");
    }
    let progress = Progress::default();
    progress.cancel();
    let file = File::create(world.dir.path().join("c.tar")).unwrap();
    let error = export(&world.vault, &manifest, Format::Tar, Box::new(file), &progress).unwrap_err();
    assert_eq!(error.kind, crate::model::ErrorKind::Cancelled);
    let read = Command::new("tar").arg("-tf").arg(world.dir.path().join("c.tar")).output().unwrap();
    assert!(!read.status.success(), "tar did not notice");
}

#[test]
fn a_full_pipe_or_disk_ends_the_export() {
    let world = World::new();
    sh(&world.source(), "head -c 30000000 /dev/urandom > file");
    let manifest = world.backup();
    let full = File::options().write(true).open(Path::new("/dev/full")).unwrap();
    let error = export(&world.vault, &manifest, Format::Tar, Box::new(full), &Progress::default()).unwrap_err();
    assert_eq!(error.kind, crate::model::ErrorKind::NoSpace, "{error}");
}

/// Changes bytes in the middle of every pack but the tree's own (the smallest).
pub fn damage(world: &World) {
    sh(
        &world.dir.path().join("store/packs"),
        "for f in $(find . -type f -size +1000k); do chmod u+w $f; \
         printf 'damage' | dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc status=none; done",
    );
}

#[test]
fn an_export_that_fails_between_two_entries_is_noticed_too() {
    let world = World::new();
    sh(&world.source(), "echo a > a");
    let mut manifest = world.backup();
    let node = Id::of(b"a node that the vault does not hold");
    let lost = Kind::Directory { node, totals: Totals::default(), origin: Origin::Read };
    manifest.root = world.with_entry(&manifest.root, b"lost", lost);
    for (format, archive) in [(Format::Tar, "a.tar"), (Format::TarGz, "a.tar.gz"), (Format::TarZst, "a.tar.zst")] {
        export_to(&world, &manifest, format, archive).unwrap_err();
        let read = Command::new("tar").arg("-tf").arg(world.dir.path().join(archive)).output().unwrap();
        assert!(!read.status.success(), "tar did not notice");
    }
}

//! Copies made and brought back without a daemon; hostile ones above all.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use proptest::prelude::*;

use super::manifest::ResourceRecord;
use super::unpack::Tar;
use super::{ENTRIES, MANIFEST, SUMS, Source, backup, restore, sums};
use crate::model::{ErrorKind, Id, Progress, Result};
use crate::restore::{Format, OnError};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::Builder::new().tempdir_in("/var/tmp").unwrap() };
        std::fs::create_dir_all(place.path("live/sub")).unwrap();
        std::fs::create_dir(place.path("scratch")).unwrap();
        std::fs::write(place.path("live/one"), "one").unwrap();
        std::fs::write(place.path("live/sub/two"), "two").unwrap();
        std::fs::hard_link(place.path("live/one"), place.path("live/sub/same")).unwrap();
        symlink("one", place.path("live/link")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn resource(&self) -> ResourceRecord {
        ResourceRecord {
            id: 1,
            name: "web".into(),
            project_id: 1,
            project: "default".into(),
            paths: vec![self.path("live")],
            exclude: Vec::new(),
            one_file_system: false,
        }
    }

    fn copy(&self, format: Option<Format>) -> PathBuf {
        let request = backup::Request {
            results: self.path("copies"),
            name: "copy".into(),
            job: 1,
            now: Timestamp::now(),
            task: "t".into(),
            machine: "m".into(),
            resources: vec![self.resource()],
            never: Vec::new(),
            since: None,
            format,
            on_error: OnError::FastFail,
            space_check: true,
            common_data: None,
        };
        backup::run(&request, &Progress::default()).unwrap().path
    }

    fn back(&self, copy: &Path) -> Result<restore::Outcome> {
        let progress = Progress::default();
        let mut source = Source::open(copy, &self.path("scratch"), &progress)?;
        let request = restore::Request {
            allowed: source.manifest.resources.iter().map(|_| Some(vec![self.path("live")])).collect(),
            skip: false,
            on_error: OnError::Continue,
            space_check: true,
            never: Vec::new(),
            journal: self.path("scratch/journal"),
        };
        restore::run(&mut source, &request, &progress)
    }

    /// Changes the list of entries of a copy, and makes all checksums right again.
    fn forge(&self, copy: &Path, change: impl Fn(&str) -> String) {
        let entries = change(&std::fs::read_to_string(copy.join(ENTRIES)).unwrap());
        let manifest = std::fs::read_to_string(copy.join(MANIFEST)).unwrap();
        let old = Id::of(&std::fs::read(copy.join(ENTRIES)).unwrap()).hex();
        let manifest = manifest.replace(&old, &Id::of(entries.as_bytes()).hex());
        let mut lines = sums::line(&Id::of(entries.as_bytes()), ENTRIES.as_bytes());
        lines.extend(sums::line(&Id::of(manifest.as_bytes()), MANIFEST.as_bytes()));
        std::fs::write(copy.join(ENTRIES), entries).unwrap();
        std::fs::write(copy.join(MANIFEST), manifest).unwrap();
        std::fs::write(copy.join(SUMS), lines).unwrap();
    }

    /// Everything beneath the place that is none of the copy's.
    fn names(&self, name: &str) -> Vec<String> {
        let output = std::process::Command::new("find").arg(self.path(name)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

#[test]
fn comes_back_in_each_form_with_its_hard_links() {
    use std::os::unix::fs::MetadataExt;
    for format in [None, Some(Format::TarZst), Some(Format::TarGz), Some(Format::Tar)] {
        let place = Place::new();
        let copy = place.copy(format);
        std::fs::remove_dir_all(place.path("live")).unwrap();
        let done = place.back(&copy).unwrap();
        assert_eq!((done.errors, done.error_list), (0, Vec::new()));
        let inode = |name: &str| std::fs::metadata(place.path(name)).unwrap().ino();
        assert_eq!(inode("live/one"), inode("live/sub/same"));
        assert_eq!(std::fs::read_to_string(place.path("live/sub/two")).unwrap(), "two");
        assert_eq!(std::fs::read_link(place.path("live/link")).unwrap(), Path::new("one"));
        assert!(!place.path("scratch/journal").exists());
        // Again: nothing is written.
        let again = place.back(&copy).unwrap();
        assert_eq!((again.entries, again.errors), (0, 0));
    }
}

#[test]
fn a_forged_list_writes_nothing_outside() {
    let place = Place::new();
    let copy = place.copy(None);
    let live = place.path("live").to_str().unwrap().to_owned();
    std::fs::remove_file(place.path("live/one")).unwrap();
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let before = place.names("elsewhere");
    for evil in
        [format!("{live}/../elsewhere/one"), "relative/one".into(), format!("{live}//one"), format!("{live}/a\\u0000b")]
    {
        place.forge(&copy, |text| text.replace(&format!("\"{live}/one\""), &format!("\"{evil}\"")));
        assert_eq!(place.back(&copy).unwrap_err().kind, ErrorKind::Damaged, "{evil}");
        place.forge(&copy, |text| text.replace(&format!("\"{evil}\""), &format!("\"{live}/one\"")));
    }
    // A clean path, of somebody else.
    let other = place.path("elsewhere/one").to_str().unwrap().to_owned();
    place.forge(&copy, |text| text.replace(&format!("\"path\":\"{live}/one\""), &format!("\"path\":\"{other}\"")));
    let done = place.back(&copy).unwrap();
    assert!(done.error_list.iter().any(|e| e.path == other.as_bytes()), "{done:?}");
    assert_eq!(place.names("elsewhere"), before);
}

#[test]
fn symbolic_links_lead_neither_the_reader_nor_the_writer() {
    let place = Place::new();
    let copy = place.copy(None);
    let stored = copy.join("projects/default/web").join(place.path("live/sub").strip_prefix("/").unwrap());
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    std::fs::write(place.path("elsewhere/two"), "two").unwrap();
    // In the copy: a file, then a directory, that lead elsewhere, be the content as it should.
    std::fs::remove_file(stored.join("two")).unwrap();
    symlink(place.path("elsewhere/two"), stored.join("two")).unwrap();
    std::fs::remove_dir_all(place.path("live/sub")).unwrap();
    let done = place.back(&copy).unwrap();
    assert_eq!(done.error_list.iter().map(|e| e.code.as_str()).collect::<Vec<_>>(), ["damaged"]);
    assert!(!place.path("live/sub/two").exists());
    std::fs::remove_file(stored.join("two")).unwrap();
    std::fs::write(stored.join("two"), "two").unwrap();
    // On the live system: the directory became a link.
    std::fs::remove_dir_all(place.path("live/sub")).unwrap();
    symlink(place.path("elsewhere"), place.path("live/sub")).unwrap();
    std::fs::write(place.path("elsewhere/two"), "not mine").unwrap();
    let done = place.back(&copy).unwrap();
    assert_eq!(done.errors, 0, "{done:?}");
    assert_eq!(std::fs::read_to_string(place.path("elsewhere/two")).unwrap(), "not mine");
    assert!(std::fs::symlink_metadata(place.path("live/sub")).unwrap().is_dir());
}

#[test]
fn a_link_without_its_first_name_is_listed_and_the_rest_comes_back() {
    let place = Place::new();
    let copy = place.copy(Some(Format::TarZst));
    std::fs::remove_file(place.path("live/sub/same")).unwrap();
    std::fs::write(place.path("live/sub/two"), "changed").unwrap();
    let progress = Progress::default();
    let mut source = Source::open(&copy, &place.path("scratch"), &progress).unwrap();
    let request = restore::Request {
        allowed: vec![Some(vec![place.path("live")])],
        skip: true,
        on_error: OnError::Continue,
        space_check: true,
        never: Vec::new(),
        journal: place.path("scratch/journal"),
    };
    std::fs::remove_file(place.path("live/sub/two")).unwrap();
    let done = restore::run(&mut source, &request, &progress).unwrap();
    assert_eq!(done.error_list.len(), 1, "{done:?}");
    assert!(done.error_list[0].path.ends_with(b"/sub/same"));
    assert_eq!(std::fs::read_to_string(place.path("live/sub/two")).unwrap(), "two");
}

#[test]
fn a_directory_that_holds_something_is_not_replaced_by_a_file() {
    let place = Place::new();
    let copy = place.copy(None);
    std::fs::remove_file(place.path("live/one")).unwrap();
    std::fs::create_dir(place.path("live/one")).unwrap();
    std::fs::write(place.path("live/one/precious"), "x").unwrap();
    let done = place.back(&copy).unwrap();
    assert!(done.errors >= 1, "{done:?}");
    assert!(place.path("live/one/precious").exists());
    assert!(!place.names("live").iter().any(|name| name.contains(".strongroom-")));
    std::fs::remove_file(place.path("live/one/precious")).unwrap();
    assert_eq!(place.back(&copy).unwrap().errors, 0);
    assert_eq!(std::fs::read_to_string(place.path("live/one")).unwrap(), "one");
}

#[test]
fn damaged_archives_are_refused_before_anything_is_done() {
    let place = Place::new();
    let copy = place.copy(Some(Format::TarZst));
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::remove_dir_all(place.path("live")).unwrap();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&copy, &bytes[..cut]).unwrap();
        let error = place.back(&copy).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Damaged | ErrorKind::Failed | ErrorKind::InvalidArgument), "{error:?}");
    }
    let mut bad = bytes.clone();
    bad[bytes.len() / 2] ^= 1;
    std::fs::write(&copy, bad).unwrap();
    place.back(&copy).unwrap_err();
    assert!(!place.path("live").exists());
}

#[test]
fn what_a_run_leaves_is_private_and_removed() {
    let place = Place::new();
    let copy = place.copy(None);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o700);
    let left = place.path("copies/.strongroom-task-7");
    std::fs::create_dir_all(left.join("a/b")).unwrap();
    std::fs::write(left.join("a/b/c"), "x").unwrap();
    symlink(place.path("live"), left.join("a/link")).unwrap();
    super::remove_left(&place.path("copies"), 7).unwrap();
    assert!(!left.exists() && place.path("live/one").exists());
    super::remove_left(&place.path("nowhere"), 7).unwrap();
}

#[test]
fn sums_are_escaped_as_sha256sum_does() {
    let sum = Id::of(b"");
    assert_eq!(sums::line(&sum, b"a b"), format!("{sum}  a b\n").into_bytes());
    assert_eq!(sums::line(&sum, b"a\nb\\"), format!("\\{sum}  a\\nb\\\\\n").into_bytes());
    let text =
        String::from_utf8([sums::line(&sum, b"x.MANIFEST.json"), sums::line(&Id::of(b"m"), b"MANIFEST.json")].concat());
    assert_eq!(sums::find(&text.unwrap(), "MANIFEST.json"), Some(Id::of(b"m")));
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), field in 0usize..500, value in any::<u8>()) {
        let read = |bytes: &[u8]| {
            let mut tar = Tar::new(bytes);
            for _ in 0..20 {
                if !matches!(tar.next(), Ok(Some(_))) {
                    break;
                }
            }
        };
        read(&bytes);
        // A header that is right but for one byte, the checksum made to fit.
        let mut header = crate::restore::tar::header::Header { path: b"a".to_vec(), kind: b'x', size: 600, ..Default::default() }.encode();
        header[field] = value;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(&bytes);
        read(&header);
        let _ = serde_json::from_slice::<super::line::Line>(&bytes).map(|line| line.check(1));
    }
}

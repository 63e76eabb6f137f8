//! "Everything that my file system knows about a file came back": a test for every row of
//! `docs/metadata.md`, on the usual file system, and all of them on ext4, XFS and btrfs.

use std::path::Path;

use crate::common::{Daemon, Disk, Facts, assert_same, heavy, sh};
use crate::needs_root;

/// One kind of metadata.
struct Row {
    name: &'static str,
    /// Makes it, by bash in an empty directory.
    make: &'static str,
    /// Asks for it. What this prints must be the same in the source and in what was restored, and
    /// on the mount.
    look: &'static str,
    /// Printed by `look` if the machine really holds it.
    expect: &'static str,
}

const fn row(name: &'static str, make: &'static str, look: &'static str, expect: &'static str) -> Row {
    Row { name, make, look, expect }
}

const ROWS: &[Row] = &[
    row(
        "owners",
        "echo a > a; chown 1234:2345 a; mkdir d; chown 4000000000:7 d; ln -s a l; chown -h 5:6 l",
        "stat -c '%u:%g %n' a d l",
        "4000000000:7 d",
    ),
    row(
        "modes",
        "for m in 0000 0400 0644 0751 0777; do echo > $m; chmod $m $m; mkdir d$m; chmod $m d$m; done",
        "stat -c '%a %n' *",
        "751 0751",
    ),
    row(
        "set_ids_and_sticky",
        "for m in 4755 2755 6711 1644; do echo > $m; chown 99:98 $m; chmod $m $m; done; mkdir s g; chmod 1777 s; chown 9:9 g; chmod 2770 g",
        "stat -c '%a %u:%g %n' *",
        "6711 99:98 6711",
    ),
    row(
        "times",
        "echo > a; touch -d '2020-02-02 02:02:02.123456789 UTC' a; mkdir d; echo > d/x; touch -d '1999-12-31 23:59:59.999999999 UTC' d; \
         ln -s a l; touch -hd '2011-11-11 11:11:11.111111111 UTC' l; echo > old; touch -d '1930-01-01 00:00:00 UTC' old; \
         echo > late; touch -d '2037-12-31 00:00:00.000000001 UTC' late",
        "stat -c '%.9Y %n' a d l old late",
        "1580608922.123456789 a",
    ),
    row(
        "user_attributes",
        "echo > a; setfattr -n user.note -v 'a note' a; setfattr -n user.empty a; setfattr -n user.binary -v 0x00ff0a a; \
         setfattr -n user.large -v $(head -c 1500 /dev/zero | tr '\\0' x) a; mkdir d; setfattr -n user.dir -v d d",
        "getfattr -hd -m '^user\\.' -e hex a d",
        "user.binary=0x00ff0a",
    ),
    row(
        "trusted_attributes",
        "echo > a; setfattr -n trusted.deep -v 0x00ff01 a; ln -s a l; setfattr -h -n trusted.link -v l l; mkfifo f; setfattr -n trusted.f -v 1 f",
        "getfattr -hd -m '^trusted\\.' -e hex a l f",
        "trusted.link=0x6c",
    ),
    row(
        "capabilities",
        "cp /bin/true c; chown 77:88 c; setcap cap_net_raw,cap_sys_admin+ep c",
        "getcap c; getfattr -n security.capability -e hex c; stat -c %u:%g c",
        "cap_sys_admin",
    ),
    row(
        "access_acls",
        "echo > a; setfacl -m u:1001:rw,g:1002:r,m::rwx a; echo > m; setfacl -m u:1001:rwx,m::r m; mkdir d; setfacl -m u:1003:x d",
        "getfacl -pn a m d",
        "user:1001:rwx",
    ),
    row(
        "default_acls",
        "mkdir d; setfacl -d -m u:1004:rx,g:1005:rwx d; echo > d/child; mkdir d/inner; setfacl -b d/inner; setfacl -k d/inner",
        "getfacl -pn d d/child d/inner",
        "default:group:1005:rwx",
    ),
    Row {
        name: "inode_flags",
        make: "echo n > n; chattr +d n; echo A > A; chattr +A A; mkdir d; chattr +d d; echo i > i; chattr +i i; echo a > a; chattr +a a; \
               mkdir f; echo x > f/x; chattr +i f",
        look: "lsattr -d n A d i a f | tr e -",
        expect: "i",
    },
    row(
        "hard_links_of_files",
        "mkdir -p z/a; echo one > b; ln b c; ln b z/a/d; echo two > e; ln e z/f",
        "stat -c '%h %n' b c z/a/d e z/f; [ $(stat -c %i b) = $(stat -c %i z/a/d) ] && [ $(stat -c %i e) = $(stat -c %i z/f) ] && echo joined",
        "joined",
    ),
    row(
        "hard_links_of_others",
        "ln -s target a; ln a b; mkfifo f; ln f g; mknod n c 1 3; ln n o",
        "stat -c '%h %F %n' a b f g n o; [ $(stat -c %i a) = $(stat -c %i b) ] && [ $(stat -c %i n) = $(stat -c %i o) ] && echo joined",
        "joined",
    ),
    row(
        "symbolic_links",
        "ln -s plain a; ln -s /nowhere/at/all b; ln -s ../.. c; ln -s $'\\xff \\n' d; ln -s $(head -c 1000 /dev/zero | tr '\\0' t) e",
        "for l in a b c d e; do readlink $l | od -An -c | head -3; done",
        "p   l   a   i   n",
    ),
    row(
        "devices",
        "mknod null c 1 3; chmod 640 null; chown 3:4 null; mknod disk b 7 200; mknod big c 400 200000",
        "stat -c '%F %t:%T %a %u:%g %n' null disk big",
        "block special file 7:c8",
    ),
    row("fifos", "mkfifo f; chmod 600 f; chown 8:9 f", "stat -c '%F %a %u:%g' f", "fifo 600 8:9"),
    row(
        "sockets",
        "perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"s\")) or die'; chmod 640 s; chown 8:9 s",
        "stat -c '%F %a %u:%g' s",
        "socket 640 8:9",
    ),
    row(
        "holes",
        "truncate -s 30M hollow; echo middle | dd of=hollow bs=1M seek=20 conv=notrunc status=none; truncate -s 5M hole; \
         echo start > tail; truncate -s 9M tail",
        "stat -c '%s %n' hollow hole tail; sha256sum hollow hole tail; \
         for f in hollow hole tail; do [ $(stat -c %b $f) -le 512 ] && echo $f is sparse; done",
        "hollow is sparse",
    ),
    row(
        "names_that_are_not_text",
        "touch -- $'\\xff\\xfe\\x80' $'new\\nline' ' ' '*' $'\\e[31m' '-rf' $'caf\\xc3\\xa9' $'cafe\\xcc\\x81' 'a\\b' '\"'",
        "find . -mindepth 1 -printf '%f\\0' | LC_ALL=C sort -z | od -An -c",
        "377",
    ),
    row(
        "long_names",
        "n=$(head -c 255 /dev/zero | tr '\\0' n); echo long > $n; mkdir $(echo $n | tr n d); ln -s $n $(echo $n | tr n l)",
        "ls -R; cat nnn*",
        "long",
    ),
    row(
        "paths_beyond_path_max",
        "perl -e '$n = \"d\" x 200; for (1 .. 40) { mkdir $n or die; chdir $n or die } open F, \">bottom\"; print F \"deep\"; close F; \
         link \"bottom\", \"twin\" or die; symlink \"bottom\", \"link\"'; cd $OLDPWD 2>/dev/null || true",
        "find . -type d -printf '%y %m\\n' -o -printf '%y %m %l %n %s %d\\n' | LC_ALL=C sort; \
         find . -name bottom -execdir cat {} \\;",
        "deep",
    ),
    row(
        "empty_directories",
        "mkdir -p a/b/c d; chmod 700 d; touch -d 2001-01-01 a/b/c d",
        "find . -printf '%y %m %P\\n' | sort",
        "d 755 a/b/c",
    ),
    row("empty_files", ": > a; : > b; touch -d 2002-02-02 a", "stat -c '%s %n' a b", "0 a"),
    row(
        "contents",
        "head -c 5000000 /dev/urandom > big; seq 100 > small; printf x > one",
        "sha256sum big small one",
        "big",
    ),
];

/// Runs the rows with one backup: source and target beneath `place`.
fn round_trip(daemon: &Daemon, place: &Path, rows: &[Row]) {
    let source = place.join("rows");
    for row in rows {
        let dir = source.join(row.name);
        std::fs::create_dir_all(&dir).unwrap();
        sh(&dir, row.make);
    }
    let said: Vec<String> = rows.iter().map(|row| sh(&source.join(row.name), row.look)).collect();
    for (row, said) in rows.iter().zip(&said) {
        assert!(said.contains(row.expect), "{}: the file system itself says {said}", row.name);
    }
    daemon.add("rows", &source);
    let backup = daemon.back_up("rows");
    assert_eq!(backup["errors"], 0, "{}", daemon.ok(&format!("ListBackupErrors ta{{sv}} {} 0", backup["id"])));
    let id = backup["id"].as_u64().unwrap();
    let target = place.join("target");
    std::fs::create_dir(&target).unwrap();
    let job = daemon.work(&format!("RestoreBackup ta{{sv}} {id} 1 target s {}", target.display()));
    assert_eq!(job["result"]["errors"], 0, "{job}");
    let below = source.strip_prefix("/").unwrap();
    for (row, said) in rows.iter().zip(&said) {
        let restored = sh(&target.join(below).join(row.name), row.look);
        assert_eq!(*said, restored, "{}: restored", row.name);
        let mounted = sh(&daemon.browse(id).join(below).join(row.name), row.look);
        assert_eq!(*said, mounted, "{}: on the mount", row.name);
    }
    if !rows.iter().any(|row| row.name == "paths_beyond_path_max") {
        assert_same(&source, &target.join(below), Facts::Restored);
        assert_same(&source, &daemon.browse(id).join(below), Facts::Mounted);
    }
}

/// One row, on the file system that the tests run on.
fn tell(name: &str) {
    let daemon = Daemon::start();
    let row = ROWS.iter().position(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    round_trip(&daemon, daemon.dir(), &ROWS[row..=row]);
}

macro_rules! rows {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                needs_root!(stringify!($name));
                tell(stringify!($name));
            }
        )*

        #[test]
        fn every_row_has_its_test() {
            let told = [$(stringify!($name)),*];
            assert_eq!(ROWS.iter().map(|row| row.name).collect::<Vec<_>>(), told);
            let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metadata.md")).unwrap();
            let missing: Vec<_> = told.iter().filter(|name| !table.contains(&format!("`{name}`"))).collect();
            assert!(missing.is_empty(), "docs/metadata.md says nothing of {missing:?}");
        }
    };
}

rows! {
    owners modes set_ids_and_sticky times user_attributes trusted_attributes capabilities access_acls default_acls
    inode_flags hard_links_of_files hard_links_of_others symbolic_links devices fifos sockets holes
    names_that_are_not_text long_names paths_beyond_path_max empty_directories empty_files contents
}

/// All rows on a file system of its own.
fn tell_on(kind: &str, megabytes: u32) {
    let _heavy = heavy();
    let daemon = Daemon::start();
    let disk = Disk::new(kind, megabytes, &daemon.path("disk"));
    round_trip(&daemon, &disk.path, ROWS);
}

#[test]
fn all_of_it_on_ext4() {
    needs_root!("all_of_it_on_ext4");
    tell_on("ext4", 200);
}

#[test]
fn all_of_it_on_xfs() {
    needs_root!("all_of_it_on_xfs");
    tell_on("xfs", 400);
}

#[test]
fn all_of_it_on_btrfs() {
    needs_root!("all_of_it_on_btrfs");
    tell_on("btrfs", 400);
}

#[test]
fn a_directory_of_100_000_entries() {
    needs_root!("a_directory_of_100_000_entries");
    let _heavy = heavy();
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(
        &source,
        "mkdir many; cd many; seq -f 'entry-%06.0f' 100000 | xargs touch -d @1234567890; echo last > entry-100000",
    );
    daemon.add("many", &source);
    let id = daemon.back_up("many")["id"].as_u64().unwrap();
    let below = source.strip_prefix("/").unwrap();
    let look = "ls many | wc -l; ls many | sha256sum; cat many/entry-100000; find many -type f -mtime +365 | wc -l";
    let said = sh(&source, look);
    assert!(said.starts_with("100000\n") && said.ends_with("last\n99999\n"), "{said}");
    assert_eq!(sh(&daemon.browse(id).join(below), look), said, "on the mount");
    assert_eq!(sh(&daemon.restore(id, "target").join(below), look), said, "restored");
}

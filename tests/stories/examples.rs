//! "I typed what stands in the manual": every block of `docs/examples.md` and of the README runs as it is
//! printed, or says where it does.
//!
//! A fence says what its block is: `sh` runs here, one after the other in one shell, on a bus of their own;
//! `sh machine` on a booted machine (`tests/machine/stories`); `sh checkout` in a checkout of the sources.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Daemon, heavy, sh};
use crate::hostile::introspect;
use crate::needs_root;

/// What is on the bus and has no example: it is not built yet, and says so; or it takes a file system that the
/// place of the examples has not, as snapshots do, which `docs/snapshots.md` tells of.
const LATER: &[&str] = &["CreateSnapshot", "DeleteSnapshot", "GetSnapshot", "ListSnapshots", "RestoreSnapshot"];

/// A root of its own beside the host's: what the examples write to is in memory and goes with them, `/etc` is a
/// copy, the rest is the host's.
const ENTER: &str = r#"
root=$DIR/root
mkdir "$root"
mount -t tmpfs -o mode=755,size=4G tmpfs "$root"
for entry in /*; do
    to=$root$entry
    case $entry in
        /proc) mkdir "$to"; mount -t proc proc "$to" ;;
        /etc) cp -a /etc "$root" ;;
        /srv | /run | /tmp | /mnt | /root | /home) mkdir "$to" ;;
        *)  if [[ -L $entry ]]; then cp -P "$entry" "$to"
            elif [[ -d $entry ]]; then
                mkdir "$to"
                # This very directory lies in /var, which is why its mounts are left out.
                if [[ $entry == /var ]]; then mount --bind "$entry" "$to"; else mount --rbind "$entry" "$to"; fi
            fi ;;
    esac
done
exec chroot "$root" bash -euo pipefail "$DIR/inside"
"#;

/// A bus, a daemon on it, something to back up, and the blocks.
const INSIDE: &str = r#"
cd /
export PATH=$DIR/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$DIR/bus HOME=/root
dbus-daemon --nofork --nopidfile --config-file="$DIR/bus.conf" 2> /dev/null &
until [[ -S $DIR/bus ]]; do sleep 0.05; done
strongroomd --config /etc/strongroom.toml --state-dir "$DIR/state" --cache-dir "$DIR/cache" > "$DIR/log" 2>&1 &
daemon=$!
until busctl call org.strongroom1 /org/strongroom1 org.strongroom1.Manager ListProjects 'a{sv}' 0 &> /dev/null; do
    kill -0 $daemon
    sleep 0.1
done
mkdir -p /srv/www/css
echo '<p>hello' > /srv/www/index.html
head -c 100000 /dev/urandom > /srv/www/image
ln -s css/new.css /srv/www/style.css
bash -eEuo pipefail "$DIR/blocks"
kill -TERM $daemon
wait $daemon
"#;

struct Block {
    /// What the fence says.
    kind: String,
    /// The line of the fence, from 1.
    line: usize,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    for (line, text) in std::fs::read_to_string(path).unwrap().lines().zip(1..).map(|(t, n)| (n, t)) {
        match (text.strip_prefix("```"), &mut open) {
            (Some(kind), None) => open = Some(Block { kind: kind.to_owned(), line, text: String::new() }),
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{text}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{document}: a fence is not closed");
    found
}

fn of_kind(document: &str, kind: &str) -> Vec<Block> {
    blocks(document).into_iter().filter(|b| b.kind == kind).collect()
}

/// Runs blocks in one shell, in a place of their own; gives what they printed.
fn run(document: &str, blocks: &[Block]) -> String {
    let dir = tempfile::Builder::new().prefix("strongroom-").tempdir_in("/var/tmp").unwrap();
    sh(dir.path(), "mkdir bin");
    for program in [env!("CARGO_BIN_EXE_strongroom"), env!("CARGO_BIN_EXE_strongroomd")] {
        std::fs::copy(program, dir.path().join("bin").join(Path::new(program).file_name().unwrap())).unwrap();
    }
    let mut script = String::from("trap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n");
    for block in blocks {
        script += &format!("echo '== {document}, line {}'\n{}", block.line, block.text);
    }
    crate::common::write_bus_configuration(dir.path());
    for (name, text) in [("enter", ENTER), ("inside", INSIDE), ("blocks", script.as_str())] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let output = Command::new("timeout")
        .args(["300", "unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euo", "pipefail", "enter"])
        .current_dir(dir.path())
        .env("DIR", dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    assert!(output.status.success() && !log.contains("panicked"), "{}\n{said}\n{log}", output.status);
    // What was made is there when they have ended.
    let manifests = std::fs::read_dir(dir.path().join("state/vault/backups")).unwrap().count();
    assert!(manifests > 0, "{said}");
    said
}

#[test]
fn every_example_runs_as_printed() {
    needs_root!("every_example_runs_as_printed");
    let _heavy = heavy();
    let said = run("docs/examples.md", &of_kind("docs/examples.md", "sh"));
    for words in ["\"Pre-update backup\"", "/org/strongroom1/job/1", "web-server-01/srv/www/index.html"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // The README's that need no machine: there may come some.
    let more = of_kind("README.md", "sh");
    if !more.is_empty() {
        run("README.md", &more);
    }
}

#[test]
fn every_block_says_where_it_runs() {
    for document in ["README.md", "docs/examples.md"] {
        for block in blocks(document) {
            let known = ["sh", "sh machine", "sh checkout"].contains(&block.kind.as_str());
            assert!(known, "{document}, line {}: the fence says {:?}", block.line, block.kind);
        }
    }
    // The first hour is told on a machine, by the words of the README itself.
    let hour = of_kind("README.md", "sh machine");
    assert_eq!(hour[0].text.lines().count(), 5, "the first five commands");
    let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/stories/11-readme.sh");
    let story = std::fs::read_to_string(story).unwrap();
    assert!(story.contains("README.md") && story.contains("docs/examples.md") && story.contains("sh machine"));
    // `demo` and `tests/run` have tests, or are the tests; here, that they are what they were.
    let checkout: Vec<String> = of_kind("README.md", "sh checkout").into_iter().map(|b| b.text).collect();
    assert_eq!(checkout, ["cargo run --release -- demo\n", "tests/run\n"]);
}

#[test]
fn every_method_has_an_example() {
    needs_root!("every_method_has_an_example");
    let daemon = Daemon::start();
    let (methods, _) = introspect(&daemon, "/org/strongroom1", "org.strongroom1.Manager");
    let text: String = of_kind("docs/examples.md", "sh").into_iter().map(|b| b.text).collect();
    let shown = |name: &str| text.contains(&format!("$B {name} "));
    let names = methods.iter().map(|m| m.name.as_str());
    let wrong: Vec<_> = names.filter(|name| shown(name) == LATER.contains(name)).collect();
    assert_eq!(wrong, [""; 0], "each has an example, or a reason to have none");
}

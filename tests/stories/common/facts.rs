//! Everything that independent tools can tell about a tree.

use std::path::Path;

use super::tools::sh;

/// Which facts to ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Facts {
    /// What a mount can answer: all but inode flags.
    Mounted,
    /// All of them.
    Restored,
}

/// What `find`, `sha256sum`, `getfattr`, `getfacl` and `lsattr` say about a tree.
pub fn facts(dir: &Path, which: Facts) -> String {
    let mut script = String::from(
        // Without the root itself: a story's own directory may differ.
        "find . -mindepth 1 -printf '%y %m %U %G %T@ %l' -printf ' %P\\n' | LC_ALL=C sort | sed 's/^/inode /'\n\
         find . -type f -printf 'size %s %P\\n' | LC_ALL=C sort\n\
         find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r sha256sum\n\
         find . ! -type d -printf 'links %n %P\\n' | LC_ALL=C sort\n\
         find . \\( -type b -o -type c \\) -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r stat -c 'device %t:%T %n'\n\
         find . -mindepth 1 -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r getfattr -hd -m '^(user|trusted|security)\\.' -e hex 2>/dev/null | cat\n\
         find . -mindepth 1 ! -type l -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r getfacl -pn 2>/dev/null | cat\n",
    );
    if which == Facts::Restored {
        script.push_str(
            "find . -mindepth 1 \\( -type f -o -type d \\) -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r lsattr -d 2>/dev/null | tr -d 'eIE' | cat\n",
        );
    }
    sh(dir, &script)
}

/// Fails with the lines that differ, if the two trees are not the same in every fact.
pub fn assert_same(source: &Path, copy: &Path, which: Facts) {
    let (a, b) = (facts(source, which), facts(copy, which));
    if a == b {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), &a).unwrap();
    std::fs::write(dir.path().join("b"), &b).unwrap();
    panic!("{} is not as it was: {}", copy.display(), sh(dir.path(), "diff a b | head -40; true"));
}

//! `strongroom diff`, `versions` and `find`.

use super::output::{self, number, size, text, time};
use super::session::{Options, Session};
use crate::model::{Map, Result};

/// The largest page.
const PAGE: u64 = 1000;

/// All pages of a list whose method takes two arguments before its options.
async fn all<T>(session: &Session, method: &str, first: &T, second: &T) -> Result<(u64, Vec<Map>)>
where
    T: serde::Serialize + zbus::zvariant::Type,
{
    let mut found = Vec::new();
    loop {
        let mut options = Options::default();
        options.set("sort", Some(vec!["id".to_owned()])).set("page_size", Some(PAGE));
        options.set("page", Some(found.len() as u64 / PAGE + 1));
        let (count, page) = session.client.list_of(method, &(first, second, options.wire()?)).await?;
        let last = page.is_empty();
        found.extend(page);
        if last || found.len() as u64 >= count {
            return Ok((count, found));
        }
    }
}

/// Lists what differs between two backups; 0 also where something does.
pub async fn diff(session: &Session, first: u64, second: u64) -> Result<u8> {
    let list = all(session, "DiffBackups", &first, &second).await?;
    if list.0 == 0 && !session.json {
        output::line(format!("backups {first} and {second} are the same"));
        return Ok(0);
    }
    Ok(session.list(list, &["change", "path", "size", "before", "from"], |row| {
        let change = match text(row, "what").as_str() {
            "" | "content" => text(row, "change"),
            what => format!("{} ({what})", text(row, "change")),
        };
        let slash = if text(row, "type") == "directory" { "/" } else { "" };
        let before = number(row, "old_size").map(|_| size(row, "old_size")).unwrap_or_default();
        vec![change, format!("{}{slash}", text(row, "path")), size(row, "size"), before, text(row, "from")]
    }))
}

/// Lists the versions of a file.
pub async fn versions(session: &Session, resource: &str, path: &str) -> Result<u8> {
    let list = all(session, "ListVersions", &resource, &path).await?;
    if list.0 == 0 && !session.json {
        output::note(format!("no backup of {resource} has {path}"));
        return Ok(1);
    }
    Ok(session.list(list, &["modified", "size", "first backup", "last backup", "backups", "where"], |row| {
        vec![
            time(row, "mtime"),
            size(row, "size"),
            text(row, "first_backup"),
            text(row, "last_backup"),
            text(row, "backups"),
            text(row, "browse_path"),
        ]
    }))
}

/// Lists files by a pattern.
pub async fn find(session: &Session, resource: &str, glob: &str) -> Result<u8> {
    let list = all(session, "FindFiles", &resource, &glob).await?;
    if list.0 == 0 && !session.json {
        output::note(format!("no backup of {resource} has anything that {glob} matches"));
        return Ok(1);
    }
    Ok(session.list(list, &["path", "modified", "size", "first backup", "last backup"], |row| {
        vec![
            text(row, "path"),
            time(row, "mtime"),
            size(row, "size"),
            text(row, "first_backup"),
            text(row, "last_backup"),
        ]
    }))
}

//! What people and scripts get to read.
//!
//! Nothing here panics when the reader has gone away: the command then just ends.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table};
use serde_json::json;

use crate::model::value::map_to_json;
use crate::model::{Map, Value};

/// How many characters a table may take where no terminal says.
const WIDTH: u16 = 200;

/// Writes a line to standard output.
pub fn line(text: impl std::fmt::Display) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        // The reader has seen enough.
        std::process::exit(0);
    }
}

/// Writes a line to standard error.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints the JSON document.
pub fn json(document: &serde_json::Value) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => line(text),
        Err(error) => note(format!("strongroom: cannot write JSON: {error}")),
    }
}

/// A list as the JSON document.
pub fn json_list(count: u64, results: &[Map]) {
    json(&json!({ "count": count, "results": results.iter().map(map_to_json).collect::<Vec<_>>() }));
}

/// Rows under a heading.
pub fn table(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(WIDTH);
    }
    table.set_header(heading.iter().map(|h| h.to_uppercase()).collect::<Vec<_>>());
    table.add_rows(rows);
    line(table.trim_fmt());
}

/// One object, a field a line.
pub fn fields(map: &Map) {
    let width = map.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in map {
        line(format!("{key:width$}  {}", field(key, value)));
    }
}

fn field(key: &str, value: &Value) -> String {
    let is_size = key.ends_with("size") || matches!(key, "used" | "free" | "capacity") || key.starts_with("bytes");
    match value {
        Value::Uint(n) if is_size => bytes(*n),
        other => plain(other),
    }
}

/// A value in a few words.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Bool(b) => if *b { "yes" } else { "no" }.to_owned(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Int32(n) => n.to_string(),
        Value::Uint32(n) => n.to_string(),
        Value::Double(d) => format!("{d:.2}"),
        Value::Str(s) | Value::Path(s) => printable(s),
        Value::Bytes(b) => printable(&String::from_utf8_lossy(b)),
        Value::List(l) => l.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Maps(l) => l.iter().map(short).collect::<Vec<_>>().join("; "),
        Value::Map(m) => short(m),
        Value::Fd(_) => "(file)".to_owned(),
    }
}

fn short(map: &Map) -> String {
    map.iter().map(|(k, v)| format!("{k}: {}", field(k, v))).collect::<Vec<_>>().join(", ")
}

/// Text that cannot steer a terminal, whatever a file's name holds.
pub fn printable(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A size for people.
#[allow(clippy::cast_precision_loss)]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A text field of an object, or nothing.
pub fn text(map: &Map, key: &str) -> String {
    map.get(key).map(plain).unwrap_or_default()
}

/// A size field of an object, or nothing.
pub fn size(map: &Map, key: &str) -> String {
    number(map, key).map(bytes).unwrap_or_default()
}

/// A number field of an object.
pub fn number(map: &Map, key: &str) -> Option<u64> {
    match map.get(key) {
        Some(Value::Uint(n)) => Some(*n),
        Some(Value::Uint32(n)) => Some(u64::from(*n)),
        Some(Value::Int(n)) => u64::try_from(*n).ok(),
        Some(Value::Int32(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// A time field of an object, to the second.
pub fn time(map: &Map, key: &str) -> String {
    let full = text(map, key);
    match full.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z").replace('T', " "),
        None => full.replace('T', " "),
    }
}

/// The name in a field like `server`.
pub fn name(map: &Map, key: &str) -> String {
    match map.get(key) {
        Some(Value::Map(m)) => text(m, "name"),
        Some(other) => plain(other),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(1536 * 1024 * 1024), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn a_file_name_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn times_are_cut_to_the_second() {
        let map = Map::from([("t".to_owned(), Value::from("2026-01-16T15:45:00.123456Z"))]);
        assert_eq!(time(&map, "t"), "2026-01-16 15:45:00Z");
        assert_eq!(time(&map, "u"), "");
    }
}

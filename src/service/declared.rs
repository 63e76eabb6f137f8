//! Objects as the configuration files declare them: `[resource.web]` and its keys, which are those
//! of the bus, each known by the file and line it stands at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::config::files;
use crate::model::{Error, IoContext, Map, Result, Value};

/// A kind of object, in the order in which they need one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `[project.NAME]`
    Project,
    /// `[destination.NAME]`
    Destination,
    /// `[vault.NAME]`
    Vault,
    /// `[resource.NAME]`
    Resource,
    /// `[schedule.NAME]`
    Schedule,
    /// `[task.NAME]`
    Task,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Project, Self::Destination, Self::Vault, Self::Resource, Self::Schedule, Self::Task];

    /// The table's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Destination => "destination",
            Self::Vault => "vault",
            Self::Resource => "resource",
            Self::Schedule => "schedule",
            Self::Task => "task",
        }
    }
}

/// One object of a file.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub options: Map,
    /// The file.
    pub file: PathBuf,
    line: usize,
    keys: Keys,
}

/// Where keys stand, and the keys within them.
#[derive(Debug, Clone, Default)]
struct Keys(BTreeMap<String, (usize, Keys)>);

impl Keys {
    /// The key that a message is about, and whether it says so at its beginning.
    fn find(&self, message: &str) -> Option<(&str, usize, &Self, bool)> {
        let words: Vec<&str> =
            message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
        let first = words.first().and_then(|w| self.0.get_key_value(*w));
        let quoted = || self.0.iter().find(|(key, _)| message.contains(&format!("{key:?}")));
        // "there is no destination …" is about `destinations`.
        let named =
            || self.0.iter().find(|(key, _)| words.iter().any(|w| w == key || key.strip_suffix('s') == Some(w)));
        let begins = first.is_some();
        let (key, (line, within)) = first.or_else(quoted).or_else(named)?;
        Some((key, *line, within, begins))
    }

    /// Adds the keys of a table, each with its line. Of lists of tables those that only one has.
    fn add(&mut self, table: &DeTable<'_>, text: &str) {
        for (key, value) in table {
            let mut within = Self::default();
            match value.get_ref() {
                DeValue::Table(table) => within.add(table, text),
                DeValue::Array(list) => {
                    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
                    for table in list.iter().filter_map(|v| v.get_ref().as_table()) {
                        within.add(table, text);
                        table.keys().for_each(|key| *seen.entry(key.get_ref().to_string()).or_default() += 1);
                    }
                    within.0.retain(|key, _| seen.get(key) == Some(&1));
                }
                _ => {}
            }
            self.0.insert(key.get_ref().to_string(), (line_of(text, key.span().start), within));
        }
    }
}

impl Declaration {
    /// An error about this object, with file, line and key in front.
    pub fn locate(&self, error: Error) -> Error {
        let Some((mut key, mut line, mut within, mut begins)) = self.keys.find(&error.message) else {
            return error.context(format!(
                "{}, line {}: table [{}.{}]",
                self.file.display(),
                self.line,
                self.kind.name(),
                self.name
            ));
        };
        // "content: projects: …" leads from key to key.
        let mut rest = error.message.as_str();
        while let Some(next) = rest.split_once(": ").filter(|_| begins).map(|(_, next)| next) {
            rest = next;
            let Some(found) = within.find(rest) else { break };
            (key, line, within, begins) = found;
        }
        let place = format!("{}, line {line}: key {key:?}", self.file.display());
        error.context(place)
    }

    fn twice(&self, first: &Self) -> Error {
        self.locate(Error::invalid(format!(
            "{} line {} declares it already; leave one out",
            first.file.display(),
            first.line
        )))
    }
}

/// All objects of all files, those first that others need.
pub fn load(main: &Path) -> Result<Vec<Declaration>> {
    let mut all: Vec<Declaration> = Vec::new();
    for path in files(main)? {
        let text = std::fs::read_to_string(&path)
            .at(|| format!("cannot read the configuration file {}", path.display()))
            .map_err(|e| Error::invalid(e.message))?;
        for found in read(&path, &text)? {
            if let Some(first) = all.iter().find(|d| d.kind == found.kind && d.name == found.name) {
                return Err(found.twice(first));
            }
            all.push(found);
        }
    }
    // Stable: within a kind, in the files' order.
    all.sort_by_key(|d| d.kind);
    Ok(all)
}

fn line_of(text: &str, byte: usize) -> usize {
    text.get(..byte).unwrap_or(text).matches('\n').count() + 1
}

fn read(path: &Path, text: &str) -> Result<Vec<Declaration>> {
    let wrong = |line: usize, what: &str| Error::invalid(format!("{}, line {line}: {what}", path.display()));
    let spans = DeTable::parse(text).map_err(|e| wrong(line_of(text, e.span().map_or(0, |s| s.start)), e.message()))?;
    let mut found = Vec::new();
    for (key, value) in spans.get_ref() {
        let Some(kind) = Kind::ALL.into_iter().find(|k| k.name() == key.get_ref().as_ref()) else { continue };
        let DeValue::Table(objects) = value.get_ref() else {
            let line = line_of(text, key.span().start);
            return Err(wrong(line, &format!("key {:?}: must be a table, such as [{0}.NAME]", kind.name())));
        };
        for (name, object) in objects {
            let line = line_of(text, name.span().start);
            let DeValue::Table(settings) = object.get_ref() else {
                return Err(wrong(
                    line,
                    &format!("key {:?}: must be a table, such as [{}.NAME]", name.get_ref(), kind.name()),
                ));
            };
            let mut declaration = Declaration {
                kind,
                name: name.get_ref().to_string(),
                options: Map::new(),
                file: path.to_path_buf(),
                line,
                keys: Keys::default(),
            };
            declaration.keys.add(settings, text);
            for (key, value) in settings {
                let line = line_of(text, key.span().start);
                let value = to_value(value.get_ref())
                    .ok_or_else(|| wrong(line, &format!("key {:?}: is a number out of range", key.get_ref())))?;
                declaration.options.insert(key.get_ref().to_string(), value);
            }
            found.push(declaration);
        }
    }
    found.sort_by_key(|d| d.line);
    Ok(found)
}

fn to_value(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(s) => Value::Str(s.to_string()),
        DeValue::Integer(n) => Value::Int(i64::from_str_radix(n.as_str(), n.radix()).ok()?),
        DeValue::Float(x) => Value::Double(x.as_str().parse().ok()?),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(t) => Value::Str(t.to_string()),
        DeValue::Array(list) => Value::List(list.iter().map(|v| to_value(v.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(table) => Value::Map(
            table
                .iter()
                .map(|(k, v)| Some((k.get_ref().to_string(), to_value(v.get_ref())?)))
                .collect::<Option<_>>()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_in_the_order_they_need_one_another() {
        let text = "[resource.web]\npaths = ['/etc']\n[vault.v]\n[destination.d]\nmax_backups = 0x10\n";
        let mut found = read(Path::new("/x.toml"), text).unwrap();
        found.sort_by_key(|d| d.kind);
        let names: Vec<_> = found.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["d", "v", "web"]);
        assert!(matches!(found[0].options["max_backups"], Value::Int(16)));
    }

    #[test]
    fn errors_are_located_by_the_key_they_are_about() {
        let text = "\n[vault.v]\ndestinations = ['x']\n\ncapacity = -1\n";
        let found = read(Path::new("/x.toml"), text).unwrap().remove(0);
        let at = |message: &str| found.locate(Error::invalid(message)).message;
        assert!(at("capacity is -1").starts_with("/x.toml, line 5: key \"capacity\": "), "{}", at("capacity is -1"));
        assert!(at("there is no destination \"x\"").contains("line 3: key \"destinations\""));
        assert!(at("something else").contains("line 2: table [vault.v]"));
    }

    #[test]
    fn errors_in_nested_tables_have_lines_of_their_own() {
        let text = "[task.t]\nstore_location = '/x'\n[task.t.content]\ncompression = 1\n\n\
                    [[task.t.content.projects]]\nproject_regex = '*'\n[[task.t.content.projects]]\nproject_regex = '*'\n\
                    repo_regex = '('\n";
        let found = read(Path::new("/x.toml"), text).unwrap().remove(0);
        let at = |message: &str| found.locate(Error::invalid(message)).message;
        for (message, place) in [
            ("content: compression is an integer; it must be a boolean", "line 4: key \"compression\""),
            (
                "content: projects: repo_regex is \"(\", which is not a regular expression",
                "line 10: key \"repo_regex\"",
            ),
            ("content: projects: project_regex is wrong", "line 6: key \"projects\""),
            (
                "content: format names an archive's form, but compression is not true; give both",
                "line 4: key \"compression\"",
            ),
            ("content: it names nothing", "line 3: key \"content\""),
            ("store_location is odd", "line 2: key \"store_location\""),
        ] {
            assert!(at(message).contains(place), "{}", at(message));
        }
    }
}

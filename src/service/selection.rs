//! Which resources a checkpoint backs up: what a caller may ask for, and why some are skipped.

use std::collections::BTreeMap;

use regex_automata::meta::Regex;

use super::{backups, check, select};
use crate::catalog::checkpoint::Skipped;
use crate::catalog::{Backup, Resource, State, Tables, VaultRow, Writer, backup as index};
use crate::model::value::map_to_json;
use crate::model::{Args, Error, ErrorKind, Map, Result, Value};

/// The longest name, in bytes, and the longest label of a resource, in characters.
const NAME: usize = 255;
/// The longest text that is kept with a resource, in bytes.
const EXTRA: usize = 4096;
/// More resources than this are named by none.
const MOST: usize = 1000;
/// The longest retention, in days.
const LONGEST: u64 = 99_999;

/// Why a resource is skipped. The codes are documented in `docs/checkpoints.md`, and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Unknown,
    Removed,
    Ambiguous,
    OtherVault,
    OtherType,
    Orphaned,
    Running,
    Waiting,
    Limit,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::Unknown => "Strongroom.1001",
            Self::Removed => "Strongroom.1002",
            Self::Ambiguous => "Strongroom.1003",
            Self::OtherVault => "Strongroom.1004",
            Self::OtherType => "Strongroom.1005",
            Self::Orphaned => "Strongroom.1006",
            Self::Running => "Strongroom.1101",
            Self::Waiting => "Strongroom.1102",
            Self::Limit => "Strongroom.1201",
        }
    }
}

/// A resource as the caller names it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub selector: String,
    pub name: String,
    pub kind: Option<(String, &'static str)>,
    pub extra: Option<String>,
}

/// What a caller wants.
pub(super) struct Plan {
    pub automatic: bool,
    pub description: String,
    pub incremental: bool,
    pub name: String,
    pub retention: Option<u32>,
    pub wanted: Option<Vec<Wanted>>,
}

/// The id of a resource, which is text in the cloud and a number here.
fn selector(key: &str, value: Value) -> Result<String> {
    match value {
        Value::Str(s) => Ok(s),
        Value::Uint(n) => Ok(n.to_string()),
        Value::Uint32(n) => Ok(n.to_string()),
        Value::Int(n) if n >= 0 => Ok(n.to_string()),
        Value::Int32(n) if n >= 0 => Ok(n.to_string()),
        other => Err(Error::invalid(format!("{key} holds {}; it must hold ids or names of resources", other.kind()))),
    }
}

fn selectors(args: &mut Args) -> Result<Option<Vec<String>>> {
    match args.value("resources") {
        None => Ok(None),
        Some(Value::List(list)) => list.into_iter().map(|v| selector("resources", v)).collect::<Result<_>>().map(Some),
        Some(Value::Maps(list)) if list.is_empty() => Ok(Some(Vec::new())),
        Some(other) => {
            Err(Error::invalid(format!("resources is {}; it must be an array of strings (as)", other.kind())))
        }
    }
}

fn detail(map: Map) -> Result<Wanted> {
    let within = |e: Error| e.context("resource_details");
    let mut args = Args::new(map);
    let id = args.value("id").ok_or_else(|| Error::invalid("resource_details holds a resource without an id"))?;
    let name = args.string("name").map_err(within)?.unwrap_or_default();
    if name.chars().count() > NAME {
        return Err(Error::invalid(format!(
            "resource_details holds a name of {} characters; at most {NAME} are allowed",
            name.chars().count()
        )));
    }
    let kind = args.string("type").map_err(within)?;
    let kind = kind
        .map(|k| check::kind(&k).map(|ours| (k, ours)))
        .transpose()
        .map_err(|e| Error::invalid(e.message.replacen("kind is", "resource_details holds a type that is", 1)))?;
    let extra = match args.value("extra_info") {
        None => None,
        Some(Value::Str(text)) => Some(text),
        Some(Value::Map(map)) => Some(map_to_json(&map).to_string()),
        Some(other) => {
            return Err(Error::invalid(format!(
                "resource_details holds an extra_info that is {}; it must be a string (s) or a map (a{{sv}})",
                other.kind()
            )));
        }
    };
    if extra.as_ref().is_some_and(|e| e.len() > EXTRA) {
        return Err(Error::invalid(format!("resource_details holds an extra_info of more than {EXTRA} bytes")));
    }
    args.finish().map_err(within)?;
    Ok(Wanted { selector: selector("resource_details", id)?, name, kind, extra })
}

fn check_name(name: String) -> Result<String> {
    if name.len() > NAME {
        return Err(Error::invalid(format!("name is {} bytes long; at most {NAME} are allowed", name.len())));
    }
    let allowed = Regex::new(r"\A[A-Za-z0-9_\-\p{Han}]+\z").map_err(|e| Error::failed(e.to_string()))?;
    if allowed.is_match(&name) {
        return Ok(name);
    }
    Err(Error::invalid(format!(
        "name is {name:?}; it must have letters (A to Z, a to z), digits, Han characters, '_' and '-' alone"
    )))
}

impl Plan {
    pub(super) fn take(mut options: Map) -> Result<Self> {
        // As the cloud has it, or one level up.
        if let Some(nested) = Args::new(Map::from_iter(options.remove_entry("parameters"))).map("parameters")? {
            for (key, value) in nested {
                if options.contains_key(&key) {
                    return Err(Error::invalid(format!("{key} is given twice, once within parameters; give it once")));
                }
                options.insert(key, value);
            }
        }
        let mut args = Args::new(options);
        let automatic = args.bool("auto_trigger")?.unwrap_or(false);
        let description = backups::description(&mut args)?.unwrap_or_default();
        let incremental = args.bool("incremental")?.unwrap_or(true);
        let name = args.string("name")?.map(check_name).transpose()?.unwrap_or_default();
        let days = args.integer("retention_duration", -1, LONGEST)?.unwrap_or(-1);
        if days == 0 {
            return Err(Error::invalid("retention_duration is 0; it must be a number of days, or -1 for ever"));
        }
        let mut wanted: Option<Vec<Wanted>> = selectors(&mut args)?
            .map(|list| list.into_iter().map(|selector| Wanted { selector, ..Wanted::default() }).collect());
        for map in args.maps("resource_details")?.into_iter().flatten() {
            let detail = detail(map)?;
            let list = wanted.get_or_insert_default();
            match list.iter_mut().find(|w| w.selector == detail.selector) {
                Some(there) => *there = detail,
                None => list.push(detail),
            }
        }
        args.finish()?;
        match &wanted {
            Some(list) if list.is_empty() => {
                return Err(Error::invalid("resources is empty; name some, or leave it out for all of the vault"));
            }
            Some(list) if list.len() > MOST => {
                return Err(Error::invalid(format!(
                    "resources names {}; at most {MOST} are allowed, or leave it out for all of the vault",
                    list.len()
                )));
            }
            _ => {}
        }
        Ok(Self { automatic, description, incremental, name, retention: u32::try_from(days).ok(), wanted })
    }
}

/// What stands in the way of a resource's backup, and what is known of the resource.
pub(super) type Refused = (Code, String, Option<Box<Resource>>);

/// Everything that decides about single resources.
pub(super) struct Chooser<'a> {
    w: &'a Writer,
    vault: &'a VaultRow,
    /// Resources that are backed up or wait for it.
    busy: BTreeMap<u64, State>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(w: &'a Writer, vault: &'a VaultRow) -> Result<Self> {
        let mut busy = BTreeMap::new();
        for state in [State::Pending, State::Running] {
            for row in w.rows_at::<Backup>(index::BY_STATUS, state.key())? {
                busy.insert(row.resource, state);
            }
        }
        Ok(Self { w, vault, busy })
    }

    /// All resources that are backed up to the vault.
    pub(super) fn all(&self) -> Result<Vec<Resource>> {
        let ours = |r: &Resource| {
            r.removed_at.is_none() && backups::vault_of(self.w, r).is_ok_and(|vault| vault.id == self.vault.id)
        };
        Ok(self.w.all::<Resource>()?.into_iter().filter(ours).collect())
    }

    /// The resource that a caller named, if its backup may begin.
    pub(super) fn named(&self, wanted: &Wanted) -> Result<Result<Resource, Refused>> {
        let row = match select::resource(self.w, &wanted.selector) {
            Ok(row) => row,
            Err(e) => {
                let removed = match wanted.selector.parse::<u64>() {
                    Ok(id) => self.w.get::<Resource>(id)?,
                    Err(_) => None,
                };
                let code = match (&removed, e.kind) {
                    (Some(_), _) => Code::Removed,
                    (None, ErrorKind::InvalidArgument) if e.message.starts_with("more than one") => Code::Ambiguous,
                    (None, ErrorKind::InvalidArgument | ErrorKind::NotFound) => Code::Unknown,
                    _ => return Err(e),
                };
                let reason = match &removed {
                    Some(row) => format!("resource {:?} was removed; its backups are still there", row.name),
                    None => e.message,
                };
                return Ok(Err((code, reason, removed.map(Box::new))));
            }
        };
        if let Some((called, kind)) = wanted.kind.as_ref().filter(|(_, kind)| *kind != row.kind) {
            let reason = format!("resource {:?} is of kind {}, not {kind} as {called} is", row.name, row.kind);
            return Ok(Err((Code::OtherType, reason, Some(Box::new(row)))));
        }
        if let Some(other) = row.vault.filter(|id| *id != self.vault.id) {
            let other = self.w.get::<VaultRow>(other)?.map(|v| v.name).unwrap_or_default();
            let reason =
                format!("resource {:?} is associated with the vault {other:?}; associate it with this one", row.name);
            return Ok(Err((Code::OtherVault, reason, Some(Box::new(row)))));
        }
        Ok(self.idle(row))
    }

    pub(super) fn idle(&self, row: Resource) -> Result<Resource, Refused> {
        if row.origin.orphaned() {
            let reason = format!("resource {:?} is orphaned: the file that declared it no longer does", row.name);
            return Err((Code::Orphaned, reason, Some(Box::new(row))));
        }
        let refused = match self.busy.get(&row.id) {
            None => return Ok(row),
            Some(State::Running) => (Code::Running, format!("resource {:?} is being backed up already", row.name)),
            Some(_) => (Code::Waiting, format!("resource {:?} waits for a backup already", row.name)),
        };
        Err((refused.0, refused.1, Some(Box::new(row))))
    }
}

pub(super) fn skipped(wanted: &Wanted, (code, reason, row): Refused) -> Skipped {
    let called = wanted.kind.as_ref().map(|(called, _)| called.clone());
    let kind = row.as_ref().map(|r| r.kind.clone());
    Skipped {
        id: row.as_ref().map_or_else(|| wanted.selector.clone(), |r| r.id.to_string()),
        name: row.map_or_else(|| wanted.name.clone(), |r| r.name),
        r#type: called.or(kind).unwrap_or_default(),
        code: code.text().into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, Value)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    #[test]
    fn names_are_of_letters_digits_and_han() {
        for good in ["backup_name", "a-B_9", "2024", "备份-1", "-"] {
            assert!(check_name(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "é", "a\n", "ありがとう", &"x".repeat(256)] {
            assert!(check_name(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parameters_may_be_nested_but_not_doubled() {
        let nested = map(&[("parameters", map(&[("name", "inner".into()), ("auto_trigger", true.into())]).into())]);
        let plan = Plan::take(nested.clone()).map_err(|e| e.message).ok().unwrap();
        assert_eq!((plan.name.as_str(), plan.automatic), ("inner", true));
        let mut doubled = nested;
        doubled.insert("name".into(), "outer".into());
        assert!(Plan::take(doubled).err().unwrap().message.starts_with("name is given twice"));
        let odd = map(&[("parameters", "text".into())]);
        assert!(Plan::take(odd).err().unwrap().message.starts_with("parameters is a string"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(256);
        let detail = |pairs: &[(&str, Value)]| Value::Maps(vec![map(pairs)]);
        for (key, value, word) in [
            ("retention_duration", Value::Int32(0), "retention_duration"),
            ("retention_duration", Value::Int32(-2), "retention_duration"),
            ("retention_duration", Value::from("1"), "retention_duration"),
            ("resources", Value::from("web"), "resources"),
            ("resources", Value::List(Vec::new()), "resources is empty"),
            ("resources", Value::List(vec![Value::Int32(-1)]), "resources"),
            ("resource_details", detail(&[("type", "OS::Nova::Server".into())]), "without an id"),
            ("resource_details", detail(&[("id", "1".into()), ("type", "OS::Other".into())]), "OS::Nova::Server"),
            ("resource_details", detail(&[("id", "1".into()), ("name", long.as_str().into())]), "256 characters"),
            ("resource_details", detail(&[("id", "1".into()), ("extra_info", true.into())]), "extra_info"),
            ("resource_details", detail(&[("id", "1".into()), ("more", true.into())]), "more"),
            ("vault_id", Value::from("main"), "vault_id"),
        ] {
            let error = Plan::take(map(&[(key, value)])).err().unwrap();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
            assert!(error.message.contains(word), "{error}");
        }
    }
}

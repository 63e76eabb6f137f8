//! Finding an object by what the caller calls it: a name, `PROJECT/NAME`, or a decimal id.

use crate::catalog::{Destination, Project, Resource, Row, Schedule, Tables, VaultRow};
use crate::model::{Error, Result, name};

/// The id that a selector spells, if it is one: names are never only digits.
pub fn number(selector: &str) -> Option<u64> {
    if !selector.is_empty() && selector.bytes().all(|b| b.is_ascii_digit()) { selector.parse().ok() } else { None }
}

fn unknown<R: Row>(selector: &str) -> Error {
    let word = R::NOUN;
    Error::not_found(format!("there is no {word} {selector:?}; list the {word}s for those there are"))
}

fn find<R: Row>(t: &impl Tables, selector: &str) -> Result<R> {
    let id = match number(selector) {
        Some(id) => Some(id),
        None => {
            name::check(R::NOUN, selector)?;
            t.named::<R>(0, selector)?
        }
    };
    match id {
        Some(id) => t.get(id)?.ok_or_else(|| unknown::<R>(selector)),
        None => Err(unknown::<R>(selector)),
    }
}

/// A project.
pub fn project(t: &impl Tables, selector: &str) -> Result<Project> {
    find(t, selector)
}

/// A destination.
pub fn destination(t: &impl Tables, selector: &str) -> Result<Destination> {
    find(t, selector)
}

/// A vault.
pub fn vault(t: &impl Tables, selector: &str) -> Result<VaultRow> {
    find(t, selector)
}

/// A schedule.
pub fn schedule(t: &impl Tables, selector: &str) -> Result<Schedule> {
    find(t, selector)
}

/// A resource that was not removed.
pub fn resource(t: &impl Tables, selector: &str) -> Result<Resource> {
    let row = match resource_ids(t, selector)?.as_slice() {
        [] => None,
        [id] => t.get::<Resource>(*id)?,
        _ => {
            return Err(Error::invalid(format!(
                "more than one project has a resource {selector:?}; say which as PROJECT/NAME"
            )));
        }
    };
    row.filter(|r| r.removed_at.is_none()).ok_or_else(|| unknown::<Resource>(selector))
}

fn resource_ids(t: &impl Tables, selector: &str) -> Result<Vec<u64>> {
    if let Some(id) = number(selector) {
        return Ok(vec![id]);
    }
    if let Some((owner, name)) = selector.split_once('/') {
        name::check("resource", name)?;
        let owner = project(t, owner)?;
        return Ok(t.named::<Resource>(owner.id, name)?.into_iter().collect());
    }
    name::check("resource", selector)?;
    t.ids::<Project>()?.into_iter().filter_map(|p| t.named::<Resource>(p, selector).transpose()).collect()
}

/// Ids of resources whose backups are meant: the living one, else those removed under that name.
pub fn resources_ever(t: &impl Tables, selector: &str) -> Result<Vec<u64>> {
    let living = resource_ids(t, selector)?;
    match living.as_slice() {
        [id] if t.get::<Resource>(*id)?.is_some() => return Ok(living),
        [] | [_] => {}
        _ => return resource(t, selector).map(|r| vec![r.id]),
    }
    let (owner, name) = match selector.split_once('/') {
        Some((owner, name)) => (Some(project(t, owner)?.id), name),
        None => (None, selector),
    };
    let removed: Vec<u64> = t
        .all::<Resource>()?
        .into_iter()
        .filter(|r| r.name == name && owner.is_none_or(|p| r.project == p))
        .map(|r| r.id)
        .collect();
    if removed.is_empty() { Err(unknown::<Resource>(selector)) } else { Ok(removed) }
}

//! Projects.

use super::declare::refuse_declared;
use super::fields::Fields;
use super::page::Page;
use super::{Service, select, tasks};
use crate::catalog::{Origin, Project, Resource, Tables, VaultRow, project, resource};
use crate::model::{Args, Error, Map, Result, name};

const FIELDS: &[&str] = &["id", "name", "description", "created_at", "resources", "origin"];

impl Service {
    /// Makes a project.
    pub fn add_project(&self, name: &str, options: Map) -> Result<u64> {
        let description = take(options)?;
        name::check("project", name)?;
        self.catalog.write(|w| {
            let id = w.next_id::<Project>()?;
            w.put(&Project {
                id,
                name: name.to_owned(),
                description,
                created_at: self.now(),
                origin: Origin::default(),
            })?;
            Ok(id)
        })
    }

    /// Lists projects.
    pub fn list_projects(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        args.finish()?;
        self.catalog.read(|r| {
            let mut objects = Vec::new();
            for project in r.all::<Project>()? {
                let resources = r.indexed(resource::BY_PROJECT, project.id)?.len() as u64;
                let mut fields = Fields::default();
                fields
                    .set("id", project.id)
                    .set("name", project.name.as_str())
                    .text("description", &project.description);
                fields.time("created_at", Some(project.created_at)).set("resources", resources);
                fields.origin(&project.origin);
                objects.push(fields.done());
            }
            Ok(page.cut(objects))
        })
    }

    /// Removes a project that nothing belongs to.
    pub fn remove_project(&self, selector: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        self.catalog.write(|w| {
            let row = select::project(w, selector)?;
            if row.name == project::DEFAULT {
                return Err(Error::invalid_state("the project default always exists and cannot be removed"));
            }
            refuse_declared("project", &row.name, &row.origin)?;
            let resources = w.indexed(resource::BY_PROJECT, row.id)?;
            if let Some(first) = resources.first() {
                return Err(Error::invalid_state(format!(
                    "project {:?} still has {} resource(s), {:?} among them; remove them first",
                    row.name,
                    resources.len(),
                    w.need::<Resource>(*first)?.name
                )));
            }
            if let Some(vault) = w.all::<VaultRow>()?.iter().find(|v| v.project == Some(row.id)) {
                return Err(Error::invalid_state(format!(
                    "project {:?} still has the vault {:?}; remove it first",
                    row.name, vault.name
                )));
            }
            tasks::refuse_named(w, &row, None)?;
            w.remove::<Project>(row.id)
        })
    }
}

/// The settings of a project, from what a caller or a file says.
pub(super) fn take(options: Map) -> Result<String> {
    let mut args = Args::new(options);
    let description = args.string("description")?.unwrap_or_default();
    args.finish()?;
    Ok(description)
}

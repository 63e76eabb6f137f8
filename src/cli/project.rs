//! `strongroom project …`

use clap::Subcommand;

use super::output::text;
use super::session::{Options, Session};
use crate::model::Result;

/// What can be done with projects.
#[derive(Debug, Subcommand)]
pub enum ProjectVerb {
    /// Make a project
    Add {
        /// Its name
        name: String,
        /// Words about it
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List projects
    List,
    /// Remove a project that nothing belongs to
    Remove {
        /// NAME or id
        project: String,
    },
}

/// Does the verb.
pub async fn run(session: &Session, verb: ProjectVerb) -> Result<u8> {
    match verb {
        ProjectVerb::Add { name, description } => {
            let mut options = Options::default();
            options.set("description", description);
            session.added("project", "AddProject", &(&name, options.wire()?)).await
        }
        ProjectVerb::List => {
            let list = session.all("ListProjects", &Options::default()).await?;
            Ok(session.list(list, &["id", "name", "resources", "description", "origin"], |p| {
                ["id", "name", "resources", "description", "origin"].map(|key| text(p, key)).to_vec()
            }))
        }
        ProjectVerb::Remove { project } => {
            let none = Options::default().wire()?;
            session.done("removed", "RemoveProject", &(&project, none)).await
        }
    }
}

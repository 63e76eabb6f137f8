//! A program that writes a dump to its standard output. Only configuration files name one.

use std::path::Path;

use super::tool::{RunAs, Tool, is_program};
use super::{Place, Prepared};
use crate::model::{Database, Error, Result};

/// The program of a list of arguments.
pub fn tool(words: &[String]) -> Result<Tool> {
    let [program, arguments @ ..] = words else { return Err(Error::invalid("a command is empty")) };
    if !is_program(Path::new(program)) {
        return Err(Error::invalid_state(format!("{program} is not there or cannot be run; correct the command")));
    }
    Ok(Tool::new(Path::new(program), RunAs::us()).args(arguments.iter()))
}

/// Checks that the program is there.
pub fn prepare(database: &Database, prepared: &mut Prepared) -> Result<()> {
    let tool = tool(&database.command).map_err(|e| e.context(database.title()))?;
    prepared.program(Place::file(database), Vec::new(), tool);
    Ok(())
}

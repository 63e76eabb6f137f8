//! Single values that belong to the whole state.

use super::{Tables, Writer};
use crate::model::Result;

/// Set once the first start made its destination and vault, or found that it need not.
const FIRST_START: &str = "first-start-done";

/// Whether the first start is behind us.
pub fn first_start_done(tables: &impl Tables) -> Result<bool> {
    Ok(tables.meta(FIRST_START)?.is_some())
}

/// Notes that the first start is behind us.
pub fn set_first_start_done(writer: &Writer) -> Result<()> {
    writer.set_meta(FIRST_START, b"1")
}

//! The rows of the five sources, each with a story of its own: `docs/sources.md` is the list, and `table`
//! keeps it true. Rows B are told in `tasks`, E in `checkpoints`, A6 and C3 in `schedules`.

mod a;
mod c;
mod table;

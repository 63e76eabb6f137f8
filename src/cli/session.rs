//! What every verb works with: the connection, and how the user wants to be answered.

use serde::Serialize;
use zbus::wire::DynamicType;

use super::output;
use crate::bus::client::Client;
use crate::bus::wire::Dict;
use crate::model::{Map, Result, Value};

/// How many a list asks for at a time: the most that the interface gives.
const PAGE: u64 = 1000;

/// One run of the command.
#[derive(Debug)]
pub struct Session {
    /// The daemon.
    pub client: Client,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to wait for work.
    pub wait: bool,
    /// Whether the daemon is our own and ends with us.
    pub private: bool,
}

/// The options of a call, key by key.
#[derive(Debug, Default)]
pub struct Options(pub Map);

impl Options {
    /// Adds a key if there is a value.
    pub fn set(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Adds a key that is true, or nothing.
    pub fn flag(&mut self, key: &str, on: bool) -> &mut Self {
        self.set(key, on.then_some(true))
    }

    /// As it crosses the bus.
    pub fn wire(&self) -> Result<Dict> {
        Dict::write(&self.0)
    }
}

impl Session {
    /// A whole list, page by page.
    pub async fn all(&self, method: &str, options: &Options) -> Result<(u64, Vec<Map>)> {
        let mut request = options.0.clone();
        request.insert("page_size".to_owned(), Value::Uint(PAGE));
        let mut rows: Vec<Map> = Vec::new();
        for page in 1u64.. {
            request.insert("page".to_owned(), Value::Uint(page));
            let (count, results) = self.client.list(method, &request).await?;
            let last = results.len() < PAGE as usize;
            rows.extend(results);
            if last || rows.len() as u64 >= count {
                return Ok((count, rows));
            }
        }
        Ok((rows.len() as u64, rows))
    }

    /// Calls a method that answers with an id, and prints it.
    pub async fn added<B: Serialize + DynamicType>(&self, what: &str, method: &str, arguments: &B) -> Result<u8> {
        let id: u64 = self.client.call(method, arguments).await?;
        if self.json {
            output::json(&serde_json::json!({ "id": id }));
        } else {
            output::line(format!("{what} {id} added"));
        }
        Ok(0)
    }

    /// Calls a method that answers with nothing.
    pub async fn done<B: Serialize + DynamicType>(&self, what: &str, method: &str, arguments: &B) -> Result<u8> {
        self.client.call::<_, ()>(method, arguments).await?;
        if self.json {
            output::json(&serde_json::json!({}));
        } else {
            output::line(what);
        }
        Ok(0)
    }

    /// Prints one object.
    pub fn show(&self, map: &Map) -> u8 {
        if self.json {
            output::json(&crate::model::value::map_to_json(map));
        } else {
            output::fields(map);
        }
        0
    }

    /// Prints a list.
    pub fn list(&self, (count, rows): (u64, Vec<Map>), heading: &[&str], row: impl Fn(&Map) -> Vec<String>) -> u8 {
        if self.json {
            output::json_list(count, &rows);
        } else if rows.is_empty() {
            output::line("none");
        } else {
            output::table(heading, rows.iter().map(row));
        }
        0
    }
}

//! `strongroom task …`

use std::io::Read;
use std::path::Path;

use serde_json::Value as Json;

use super::args::TaskVerb;
use super::backup::PARTLY;
use super::output::{self, number, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::bus::client::job_id;
use crate::bus::wire::Dict;
use crate::model::value::map_from_json;
use crate::model::{Error, IoContext, Map, Result, Value};

/// How many tasks are asked for at a time.
const PAGE: u64 = 1000;

/// Does the verb.
pub async fn run(session: &Session, verb: TaskVerb) -> Result<u8> {
    match verb {
        TaskVerb::Create { file } => create(session, &file).await,
        TaskVerb::Run { id } => {
            let arguments = (id.to_string(), Options::default().wire()?);
            let done = session.work(session.client.job("ExecuteTask", &arguments)).await?;
            told(session, &id.to_string(), done).await
        }
        TaskVerb::List { state } => list(session, state.as_deref()).await,
        TaskVerb::Show { id } => Ok(session.show(&session.client.object("GetTask", &id.to_string()).await?)),
        TaskVerb::Remove { id } => {
            let none = Options::default().wire()?;
            session.done("removed; what it wrote stays", "RemoveTask", &(id.to_string(), none)).await
        }
    }
}

async fn create(session: &Session, file: &Path) -> Result<u8> {
    let what = || format!("cannot read {}", file.display());
    let document = if file == Path::new("-") {
        let mut document = String::new();
        std::io::stdin().read_to_string(&mut document).at(what)?;
        document
    } else {
        std::fs::read_to_string(file).at(what)?
    };
    let document: Json =
        serde_json::from_str(&document).map_err(|e| Error::invalid(format!("{} is not JSON: {e}", file.display())))?;
    let Json::Object(task) = snake(document) else {
        return Err(Error::invalid(format!("{} holds no JSON object; give the keys of a task", file.display())));
    };
    let id: String = session.client.call("CreateTask", &Dict::write(&map_from_json(&task))?).await?;
    if !session.json {
        output::line(format!("task {id} made"));
    }
    let task = session.client.object("GetTask", &id).await?;
    match task.get("job") {
        Some(Value::Path(path)) if session.wait => {
            let done = session.watch(job_id(path)?).await?;
            told(session, &id, done).await
        }
        _ if session.json => Ok(session.show(&task)),
        _ => Ok(0),
    }
}

/// Keys as the bus has them: `storeLocation` is `store_location`.
fn snake(value: Json) -> Json {
    match value {
        Json::Object(map) => {
            let key = |key: String| {
                key.chars().fold(String::new(), |mut out, c| {
                    if c.is_ascii_uppercase() {
                        out.push('_');
                    }
                    out.push(c.to_ascii_lowercase());
                    out
                })
            };
            Json::Object(map.into_iter().map(|(k, v)| (key(k), snake(v))).collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(snake).collect()),
        other => other,
    }
}

/// Says how a run ended.
async fn told(session: &Session, id: &str, done: Outcome) -> Result<u8> {
    let job = match done {
        Outcome::Left(job) => return Ok(session.left(job)),
        Outcome::Completed(job) => job,
    };
    let none = Map::new();
    let result = if let Some(Value::Map(result)) = job.get("result") { result } else { &none };
    let errors = number(result, "errors").unwrap_or(0);
    if session.json {
        session.show(&session.client.object("GetTask", &id).await?);
    } else {
        let what = match result.get("path") {
            Some(path) => format!("wrote {}", output::plain(path)),
            None => "restored".to_owned(),
        };
        let (entries, bytes) = (number(result, "entries").unwrap_or(0), number(result, "bytes").unwrap_or(0));
        output::line(format!("{what}: {entries} entries, {}", output::bytes(bytes)));
    }
    if errors == 0 {
        return Ok(0);
    }
    output::note(format!("strongroom: {errors} entries could not be copied, or not exactly"));
    if let Some(Value::Maps(list)) = result.get("error_list") {
        for error in list.iter().take(20) {
            output::note(format!("  {}: {}", text(error, "path"), text(error, "message")));
        }
    }
    Ok(PARTLY)
}

async fn list(session: &Session, state: Option<&str>) -> Result<u8> {
    let (mut rows, mut count): (Vec<Map>, u64) = (Vec::new(), 0);
    for page in 1_u64.. {
        let mut options = Options::default();
        options.set("state", state).set("page_number", Some(page)).set("page_size", Some(PAGE));
        let mut answer = session.client.object("ListTasks", &options.wire()?).await?;
        count = number(&answer, "total_records").unwrap_or(0);
        let Some(Value::Maps(records)) = answer.remove("records") else { break };
        let last = (records.len() as u64) < PAGE;
        rows.extend(records);
        if last {
            break;
        }
    }
    Ok(session.list((count, rows), &["id", "name", "type", "state", "result", "ended", "next", "location"], |task| {
        vec![
            text(task, "id"),
            text(task, "name"),
            text(task, "type"),
            text(task, "state"),
            text(task, "result"),
            time(task, "end_date"),
            time(task, "next_run"),
            text(task, "store_location"),
        ]
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_both_manners_are_understood() {
        let given = serde_json::json!({"storeLocation": "/x", "content": {"projects": [{"project_regex": "*"}]}});
        let want = serde_json::json!({"store_location": "/x", "content": {"projects": [{"project_regex": "*"}]}});
        assert_eq!(snake(given), want);
    }
}

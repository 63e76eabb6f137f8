//! Sorting and paging, the same for every list.

use std::cmp::Ordering;

use crate::model::{Args, Error, Map, Result, Value};

/// The largest page.
const MOST: u64 = 1000;
/// The page when none is asked for.
const USUAL: u64 = 20;

/// How a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Fields, and whether each goes from high to low.
    sort: Vec<(String, bool)>,
    size: usize,
    number: usize,
}

impl Page {
    /// Takes `sort`, `page_size` and `page`; a field that the objects do not have is refused.
    pub fn take(args: &mut Args, fields: &[&str]) -> Result<Self> {
        let mut sort = Vec::new();
        for text in args.strings("sort")?.unwrap_or_default() {
            let (field, down) = match text.strip_prefix('-') {
                Some(field) => (field, true),
                None => (text.as_str(), false),
            };
            if !fields.contains(&field) {
                return Err(Error::invalid(format!(
                    "sort names the field {field:?}, which these objects do not have; they have {}",
                    fields.join(", ")
                )));
            }
            sort.push((field.to_owned(), down));
        }
        if sort.is_empty() {
            sort.push(("id".to_owned(), true));
        }
        let size = args.uint("page_size", 1, MOST)?.unwrap_or(USUAL);
        let number = args.uint("page", 1, u64::from(u32::MAX))?.unwrap_or(1);
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(Self { sort, size: small(size), number: small(number) })
    }

    /// Whether the order is that of ids alone, and if so whether it goes from high to low.
    pub fn by_id(&self) -> Option<bool> {
        match self.sort.first() {
            Some((field, down)) if field == "id" => Some(*down),
            _ => None,
        }
    }

    /// Whether the order is that of `field` and then of ids, and if so which of the two go from
    /// high to low. Equal ones come with the newest first where nothing else is said.
    pub fn by_field(&self, field: &str) -> Option<(bool, bool)> {
        match self.sort.as_slice() {
            [(first, down)] if first == field => Some((*down, true)),
            [(first, down), (second, id_down), ..] if first == field && second == "id" => Some((*down, *id_down)),
            _ => None,
        }
    }

    /// The wanted page of what is in order already.
    pub fn slice<T>(&self, ordered: Vec<T>) -> (u64, Vec<T>) {
        let count = ordered.len() as u64;
        let skip = (self.number - 1).saturating_mul(self.size);
        (count, ordered.into_iter().skip(skip).take(self.size).collect())
    }

    /// Sorts objects and gives the wanted page. Equal ones come with the newest first.
    pub fn cut(&self, mut objects: Vec<Map>) -> (u64, Vec<Map>) {
        objects.sort_by(|a, b| {
            for (field, down) in &self.sort {
                let order = compare(a.get(field), b.get(field));
                if order != Ordering::Equal {
                    return if *down { order.reverse() } else { order };
                }
            }
            compare(b.get("id"), a.get("id"))
        });
        self.slice(objects)
    }
}

/// Unknown first, numbers by size, text by bytes; a map by its name or id.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(Value::Map(a)), Some(Value::Map(b))) => {
            compare(a.get("name"), b.get("name")).then_with(|| compare(a.get("id"), b.get("id")))
        }
        (Some(Value::Str(a) | Value::Path(a)), Some(Value::Str(b) | Value::Path(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(Value::Double(a)), Some(Value::Double(b))) => a.total_cmp(b),
        (Some(Value::List(a)), Some(Value::List(b))) => a
            .iter()
            .zip(b)
            .map(|(x, y)| compare(Some(x), Some(y)))
            .find(|o| o.is_ne())
            .unwrap_or_else(|| a.len().cmp(&b.len())),
        (Some(Value::Maps(a)), Some(Value::Maps(b))) => a.len().cmp(&b.len()),
        (Some(a), Some(b)) => number(a).cmp(&number(b)),
    }
}

fn number(value: &Value) -> i128 {
    match value {
        Value::Int(i) => i128::from(*i),
        Value::Int32(i) => i128::from(*i),
        Value::Uint(u) => i128::from(*u),
        Value::Uint32(u) => i128::from(*u),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[&str] = &["id", "name", "size"];

    fn objects() -> Vec<Map> {
        [(1, "b", Some(5)), (2, "a", None), (3, "b", Some(9))]
            .into_iter()
            .map(|(id, name, size): (u64, &str, Option<u64>)| {
                let mut map = Map::from([("id".into(), id.into()), ("name".into(), name.into())]);
                if let Some(size) = size {
                    map.insert("size".into(), size.into());
                }
                map
            })
            .collect()
    }

    fn page(pairs: &[(&str, Value)]) -> Result<Page> {
        let mut args = Args::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect());
        let page = Page::take(&mut args, FIELDS)?;
        args.finish()?;
        Ok(page)
    }

    fn ids(list: &[Map]) -> Vec<i128> {
        list.iter().map(|m| number(&m["id"])).collect()
    }

    fn sorted(keys: &[&str]) -> Vec<i128> {
        let keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
        ids(&page(&[("sort", keys.into())]).unwrap().cut(objects()).1)
    }

    #[test]
    fn the_newest_come_first() {
        assert_eq!(ids(&page(&[]).unwrap().cut(objects()).1), [3, 2, 1]);
        assert_eq!(page(&[]).unwrap().by_id(), Some(true));
    }

    #[test]
    fn any_field_sorts_and_a_dash_reverses() {
        assert_eq!(sorted(&["id"]), [1, 2, 3]);
        assert_eq!(sorted(&["name", "id"]), [2, 1, 3]);
        assert_eq!(sorted(&["-name"]), [3, 1, 2]);
        assert_eq!(sorted(&["size"]), [2, 1, 3], "what is unknown comes first");
        assert_eq!(sorted(&["-size"]), [3, 1, 2]);
    }

    #[test]
    fn the_count_is_taken_before_paging() {
        let page = page(&[("page_size", Value::Int32(2)), ("page", Value::Uint32(2))]).unwrap();
        let (count, list) = page.cut(objects());
        assert_eq!((count, ids(&list)), (3, vec![1]));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (key, value) in [
            ("page_size", Value::Int32(0)),
            ("page_size", Value::Uint(1001)),
            ("page", Value::Int(0)),
            ("page", Value::from("1")),
            ("sort", Value::from(vec!["nope".to_owned()])),
            ("sort", Value::from("id")),
            ("nope", Value::Bool(true)),
        ] {
            let error = page(&[(key, value)]).unwrap_err();
            assert!(error.message.contains(key), "{error}");
        }
    }
}
